"""Jobs in processes of this computer, some at a time."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from TransferSegLib.errors import JobError
from TransferSegLib.executors.interface import Executor, SubmittedJob, lock_of
from TransferSegLib.jobs.events import Event, EventWriter, JobState
from TransferSegLib.jobs.launch import start_job, worker_command
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.store import create_job


class LocalJob(SubmittedJob):
    """A job that a thread of this process starts and waits for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.future: Future[None] = Future()
        self.is_asked_to_stop = False

    @property
    def is_over(self) -> bool:
        """Whether its worker has ended."""
        return self.future.done()

    @property
    def is_begun(self) -> bool:
        """Whether its turn has come."""
        return self.future.running() or self.future.done()

    @property
    def trouble(self) -> str:
        """Why it could not be started."""
        error = self.future.exception() if self.future.done() else None
        return "" if error is None else str(error)

    def cancel(self) -> None:
        """Ask the job to stop; also one that is being started at this moment, which would not see the file."""
        self.is_asked_to_stop = True
        super().cancel()


class LocalExecutor(Executor):
    """Runs ``at_once`` jobs at a time, each in a worker process that ends with this one."""

    def __init__(
        self,
        jobs: Path,
        at_once: int = 1,
        threads: int = 1,
        device: str = "auto",
        command: list[str] | None = None,
    ) -> None:
        """``jobs`` is the folder of the jobs; ``threads`` are those of each. ``command`` as ``worker_command``."""
        self.at_once = at_once
        self._jobs, self._device = jobs, device
        self._command = worker_command() if command is None else command
        self._options = ["--scheduled", "--threads", str(threads)]
        self._lock = lock_of(jobs)
        self._lock.acquire()
        self._pool = ThreadPoolExecutor(at_once, "job")
        self._submitted: list[LocalJob] = []

    def submit(self, kind: str, parameters: dict[str, Any], title: str = "") -> SubmittedJob:
        """Take a job; it begins when less than ``at_once`` others run."""
        job = LocalJob(create_job(JobRequest(kind, parameters, self._device, title), self._jobs))
        job.future = self._pool.submit(self._run, job)
        self._submitted.append(job)
        return job

    def stop(self) -> None:
        """Stop what runs or waits, and wait for its end."""
        for job in self._submitted:
            if not job.is_over:
                with suppress(JobError):
                    job.cancel()
        wait([job.future for job in self._submitted])

    def close(self) -> None:
        """Stop all jobs, and let go of the folder."""
        self.stop()
        self._pool.shutdown(wait=True)
        self._lock.release()

    def _run(self, job: LocalJob) -> None:
        """Run the job's worker to its end."""
        if job.is_asked_to_stop:
            EventWriter(job.folder).write_final(Event(JobState.CANCELLED, message="Cancelled while it waited."))
            return
        process = start_job(job.folder, self._command, True, self._options)
        if job.is_asked_to_stop:
            job.cancel()
        process.wait()
