"""Kinds of work that end at once or never, for the tests of everything around the work; see ``tiny_worker.py``."""

from __future__ import annotations

import ctypes
import errno
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from TransferSegLib.errors import ScanError
from TransferSegLib.jobs.files import read_json, write_json
from TransferSegLib.jobs.kinds import Kind, PartlyDone
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.progress import CancelToken, Progress, ProgressCallback, Task


def count(request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken) -> dict[str, Any]:
    """Count to ``steps``, ``pause_s`` apart, with a checkpoint after each; the result says where it began."""
    checkpoint = folder / "checkpoint.json"
    begun = read_json(checkpoint)["step"] if checkpoint.exists() else 0
    done, steps = begun, request.parameters["steps"]
    task = Task("counting", progress, cancel, "counting").counting(steps, begun)
    print("counting from", begun)
    while done < steps:
        task.check()
        time.sleep(request.parameters.get("pause_s", 0.0))
        done += 1
        write_json(checkpoint, {"step": done})
        task.step(loss=1 / done, dice=0.5)
    return {"from": begun, "to": done}


def wait_for_file(request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken) -> dict[str, Any]:
    """Work until the file ``go`` is there: a holder of the device that ends when the test says so."""
    progress(Progress("waiting", 0.0))
    while not Path(request.parameters["go"]).exists():
        cancel.check()
        time.sleep(0.02)
    return {}


def deaf(request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken) -> dict[str, Any]:
    """Start a child, write its process id, and never look whether to stop."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    write_json(folder / "child.json", {"pid": child.pid})
    progress(Progress("deaf", 0.1, key="deaf"))
    time.sleep(600)
    return {}


def segfault(request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken) -> dict[str, Any]:
    """Crash as compiled code does."""
    ctypes.string_at(0)
    return {}


def fail(request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken) -> dict[str, Any]:
    """Raise what is asked for."""
    raise {
        "foreseen": ScanError("The scan is upside down: turn it."),
        "memory": MemoryError(),
        "disk": OSError(errno.ENOSPC, "No space left on device", "there/model.part"),
        "gone": FileNotFoundError(errno.ENOENT, "No such file", "there/scan.nii.gz"),
        "unexpected": ZeroDivisionError("by zero"),
        "partly": PartlyDone("1 of 2 done.", {"done": 1}),
    }[request.parameters["with"]]


def fold(request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken) -> dict[str, Any]:
    """Do the words of ``do`` one after another, one each time that a job with this ``mark`` is begun.

    A ``held`` one ends as soon as there is a file ``MARK.go``, or after two minutes.
    """
    mark = Path(request.parameters["mark"])
    with mark.open("a") as stream:
        stream.write("begun\n")
    what = request.parameters["do"][len(mark.read_text().splitlines()) - 1]
    progress(Progress("training", 0.5))
    if what == "crash":
        ctypes.string_at(0)
    if what == "fail":
        raise ScanError("The scan is upside down: turn it.")
    while what == "wait":
        cancel.check()
        time.sleep(0.02)
    held_until = time.monotonic() + 120
    while what == "held" and not mark.with_suffix(".go").exists() and time.monotonic() < held_until:
        cancel.check()
        time.sleep(0.02)
    return {}


COUNT = Kind(count)
FINETUNE_FOLD = Kind(fold)
ASIDE = Kind(count, uses_device=False)
WAIT = Kind(wait_for_file)
DEAF = Kind(deaf, grace_s=0.5)
SEGFAULT = Kind(segfault)
FAIL = Kind(fail)
