"""The candidates of the folds of one fine-tuning as jobs, on this computer or on a Ray cluster.

>>> request = FineTuneRequest(project, workers=3, threads=2)
>>> result = finetune(request, workers=fold_jobs(request))  # or fold_jobs(request, "auto"): Ray
"""

from __future__ import annotations

import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any

from TransferSegLib.errors import Cancelled, TrainingError
from TransferSegLib.executors.interface import Executor, SubmittedJob, workers_text
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.side_by_side import FoldWork, OpenWorkers
from TransferSegLib.jobs.diagnosis import why_interrupted
from TransferSegLib.jobs.events import JobState, last_event
from TransferSegLib.progress import Task
from TransferSegLib.wording import counted

_KIND = "finetune-fold"
#: What Ray prints goes into this file among the jobs: standard output is for the result.
_RAY_LOG = "ray.log"
_LOOK_S = 0.3


def fold_jobs(
    request: FineTuneRequest,
    ray: str | None = None,
    has_room_for: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> OpenWorkers:
    """Return what makes the workers of a run: ``request.workers`` at a time here, or on the cluster at an address.

    On a cluster ``has_room_for`` is how many run at a time (None: as many as it has room for now, and not more than
    ``request.workers``). ``tell`` gets a line where it has too little room.
    """

    def opened(jobs: Path) -> FoldJobs:
        with ExitStack() as stack:
            executor: Executor
            if ray is None:
                from TransferSegLib.executors.local import LocalExecutor

                executor = LocalExecutor(jobs, max(1, request.workers), request.threads, request.device)
            else:
                from TransferSegLib.executors.ray_cluster import RayExecutor

                jobs.mkdir(parents=True, exist_ok=True)
                log = stack.enter_context((jobs / _RAY_LOG).open("w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(log))
                executor = RayExecutor(ray, jobs, has_room_for, request.threads, request.device)
            stack.enter_context(executor)
            if executor.notice:
                tell(executor.notice)
            return FoldJobs(executor, stack.pop_all(), max(1, request.workers), ray is None)
        raise AssertionError("not reached")

    return opened


class FoldJobs:
    """Trains candidates in the jobs of an executor (``FoldWorkers``); one whose job fails is tried once more."""

    def __init__(self, executor: Executor, to_close: ExitStack, most: int | None = None, are_here: bool = True) -> None:
        """``most`` is how many workers there is work for (None: unknown): a cluster may have room for many more."""
        self.are_here = are_here
        self.at_once = executor.at_once if most is None else min(executor.at_once, most)
        self._executor, self._to_close = executor, to_close

    def close(self) -> None:
        """Stop all jobs, and let go of the executor."""
        self._to_close.close()

    def train(
        self,
        works: Sequence[FoldWork],
        parameters: Callable[[FoldWork], Mapping[str, Any]],
        task: Task,
        ended: Callable[[FoldWork], None],
    ) -> None:
        """Train and compare the candidates, see ``FoldWorkers``."""
        waiting, at_work = deque(works), dict[str, tuple[FoldWork, SubmittedJob]]()
        failures: Counter[str] = Counter()
        try:
            while waiting or at_work:
                task.check()
                while waiting and len(at_work) < self.at_once:
                    work = waiting.popleft()
                    at_work[work.name] = work, self._executor.submit(_KIND, dict(parameters(work)), work.title)
                for work, job in list(at_work.values()):
                    state = job.state()
                    if not state.ended:
                        continue
                    del at_work[work.name]
                    if state == JobState.DONE:
                        ended(work)
                    else:
                        failures[work.name] += 1
                        _check_may_be_tried_again(work, job, state, failures[work.name])
                        waiting.appendleft(work)
                    shutil.rmtree(job.folder, ignore_errors=True)
                done = len(works) - len(waiting) - len(at_work)
                reached = sum(_reached(job) for _, job in at_work.values())
                workers = workers_text([job for _, job in at_work.values()])
                task.at((done + reached) / len(works), f"{done} of {counted(len(works), 'candidate')}, {workers}")
                time.sleep(_LOOK_S if at_work else 0)
        except BaseException:
            self._executor.stop()
            raise


def _check_may_be_tried_again(work: FoldWork, job: SubmittedJob, state: JobState, failures: int) -> None:
    """Raise Cancelled for a job that somebody has stopped, and TrainingError for one that has failed twice."""
    if state == JobState.CANCELLED:
        raise Cancelled("A worker of this fine-tuning was stopped.")
    if failures > 1:
        why = job.message() or f"{why_interrupted(job.folder, last_event(job.folder) is not None)}."
        raise TrainingError(
            f"The candidate of fold {work.number + 1} could not be trained, and trying again did not help: {why} "
            "What was done is kept as long as cases, model and settings are the same: give the command again to go on. "
            f"The worker's log is in {job.folder}."
        )


def _reached(job: SubmittedJob) -> float:
    """Return how much of a job is done."""
    last = last_event(job.folder)
    return 0.0 if last is None or last.fraction is None else last.fraction
