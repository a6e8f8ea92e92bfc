"""The files of a job's folder by name, and JSON files that are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from TransferSegLib import safe_json
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import JobError

REQUEST = "request.json"
EVENTS = "events.jsonl"
RESULT = "result.json"
LOG = "log.txt"
#: The marker by which anyone asks the worker to stop.
CANCEL = "cancel"
#: The worker holds an operating system's lock on this file as long as it lives.
WORKER_LOCK = "worker.lock"
#: What the worker knew of itself and its computer when it started, for telling later why it ended.
WORKER_FACTS = "worker.json"
#: Some bytes that the worker frees on a full disk, so that it can still report that the disk is full.
RESERVE = "reserve"

#: What is written in the folder while the job is at work.
WRITTEN = (EVENTS, RESULT, LOG, CANCEL, WORKER_LOCK, WORKER_FACTS, RESERVE)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file under a temporary name and rename it once it is on the disk; raises OSError."""
    # ASCII only: names of files that are no valid text (possible on Linux) survive as escapes.
    write_text_durably(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises JobError when it is missing or damaged."""
    try:
        content = safe_json.read(path, surrogates=True)
    except OSError as error:
        raise JobError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise JobError(f"{path} is damaged: it is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise JobError(f"{path} is damaged: it does not hold a JSON object.")
    return content
