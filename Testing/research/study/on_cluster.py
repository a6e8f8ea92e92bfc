"""The runs of a study as jobs on a Ray cluster, whose nodes share the data, the work folder and the checkout."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from Testing.research.study.job_worker import KIND_OF
from TransferSegLib.errors import Cancelled, StudyError
from TransferSegLib.jobs.diagnosis import why_interrupted
from TransferSegLib.jobs.events import JobState
from TransferSegLib.jobs.files import LOG
from TransferSegLib.progress import CancelToken

if TYPE_CHECKING:
    from TransferSegLib.executors.interface import Executor

_ROOT = Path(__file__).resolve().parents[3]
_LOOK_S = 0.5


class ClusterWorkers:
    """Makes runs and bases on a cluster, from several threads at a time."""

    def __init__(self, executor: Executor, failed: Path) -> None:
        """``failed`` is the folder for the logs of jobs that failed."""
        self._executor, self._failed = executor, failed

    def run(self, module: str, place: Path, request: Mapping[str, Any], stop: CancelToken) -> Mapping[str, Any]:
        """Do what a module's process does; returns its result. Raises StudyError, Cancelled."""
        job = self._executor.submit(KIND_OF[module], {**request, "place": str(place)}, place.name)
        try:
            while not (state := job.state()).ended:
                if stop.cancelled:
                    job.cancel()
                    job.wait()
                stop.check()
                time.sleep(_LOOK_S)
            result = job.result()
            if state == JobState.DONE and result is not None:
                made: dict[str, Any] = json.loads(result["json"])
                return made
            if state == JobState.CANCELLED:
                raise Cancelled("Stopped on request.")
            reason = job.message() or why_interrupted(job.folder, True)
            raise StudyError(f"{place.name}: {reason}{self._kept(job.folder, place.name)}")
        finally:
            shutil.rmtree(place, ignore_errors=True)
            shutil.rmtree(job.folder, ignore_errors=True)

    def _kept(self, folder: Path, name: str) -> str:
        """Keep the log of a job that failed, and return where it is, for a person."""
        path = self._failed / f"{name}.txt"
        if not (folder / LOG).exists():
            return ""
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / LOG, path)
        return f" See {path}."


@contextmanager
def cluster_workers(address: str, work: Path, at_once: int, threads: int, device: str) -> Iterator[ClusterWorkers]:
    """Connect to the cluster at an address; ``work`` is the study's work folder. Raises JobError where that fails."""
    from TransferSegLib.executors.ray_cluster import RayExecutor

    jobs = work.absolute() / "jobs"
    shutil.rmtree(jobs, ignore_errors=True)
    jobs.mkdir(parents=True)
    worker = ("-P", "-m", "Testing.research.study.job_worker")
    # Ray prints to standard output, which is for results.
    with (jobs / "ray.log").open("w", encoding="utf-8") as log, redirect_stdout(log):
        opened = RayExecutor(address, jobs, at_once, threads, device, worker, (str(_ROOT),))
        with opened as executor:
            if executor.notice:
                print(f"study: note: {executor.notice}", file=sys.stderr)
            yield ClusterWorkers(executor, work / "failed")
