"""A job that ends with Slicer: its folder is temporary, and its worker stops when Slicer's end of a pipe closes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from TransferSegGui.command_process import CommandProcess
from TransferSegGui.job_process import JobFollower
from TransferSegLib.errors import JobError
from TransferSegLib.jobs.diagnosis import why_interrupted
from TransferSegLib.jobs.events import JobState, last_event
from TransferSegLib.jobs.files import RESULT, WORKER_FACTS, read_json
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.store import create_job
from TransferSegLib.output_checks import why_no_folder

#: The log that is kept for the text box; what is older is dropped.
_LOG_CHARACTERS = 200_000


class AttachedJob(JobFollower):
    """One job of this session; use each object once. A subclass says what it does, and takes its result.

    ``onEnd`` is called exactly once; then the temporary files are gone, and either ``result`` is set, or ``cancelled``
    is, or ``error`` says in one line what is wrong. ``log`` holds everything that the worker printed. It waits for no
    other job: its folder is not in the user's store.
    """

    def __init__(self) -> None:
        """Prepare a job; nothing is done before ``begin``."""
        super().__init__()
        self.cancelled = False
        #: The worker ended without saying why: ``error`` is made from what else is known.
        self.crashed = False
        self.log = ""
        self.ended = False
        self.temporary: tempfile.TemporaryDirectory | None = None
        self.worker: CommandProcess | None = None

    def file(self, name: str) -> Path:
        """Return a file in the temporary folder, which is made when it is first needed; raises RuntimeError."""
        if self.temporary is None:
            self.temporary = _temporaryFolder()
        return Path(self.temporary.name) / name

    def begin(self, request: JobRequest, environment: Mapping[str, str] | None = None) -> None:
        """Start the worker and follow it; raises JobError when the job's folder cannot be made."""
        self.folder = create_job(request, self.file(""))
        args = [str(self.folder), "--end-with-parent"]
        self.worker = CommandProcess(args, "TransferSegLib.jobs.worker", environment)
        self.worker.onEnd = self._onWorkerEnded
        self.worker.start()
        self.followEvents()

    def cancel(self) -> None:
        """End the worker with all it started; ``onEnd`` is called when it has ended."""
        if self.worker is not None and not self.ended:
            self.cancelled = True
            self.worker.cancel()

    def stop(self) -> None:
        """Cancel, and return when the worker has ended and its files are removed: Slicer or its scene is closing."""
        self.cancel()
        self.waitForEnd(5000)

    def wait(self) -> None:
        """Return when the job has ended; Slicer's window is kept up to date meanwhile."""
        while not self.ended:
            if self.worker is not None:
                self.worker.wait()
            slicer.app.processEvents()

    def waitForEnd(self, longest_ms: int) -> None:
        """Return when the worker has ended; the window's events are not processed meanwhile."""
        if self.worker is not None:
            self.worker.waitForEnd(longest_ms)

    def takeResult(self) -> None:
        """Use ``result`` while the temporary files are still there; raises RuntimeError when it cannot be used."""

    def _onWorkerEnded(self, worker: CommandProcess) -> None:
        """Decide by the last event and the result, after the events that were still to come."""
        self.stopFollowing()
        try:
            with suppress(JobError):
                self.readEvents()
            with suppress(JobError):
                self.result = read_json(self.folder / RESULT).get("result")
            self.log = (worker.log + self.readLog())[-_LOG_CHARACTERS:]
            last = last_event(self.folder)
            if self.cancelled:
                self.error = _("Cancelled.")
            elif last is None or not last.state.ended:
                self.crashed = True
                started = (self.folder / WORKER_FACTS).exists()
                self.error = self._whyInterrupted() if started else worker.error
            elif last.state != JobState.DONE:
                self.error = last.error or last.message or worker.error
            elif not isinstance(self.result, dict):
                self.error = _("The job has finished but left no result.")
            else:
                self.takeResult()
        except (JobError, RuntimeError) as error:
            self.error = str(error)
        finally:
            self.error = self.withoutPaths(self.error)
            self._finish()

    def namesOfFiles(self) -> dict[str, str]:
        """Return what a person calls the temporary files, by the files' names."""
        return {}

    def withoutPaths(self, text: str) -> str:
        """Return a text with the names of what temporary files hold in place of their paths."""
        if self.temporary is None:
            return text
        folder = Path(self.temporary.name)
        for place in dict.fromkeys((folder, folder.resolve())):
            for file, name in self.namesOfFiles().items():
                text = text.replace(str(place / file), name)
            text = text.replace(f"{place}/", "")
        return text

    def _whyInterrupted(self) -> str:
        reason = why_interrupted(self.folder, True)
        return f"{reason[:1].upper()}{reason[1:]}."

    def _finish(self) -> None:
        """Remove the temporary files and report that the job is over."""
        self.ended = True
        self.removeFiles()
        self.onEnd(self)
        # PythonQt keeps what is connected to a signal, and so this object, for ever: what it uses must not stay.
        self.onEnd: Callable[[AttachedJob], None] = lambda job: None
        self.letGo()

    def _end(self, state: JobState, error: str) -> None:
        """Stop reading a stream that cannot be read; the end of the worker shows the outcome."""
        self.stopFollowing()

    def removeFiles(self) -> None:
        """Remove the temporary folder."""
        if self.temporary is not None:
            self.temporary.cleanup()
            if Path(self.temporary.name).exists():
                text = _("The temporary folder {path} could not be removed.")
                self.log += text.format(path=self.temporary.name)

    def letGo(self) -> None:
        """Forget the scene's nodes."""


def _temporaryFolder() -> tempfile.TemporaryDirectory:
    """Return a new folder among Slicer's temporary ones; raises RuntimeError when it cannot be made."""
    try:
        return tempfile.TemporaryDirectory(
            prefix="TransferSeg-", dir=slicer.app.temporaryPath, ignore_cleanup_errors=True
        )
    except OSError as error:
        text = _("No folder can be created in Slicer's temporary folder {path}: {reason}.")
        reason = why_no_folder(Path(slicer.app.temporaryPath), error)
        raise RuntimeError(text.format(path=slicer.app.temporaryPath, reason=reason)) from error
