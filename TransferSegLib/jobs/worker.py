"""The process that does a job: ``python -m TransferSegLib.jobs.worker FOLDER [--end-with-parent] [--scheduled]``.

Exit codes: 0 done, 2 failed, 130 cancelled, 3 another worker is at the job. A worker that did not stop in time when
asked to was killed and has the exit code of that. Its output and all tracebacks are in the folder's ``log.txt``.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, cast

from TransferSegLib.clean_text import CleanStream
from TransferSegLib.errors import Cancelled, JobError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.jobs.diagnosis import write_worker_facts
from TransferSegLib.jobs.events import Event, EventWriter, JobState, last_event
from TransferSegLib.jobs.failures import describe_failure
from TransferSegLib.jobs.files import LOG, RESULT, WORKER_LOCK, write_json
from TransferSegLib.jobs.kinds import KINDS, Kind, PartlyDone, find_kind
from TransferSegLib.jobs.queue import AUTO, DeviceQueue
from TransferSegLib.jobs.request import JobRequest, now_text, read_request
from TransferSegLib.jobs.watcher import Watcher, own_process_group
from TransferSegLib.own_files import open_own
from TransferSegLib.progress import CancelToken, Progress, end_process

RESULT_FORMAT = "transferseg-job-result"
EXIT_DONE, EXIT_FAILED, EXIT_BUSY, EXIT_CANCELLED = 0, 2, 3, 130
#: How long to wait for someone who only looks whether there is a worker.
_LOOK_S = 1.0
#: Before the work has said anything there is nothing to save: importing torch is not waited for.
_GRACE_BEFORE_WORK_S = 0.5
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
#: Events of one stage are at least so far apart; what comes faster is not written.
_BETWEEN_EVENTS_S = 0.2


def main(argv: Sequence[str] | None = None, kinds: Mapping[str, str] = KINDS) -> int:
    """Do the job of a folder and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m TransferSegLib.jobs.worker", description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder of the job")
    parser.add_argument("--end-with-parent", action="store_true", help="stop when standard input is closed")
    parser.add_argument("--scheduled", action="store_true", help="the device is this job's: do not wait for others")
    parser.add_argument("--threads", type=int, metavar="N", help="threads that compute on a CPU")
    arguments = parser.parse_args(argv)
    folder = arguments.folder.absolute()
    if arguments.threads:
        # Before numpy and torch are imported, which look at these once.
        os.environ |= dict.fromkeys(_THREAD_VARIABLES, str(arguments.threads))
    lock = FileLock(folder / WORKER_LOCK, _LOOK_S, f"A worker is at the job {folder.name} already.", JobError)
    try:
        read_request(folder)  # a folder that is not a job's stays as it is
    except JobError as error:
        print(f"worker: {error}", file=sys.stderr)
        return EXIT_FAILED
    try:
        lock.acquire()
    except JobError as error:
        print(f"worker: {error}", file=sys.stderr)
        return EXIT_BUSY
    try:
        _into_log(folder)
        own_process_group()
        return _Worker(folder, kinds, arguments.scheduled).run(arguments.end_with_parent)
    finally:
        lock.release()


def device_name(wanted: str) -> str:
    """Return the device whose queue a job joins: ``auto`` is what torch will take, ``cuda`` is ``cuda:0``."""
    if wanted == AUTO:
        import torch

        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return "cuda:0" if wanted == "cuda" else wanted


class _Worker:
    """One attempt at a job, from the queue to its final event."""

    def __init__(self, folder: Path, kinds: Mapping[str, str], is_scheduled: bool = False) -> None:
        self._folder = folder
        self._kinds = kinds
        #: Whether whoever started the worker has seen to it that the device is free.
        self._is_scheduled = is_scheduled
        self._cancel = CancelToken()
        self._writer = EventWriter(folder)
        self._device: str | None = None
        self._reported: tuple[str, float] = ("", 0.0)
        self._grace_of_kind_s = _GRACE_BEFORE_WORK_S
        self._watcher = Watcher(folder, self._cancel, self._stopping, self._giving_up, _GRACE_BEFORE_WORK_S)

    def run(self, end_with_parent: bool) -> int:
        """Do the job; whatever happens, the last event says how it ended."""
        before = last_event(self._folder)
        if before is not None and before.state == JobState.DONE:
            return EXIT_DONE
        self._writer.reserve()
        self._watcher.start(end_with_parent)
        try:
            with suppress(OSError):  # only a help for telling later what happened
                write_worker_facts(self._folder)
            self._work()
            last, code = Event(JobState.DONE, device=self._device, fraction=1.0), EXIT_DONE
        except Cancelled:
            reason = self._watcher.reason or "Stopped."
            last, code = Event(JobState.CANCELLED, device=self._device, message=reason), EXIT_CANCELLED
        except BaseException as error:
            with suppress(OSError, ValueError):  # the log's disk may be what is full
                traceback.print_exc()
            # The frames of what failed hold its arrays; the final event may need some of their memory.
            message = describe_failure(error.with_traceback(None))
            last, code = Event(JobState.FAILED, device=self._device, error=message), EXIT_FAILED
        return self._end(last, code)

    def _end(self, last: Event, code: int) -> int:
        """Write the final event; nothing more can be done if even that fails."""
        self._watcher.finish()
        try:
            self._writer.write_final(last)
        except JobError as error:
            with suppress(OSError, ValueError):
                print(f"worker: {error} The final event was: {last.to_line().decode()}", file=sys.stderr)
            return EXIT_FAILED
        finally:
            self._writer.free_reserve()
            DeviceQueue(self._folder.parent).leave(self._folder.name)
        return code

    def _work(self) -> None:
        """Wait for the device, if one is needed, do the work, and write its result."""
        request = read_request(self._folder)
        kind = find_kind(request.kind, self._kinds)
        self._grace_of_kind_s = kind.grace_s
        queue = DeviceQueue(self._folder.parent)
        if not kind.uses_device:
            queue.leave(self._folder.name)
            self._do(kind, request, "Started.")
            return
        name = device_name(request.device)
        if self._is_scheduled:
            queue.leave(self._folder.name)
            self._device = name
            self._do(kind, request, f"Started on {name}.")
            return
        turn = queue.wait(self._folder.name, name, self._waiting, self._cancel)
        try:
            self._device = name
            self._do(kind, request, f"Started on {name}.")
        finally:
            turn.release()

    def _do(self, kind: Kind, request: JobRequest, message: str) -> None:
        """Do the work and write its result, also that of what was done before it failed."""
        started = time.monotonic()
        self._writer.write(Event(JobState.RUNNING, device=self._device, message=message))
        try:
            result = kind.run(request, self._folder, self._progress, self._cancel)
        except PartlyDone as partly:
            self._write_result(request, partly.result, started)
            raise
        self._write_result(request, result, started)

    def _write_result(self, request: JobRequest, result: dict[str, Any], started: float) -> None:
        content = {
            "format": RESULT_FORMAT,
            "format_version": 1,
            "kind": request.kind,
            "finished": now_text(),
            "seconds": round(time.monotonic() - started, 3),
            "result": result,
        }
        write_json(self._folder / RESULT, content)

    def _waiting(self, place: int) -> None:
        self._writer.write(Event(JobState.QUEUED, place=place, message=f"Waiting: {place} before this one."))

    def _progress(self, progress: Progress) -> None:
        """Write a report of the work as an event, unless one was written a moment ago; this is its callback."""
        self._watcher.grace_s = self._grace_of_kind_s
        now = time.monotonic()
        stage, at = self._reported
        if progress.stage == stage and progress.fraction < 1 and now - at < _BETWEEN_EVENTS_S:
            return
        self._reported = (progress.stage, now)
        self._writer.write(
            Event(
                JobState.CANCELLING if self._cancel.cancelled else JobState.RUNNING,
                stage=progress.stage,
                key=progress.key or None,
                step=progress.step,
                steps=progress.steps,
                fraction=round(progress.fraction, 6),
                loss=progress.loss,
                dice=progress.dice,
                seconds_left=None if progress.seconds_left is None else round(progress.seconds_left, 1),
                device=self._device,
                message=progress.message or None,
            )
        )

    def _stopping(self, reason: str) -> None:
        """Report that the job is about to stop (in the watcher's thread)."""
        with suppress(JobError):
            self._writer.write(Event(JobState.CANCELLING, device=self._device, message=reason))

    def _giving_up(self, reason: str) -> None:
        """Report that the work did not react and its process is killed (in the watcher's thread)."""
        message = f"{reason} It did not react within {self._watcher.grace_s:g} s and was killed."
        with suppress(JobError):
            self._writer.write_final(Event(JobState.CANCELLED, device=self._device, message=message))
        self._writer.free_reserve()
        DeviceQueue(self._folder.parent).leave(self._folder.name)


def _into_log(folder: Path) -> None:
    """Let everything this process prints go to the job's log, also what compiled code prints, and its crashes."""
    descriptor = open_own(folder / LOG, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
    out, err = (
        os.fdopen(os.dup(number), "w", encoding="utf-8", errors="backslashreplace", buffering=1) for number in (1, 2)
    )
    sys.stdout, sys.stderr = cast(TextIO, CleanStream(out)), cast(TextIO, CleanStream(err))
    with suppress(OSError):
        print(f"--- worker {os.getpid()} started {now_text()} with {sys.executable}")
    faulthandler.enable(err)


if __name__ == "__main__":
    end_process(main())
