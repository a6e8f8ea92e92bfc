"""The plan of a run, made three times: before any work, when the parent was asked, and when features are computed.

Each time what was measured since is used in place of what was foreseen. The last one is kept with the run: whoever goes
on with it decides nothing anew but the minutes of candidates that were not begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from TransferSegLib.errors import TrainingError
from TransferSegLib.finetuning.candidates import CandidateTrainer, Cases
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.cross_validation import candidate_name
from TransferSegLib.finetuning.folds import Fold, learned_structures, plan_folds
from TransferSegLib.finetuning.measuring import measure_speeds
from TransferSegLib.finetuning.names import FINETUNE
from TransferSegLib.finetuning.plan import FineTuningPlan
from TransferSegLib.finetuning.planning import amount_of, by_default, with_tail_only
from TransferSegLib.finetuning.run_folder import RunFolder
from TransferSegLib.finetuning.run_parts import FEATURES, MEASURING, PARENT, READING, PartEstimates
from TransferSegLib.finetuning.strategy_choice import choosing_folds, with_strategies
from TransferSegLib.finetuning.time_ledger import CandidateMinutes, TimeLedger
from TransferSegLib.finetuning.time_plan import (
    FEATURE_SHARE,
    Amount,
    Speeds,
    TimePlan,
    TooLittleTime,
    best_of_what_is_left,
    plan_time,
    planned_amount,
)
from TransferSegLib.finetuning.whole_progress import WholeProgress
from TransferSegLib.inference.devices import Device
from TransferSegLib.progress import CancelToken

#: Rough speeds for the progress of runs that are ended by their steps: nothing is measured for them.
_ROUGH = Speeds(0.5, 4.0, 1.0, 0.4, 0.1, 0.4, 0.2, 1.0)
#: The features are computed for so much longer than planned before they are cut off.
_FEATURES_SLACK = 1.3


class RunPlanner:
    """Decides on folds, strategies and times of one run; ``work`` and ``tried`` are what is left of what was asked."""

    def __init__(
        self,
        work: FineTuningPlan,
        folder: RunFolder,
        ledger: TimeLedger,
        whole: WholeProgress,
        cancel: CancelToken | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is measured yet."""
        self.work, self.tried = with_strategies(work)
        self._folder, self._ledger, self._whole = folder, ledger, whole
        self._cancel, self._clock = cancel, clock
        self._saved: dict[str, Any] | None = folder.read_plan()
        self._speeds = _ROUGH
        self._amount = self._asked = amount_of(self.work, self.tried)
        self.minutes: CandidateMinutes | None = None
        self._plan: TimePlan | None = None
        whole.resume(ledger.earlier_s)

    @property
    def precision(self) -> str | None:
        """The precision in which a run that goes on was begun."""
        return None if self._saved is None else str(self._saved["precision"])

    def draft(self, device: Device) -> TimePlan | None:
        """Return the plan before any work; None where it was settled before, or where the steps decide.

        Raises TooLittleTime when the minutes do not suffice.
        """
        limited = self.work.request.minutes > 0
        if self._saved is not None:
            return None
        if limited:
            self._whole.estimate({MEASURING: 5.0} | self._estimates(self._amount, self._speeds, None))
            report = self._whole.begin(MEASURING, "Planning")
            default = by_default(self.work, self.tried)
            self._speeds = measure_speeds(default, device, report, self._cancel, self._clock)
            self._whole.end()
        plan = None
        try:
            if limited:
                plan = plan_time(self.work.request.minutes, self._amount, self._speeds, self._ledger.spent_s)
        except TooLittleTime:
            if not self._ledger.earlier_s:
                raise  # what was begun is ended as well as the time allows
        self._whole.estimate(self._estimates(self._amount, self._speeds, plan))
        return plan

    def settle(
        self, cases: Cases, prediction_s: float, trainer: CandidateTrainer, device: Device
    ) -> tuple[TimePlan, tuple[Fold, ...]]:
        """Return plan and folds, decided now or before, and compute the features that all candidates share."""
        if self._saved is not None:
            return self._settled(trainer)
        if prediction_s > 0:
            self._speeds = replace(self._speeds, predict_s=prediction_s)
        limited = self.work.request.minutes > 0
        plan = plan_time(0.0, self._amount, self._speeds)
        if limited:
            plan = self._decide()
        trainer.use(self.work)
        if trainer.shares_features():
            trainer.compute_features(cases, self._features_limit_s(plan) if limited else None)
            self._amount = replace(self._amount, cached_rounds=trainer.rounds)
            plan = self._decide() if limited else plan
            trainer.use(self.work)
        names, knobs = self.work.change.label_set.names, self.work.configuration
        drawn = {id: learned_structures([case], names) for id, case in cases.items()}
        folds = plan_folds(self.work.dataset, plan.folds, knobs.seed, drawn, self.work.fresh)
        self._saved = {
            "precision": str(device.dtype).removeprefix("torch."),
            "time": plan.to_json(),
            "folds": [fold.to_json() for fold in folds],
            "rounds": trainer.rounds,
            "speeds": self._speeds.to_json(),
            "minutes": {},
        }
        self._folder.write_plan(self._saved)
        self._divide(plan, folds)
        return plan, folds

    def minutes_of(self, name: str) -> float:
        """Return the minutes of a candidate that is about to be trained, and keep them for whoever goes on."""
        assert self.minutes is not None and self._saved is not None
        known = name in self.minutes.given
        minutes = self.minutes.of(name)
        if minutes > 0 and not known:
            self._saved["minutes"] = dict(self.minutes.given)
            self._folder.write_plan(self._saved)
        return minutes

    def took(self, name: str, training_s: float | None, compare_s: float | None) -> None:
        """Account for a candidate that is done: what it took beside its minutes, and what comparing a case took."""
        assert self.minutes is not None
        minutes = self.minutes.given.get(name)
        beside_s = None if minutes is None or training_s is None else training_s - 60.0 * minutes
        self.minutes.learn(beside_s, compare_s)
        self.minutes.done(name)
        slower = 0.0 if compare_s is None else compare_s / max(self._speeds.predict_s + self._speeds.score_s, 1e-9)
        if slower > 1:  # what is still to be predicted and saved takes longer, too
            self._speeds = replace(
                self._speeds,
                predict_s=slower * self._speeds.predict_s,
                score_s=slower * self._speeds.score_s,
                save_s=slower * self._speeds.save_s,
            )

    def reported(self, knobs: FineTuningConfiguration) -> int:
        """Return on how many cases the final candidate is looked at: none where there is no time left for it."""
        if self._ledger.limit_s <= 0:
            return knobs.report_cases
        left_s = self._ledger.left_s - 60.0 * knobs.minutes - self._speeds.save_s
        a_case_s = 2 * self._speeds.predict_s
        return min(knobs.report_cases, max(0, int(left_s / a_case_s))) if a_case_s > 0 else knobs.report_cases

    def chosen(self, strategy: str, folds: Sequence[Fold]) -> None:
        """Go on with one strategy in the folds that did not choose."""
        assert self.minutes is not None
        self.work = self.work.by_strategy(strategy)
        left = [number for number in range(len(folds)) if number not in choosing_folds(folds)]
        self.minutes.only({candidate_name(number, strategy): len(folds[number].held_out) for number in left})
        plan = plan_time(0.0, self._amount, self._speeds) if self._plan is None else self._plan
        parts = PartEstimates.of_plan(plan, self._amount, self._speeds)
        self._whole.estimate(parts.of_candidates([(number, strategy) for number in left], strategy))

    def _decide(self) -> TimePlan:
        """Return the plan for what is left, and take from the work what there is no time for."""
        limit_s, spent_s = self._ledger.limit_s, self._ledger.spent_s
        plan = best_of_what_is_left(limit_s, spent_s, self._amount, self._speeds, self._asked)
        self._adopt(plan)
        return plan

    def _adopt(self, plan: TimePlan) -> None:
        """Take from the work what a plan has no time for."""
        if plan.tail_only:
            self.work = with_tail_only(self.work)
            self.tried = (FINETUNE,)
        elif self._amount.extra and not plan.extra:
            self.tried = self.tried[:1]
            self.work = self.work.by_strategy(self.tried[0])
        self._amount = planned_amount(plan, self._amount)

    def _features_limit_s(self, plan: TimePlan) -> float:
        return max(_FEATURES_SLACK * plan.parts_s.get("features", 0.0), FEATURE_SHARE * plan.parts_s["training"])

    def _settled(self, trainer: CandidateTrainer) -> tuple[TimePlan, tuple[Fold, ...]]:
        """Return what was decided in an earlier process."""
        saved = self._saved
        assert saved is not None
        try:
            plan = TimePlan(**saved["time"])
            folds = tuple(Fold.from_json(fold) for fold in saved["folds"])
            self._speeds = Speeds(**saved["speeds"])
            trainer.rounds = saved["rounds"]
        except (KeyError, TypeError) as error:
            raise TrainingError(
                f"The plan of the run in {self._folder.folder} is damaged: remove that folder to begin anew."
            ) from error
        self._adopt(plan)
        trainer.use(self.work)
        self._divide(plan, folds)
        return plan, folds

    def _divide(self, plan: TimePlan, folds: Sequence[Fold]) -> None:
        """Divide what is left among the candidates, and tell the progress."""
        assert self._saved is not None
        chosen_by = choosing_folds(folds) if len(self.tried) > 1 else ()
        held_out = {
            candidate_name(number, strategy): len(fold.held_out)
            for number, fold in enumerate(folds)
            for strategy in (self.tried if number in chosen_by else self.tried[:1])
        }
        self._plan = plan
        given = dict(self._saved.get("minutes", {}))
        self.minutes = CandidateMinutes(plan, self._amount, self._speeds, self._ledger, held_out, given)
        estimates = self._estimates(self._amount, self._speeds, plan)
        for done in (READING, PARENT, FEATURES):
            estimates.pop(done, None)
        self._whole.estimate(estimates)

    def _estimates(self, amount: Amount, speeds: Speeds, plan: TimePlan | None) -> dict[str, float]:
        """Return the seconds of every part."""
        plan = plan or plan_time(0.0, amount, speeds)
        return PartEstimates.of_plan(plan, amount, speeds).of_all(self.tried, amount.caches and amount.shares)
