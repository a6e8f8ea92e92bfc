"""The candidates of the folds as jobs: one that dies is tried once more, and none is left where a run ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from TransferSegLib.errors import Cancelled, TrainingError
from TransferSegLib.executors.fold_jobs import FoldJobs
from TransferSegLib.executors.interface import Executor
from TransferSegLib.finetuning.side_by_side import FoldWork
from TransferSegLib.jobs.events import JobState
from TransferSegLib.progress import CancelToken, Progress, Task

Wait = Callable[[Callable[[], Any]], Any]


class Folds:
    """Folds of which each does something when it is begun for the first and the second time.

    Those that are ``held`` end when ``until`` was said.
    """

    def __init__(self, executor: Executor, folder: Path, *words: str, until: str = "") -> None:
        self.jobs = FoldJobs(executor, ExitStack())
        self.works = [FoldWork(f"fold-{number + 1}", number, "finetune", 0, "Fold") for number in range(len(words))]
        self._folder, self._words, self._until = folder, words, until
        self.ended: list[str] = []
        self.reports: list[Progress] = []
        self.cancel = CancelToken()

    def train(self) -> None:
        task = Task("Folds", self._reported, self.cancel)
        self.jobs.train(self.works, self.parameters, task, lambda work: self.ended.append(work.name))

    def parameters(self, work: FoldWork) -> dict[str, Any]:
        return {"do": self._words[work.number].split(), "mark": str(self._folder / work.name)}

    def _reported(self, progress: Progress) -> None:
        self.reports.append(progress)
        if progress.message == self._until:
            for work in self.works:
                (self._folder / work.name).with_suffix(".go").touch()

    def begun(self) -> list[int]:
        """Return how often each fold was begun."""
        marks = [self._folder / work.name for work in self.works]
        return [len(mark.read_text().splitlines()) if mark.exists() else 0 for mark in marks]

    def states(self) -> list[JobState]:
        return [job.state() for job in self.jobs._executor._submitted]  # type: ignore[attr-defined]


def test_one_that_dies_or_fails_is_tried_once_more(executor: Executor, tmp_path: Path) -> None:
    folds = Folds(executor, tmp_path, "crash held", "done", "fail done", until="2 of 3 candidates, 1 worker")
    folds.train()
    assert sorted(folds.ended) == ["fold-1", "fold-2", "fold-3"] and folds.begun() == [2, 1, 2]
    fractions = [one.fraction for one in folds.reports]
    assert fractions == sorted(fractions) and "2 of 3 candidates, 1 worker" in {one.message for one in folds.reports}


@pytest.mark.parametrize(
    ("word", "why"), [("crash", r"the worker crashed \(Segmentation fault\)"), ("fail", "The scan is upside down")]
)
def test_one_that_dies_twice_ends_all_with_one_line(executor: Executor, tmp_path: Path, word: str, why: str) -> None:
    folds = Folds(executor, tmp_path, f"{word} {word}", "wait")
    with pytest.raises(TrainingError, match=rf"^The candidate of fold 1 could not be trained, .*: {why}.* again"):
        folds.train()
    assert folds.begun() == [2, 1] and folds.states()[1] == JobState.CANCELLED


def test_all_stop_where_the_run_is_stopped(executor: Executor, tmp_path: Path, wait_until: Wait) -> None:
    folds = Folds(executor, tmp_path, "wait", "wait", "wait")

    def stop() -> None:
        wait_until(lambda: folds.begun() == [1, 1, 0])
        folds.cancel.cancel()

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(Cancelled):
        folds.train()
    stopper.join()
    assert folds.states() == [JobState.CANCELLED] * 2, "no third one was begun"
