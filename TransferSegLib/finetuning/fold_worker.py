"""What a worker does with one candidate of a run that another process leads: train it, compare it, leave both there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib.errors import TrainingError
from TransferSegLib.finetuning.all_layers import Leader
from TransferSegLib.finetuning.cross_validation import (
    READING,
    CandidateTrainer,
    FoldComparisons,
    held_out_part,
    read_cases,
    training_part,
)
from TransferSegLib.finetuning.needs import check_needs_of_worker
from TransferSegLib.finetuning.plan import plan_fine_tuning
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.run_folder import PLAN, Run, RunFolder
from TransferSegLib.finetuning.time_budget import TimeBudget
from TransferSegLib.json_fields import damage_as
from TransferSegLib.progress import CancelToken, ProgressCallback, Task

if TYPE_CHECKING:
    from TransferSegLib.finetuning.plan import FineTuningPlan
    from TransferSegLib.finetuning.side_by_side import FoldWork

#: Shares of a worker's progress: reading, training with the features, comparing. Only a bar is moved by them.
_READING_S, _TRAINING_S, _COMPARING_S = 1.0, 8.0, 2.0


class _LedFolder(RunFolder):
    """The folder of a run that another process has locked; the time of the run is counted there."""

    spent_s = 0.0  # type: ignore[assignment]
    reached = 0.0  # type: ignore[assignment]


@dataclass(frozen=True)
class FoldTraining:
    """One candidate to train: in which run, for which fold (from 0), by which strategy, in which round, for how long.

    ``plan_strategy`` is the strategy of the run at that time, ``device`` the one that the run was asked for.
    ``checks_needs``: whether the worker is on another computer, and looks whether there is room for it.
    """

    run: Path
    request: dict[str, Any]
    device: str
    plan_strategy: str
    fold: int
    strategy: str
    round: int
    minutes: float
    title: str
    checks_needs: bool = False

    @staticmethod
    def of(run: Run, work: FoldWork, minutes: float) -> FoldTraining:
        """Return what a worker must know of a candidate of this run."""
        plan = run.plan
        # Models and cases may change meanwhile: the worker gets those that the run began with, from the run's folder.
        request = replace(
            plan.request,
            model=str(run.parent_copy.absolute()),
            name=plan.name,
            library=plan.library,
            dropped=plan.change.dropped,
        )
        return FoldTraining(
            run.folder.folder.absolute(),
            request.to_json(),
            request.device,
            plan.configuration.strategy,
            work.number,
            work.strategy,
            work.round_number,
            minutes,
            work.title,
            run.workers is not None and not run.workers.are_here,
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return vars(self) | {"run": str(self.run)}

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> FoldTraining:
        """Read what ``to_json`` wrote; raises TrainingError for damaged parameters."""
        with damage_as(TrainingError, "The parameters of the fold are"):
            return FoldTraining(**{**entry, "run": Path(entry["run"])})


def train_fold(
    training: FoldTraining,
    device: str,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> str:
    """Train and compare a candidate on a device, or go on with it; returns what was trained, for the job's log.

    Raises TrainingError when cases or settings are no longer those of the run, or there is too little memory or disk,
    what ``plan_fine_tuning`` raises, and Cancelled.
    """
    plan = _plan(training, cancel)
    plan = replace(plan, request=replace(plan.request, device=device))
    if training.checks_needs:
        check_needs_of_worker(plan)
    folder = _folder_of(training)
    if folder.read_json(PLAN) is None:
        raise TrainingError(f"{training.run} has no plan that can be read: give the command again.")
    run = Run(plan, folder, Task("", progress, cancel), time.monotonic, time.monotonic(), Leader())
    trainer = CandidateTrainer(run, computes_own=True)
    try:
        run.parts.estimate({READING: _READING_S})
        cases = read_cases(run)
        _, folds = TimeBudget(run).settle(cases, 0.0, trainer)
        run.plan = run.plan.by_strategy(training.plan_strategy)
        number, strategy, of_round = training.fold, training.strategy, training.round
        train, compare = training_part(number, strategy, of_round), held_out_part(number, strategy, of_round)
        run.parts.estimate({train: _TRAINING_S, compare: _COMPARING_S})
        made = FoldComparisons(run, cases, trainer)
        made.entry(number, folds[number], strategy, training.minutes, training.title, of_round)
    finally:
        trainer.close()
    return "\n".join(run.log)


def _plan(training: FoldTraining, cancel: CancelToken | None) -> FineTuningPlan:
    """Plan the run anew, with the parent and the cases that are kept in its folder, and see that it is the same."""
    request = FineTuneRequest.from_json(training.request, training.device, training.run.parent)
    plan = plan_fine_tuning(request, Task("", None, cancel), _folder_of(training).kept_cases())
    if RunFolder(training.run.parent, plan.identity()).folder.name != training.run.name:
        raise TrainingError(
            f"The files of the cases in {request.project} or the settings are not those with which this fine-tuning "
            "began: give the command again."
        )
    return plan


def _folder_of(training: FoldTraining) -> _LedFolder:
    folder = _LedFolder(training.run.parent, {})
    folder.folder = training.run
    return folder
