"""Starting and resuming the worker of a job, so that it outlives its starter, or ends with it where asked to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import TransferSegLib
from TransferSegLib.child_process import find_interpreter
from TransferSegLib.errors import JobError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.jobs.diagnosis import log_tail
from TransferSegLib.jobs.events import Event, EventWriter, JobState, last_event
from TransferSegLib.jobs.files import CANCEL, LOG, WORKER_LOCK
from TransferSegLib.jobs.queue import DeviceQueue
from TransferSegLib.jobs.request import read_request
from TransferSegLib.jobs.status import read_state, state_without_worker, worker_is_alive
from TransferSegLib.own_files import open_own

#: How long to wait for someone who only looks whether a job has a worker.
_LOOK_S = 0.5
_POLL_S = 0.05


def worker_command(python: Path | str | None = None) -> list[str]:
    """Return the command that runs a worker, to which the job's folder is added.

    ``python`` None: this interpreter; inside 3D Slicer, whose program is no Python, its PythonSlicer. Raises JobError
    when there is none.
    """
    python = python or find_interpreter()
    if python is None:
        raise JobError("No Python was found to run the job in: name one.")
    # -P: a file called like a module, in the folder the worker runs in, is not taken for it.
    return [str(python), "-P", "-m", "TransferSegLib.jobs.worker"]


def start_job(
    folder: Path,
    command: Sequence[str] | None = None,
    end_with_parent: bool = False,
    options: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """Start the worker of a new job; returns at once.

    ``command`` as from ``worker_command``, to which it defaults. The worker keeps running when this process ends; with
    ``end_with_parent`` it stops, as if cancelled, when the pipe to its standard input closes: keep the returned object.
    ``options`` are further options of the worker.
    Raises JobError when a worker is at the job already, the job is over, or the worker cannot be started.
    """
    return _start(folder, command, end_with_parent, resume=False, options=options)


def resume_job(
    folder: Path, command: Sequence[str] | None = None, end_with_parent: bool = False
) -> subprocess.Popen[bytes]:
    """Start a new worker for a job that was cancelled, failed or interrupted; it continues from the last checkpoint.

    Otherwise as ``start_job``.
    """
    return _start(folder, command, end_with_parent, resume=True)


def wait_for_worker(folder: Path, process: subprocess.Popen[bytes], timeout_s: float = 20.0) -> None:
    """Wait until the worker holds the job, or has ended it; for a caller that is about to exit.

    Raises JobError with the last line of the log when the worker ended without having come that far.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if worker_is_alive(folder) or read_state(folder).ended:
            return
        if process.poll() is not None and not worker_is_alive(folder) and not read_state(folder).ended:
            said = log_tail(folder, 1)
            raise JobError(
                f"The worker of {folder.name} did not start (exit code {process.returncode})"
                + (f": {said[0].strip()}" if said else ".")
            )
        time.sleep(_POLL_S)


def _start(
    folder: Path,
    command: Sequence[str] | None,
    end_with_parent: bool,
    resume: bool,
    options: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    folder = folder.absolute()
    command = worker_command() if command is None else command
    request = read_request(folder)
    writer = EventWriter(folder)
    busy = f"A worker is at the job {folder.name} already."
    # Whoever holds the lock is the only writer of the stream; of two that resume a job, the later one gets an error.
    with FileLock(folder / WORKER_LOCK, _LOOK_S, busy, JobError):
        _check_startable(folder, resume)
        try:
            (folder / CANCEL).unlink(missing_ok=True)
            DeviceQueue(folder.parent).enter(folder.name, request.device)
        except OSError as error:
            raise JobError(f"The job {folder.name} cannot be queued: {error.strerror or error}.") from error
        writer.write(Event(JobState.QUEUED, message="Resumed; starting." if resume else "Starting."))
    try:
        return _spawn(folder, command, [*options, *(["--end-with-parent"] if end_with_parent else [])])
    except OSError as error:
        DeviceQueue(folder.parent).leave(folder.name)
        message = f"The worker cannot be started with {command[0]}: {error.strerror or error}."
        writer.write_final(Event(JobState.FAILED, error=message))
        raise JobError(message) from error


def _check_startable(folder: Path, resume: bool) -> None:
    """Raise JobError unless a job, whose lock is held here, may get a worker."""
    if last_event(folder) is None:
        return
    state = state_without_worker(folder)
    if state == JobState.DONE:
        raise JobError(f"The job {folder.name} is done: there is nothing to resume.")
    if not state.ended:
        raise JobError(f"The job {folder.name} was started a moment ago: wait for its worker.")
    if not resume:
        raise JobError(f"The job {folder.name} was started before and is {state}: resume it.")


def _spawn(folder: Path, command: Sequence[str], worker_options: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a worker that writes into the job's log; raises OSError."""
    args = [*command, str(folder), *worker_options]
    options: dict[str, Any] = {
        "stdin": subprocess.PIPE if "--end-with-parent" in worker_options else subprocess.DEVNULL,
        "stderr": subprocess.STDOUT,
        "env": os.environ | worker_environment(),
        "cwd": folder.parent,  # not the folder where the user is: it could not be removed or unmounted meanwhile
    }
    with os.fdopen(open_own(folder / LOG, os.O_WRONLY | os.O_APPEND), "ab") as log:
        if sys.platform != "win32":
            process = subprocess.Popen(args, stdout=log, start_new_session=True, **options)  # noqa: S603 - our own
        else:
            process = _spawn_on_windows(args, stdout=log, **options)
    # Collects the exit status: otherwise the worker stays a zombie as long as this process lives.
    threading.Thread(target=process.wait, name=f"end of {folder.name}", daemon=True).start()
    return process


def _spawn_on_windows(args: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a worker outside this process' group and, where it may leave it, outside its job object.

    With DETACHED_PROCESS the worker would have no console, and each console program between us and it (PythonSlicer,
    the python.exe of a virtual environment) would open a window for its child; CREATE_NO_WINDOW gives them a hidden
    one.
    """
    # The names exist on Windows only.
    flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW  # type: ignore[attr-defined]
    breakaway = subprocess.CREATE_BREAKAWAY_FROM_JOB  # type: ignore[attr-defined]
    with suppress(PermissionError):
        return subprocess.Popen(args, creationflags=flags | breakaway, **options)  # noqa: S603 - our own command
    return subprocess.Popen(args, creationflags=flags, **options)  # noqa: S603 - our own command


def worker_environment() -> dict[str, str]:
    """Return what a child process adds to the environment: the library on Python's path, and UTF-8 in and out."""
    library = str(Path(TransferSegLib.__file__).resolve().parents[1])
    given = [str(Path(entry).absolute()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    path = [library, *(entry for entry in given if entry != library)]
    return {"PYTHONPATH": os.pathsep.join(path), "PYTHONUTF8": "1"}
