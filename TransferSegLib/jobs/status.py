"""Where a job is: what its stream says last, and whether there still is a worker to make it true."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from TransferSegLib.errors import JobError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.jobs.diagnosis import why_interrupted
from TransferSegLib.jobs.events import Event, JobState, last_event
from TransferSegLib.jobs.files import CANCEL, WORKER_LOCK
from TransferSegLib.jobs.request import JobRequest, read_request

#: How long a worker may take from being started to holding its lock; Python on a cold disk takes seconds.
STARTING_S = 30.0


@dataclass(frozen=True)
class JobStatus:
    """A job at one moment; ``last`` is the last event, None before the first."""

    folder: Path
    request: JobRequest
    state: JobState
    last: Event | None
    message: str

    @property
    def id(self) -> str:
        """The name by which the job is called."""
        return self.folder.name


def read_status(folder: Path) -> JobStatus:
    """Return where a job is and a line for a person; raises JobError when the folder is not that of a job."""
    request = read_request(folder)
    state, last = _state_and_last(folder, request)
    return JobStatus(folder, request, state, last, _message(folder, state, last))


def read_state(folder: Path) -> JobState:
    """Return where a job is, without asking why; raises JobError when the folder is not that of a job."""
    return _state_and_last(folder, read_request(folder))[0]


def state_without_worker(folder: Path) -> JobState:
    """Return where a job is whose lock the caller holds, so that no worker can be at it."""
    return _without_worker(last_event(folder), read_request(folder))


def worker_is_alive(folder: Path) -> bool:
    """Return whether a worker holds the job's lock; raises JobError when the lock cannot be tried."""
    path = folder / WORKER_LOCK
    if not path.exists():
        return False
    try:
        with FileLock(path, 0, "busy", JobError):
            return False
    except JobError as error:
        if error.__cause__ is None:
            return True
        raise


def _state_and_last(folder: Path, request: JobRequest) -> tuple[JobState, Event | None]:
    last = last_event(folder)
    if last is not None and last.state.ended:
        return last.state, last
    if worker_is_alive(folder):
        state = JobState.QUEUED if last is None else last.state
    else:
        last = last_event(folder)  # the worker may have ended in between
        state = _without_worker(last, request)
    if not state.ended and os.path.lexists(folder / CANCEL):
        state = JobState.CANCELLING
    return state, last


def _without_worker(last: Event | None, request: JobRequest) -> JobState:
    """Return where a job is whose last event is known and that has no worker at this moment."""
    if last is not None and last.state.ended:
        return last.state
    return JobState.QUEUED if _is_starting(last, request) else JobState.INTERRUPTED


def _is_starting(last: Event | None, request: JobRequest) -> bool:
    """Return whether the job was just made, or its worker just started and has not come as far as its lock."""
    if last is None:
        return Event(JobState.QUEUED, request.created).age_s() < STARTING_S
    return last.state == JobState.QUEUED and last.place is None and last.age_s() < STARTING_S


def _message(folder: Path, state: JobState, last: Event | None) -> str:
    if state == JobState.INTERRUPTED:
        has_started = last is not None and (last.state != JobState.QUEUED or last.place is not None)
        return f"Interrupted: {why_interrupted(folder, has_started)}. It can be resumed."
    if last is None:
        return ""
    return last.error or last.message or ""
