"""What every executor does: take a request, and hand back a job that can be followed, cancelled and waited for.

>>> with LocalExecutor(folder, at_once=4) as executor:  # or RayExecutor("auto", folder)
...     job = executor.submit("segment", parameters.to_json())
...     for event in job.follow():
...         print(event.state, event.fraction)
...     print(job.result())

A job is what it is everywhere: a folder with a request, a stream of events and a result (docs/job-format.md).
"""

from __future__ import annotations

import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from TransferSegLib.errors import JobError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.jobs.events import Event, JobState, last_event, read_events
from TransferSegLib.jobs.files import CANCEL, RESULT, read_json
from TransferSegLib.own_files import make_private_folder, open_own
from TransferSegLib.wording import counted

#: The file in the folder of the jobs that a program holds a lock on as long as its jobs may run.
LOCK = "run.lock"
_LOOK_S = 0.2


class SubmittedJob(ABC):
    """A job that an executor has taken; ``folder`` is its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    @abstractmethod
    def is_over(self) -> bool:
        """Whether the executor has ended with the job: nothing is at it, and nothing will be."""

    @property
    @abstractmethod
    def is_begun(self) -> bool:
        """Whether a worker was started for the job; until then it waits for room."""

    @property
    def trouble(self) -> str:
        """Why the executor could not run the job, in a line for a person; empty where it could."""
        return ""

    def state(self) -> JobState:
        """Return where the job is. INTERRUPTED: its worker ended, and the executor does not start another one.

        A job that waits or begins again after its node was lost is QUEUED, whatever its last event says.
        """
        is_over, last = self.is_over, last_event(self.folder)
        if last is not None and last.state == JobState.DONE:
            return JobState.DONE
        is_asked = os.path.lexists(self.folder / CANCEL)
        if not is_over:
            if is_asked:
                return JobState.CANCELLING
            return JobState.QUEUED if last is None or last.state.ended else last.state
        if last is not None and last.state == JobState.FAILED:
            return JobState.FAILED
        # A worker that was stopped because its node went says "cancelled", too: only a request makes it so.
        return JobState.CANCELLED if is_asked else JobState.INTERRUPTED

    def follow(self, offset: int = 0) -> Iterator[Event]:
        """Yield the job's events as they come, from a byte offset on, until it is over."""
        while True:
            is_over = self.state().ended
            events, offset = read_events(self.folder, offset)
            yield from events
            if is_over:
                return
            time.sleep(_LOOK_S)

    def wait(self, timeout_s: float = math.inf) -> JobState:
        """Wait until the job is over, at most so many seconds, and return its state."""
        deadline = time.monotonic() + timeout_s
        while not (state := self.state()).ended and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        return state

    def cancel(self) -> None:
        """Ask the job to stop; it has when ``state`` says CANCELLED. Raises JobError when it cannot be asked."""
        try:
            os.close(open_own(self.folder / CANCEL, os.O_WRONLY))
        except OSError as error:
            raise JobError(f"{self.folder / CANCEL} cannot be written: {error.strerror or error}.") from error

    def result(self) -> dict[str, Any] | None:
        """Return what the work returned, also that of a part that was done before it failed; None: nothing."""
        if not (self.folder / RESULT).exists():
            return None
        result = read_json(self.folder / RESULT).get("result")
        return result if isinstance(result, dict) else None

    def message(self) -> str:
        """Return why the job ended as it did, in a line for a person; empty where nothing is known."""
        last = last_event(self.folder)
        said = "" if last is None else last.error or ""
        return self.trouble or said


def workers_text(jobs: Sequence[SubmittedJob]) -> str:
    """Return how many workers are at jobs that are not over, and how many jobs wait for room, for a person."""
    begun = sum(job.is_begun for job in jobs)
    waiting = f", {counted(len(jobs) - begun, 'job')} waiting" if begun < len(jobs) else ""
    return f"{counted(begun, 'worker')}{waiting}"


def lock_of(jobs: Path) -> FileLock:
    """Make a folder of jobs, and return the lock that one program at a time holds; it is not held yet.

    Raises OSError when the folder cannot be made.
    """
    make_private_folder(jobs, parents=True, exist_ok=True)
    return FileLock(jobs / LOCK, 2.0, f"Another program runs jobs in {jobs}: wait for its end.", JobError)


class Executor(ABC):
    """Runs jobs; ``at_once`` is how many at the same time, so that it is of use to submit as many.

    ``notice`` is a line for a person where there is too little room for as many now, else empty.
    """

    at_once: int
    notice: str = ""

    @abstractmethod
    def submit(self, kind: str, parameters: dict[str, Any], title: str = "") -> SubmittedJob:
        """Make the folder of a job and take it; returns at once. Raises JobError when it cannot be made."""

    @abstractmethod
    def stop(self) -> None:
        """Ask all jobs that are not over to stop, and wait for their end."""

    @abstractmethod
    def close(self) -> None:
        """Stop all jobs, and let go of what the executor holds."""

    def __enter__(self) -> Executor:
        """Return the executor."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the executor."""
        self.close()
