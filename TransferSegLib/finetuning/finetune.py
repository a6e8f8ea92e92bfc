"""``finetune``: corrected cases in, a new version of a model out, with evidence, kept and never promoted silently.

>>> result = finetune(FineTuneRequest(project, model="head-neck-ct", minutes=5), progress, cancel)
>>> print(result.evidence.verdict.text, result.version.number, result.version.current)

In order: the parent predicts every case once; features are computed once; for every fold a candidate is made and
measured on what it did not see (for the strategy ``auto`` the first folds by several strategies, of which the best goes
on); the final candidate learns from all cases; it becomes a version in the library. What is done is on the disk: killed
and called again with the same request, it goes on and ends with the same version.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from TransferSegLib.finetuning.candidates import Candidate, CandidateTrainer, Cases, learnable_cases
from TransferSegLib.finetuning.evidence import Evidence, changed_without_correction, weigh
from TransferSegLib.finetuning.fold_comparisons import FoldComparisons, candidate_name
from TransferSegLib.finetuning.held_out_scores import CaseComparison
from TransferSegLib.finetuning.holding_out import Fold, learned_structures, plan_folds
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.run_folder import RUNS_NAME, RunFolder
from TransferSegLib.finetuning.run_parts import FEATURES, PARENT, READING, PartEstimates, training_part
from TransferSegLib.finetuning.single_parts import note_on_single_parts, single_parts, with_single_parts
from TransferSegLib.finetuning.strategy_choice import (
    CHOOSING_FOLDS,
    Choice,
    choose,
    choosing_folds,
    judging_folds,
    with_strategies,
)
from TransferSegLib.finetuning.time_plan import FEATURE_SHARE, MOST_FOLDS, TimePlan, plan_time, training_seconds
from TransferSegLib.finetuning.undertaking import Undertaking, undertake
from TransferSegLib.finetuning.whole_progress import WholeProgress
from TransferSegLib.models.description import finite
from TransferSegLib.models.versions import add_version
from TransferSegLib.models.versions_history import Version
from TransferSegLib.models.versions_record import LearnedCase, VersionRecord
from TransferSegLib.progress import CancelToken, ProgressCallback
from TransferSegLib.segmenting.devices import Device, choose_device
from TransferSegLib.training.cases import prepare_cases

_FINAL = "final"


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A new version of a model, the evidence on it, and what happened to what its parent knew (``fates``).

    ``undertaking`` says by which strategy it was made, and ``choice`` why, where several were tried.
    """

    version: Version
    undertaking: Undertaking
    evidence: Evidence
    plan: TimePlan
    fates: tuple[dict[str, Any], ...]
    seconds: float
    choice: Choice | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values; ``report.report_text`` makes a text for a person of it."""
        work = self.undertaking
        return {
            "model": work.name,
            "version": self.version.number,
            "path": str(self.version.path),
            "current": self.version.current,
            "promotion": work.request.promotion,
            "parent": str(work.reference),
            "structures": list(work.change.label_set.names),
            "new_structures": [work.change.label_set.names[channel - 1] for channel in work.change.fresh_channels],
            "dropped": list(work.change.dropped),
            "cases": len(work.dataset.cases),
            "patients": work.patients,
            "strategy": work.configuration.strategy,
            "strategy_choice": None if self.choice is None else self.choice.to_json(),
            "evidence": finite(self.evidence.to_json()),
            "not_corrected": list(changed_without_correction(self.evidence.rows)),
            "forgetting": finite(list(self.fates)),
            "time": self.plan.text,
            "notes": list(work.notes),
            "seconds": round(self.seconds, 1),
        }


def finetune(
    request: FineTuneRequest,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FineTuned:
    """Make a new version of a model from corrected cases; called again after an interruption it goes on.

    Progress is of the whole: stage in words, fraction, seconds left. Raises DatasetError, ModelError, TrainingError
    and DeviceError with a line for a person, Cancelled at a safe point.
    """
    started = clock()
    work = undertake(request, cancel)
    runs = request.project / RUNS_NAME if request.runs is None else request.runs
    with RunFolder(runs, work.identity()) as folder:
        return _Run(work, folder, progress, cancel, clock, started).run()


class _Run:
    """One fine-tuning, with what it decided and where it keeps what is done."""

    def __init__(
        self,
        work: Undertaking,
        folder: RunFolder,
        progress: ProgressCallback | None,
        cancel: CancelToken | None,
        clock: Callable[[], float],
        started: float,
    ) -> None:
        """Set up a run that has not begun, or goes on."""
        self._work, self._tried = with_strategies(work)
        self._folder = folder
        self._cancel, self._clock, self._started = cancel, clock, started
        self._parent_copy = folder.pin(work.parent_path)
        self._saved = folder.read_plan()
        precision = None if self._saved is None else getattr(torch, self._saved["precision"])
        self._device: Device = choose_device(work.request.device, precision)
        self._log: list[str] = []
        folds = max(2, min(work.patients, 5))
        candidate_s = 60.0 * work.request.minutes * 0.7 / (folds + 1 + self._extra)
        self._whole = WholeProgress(progress, {}, clock)
        self._trainer = CandidateTrainer(self._work, folder, self._device, self._whole, cancel, clock)
        estimates = PartEstimates(len(work.dataset.cases), folds, candidate_s=candidate_s)
        self._whole.estimate(estimates.of_all(self._tried, self._trainer.shares_features()))

    @property
    def _extra(self) -> int:
        """Candidates that are only trained to choose a strategy."""
        return CHOOSING_FOLDS * (len(self._tried) - 1)

    def run(self) -> FineTuned:
        """Do what is left and return the result."""
        try:
            cases = self._read()
            made = self._comparisons(cases)
            plan, folds = self._plan(cases, made.ask_parent())
            self._say(f"{self._work.reference}: {self._device}, {plan.text}")
            planned = _Planned(cases, made, plan, folds)
            choice = self._choose(planned)
            judging = range(len(folds)) if choice is None else judging_folds(folds, self._work.groups)
            comparisons, notes = self._hold_out(planned, judging)
            notes += [] if choice is None else [choice.caveat]
            single = self._single_parts(comparisons)
            notes += [note_on_single_parts(comparisons, single)] if single else []
            comparisons = with_single_parts(comparisons, single)
            evidence = self._weigh([folds[number] for number in judging], made.grid, comparisons, notes)
            final = self._final(planned)
            version = self._keep(final, evidence, plan, choice, single)
        finally:
            self._trainer.close()
        self._folder.remove()
        fates = tuple(final.fates)
        return FineTuned(version, self._work, evidence, plan, fates, self._clock() - self._started, choice)

    # The parts, in order.

    def _read(self) -> Cases:
        """Bring all cases to the model's grid."""
        work = self._work
        spacing_mm, rule = work.configuration.preparation(work.parent.description)
        report = self._whole.begin(READING, "Reading cases")
        prepared = prepare_cases(work.dataset, work.change.label_set, spacing_mm, rule, report, self._cancel)
        self._whole.end()
        return {case.id: case for case in prepared}

    def _comparisons(self, cases: Cases) -> FoldComparisons:
        """Prepare for comparing the folds' candidates with the parent."""
        return FoldComparisons(
            self._work,
            cases,
            self._folder,
            self._trainer,
            self._device,
            self._whole,
            self._say,
            self._cancel,
            self._clock,
        )

    def _plan(self, cases: Cases, prediction_s: float) -> tuple[TimePlan, tuple[Fold, ...]]:
        """Decide on folds and time, or return what was decided before."""
        work, knobs, trainer = self._work, self._work.configuration, self._trainer
        if self._saved is not None:
            plan = TimePlan(**self._saved["time"])
            folds = tuple(Fold.from_json(fold) for fold in self._saved["folds"])
            trainer.rounds = self._saved["rounds"]
            self._estimate(plan, prediction_s)
            return plan, folds
        left_s: float | None = None
        if work.request.minutes > 0:
            spent_s = self._clock() - self._started
            per_fold = -(-len(cases) // min(work.patients, work.request.most_folds or MOST_FOLDS))
            held_out = len(cases) + self._extra * per_fold
            left_s = training_seconds(
                work.request.minutes, spent_s, prediction_s, held_out, min(len(cases), knobs.report_cases)
            )
        if trainer.shares_features():
            began = self._clock()
            trainer.compute_features(cases, None if left_s is None else FEATURE_SHARE * left_s)
            if left_s is not None:
                left_s -= self._clock() - began
        plan = plan_time(left_s, work.patients, work.request.most_folds, self._extra)
        names = work.change.label_set.names
        drawn = {id: learned_structures([case], names) for id, case in cases.items()}
        folds = plan_folds(work.dataset, plan.folds, knobs.seed, drawn, work.fresh)
        self._saved = {
            "precision": str(self._device.dtype).removeprefix("torch."),
            "time": plan.to_json(),
            "folds": [fold.to_json() for fold in folds],
            "rounds": trainer.rounds,
        }
        self._folder.write_plan(self._saved)
        self._estimate(plan, prediction_s)
        return plan, folds

    def _choose(self, planned: _Planned) -> Choice | None:
        """Try every strategy on the first folds and go on with the best; None where there is nothing to choose."""
        if len(self._tried) == 1:
            return None
        folds, groups = planned.folds, self._work.groups
        numbers = choosing_folds(folds)
        tried: dict[str, list[CaseComparison]] = {strategy: [] for strategy in self._tried}
        for number in numbers:
            for strategy, comparisons in tried.items():
                entry = planned.entry(number, strategy, f"Trying '{strategy}' {number + 1} of {len(numbers)}")
                self._say(f"{candidate_name(number, strategy)}: {json.dumps(finite(entry['comparisons']))}")
                comparisons += [CaseComparison.from_json(one) for one in entry["comparisons"]]
        choice = choose(tried, groups, len(judging_folds(folds, groups)) < len(folds))
        self._say(choice.text)
        self._work = self._work.by_strategy(choice.strategy)
        left = [(number, choice.strategy) for number in range(len(folds)) if number not in numbers]
        candidate_s = 60.0 * planned.time.minutes_each or planned.comparisons.training_s.get(choice.strategy, 0.0)
        estimates = PartEstimates(len(planned.cases), len(folds), candidate_s=candidate_s)
        self._whole.estimate(estimates.of_candidates(left, choice.strategy))
        return choice

    def _hold_out(self, planned: _Planned, judging: Sequence[int]) -> tuple[list[CaseComparison], list[str]]:
        """Make a candidate for every fold that judges, and compare it on what it did not see; notes on the evidence."""
        comparisons: list[CaseComparison] = []
        unlearned: set[str] = set()
        folds, strategy, names = planned.folds, self._work.configuration.strategy, self._work.change.label_set.names
        for number in judging:
            entry = planned.entry(number, strategy, f"Held-out comparison {number + 1} of {len(folds)}")
            self._say(f"fold {number + 1} of {len(folds)}: {json.dumps(finite(entry['comparisons']))}")
            comparisons += [CaseComparison.from_json(one) for one in entry["comparisons"]]
            unlearned |= set(entry["unlearned"])
        notes = []
        if unlearned:
            notes.append(
                f"Nothing can be said of {', '.join(sorted(unlearned))} in patients who were held out: too few others "
                "have it drawn."
            )
        judged = learned_structures([planned.cases[id] for n in judging for id in folds[n].held_out], names)
        elsewhere = learned_structures(planned.cases.values(), names) - judged
        if elsewhere:
            notes.append(f"Only patients who chose the strategy have {', '.join(sorted(elsewhere))} drawn.")
        return comparisons, notes

    def _single_parts(self, comparisons: list[CaseComparison]) -> tuple[str, ...]:
        """Return the new structures of which only the largest part is kept; slabs of one patient cannot tell."""
        change = self._work.change
        fresh = [change.label_set.names[channel - 1] for channel in change.fresh_channels]
        return single_parts(comparisons, fresh) if self._work.patients > 1 else ()

    def _weigh(self, folds: Sequence[Fold], grid: str, comparisons: list[CaseComparison], notes: list[str]) -> Evidence:
        """Return the verdict on all comparisons."""
        work = self._work
        groups = {}
        for one in comparisons:
            # Parts of a case are called after it.
            case_id = one.case if one.case in work.groups else one.case.rsplit(" part ", 1)[0]
            groups[one.case] = work.groups[case_id]
        names = work.change.label_set.names
        tolerance_mm, seed = work.request.tolerance_mm, work.configuration.seed
        return weigh(comparisons, groups, folds, names, grid, tolerance_mm, notes, seed)

    def _final(self, planned: _Planned) -> Candidate:
        """Train the candidate that is kept, on all cases."""
        knobs = replace(self._work.configuration, minutes=planned.time.minutes_each)
        part = training_part(len(planned.folds), knobs.strategy)
        learnable = learnable_cases(planned.cases)
        final = self._trainer.train(_FINAL, learnable, knobs, part, "Final training", planned.cases)
        self._say(f"{_FINAL}: {final.tail_steps} + {final.steps} steps")
        return final

    def _keep(
        self, final: Candidate, evidence: Evidence, plan: TimePlan, choice: Choice | None, single: tuple[str, ...]
    ) -> Version:
        """Add the candidate to the library."""
        work = self._work
        rows = {row.structure: row.candidate for row in evidence.rows if row.candidate is not None}
        metrics = {
            "held out": {
                "cases": len(evidence.cases),
                "method": evidence.method,
                "grid": evidence.grid,
                "mean_dice": float(np.mean(list(rows.values()))) if rows else None,
                "dice": rows,
            }
        }
        record = VersionRecord(
            parent=work.reference,
            cases=tuple(LearnedCase(work.hashes[case.id], case.id) for case in work.dataset.cases),
            evidence=finite(evidence.to_json() | {"time": plan.to_json()} | _choice_entry(choice)),
            forgetting=tuple(finite(final.fates)),
        )
        lines = [*self._log, *(json.dumps(finite(line)) for line in final.history)]
        lines += [json.dumps(finite(start)) for start in final.starts]
        return add_version(
            work.library,
            work.name,
            work.describe(metrics, single),
            final.state_dict,
            record,
            origin=self._parent_copy,
            log="\n".join(lines) + "\n",
            promote=work.request.promotion,
            cancel=self._cancel,
        )

    def _say(self, line: str) -> None:
        """Write a line into the version's log."""
        self._log.append(line)

    def _estimate(self, plan: TimePlan, prediction_s: float) -> None:
        """Tell the progress how long the candidates will take."""
        parts = PartEstimates(len(self._work.dataset.cases), plan.folds, prediction_s, 60.0 * plan.minutes_each)
        estimates = parts.of_all(self._tried, self._trainer.shares_features())
        for done in (READING, PARENT, *([FEATURES] if self._trainer.has_features else [])):
            estimates.pop(done)
        self._whole.estimate(estimates)


@dataclass(frozen=True, eq=False)
class _Planned:
    """What is settled before the first candidate is trained."""

    cases: Cases
    comparisons: FoldComparisons
    time: TimePlan
    folds: tuple[Fold, ...]

    def entry(self, number: int, strategy: str, title: str) -> dict[str, Any]:
        """Return the entry of one fold's comparisons, see ``FoldComparisons``."""
        return self.comparisons.entry(number, self.folds[number], strategy, self.time.minutes_each, title)


def _choice_entry(choice: Choice | None) -> dict[str, Any]:
    return {} if choice is None else {"strategy_choice": choice.to_json()}
