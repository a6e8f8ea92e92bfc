"""What the worker processes of a study share: a request in a folder, a result beside it, an orderly end.

Each run has a process of its own: a crash or a lack of memory costs one run. A worker ends when its parent is
gone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import TransferSegError
from TransferSegLib.progress import Progress

REQUEST_FILE, RESULT_FILE, PROGRESS_FILE = "request.json", "result.json", "progress.json"
_LOOK_S = 2.0
_SECONDS_BETWEEN_REPORTS = 2.0
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

#: Does what a request asks for in a folder and returns the result, JSON-ready.
Work = Callable[[dict[str, Any], Path], dict[str, Any]]


def worker_main(work: Work) -> int:
    """Do what the request in the folder named on the command line asks for; returns the exit code.

    Errors for a person become the result's ``error``; others leave a traceback on standard error.
    """
    folder = Path(sys.argv[1])
    request = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))
    # Before numpy and torch are imported, which look at these once.
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(request["threads"])
    threading.Thread(target=_end_with, args=(int(request["parent"]),), daemon=True).start()
    try:
        import torch

        torch.set_num_threads(int(request["threads"]))
        result = work(request, folder)
    except TransferSegError as error:
        result = {"error": str(error)}
    write_text_durably(folder / RESULT_FILE, json.dumps(result))
    return 0


def _end_with(parent: int) -> None:
    """End this process when its parent has gone (then the system gives it another one, except on Windows)."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


class ProgressFile:
    """Writes progress where the parent looks for it, every few seconds."""

    def __init__(self, folder: Path) -> None:
        """Begin with nothing reported."""
        self._path = folder / PROGRESS_FILE
        self._last = 0.0

    def report(self, progress: Progress) -> None:
        """Write a report; this is the ProgressCallback."""
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_REPORTS:
            return
        self._last = now
        entry = {
            "stage": progress.stage,
            "fraction": progress.fraction,
            "message": progress.message,
            "seconds_left": progress.seconds_left,
        }
        with suppress(OSError):  # a report that is lost loses nothing
            temporary = self._path.with_suffix(".tmp")
            temporary.write_text(json.dumps(entry), encoding="utf-8")
            temporary.replace(self._path)


def read_progress(folder: Path) -> Progress | None:
    """Return what the worker of a folder reported last, None when there is nothing."""
    try:
        entry = json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8"))
        return Progress(entry["stage"], entry["fraction"], entry["message"], entry["seconds_left"])
    except (OSError, ValueError, KeyError):
        return None
