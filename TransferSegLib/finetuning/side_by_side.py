"""Candidates of the folds that are trained at the same time, in processes that this one starts and follows.

A worker (``fold_worker.py``) finds in the run's folder what was decided, trains its candidate as this process would,
and leaves it there with its comparisons: what a resumed run finds, too. This process then reads them. How workers are
started is not known here: ``TransferSegLib.executors.fold_jobs`` does it, on this computer or on a cluster.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from TransferSegLib.errors import TrainingError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.own_files import is_link
from TransferSegLib.progress import CancelToken, Task

#: In the folder of a run: the jobs of its workers, as long as they are at work.
JOBS = "jobs"
#: Locked by a worker in the folder of its job (``TransferSegLib.jobs.files``).
_WORKER_LOCK = "worker.lock"
#: How long the workers of a run that was killed may take to end.
_END_S = 30.0
_LOOK_S = 0.5


@dataclass(frozen=True)
class FoldWork:
    """One candidate to train and compare: of which fold (from 0), by which strategy, in which round (from 0).

    ``name`` is the candidate's, ``title`` what is done, for a person.
    """

    name: str
    number: int
    strategy: str
    round_number: int
    title: str


class FoldWorkers(Protocol):
    """Where candidates are trained, ``at_once`` at the same time; ``are_here``: on this computer."""

    at_once: int
    are_here: bool

    def train(
        self,
        works: Sequence[FoldWork],
        parameters: Callable[[FoldWork], Mapping[str, Any]],
        task: Task,
        ended: Callable[[FoldWork], None],
    ) -> None:
        """Train and compare the candidates, and return when all are on the disk.

        ``parameters`` is asked when a candidate is about to begin, ``ended`` is told when it is done. Raises
        TrainingError where a candidate cannot be trained, and Cancelled; no worker is at work then.
        """

    def close(self) -> None:
        """Let go of the workers; none is left at work. May be called again."""


#: Makes the workers of a run, whose jobs are to be in a folder.
OpenWorkers = Callable[[Path], FoldWorkers]


def turns(candidates: int, choosing: int, at_once: int) -> int:
    """Return how many times as long as one candidate all of them take; those that choose a strategy are the first.

    >>> turns(3, 0, 1), turns(3, 0, 2), turns(5, 4, 3)
    (3, 2, 3)
    """
    return -(-choosing // at_once) + -(-(candidates - choosing) // at_once)


def remove_left_jobs(jobs: Path, cancel: CancelToken | None = None) -> None:
    """Remove the jobs of a process of this run that was killed, when their workers have ended, as they do with it.

    Raises TrainingError when a worker does not end, and Cancelled.
    """
    if not jobs.is_dir() or is_link(jobs):
        return
    deadline = time.monotonic() + _END_S
    for lock in jobs.glob(f"*/{_WORKER_LOCK}"):
        message = f"A worker of an earlier process of this run is still at {lock.parent}: wait for its end."
        with FileLock(lock, max(_LOOK_S, deadline - time.monotonic()), message, TrainingError, cancel):
            pass
    shutil.rmtree(jobs, ignore_errors=True)
