"""One attempt at a job in a child process that ends with this process; what a node of a cluster runs.

Nothing here needs Ray: the function is called by a task of it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from TransferSegLib.errors import JobError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.jobs.events import Event, EventWriter, JobState, last_event
from TransferSegLib.jobs.files import CANCEL, LOG, REQUEST, WORKER_LOCK
from TransferSegLib.jobs.launch import worker_environment
from TransferSegLib.jobs.worker import EXIT_BUSY, EXIT_CANCELLED, EXIT_DONE
from TransferSegLib.own_files import open_own
from TransferSegLib.version import code_version

#: The words after the interpreter that run a worker.
WORKER = ("-P", "-m", "TransferSegLib.jobs.worker")
#: A line for each attempt at a job.
ATTEMPTS = "attempts.jsonl"
#: A job is begun so often at most: what ends its worker each time is then in the job.
MOST_ATTEMPTS = 6
#: How long a folder may take to appear on another node: network file systems remember what was not there.
_APPEARS_S = 15.0
#: How long the lock of a worker on a lost node may stay taken before the attempt is given up.
_FREED_S = 900.0
_LOOK_S = 0.2
#: How long a worker that is asked to stop may take before it is killed; it ends itself long before.
_END_S = 20.0


@dataclass(frozen=True)
class Attempt:
    """What a node must know of a job.

    ``lock`` is a file that the submitting program holds a lock on; ``version`` is the submitting program's code;
    ``worker`` are the words after the interpreter, ``python_path`` folders in which the worker finds its modules.
    """

    folder: Path
    lock: Path
    version: str
    threads: int
    worker: Sequence[str] = WORKER
    python_path: Sequence[str] = ()


def make_attempt(attempt: Attempt) -> int:
    """Run the job's worker, unless the job is done or cancelled; returns the exit code.

    Where a worker of an earlier attempt still has the job, wait for its end: a job never has two. Raises JobError when
    this node cannot do the job: another version, a folder that it does not see, locks that do not reach it.
    """
    folder = attempt.folder
    _check_node(attempt)
    if _attempts(folder) >= MOST_ATTEMPTS:
        raise JobError(f"It was begun {MOST_ATTEMPTS} times, and its process or node was ended each time.")
    _note(folder)
    deadline = time.monotonic() + _FREED_S
    while True:
        last = last_event(folder)
        if last is not None and last.state == JobState.DONE:
            return EXIT_DONE
        if os.path.lexists(folder / CANCEL):
            return _cancelled(folder)
        code = _run_worker(attempt)
        if code != EXIT_BUSY:
            return code
        if time.monotonic() > deadline:
            raise JobError(
                f"The worker of an earlier attempt still holds {folder / WORKER_LOCK}. If its node is lost, free the "
                "lock on the file server, and start the run again."
            )
        time.sleep(1.0)


def _check_node(attempt: Attempt) -> None:
    """Raise JobError unless this node has the same code, sees the job's folder, and shares locks."""
    node, folder = platform.node(), attempt.folder
    if code_version() != attempt.version:
        raise JobError(
            f"The node {node} has TransferSegLib {code_version()}, and the run was started with {attempt.version}: "
            "install the same version on all nodes."
        )
    deadline = time.monotonic() + _APPEARS_S
    while not (folder / REQUEST).is_file():
        if time.monotonic() > deadline:
            raise JobError(
                f"The node {node} does not see {folder}: use a folder on a file system that all nodes share, under the "
                "same path."
            )
        time.sleep(_LOOK_S)
    try:
        with FileLock(attempt.lock, 0, "held", JobError):
            pass
    except JobError as error:
        if error.__cause__ is None:
            return  # held by the program that started the run, as it should be
        raise
    raise JobError(
        f"The node {node} does not see the lock on {attempt.lock}: either the program that started the run has ended, "
        "or the file system does not share locks (Lustre: mount it with -o flock)."
    )


def _attempts(folder: Path) -> int:
    try:
        return len((folder / ATTEMPTS).read_bytes().splitlines())
    except FileNotFoundError:
        return 0


def _note(folder: Path) -> None:
    """Note that an attempt begins here."""
    line = json.dumps({"node": platform.node(), "pid": os.getpid(), "time": time.time()})
    descriptor = open_own(folder / ATTEMPTS, os.O_WRONLY | os.O_APPEND)
    with os.fdopen(descriptor, "ab") as stream:
        stream.write(line.encode("ascii") + b"\n")


def _cancelled(folder: Path) -> int:
    """Write that the job was cancelled before it began, unless a worker is at it, which will."""
    with suppress(JobError), FileLock(folder / WORKER_LOCK, 0, "A worker is at it.", JobError):
        last = last_event(folder)
        if last is None or not last.state.ended:
            EventWriter(folder).write_final(Event(JobState.CANCELLED, message="Cancelled while it waited."))
    return EXIT_CANCELLED


def _run_worker(attempt: Attempt) -> int:
    """Run a worker that ends with this process, and return its exit code."""
    folder = attempt.folder
    options = ["--scheduled", "--threads", str(attempt.threads), "--end-with-parent"]
    command = [sys.executable, *attempt.worker, str(folder), *options]
    environment = os.environ | worker_environment()
    paths = [environment["PYTHONPATH"], *attempt.python_path]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    log = open_own(folder / LOG, os.O_WRONLY | os.O_APPEND)
    try:
        process = subprocess.Popen(  # noqa: S603 - our own worker
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, cwd=folder.parent
        )
    finally:
        os.close(log)
    assert process.stdin is not None
    try:
        # In short waits: Ray cancels a task with an exception, which a long one would keep out.
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_S)
        return process.returncode
    finally:
        process.stdin.close()  # which asks a worker that runs to stop
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
        process.kill()
        process.wait()
