"""What a job is asked to do: ``request.json``, written once and never changed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from TransferSegLib.errors import JobError
from TransferSegLib.jobs.files import REQUEST, WRITTEN, read_json, write_json
from TransferSegLib.own_files import refuse_links
from TransferSegLib.version import code_version

FORMAT = "transferseg-job"
FORMAT_VERSION = 1

_KIND = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:[0-9]+)?")


def now_text() -> str:
    """Return the time as jobs write it: ISO 8601 in UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class JobRequest:
    """A kind of work, its parameters (JSON values; paths are absolute), and the device it waits for.

    ``title`` is a line for people. ``created`` and ``code_version`` are filled in for a new request.
    """

    kind: str
    parameters: Mapping[str, Any]
    device: str = "auto"
    title: str = ""
    created: str = field(default_factory=now_text)
    code_version: str = field(default_factory=code_version)

    def __post_init__(self) -> None:
        """Raise JobError for a kind or device that cannot be one."""
        if not _KIND.fullmatch(self.kind):
            raise JobError(f"'{self.kind}' is no kind of job: use small letters, digits and dashes.")
        if not _DEVICE.fullmatch(self.device):
            raise JobError(f"Unknown device '{self.device}': choose auto, cpu, cuda, cuda:1 ... or mps.")

    def to_json(self) -> dict[str, Any]:
        """Return the content of request.json."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "title": self.title,
            "parameters": dict(self.parameters),
            "device": self.device,
            "created": self.created,
            "code_version": self.code_version,
        }


def write_request(folder: Path, request: JobRequest) -> None:
    """Write a folder's request; raises JobError for parameters that are not JSON, OSError when the disk refuses."""
    try:
        write_json(folder / REQUEST, request.to_json())
    except (TypeError, ValueError) as error:
        raise JobError(f"The parameters of a job must be JSON values: {error}.") from error


def read_request(folder: Path) -> JobRequest:
    """Return a folder's request; raises JobError when there is none, or it is damaged or from a newer version."""
    path = folder / REQUEST
    # Everything about a job begins here; a folder behind a link would be written, and removed, elsewhere.
    refuse_links(folder.parent, folder, *(folder / name for name in WRITTEN), error_type=JobError)
    try:
        exists = path.exists()
    except OSError as error:
        raise JobError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not exists:
        raise JobError(f"{folder} is not the folder of a job: there is no {REQUEST} in it.")
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise JobError(f"{path} is not the request of a job: its format is {content.get('format')!r}.")
    version = content.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise JobError(f"{path} is damaged: its format_version is {version!r}.")
    if version > FORMAT_VERSION:
        raise JobError(
            f"{path} was written by a newer version of TransferSeg (job format {version}; this one reads "
            f"{FORMAT_VERSION}): update TransferSeg."
        )
    parameters = content.get("parameters")
    texts = {name: content.get(name, "") for name in ("kind", "device", "title", "created", "code_version")}
    wrong = [name for name, text in texts.items() if not isinstance(text, str)]
    if wrong or not isinstance(parameters, dict):
        raise JobError(f"{path} is damaged: {', '.join(wrong) or 'parameters'} is not what it should be.")
    return JobRequest(parameters=parameters, **texts)
