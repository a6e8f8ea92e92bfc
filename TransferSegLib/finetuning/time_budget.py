"""The time of one fine-tuning: what is done in the minutes given, planned before any work and again during it.

A run plans three times: before any work, when the parent has predicted, and when features are computed. Each time what
was measured since replaces what was estimated. The last plan is kept with the run: a resumed one decides nothing anew
but the minutes of candidates that were not begun.

>>> forecast = foresee(FineTuneRequest(project, minutes=5))
>>> print(forecast.text)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from TransferSegLib.errors import TrainingError
from TransferSegLib.finetuning.candidate_minutes import CandidateMinutes
from TransferSegLib.finetuning.cross_validation import (
    FEATURES,
    FINAL_TRAINING,
    FORGETTING,
    MEASURING,
    PARENT,
    READING,
    SAVING,
    CandidateTrainer,
    Cases,
    candidate_name,
    held_out_part,
    training_part,
)
from TransferSegLib.finetuning.folds import Fold, fewest_folds, learned_structures, plan_folds
from TransferSegLib.finetuning.needs import check_outputs
from TransferSegLib.finetuning.plan import FineTuningPlan, plan_fine_tuning
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.round_budget import RoundBudget
from TransferSegLib.finetuning.rounds import first_minutes, rounds_text, share_of_all
from TransferSegLib.finetuning.run_folder import PLAN, Run, RunFolder, runs_of
from TransferSegLib.finetuning.speeds import measure_speeds, measure_worker
from TransferSegLib.finetuning.strategies import FINETUNE, strategy_of
from TransferSegLib.finetuning.strategy_choice import choosing_folds, with_strategies
from TransferSegLib.finetuning.time_plan import (
    CHOOSING_FOLDS,
    FEATURE_SHARE,
    FEWEST_STEPS_ALONE,
    LEAST_STEPS_ALONE,
    MOST_FOLDS,
    Amount,
    Speeds,
    TimePlan,
    TooLittleTime,
    best_of_what_is_left,
    plan_time,
    planned_amount,
)
from TransferSegLib.inference.devices import choose_device
from TransferSegLib.progress import Task

#: Rough speeds for the progress of runs that are ended by their steps: nothing is measured for them.
_ROUGH = Speeds(0.5, 4.0, 1.0, 0.4, 0.1, 0.4, 0.2, 1.0)
#: The features are computed for so much longer than planned before they are cut off.
_FEATURES_SLACK = 1.3


@dataclass(frozen=True, eq=False)
class Forecast:
    """What a fine-tuning will do; ``time_plan`` is None where the minutes do not suffice, and ``text`` says why.

    ``warnings`` are what cannot be learned or evaluated. ``amount``, ``speeds`` and ``spent_s`` are what the plan was
    made of: ``plan_time`` makes one of them for other minutes. ``earlier_s`` was spent by the run that this resumes.
    """

    name: str
    time_plan: TimePlan | None
    text: str
    minutes_needed: float | None
    warnings: tuple[str, ...]
    amount: Amount
    speeds: Speeds
    spent_s: float
    earlier_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "model": self.name,
            "possible": self.time_plan is not None,
            "text": self.text,
            "minutes_needed": self.minutes_needed,
            "warnings": list(self.warnings),
            "plan": None if self.time_plan is None else self.time_plan.to_json(),
            "amount": self.amount.to_json(),
            "speeds": self.speeds.to_json(),
            "spent_s": self.spent_s,
            "earlier_s": self.earlier_s,
        }


def foresee(
    request: FineTuneRequest,
    task: Task | None = None,
    clock: Callable[[], float] = time.monotonic,
    workers_are_here: bool = True,
) -> Forecast:
    """Return what ``finetune`` will do for a request; raises what it raises before it begins, for the same reasons.

    Workers are on this computer, or on a cluster, whose nodes' memory and disks cannot be asked from here.
    Reads the label maps and one case, and measures how fast this machine is; writes nothing.
    """
    began, task = clock(), task or Task()
    plan = plan_fine_tuning(request, Task("", None, task.cancel))
    check_outputs(plan, request.workers, workers_are_here)
    earlier_s = RunFolder(runs_of(request), plan.identity()).spent_s
    plan, tried = with_strategies(plan)
    first, device, start_s = plan.by_strategy(tried[0]), choose_device(request.device, None), clock() - began
    speeds = measure_worker(measure_speeds(first, device, task, clock), first, device, start_s, task, clock)
    amount, spent_s = amount_of(plan, tried), clock() - began
    found: TimePlan | None
    minutes = first_minutes(request.minutes, amount, speeds, spent_s) if request.until_converged else request.minutes
    try:
        found = plan_time(minutes, amount, speeds, spent_s)
        text, needed = found.text, None
        if request.until_converged:
            text = f"{rounds_text(request.minutes)} First round: {text}"
    except TooLittleTime as error:
        found, text, needed = None, str(error), error.minutes
        if earlier_s:  # what was begun is ended as well as the time allows
            found = best_of_what_is_left(60.0 * minutes, earlier_s, amount, speeds)
            text, needed = found.text, None
    if earlier_s:
        found = None if found is None else replace(found, total_s=max(found.total_s - earlier_s, 0.0))
        text = (
            f"This fine-tuning was interrupted after {earlier_s / 60:.1f} min. It continues from what was done until "
            f"then, by this plan: {text}"
        )
    warnings = (*plan.notes, *plan.unevaluated_note)
    return Forecast(plan.name, found, text, needed, warnings, amount, speeds, spent_s, earlier_s)


def amount_of(plan: FineTuningPlan, tried: Sequence[str]) -> Amount:
    """Return how much there is to do; ``tried`` are the strategies to choose from, the default first."""
    asked, plan = plan.request.configuration.strategy, plan.by_strategy(tried[0])
    settings, patients, drawn = plan.configuration, plan.patients, plan.drawn
    may_forget = any(fate != "new" for fate in plan.change.fates)
    return Amount(
        cases=len(plan.dataset.cases),
        learnable=sum(bool(names) for names in drawn.values()),
        patients=patients,
        fewest_folds=fewest_folds(plan.dataset, settings.seed, drawn, plan.fresh) if patients > 1 else 2,
        reported=min(len(plan.dataset.cases), settings.report_cases) if may_forget else 0,
        tail_steps=settings.tail_steps,
        steps=settings.full_steps,
        patches=settings.patches_per_case,
        tail_share=settings.tail_share,
        cache_share=settings.cache_minutes_share,
        most_folds=plan.request.most_folds or MOST_FOLDS,
        extra=CHOOSING_FOLDS * (len(tried) - 1),
        parent_answers=any(fate in ("kept", "renamed", "merged") for fate in plan.change.fates),
        trains_tail=settings.has_tail_stage,
        caches=plan.needs_features,
        shares=plan.needs_features and patients > 1 and not plan.request.workers,
        inits_from_data=plan.inits_from_data,
        may_train_tail_only=settings.tail_steps > 0
        and strategy_of(asked).last_layers_first
        and settings.way.from_parent,
        averages=settings.way.from_parent,
        least_alone=FEWEST_STEPS_ALONE if settings.way.from_parent and not plan.fresh else LEAST_STEPS_ALONE,
        compared=len(plan.parent_shares),
        side=settings.patch,
        smaller_sides=plan.smaller_sides,
        workers=plan.request.workers,
    )


class TimeBudget:
    """Decides on folds, strategies and times of one run; ``tried`` are the strategies still to choose from."""

    def __init__(self, run: Run) -> None:
        run.plan, self.tried = with_strategies(run.plan)
        self._run = run
        self._saved: dict[str, Any] | None = run.folder.read_json(PLAN)
        self._speeds = _ROUGH
        self._amount = self._asked = amount_of(run.plan, self.tried)
        self._minutes: CandidateMinutes | None = None
        self._plan: TimePlan | None = None
        self._folds: tuple[Fold, ...] = ()

    def draft(self) -> TimePlan | None:
        """Return the plan before any work; None where it was settled before, or where the steps decide.

        Raises TooLittleTime when the minutes do not suffice.
        """
        run = self._run
        if self._saved is not None:
            self._estimate_as_saved()
            return None
        plan = None
        if run.limit_s > 0:
            run.parts.estimate({MEASURING: 5.0} | self._estimates(None))
            task = run.parts.begin(MEASURING, "Planning")
            of_first, start_s = run.plan.by_strategy(self.tried[0]), run.spent_s - run.earlier_s
            speeds = measure_speeds(of_first, run.device, task, run.clock, run.leader)
            self._speeds = measure_worker(speeds, of_first, run.device, start_s, task, run.clock)
            run.parts.end()
            if run.plan.request.until_converged:
                first = first_minutes(run.plan.request.minutes, self._amount, self._speeds, run.spent_s)
                run.limit_s = 60.0 * first
            try:
                plan = plan_time(run.limit_s / 60.0, self._amount, self._speeds, run.spent_s)
            except TooLittleTime:
                if not run.earlier_s:
                    raise  # what was begun is ended as well as the time allows
        run.parts.estimate(self._estimates(plan))
        return plan

    def _estimate_as_saved(self) -> None:
        """Estimate the parts of a resumed run, so that its progress begins where it was stopped."""
        assert self._saved is not None
        with suppress(KeyError, TypeError):  # a damaged plan is told of when it is followed
            self._speeds = Speeds(**self._saved["speeds"])
            self._run.parts.estimate(self._estimates(TimePlan(**self._saved["time"])))

    def settle(self, cases: Cases, prediction_s: float, trainer: CandidateTrainer) -> tuple[TimePlan, tuple[Fold, ...]]:
        """Return plan and folds, decided now or before; compute the features that all candidates share, if any do."""
        run = self._run
        if self._saved is not None:
            return self._settled(trainer)
        if prediction_s > 0:
            self._speeds = replace(self._speeds, predict_s=prediction_s)
        plan = self._decide()
        if run.workers is not None:
            trainer.leave_features_to_workers(cases)
        elif trainer.shares_features():
            limit_s = None
            if run.limit_s > 0:
                planned_s = _FEATURES_SLACK * plan.parts_s.get("features", 0.0)
                limit_s = max(planned_s, FEATURE_SHARE * plan.parts_s["training"])
            trainer.compute_features(cases, limit_s)
            self._amount = replace(self._amount, cached_rounds=trainer.rounds)
            plan = self._decide() if run.limit_s > 0 else plan
        names, seed = run.plan.change.label_set.names, run.plan.configuration.seed
        drawn = {id: learned_structures([case], names) for id, case in cases.items()}
        folds = plan_folds(run.plan.dataset, plan.folds, seed, drawn, run.plan.fresh)
        self._saved = {
            "precision": str(run.device.dtype).removeprefix("torch."),
            "time": plan.to_json(),
            "folds": [fold.to_json() for fold in folds],
            "rounds": trainer.rounds,
            "divided features": trainer.divides_features,
            "speeds": self._speeds.to_json(),
            "minutes": {},
        }
        run.folder.write_json(PLAN, self._saved)
        self._divide(plan, folds)
        return plan, folds

    def minutes_of(self, name: str) -> float:
        """Return the minutes of a candidate that is about to be trained, and keep them for a resumed run."""
        assert self._minutes is not None and self._saved is not None
        known = name in self._minutes.given
        minutes = self._minutes.of(name)
        if minutes > 0 and not known:
            self._saved["minutes"] = dict(self._minutes.given)
            self._run.folder.write_json(PLAN, self._saved)
        return minutes

    def minutes_of_final(self, name: str, kept_round: int) -> float:
        """Return the minutes of the final candidate: as long as all others together, in the rounds that are kept."""
        if not self._run.plan.request.until_converged:
            return self.minutes_of(name)
        assert self._plan is not None
        return self._plan.final_minutes * share_of_all(kept_round + 1)

    @property
    def rounds(self) -> RoundBudget:
        """What decides on the rounds of a training that goes on until it no longer improves."""
        assert self._plan is not None
        return RoundBudget(self._run, self._plan, self._amount, self._folds)

    @property
    def speeds(self) -> Speeds:
        """The speeds that are known so far."""
        return self._speeds

    def took(self, name: str, training_s: float | None, compare_s: float | None) -> None:
        """Account for a candidate that is done: what it took beside its minutes, and what comparing a case took."""
        assert self._minutes is not None
        minutes = self._minutes.given.get(name)
        beside_s = None if minutes is None or training_s is None else training_s - 60.0 * minutes
        self._minutes.took(name, beside_s, compare_s)
        self._speeds = self._minutes.speeds

    def reported(self, wanted: int) -> int:
        """Return on how many cases forgetting is looked for now: on none where there is no time left for it."""
        a_case_s, limit_s = self._speeds.predict_s + self._speeds.score_s, 60.0 * self._run.plan.request.minutes
        if limit_s <= 0 or a_case_s <= 0:
            return wanted
        return min(wanted, max(0, int((limit_s - self._run.spent_s - self._speeds.save_s) / a_case_s)))

    def choose(self, strategy: str, folds: Sequence[Fold]) -> None:
        """Keep to one strategy in the folds that did not choose."""
        assert self._minutes is not None
        run = self._run
        run.plan = run.plan.by_strategy(strategy)
        left = [number for number in range(len(folds)) if number not in choosing_folds(folds)]
        self._minutes.to_do = {candidate_name(number, strategy): len(folds[number].held_out) for number in left}
        run.parts.estimate(self._estimates_of_candidates(self._plan, [(number, strategy) for number in left]))

    def _decide(self) -> TimePlan:
        """Return the plan for what is left, and take from the run what there is no time for."""
        if self._run.limit_s <= 0:
            return plan_time(0.0, self._amount, self._speeds)
        limit_s, spent_s = self._run.limit_s, self._run.spent_s
        plan = best_of_what_is_left(limit_s, spent_s, self._amount, self._speeds, self._asked)
        self._adopt(plan)
        return plan

    def _adopt(self, plan: TimePlan) -> None:
        """Take from the run what a plan has no time for."""
        if 0 < plan.side < self._run.plan.configuration.patch:
            self.tried = self.tried[:1]
            self._run.plan = self._run.plan.by_strategy(self.tried[0]).with_smaller_patch(plan.side)
        if plan.tail_only:
            self._run.plan = self._run.plan.with_tail_only()
            self.tried = (FINETUNE,)
        elif self._amount.extra and not plan.extra:
            self.tried = self.tried[:1]
            self._run.plan = self._run.plan.by_strategy(self.tried[0])
        self._amount = planned_amount(plan, self._amount)

    def _settled(self, trainer: CandidateTrainer) -> tuple[TimePlan, tuple[Fold, ...]]:
        """Return what was decided in an earlier process."""
        saved = self._saved
        assert saved is not None
        try:
            plan = TimePlan(**saved["time"])
            folds = tuple(Fold.from_json(fold) for fold in saved["folds"])
            self._speeds = Speeds(**saved["speeds"])
            trainer.rounds = saved["rounds"]
            trainer.divides_features = bool(saved.get("divided features"))
        except (KeyError, TypeError) as error:
            raise TrainingError(
                f"The plan of the run in {self._run.folder.folder} is damaged: remove that folder to begin anew."
            ) from error
        self._adopt(plan)
        self._divide(plan, folds)
        return plan, folds

    def _divide(self, plan: TimePlan, folds: Sequence[Fold]) -> None:
        """Divide what is left among the candidates, and estimate the parts of the progress."""
        assert self._saved is not None
        chosen_by = choosing_folds(folds) if len(self.tried) > 1 else ()
        held_out = {
            candidate_name(number, strategy): len(fold.held_out)
            for number, fold in enumerate(folds)
            for strategy in (self.tried if number in chosen_by else self.tried[:1])
        }
        self._plan, self._folds = plan, tuple(folds)
        given = dict(self._saved.get("minutes", {}))
        self._minutes = CandidateMinutes(plan, self._amount, self._speeds, self._run, held_out, given)
        done = (READING, PARENT, FEATURES)
        self._run.parts.estimate({key: s for key, s in self._estimates(plan).items() if key not in done})

    # Estimates only move the progress bar: parts that end say how long the others of their kind really take.

    def _estimates(self, plan: TimePlan | None) -> dict[str, float]:
        """Return the seconds of every part of the run, in order; the first of the strategies may be chosen."""
        plan = plan or plan_time(0.0, self._amount, self._speeds)
        amount, speeds = self._amount, self._speeds
        first, *others = self.tried
        to_train = [(number, strategy) for number in range(CHOOSING_FOLDS) for strategy in others]
        to_train += [(number, first) for number in range(plan.folds)]
        return {
            READING: speeds.read_s * amount.cases,
            PARENT: speeds.predict_s * amount.cases * amount.parent_answers,
            FEATURES: plan.parts_s.get("features", 0.0) if amount.caches and amount.shares else 0.0,
        } | self._estimates_of_candidates(plan, to_train)

    def _estimates_of_candidates(self, plan: TimePlan | None, to_train: Sequence[tuple[int, str]]) -> dict[str, float]:
        """Return the seconds of candidates (fold, strategy), their comparisons, and the final one."""
        plan = plan or plan_time(0.0, self._amount, self._speeds)
        speeds, seconds = self._speeds, plan.parts_s
        candidate_s = seconds.get("training", 0.0) / self._amount.turns(plan.folds) + speeds.candidate_s
        parts = {}
        for number, strategy in to_train:
            parts[training_part(number, strategy)] = candidate_s
            parts[held_out_part(number, strategy)] = (
                (speeds.predict_s + speeds.score_s) * self._amount.cases * self._amount.compared / plan.folds
            )
        parts[FINAL_TRAINING] = seconds.get("final training", 0.0) + speeds.candidate_s
        parts[FORGETTING] = seconds.get("forgetting", 0.0)
        return parts | {SAVING: seconds.get("saving", 0.0)}
