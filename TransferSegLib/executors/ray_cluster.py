"""Jobs on the nodes of a running Ray cluster. All nodes must see the folder of the jobs under the same path.

A task runs a worker (``attempt.py``). When its node is lost, Ray runs the task on another one, where the worker
continues from what the job's folder holds; a job that is done is not done again. Ray is imported here only.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

from TransferSegLib.errors import JobError
from TransferSegLib.executors.attempt import ATTEMPTS, WORKER, Attempt, make_attempt
from TransferSegLib.executors.interface import LOCK, Executor, SubmittedJob, lock_of
from TransferSegLib.executors.ray_room import nodes_of, nodes_to_come, notice_of, room_for
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.status import worker_is_alive
from TransferSegLib.jobs.store import create_job
from TransferSegLib.version import code_version

#: How often Ray runs a task again whose node or process was lost.
_RETRIES = 5
#: How long a job that is cancelled may take to end before its task is given up.
_END_S = 30.0


class RayJob(SubmittedJob):
    """A job that is a task of Ray."""

    def __init__(self, folder: Path, ray: Any, task: Any) -> None:
        super().__init__(folder)
        self._ray, self._task = ray, task
        self._is_over, self._trouble = False, ""

    @property
    def is_over(self) -> bool:
        """Whether the task has ended for good and no worker of an earlier attempt is left."""
        if not self._is_over:
            ready, _ = self._ray.wait([self._task], num_returns=1, timeout=0)
            if ready and not worker_is_alive(self.folder):
                self._is_over, self._trouble = True, self._why()
        return self._is_over

    @property
    def is_begun(self) -> bool:
        """Whether a node has begun it, at least once."""
        return (self.folder / ATTEMPTS).exists()

    @property
    def trouble(self) -> str:
        """Why the task could not run the job."""
        return self._trouble

    def cancel(self) -> None:
        """Ask the job to stop, and take a task that waits out of Ray's queue."""
        super().cancel()
        with suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.cancel(self._task)

    def _why(self) -> str:
        """Return why the task failed, '' where its worker ended by itself."""
        exceptions = self._ray.exceptions
        try:
            self._ray.get(self._task)
        except exceptions.TaskCancelledError:
            return ""
        except exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, exceptions.TaskCancelledError):
                return ""
            if isinstance(cause, JobError):
                return str(cause)
            if "No module named 'TransferSegLib'" in str(error):
                return "A node has no TransferSegLib: install the same version in the Python that runs Ray there."
            return f"The task failed: {str(cause or error).strip().splitlines()[-1]}."
        except exceptions.RayError as error:
            lines = str(error).strip().splitlines()
            return f"Ray gave the task up ({type(error).__name__}{f': {lines[0]}' if lines else ''})."
        return ""


class RayExecutor(Executor):
    """Runs jobs on a cluster; each gets ``threads`` CPUs, and a GPU where the device is one."""

    def __init__(
        self,
        address: str,
        jobs: Path,
        at_once: int | None = None,
        threads: int = 1,
        device: str = "auto",
        worker: Sequence[str] = WORKER,
        python_path: Sequence[str] = (),
    ) -> None:
        """Connect to the cluster at an address, such as ``auto`` or ``10.0.0.1:6379``.

        ``jobs`` is the folder of the jobs, on a file system that all nodes share; ``at_once`` None: as many as the
        cluster has room for now. ``device`` auto: a GPU where the cluster has any. Raises JobError when Ray is not
        installed, no cluster answers, no node is large enough for a worker, or another program uses the folder.
        """
        self._ray = _import_ray()
        self._lock = lock_of(jobs)
        self._lock.acquire()
        self._connected = False
        try:
            self._connected = _connect(self._ray, address)
            room, self._device = _room(self._ray, threads, device)
        except BaseException:
            if self._connected:
                self._ray.shutdown()
            self._lock.release()
            raise
        gpus = _gpus(self._device)
        self.at_once, self.notice = at_once or max(1, room), notice_of(room, at_once)
        self._attempt = partial(
            Attempt, lock=jobs / LOCK, version=code_version(), threads=threads, worker=worker, python_path=python_path
        )
        self._run = self._ray.remote(make_attempt).options(
            num_cpus=threads, num_gpus=gpus, max_retries=_RETRIES, scheduling_strategy="SPREAD"
        )
        self._jobs = jobs
        self._submitted: list[RayJob] = []

    def submit(self, kind: str, parameters: dict[str, Any], title: str = "") -> SubmittedJob:
        """Take a job; it begins when Ray has room for it."""
        folder = create_job(JobRequest(kind, parameters, self._device, title), self._jobs)
        job = RayJob(folder, self._ray, self._run.remote(self._attempt(folder)))
        self._submitted.append(job)
        return job

    def stop(self) -> None:
        """Stop what runs or waits, and wait for its end."""
        left = [job for job in self._submitted if not job.is_over]
        for job in left:
            with suppress(JobError):
                job.cancel()
        for job in left:
            job.wait(_END_S)

    def close(self) -> None:
        """Stop all jobs, and leave the cluster, which goes on."""
        self.stop()
        if self._connected:
            self._ray.shutdown()
        self._lock.release()


def cluster_room(address: str, threads: int = 1, device: str = "auto") -> int:
    """Return how many workers the cluster at an address has room for now, 0 where none before it adds a node.

    Raises JobError as ``RayExecutor`` does.
    """
    ray = _import_ray()
    with redirect_stdout(io.StringIO()):
        is_own = _connect(ray, address)
        try:
            return _room(ray, threads, device)[0]
        finally:
            if is_own:
                ray.shutdown()


def _room(ray: Any, threads: int, device: str) -> tuple[int, str]:
    """Return how many workers there is room for, and on which device; raises JobError where none ever has room."""
    nodes, to_come = nodes_of(ray), nodes_to_come(ray)
    if device == "auto":
        device = "cuda" if any(node.gpus for node in nodes) else "cpu"
    return room_for(nodes, to_come, threads, _gpus(device)), device


def _gpus(device: str) -> int:
    """Return how many GPUs a worker needs."""
    return 1 if device.startswith("cuda") else 0


def _import_ray() -> Any:
    """Return the module; raises JobError when it is not installed."""
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise JobError(
            f"Ray cannot be used ({error}): install it with pip install 'TransferSegLib[cluster]'."
        ) from error
    return ray


def _connect(ray: Any, address: str) -> bool:
    """Connect to a cluster, and tell whether that was needed; raises JobError when there is none."""
    if ray.is_initialized():
        return False
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError, TimeoutError, OSError) as error:
        lines = str(error).strip().splitlines()
        reason = f" ({lines[0]})" if lines else ""
        raise JobError(
            f"No Ray cluster can be used at '{address}'{reason}. Run this on a node of the cluster, with --ray auto or "
            "the address that ray start printed."
        ) from error
    return True
