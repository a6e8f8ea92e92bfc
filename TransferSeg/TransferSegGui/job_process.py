"""A job of the library, started and followed from Slicer without ever keeping its window waiting.

What happens to a job is read from its folder (docs/job-format.md), so a job that is found again is followed like one
that was just started. The jobs here keep running when the scene, the module or Slicer is closed; those
of ``attached_job`` end with Slicer.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from TransferSegGui.command_process import CommandProcess
from TransferSegLib.errors import JobError
from TransferSegLib.jobs.diagnosis import log_tail
from TransferSegLib.jobs.events import Event, JobState, read_events
from TransferSegLib.jobs.files import RESULT, WORKER_FACTS, read_json
from TransferSegLib.jobs.request import JobRequest, read_request
from TransferSegLib.jobs.status import read_state, read_status, worker_is_alive
from TransferSegLib.jobs.store import create_job, find_job, list_jobs, request_cancel
from TransferSegLib.process_tree import end_process_tree

#: Milliseconds between two looks at the stream, and how many looks pass between two at the worker itself.
_LOOK_MS, _LOOKS_BETWEEN_STATES = 200, 5
#: What is read of a stream at once: some hundred events, which take a few milliseconds.
_BYTES_AT_ONCE = 65536
#: A worker ends itself 1.5 to 10 s after it was asked to; one that has not after so many seconds is ended from here.
_PATIENCE_S = 20.0
#: More lines than are kept of a log.
_ALL_LINES = 100_000


class JobFollower:
    """Reads the events of a job's folder from a timer and hands them on.

    ``onProgress`` gets the fraction done (0 to 1; None: waiting), the seconds left (None: not known) and a line for a
    person; ``onPoint`` the training's loss and Dice (None: not known) at a step (None: no training step) of a stage.
    ``onEnd`` gets the job. Callbacks come from Slicer's event loop.
    """

    def __init__(self) -> None:
        """Begin with nothing to follow."""
        self.onProgress: Callable[[float | None, float | None, str], None] = lambda fraction, secondsLeft, message: None
        self.onPoint: Callable[[str, int | None, float | None, float | None], None] = lambda *point: None
        self.onEnd: Callable[[Any], None] = lambda job: None
        self.folder = Path()
        self.state = JobState.QUEUED
        self.error = ""
        self.result: dict[str, Any] | None = None
        self._offset, self._looks = 0, 0
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self._look)

    def followEvents(self) -> None:
        """Start reading."""
        self._looks = 0
        self._timer.start(0)

    def stopFollowing(self) -> None:
        """Read no more."""
        self._timer.stop()

    def readEvents(self, most_bytes: int | None = None) -> tuple[list[Event], int]:
        """Hand on the new events; returns them and how many bytes they took. Raises JobError."""
        events, offset = read_events(self.folder, self._offset, most_bytes)
        read, self._offset = offset - self._offset, offset
        self._report(events)
        return events, read

    def readLog(self) -> str:
        """Return what the worker and its libraries printed, of a very long log the end."""
        return "\n".join(log_tail(self.folder, _ALL_LINES))

    def lookAtWorker(self) -> None:
        """See whether the worker still lives."""

    def progressText(self, event: Event) -> str:
        """Return the line for a person of an event."""
        return ", ".join(part for part in (event.stage, event.message) if part)

    def _look(self) -> None:
        """Take the new events, and look at the worker from time to time."""
        try:
            events, read = self.readEvents(_BYTES_AT_ONCE)
            isBehind = read > _BYTES_AT_ONCE // 2
            if not isBehind and (self._looks % _LOOKS_BETWEEN_STATES == 0 or (events and events[-1].state.ended)):
                self.lookAtWorker()
            self._looks += 0 if isBehind else 1
            if self._timer.active:
                self._timer.start(0 if isBehind else _LOOK_MS)
        except JobError as error:
            self._end(JobState.FAILED, str(error))

    def _report(self, events: Sequence[Event]) -> None:
        """Report every point of the curves, and the last event about progress."""
        for event in events:
            if event.loss is not None or event.dice is not None:
                self.onPoint(event.stage or "", event.step, event.loss, event.dice)
        running = [event for event in events if not event.state.ended]
        if running:  # also what came in one look with the end
            last = running[-1]
            self.state = last.state
            self.onProgress(last.fraction, last.seconds_left, self.progressText(last))

    def _end(self, state: JobState, error: str) -> None:
        self._timer.stop()
        self.state, self.error = state, error
        self.onEnd(self)


class JobProcess(JobFollower):
    """One job, from ``start`` (or ``resume``, or ``follow`` for one that was found) to ``onEnd``.

    >>> job = JobProcess.create(JobRequest("finetune", request.to_json(), "auto", "fine-tune our-clinic"))
    >>> job.onProgress = lambda fraction, secondsLeft, message: print(f"{100 * fraction:.0f} %", message)
    >>> job.onPoint = lambda stage, step, loss, dice: ...
    >>> job.onEnd = lambda job: print(job.error or job.result["report"])
    >>> job.start()

    and later, perhaps in another Slicer:

    >>> job = JobProcess.find(jobId)
    >>> job.follow()

    ``onEnd`` gets the job, exactly once for each ``start``, ``resume`` or ``follow``: its ``state`` is done,
    ``cancelled``, ``failed`` or ``interrupted``. When done, ``result`` is set; otherwise ``error`` says in one line
    why, ``lastLines()`` and ``log()`` tell more, and ``resume`` continues it. Callbacks are those of ``JobFollower``.
    """

    def __init__(self, folder: Path) -> None:
        """Take the job in a folder; raises JobError when it is none."""
        super().__init__()
        self.folder = Path(folder)
        self.request = read_request(self.folder)
        self.state = read_state(self.folder)
        self._launcher: CommandProcess | None = None
        self._cancelledAt: float | None = None

    @classmethod
    def create(cls, request: JobRequest) -> JobProcess:
        """Return a new job of the user's store, which is not started yet; raises JobError when it cannot be made."""
        return cls(create_job(request))

    @classmethod
    def find(cls, jobId: str) -> JobProcess | None:
        """Return a job of the user's store by its id, None when it is not there (any more) or cannot be read."""
        try:
            return cls(find_job(jobId)) if jobId else None
        except JobError:
            return None

    @property
    def id(self) -> str:
        """The name by which the job is found again."""
        return self.folder.name

    @property
    def isFollowed(self) -> bool:
        """Whether ``onEnd`` is still to come."""
        return self._timer.active or self._launcher is not None

    def start(self) -> None:
        """Start the worker of a new job and follow it."""
        self._launch("start")

    def resume(self) -> None:
        """Continue a job that was cancelled, failed or was interrupted, and follow it."""
        self._launch("resume")

    def follow(self) -> None:
        """Follow the job from the beginning of its stream, whoever started it and however it stands."""
        self._offset = 0
        self.followEvents()

    def leave(self) -> None:
        """Stop following; the job itself keeps running, and ``onEnd`` is not called any more."""
        self._timer.stop()
        if self._launcher is not None:
            self._launcher.onEnd = lambda launcher: None
            self._launcher = None

    def cancel(self) -> None:
        """Ask the job to stop; ``onEnd`` follows when its processes are gone. It can be resumed."""
        self._cancelledAt = time.monotonic()
        if self._launcher is None:  # else it is said to the worker when that is there
            self._requestCancel()

    def _requestCancel(self) -> None:
        with suppress(JobError):  # it is over already: the next look shows how
            request_cancel(self.folder)

    def wait(self) -> None:
        """Return when the job that is followed has ended; Slicer's window is kept up to date meanwhile."""
        while self.isFollowed:
            slicer.app.processEvents()
            time.sleep(0.02)

    def lastLines(self, count: int = 3) -> list[str]:
        """Return the last lines of what the worker and its libraries printed."""
        return log_tail(self.folder, count)

    def log(self) -> str:
        """Return what the worker and its libraries printed, of a very long log the end."""
        return self.readLog()

    def _launch(self, verb: str) -> None:
        """Let ``transferseg jobs`` start the worker: as no child of Slicer's, it does not end with Slicer."""
        self.state, self.error, self.result, self._cancelledAt = JobState.QUEUED, "", None, None
        self._launcher = launcher = CommandProcess(["jobs", verb, str(self.folder)])
        launcher.onEnd = self._onLaunched
        launcher.start()

    def _onLaunched(self, launcher: CommandProcess) -> None:
        """Follow the worker, or report why there is none."""
        self._launcher = None
        if not launcher.error:
            if self._cancelledAt is not None:
                self._requestCancel()
            self.followEvents()
            return
        self.state, self.error = JobState.FAILED, launcher.error
        self.onEnd(self)

    def lookAtWorker(self) -> None:
        """End when the job has ended; end a worker that does not react when it is asked to stop."""
        state = read_state(self.folder)
        if not state.ended:
            self.state = state
            self._endWhenDeaf()
            return
        status = read_status(self.folder)
        if state != JobState.DONE:
            self._end(state, status.message or _("The job is {state}.").format(state=state))
            return
        self.result = read_json(self.folder / RESULT).get("result")
        self._end(state, "" if isinstance(self.result, dict) else _("The job has finished but left no result."))

    def _endWhenDeaf(self) -> None:
        """End the process tree of a worker that was asked to stop long ago."""
        if self._cancelledAt is None or time.monotonic() - self._cancelledAt < _PATIENCE_S:
            return
        self._cancelledAt = time.monotonic()
        facts = read_json(self.folder / WORKER_FACTS)
        # The lock shows that the worker is alive: its process id cannot be that of another program.
        if facts.get("host") == platform.node() and worker_is_alive(self.folder):
            end_process_tree(int(facts["pid"]))


def runningJobs(kind: str, **parameters: Any) -> list[JobProcess]:
    """Return the jobs of ``jobsOf`` that are not over."""
    return [job for job in jobsOf(kind, **parameters) if not job.state.ended]


def jobsOf(kind: str, **parameters: Any) -> list[JobProcess]:
    """Return the jobs of a kind with these parameters, the newest first; those that are damaged are left out.

    >>> jobsOf("finetune", project=str(projectFolder))
    """
    found = []
    try:
        folders = [folder for folder in list_jobs() if f"-{kind}-" in folder.name]
    except JobError:
        return []
    for folder in reversed(folders):
        try:
            asked = read_request(folder).parameters
            if all(asked.get(name) == value for name, value in parameters.items()):
                found.append(JobProcess(folder))
        except JobError:
            continue
    return found
