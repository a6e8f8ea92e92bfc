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

from TransferSegLib.errors import ModelError
from TransferSegLib.evaluation.verdict import Training
from TransferSegLib.finetuning.candidates import Candidate, CandidateTrainer, Cases, learnable_cases
from TransferSegLib.finetuning.cross_validation import FoldComparisons, candidate_name
from TransferSegLib.finetuning.evidence import Evidence, changed_without_correction, weigh, whole_case
from TransferSegLib.finetuning.fit_profile import profile_of_version
from TransferSegLib.finetuning.folds import Fold, learned_structures
from TransferSegLib.finetuning.held_out import CaseComparison
from TransferSegLib.finetuning.largest_component import note_on_single_parts, single_parts, with_largest_components
from TransferSegLib.finetuning.plan import FineTuningPlan, plan_fine_tuning
from TransferSegLib.finetuning.planning import check_outputs, runs_of, unjudged_note
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.run_folder import RunFolder
from TransferSegLib.finetuning.run_parts import READING, SAVING, training_part
from TransferSegLib.finetuning.run_planner import RunPlanner
from TransferSegLib.finetuning.strategy_choice import Choice, choose, choosing_folds, evaluation_folds
from TransferSegLib.finetuning.time_ledger import TimeLedger, overrun_note
from TransferSegLib.finetuning.time_plan import TimePlan
from TransferSegLib.finetuning.whole_progress import WholeProgress
from TransferSegLib.inference.devices import Device, choose_device
from TransferSegLib.models.description import finite
from TransferSegLib.models.versions.history import Version, history
from TransferSegLib.models.versions.record import LearnedCase, VersionRecord
from TransferSegLib.models.versions.versions import add_version
from TransferSegLib.progress import CancelToken, Progress, ProgressCallback, Task
from TransferSegLib.training.cases import prepare_cases

_FINAL = "final"


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A new version of a model, the evidence on it, and what happened to what its parent knew (``fates``).

    ``in_use`` is the number of the version that is the current one (None: the library does not know).
    ``fine_tuning_plan`` says by which strategy it was made, and ``choice`` why, where several were tried.
    """

    version: Version
    fine_tuning_plan: FineTuningPlan
    evidence: Evidence
    plan: TimePlan
    fates: tuple[dict[str, Any], ...]
    seconds: float
    choice: Choice | None = None
    in_use: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values; ``report.report_text`` makes a text for a person of it."""
        work = self.fine_tuning_plan
        return {
            "model": work.name,
            "version": self.version.number,
            "path": str(self.version.path),
            "current": self.version.current,
            "in_use": self.in_use,
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
            "notes": [*work.notes, *overrun_note(work.request.minutes, self.seconds)],
            "seconds": round(self.seconds, 1),
        }


def finetune(
    request: FineTuneRequest,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    clock: Callable[[], float] = time.monotonic,
    tell: Callable[[str], None] = lambda line: None,
    started: float | None = None,
) -> FineTuned:
    """Make a new version of a model from corrected cases; called again after an interruption it goes on.

    Progress is of the whole: stage in words, fraction, seconds left. ``tell`` gets the plan, in words, before the work
    begins, and what changes it. ``started`` is the moment of the clock at which the minutes begin (None: now). Raises
    DatasetError, ModelError, TrainingError (TooLittleTime where the minutes do not suffice) and DeviceError with a line
    for a person, Cancelled at a safe point.
    """
    started = clock() if started is None else started
    work = plan_fine_tuning(request, cancel)
    check_outputs(work)
    with RunFolder(runs_of(request), work.identity()) as folder:
        ledger = TimeLedger(request.minutes, folder, clock, started)
        return _Run(work, folder, ledger, progress, cancel, clock, tell).run()


class _Run:
    """One fine-tuning, with what it decided and where it keeps what is done."""

    def __init__(
        self,
        work: FineTuningPlan,
        folder: RunFolder,
        ledger: TimeLedger,
        progress: ProgressCallback | None,
        cancel: CancelToken | None,
        clock: Callable[[], float],
        tell: Callable[[str], None],
    ) -> None:
        """Set up a run that has not begun, or goes on."""
        self._folder, self._ledger, self._cancel, self._clock, self._tell = folder, ledger, cancel, clock, tell
        self._parent_copy = folder.pin(work.parent_path)
        #: Optimisation steps of every candidate that the verdict is about.
        self._steps: list[int] = []
        self._whole = WholeProgress(progress, {}, clock)
        self._planner = RunPlanner(work, folder, ledger, self._whole, cancel, clock)
        precision = self._planner.precision
        self._device: Device = choose_device(
            work.request.device, None if precision is None else getattr(torch, precision)
        )
        self._log: list[str] = []
        self._trainer = CandidateTrainer(self._work, folder, self._device, self._whole, cancel, clock)

    @property
    def _work(self) -> FineTuningPlan:
        """What is done: what was asked for, less what there is no time for, by the strategy that was chosen."""
        return self._planner.work

    def run(self) -> FineTuned:
        """Do what is left and return the result."""
        try:
            self._foresee()
            cases = self._read()
            made = self._comparisons(cases)
            plan, folds = self._plan(cases, made)
            self._say(f"{self._work.reference}: {self._device}, {plan.text}")
            planned = _Planned(cases, made, plan, folds)
            choice = self._choose(planned)
            judging = range(len(folds)) if choice is None else evaluation_folds(folds, self._work.groups)
            comparisons, notes = self._hold_out(planned, judging)
            notes += [] if choice is None else [choice.caveat]
            single = self._single_parts(comparisons)
            notes += [note_on_single_parts(comparisons, single)] if single else []
            comparisons = with_largest_components(comparisons, single)
            final = self._final(planned)
            evidence = self._weigh([folds[number] for number in judging], made.grid, comparisons, notes)
            version = self._keep(final, evidence, plan, choice, single)
        finally:
            self._trainer.close()
        seconds, fates = self._ledger.spent_s, tuple(final.fates)
        self._folder.remove()
        in_use = history(self._work.name, self._work.library).current
        return FineTuned(version, self._work, evidence, plan, fates, seconds, choice, in_use)

    # The parts, in order.

    def _foresee(self) -> None:
        """Plan before any work; a run whose minutes do not suffice leaves nothing behind."""
        try:
            plan = self._planner.draft(self._device)
        except BaseException:
            if not self._ledger.earlier_s:
                self._folder.remove()
            raise
        for line in (*([] if plan is None else [f"Plan: {plan.text}"]), *unjudged_note(self._work)):
            self._tell(line)

    def _read(self) -> Cases:
        """Bring all cases to the model's grid."""
        work = self._work
        preparation = work.configuration.preparation(work.parent.description)
        report = self._whole.begin(READING, "Reading cases")
        prepared = prepare_cases(work.dataset, work.change.label_set, preparation, Task("", report, self._cancel))
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

    def _plan(self, cases: Cases, made: FoldComparisons) -> tuple[TimePlan, tuple[Fold, ...]]:
        """Ask the parent, then decide on folds and time, or return what was decided before."""
        prediction_s = made.ask_parent()
        self._ledger.save()
        plan, folds = self._planner.settle(cases, prediction_s, self._trainer, self._device)
        made.use(self._work)
        self._ledger.save()
        self._tell(f"Plan, as measured: {plan.text}" if plan.minutes_each > 0 else f"Plan: {plan.text}")
        return plan, folds

    def _entry(self, planned: _Planned, number: int, strategy: str, title: str) -> dict[str, Any]:
        """Return the entry of one fold's comparisons, see ``FoldComparisons``, and account for its time."""
        name = candidate_name(number, strategy)
        minutes = self._planner.minutes_of(name)
        made = planned.comparisons
        entry = made.entry(number, planned.folds[number], strategy, minutes, title)
        self._planner.took(name, made.training_s.get(strategy), made.compare_s)
        self._ledger.save()
        return entry

    def _choose(self, planned: _Planned) -> Choice | None:
        """Try every strategy on the first folds and go on with the best; None where there is nothing to choose."""
        candidates = self._planner.tried
        if len(candidates) == 1:
            return None
        folds, groups = planned.folds, self._work.groups
        numbers = choosing_folds(folds)
        tried: dict[str, list[CaseComparison]] = {strategy: [] for strategy in candidates}
        for number in numbers:
            for strategy, comparisons in tried.items():
                entry = self._entry(planned, number, strategy, f"Trying '{strategy}' {number + 1} of {len(numbers)}")
                self._say(f"{candidate_name(number, strategy)}: {json.dumps(finite(entry['comparisons']))}")
                comparisons += [CaseComparison.from_json(one) for one in entry["comparisons"]]
        choice = choose(tried, groups, len(evaluation_folds(folds, groups)) < len(folds))
        self._say(choice.text)
        self._planner.chosen(choice.strategy, folds)
        planned.comparisons.use(self._work)
        self._trainer.use(self._work)
        return choice

    def _hold_out(self, planned: _Planned, judging: Sequence[int]) -> tuple[list[CaseComparison], list[str]]:
        """Make a candidate for every fold that judges, and compare it on what it did not see; notes on the evidence."""
        comparisons: list[CaseComparison] = []
        unlearned: set[str] = set()
        folds, strategy, names = planned.folds, self._work.configuration.strategy, self._work.change.label_set.names
        for number in judging:
            entry = self._entry(planned, number, strategy, f"Held-out comparison {number + 1} of {len(folds)}")
            self._say(f"fold {number + 1} of {len(folds)}: {json.dumps(finite(entry['comparisons']))}")
            comparisons += [CaseComparison.from_json(one) for one in entry["comparisons"]]
            unlearned |= set(entry["unlearned"])
            if "steps" in entry:  # not in that of a run begun by an earlier version
                self._steps.append(entry["tail_steps"] + entry["steps"])
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
            groups[one.case] = work.groups[whole_case(one.case, work.groups)]
        names = work.change.label_set.names
        tolerance_mm, seed = work.request.tolerance_mm, work.configuration.seed
        training = Training(min(self._steps), work.request.minutes) if self._steps else None
        return weigh(comparisons, groups, folds, names, grid, tolerance_mm, notes, seed, training)

    def _final(self, planned: _Planned) -> Candidate:
        """Train the candidate that is kept, on all cases."""
        knobs = replace(self._work.configuration, minutes=self._planner.minutes_of(_FINAL))
        knobs = replace(knobs, report_cases=self._planner.reported(knobs))
        part = training_part(len(planned.folds), knobs.strategy)
        learnable = learnable_cases(planned.cases)
        final = self._trainer.train(_FINAL, learnable, knobs, part, "Final training", planned.cases)
        self._say(f"{_FINAL}: {final.tail_steps} + {final.steps} steps")
        self._ledger.save()
        self._steps.append(final.tail_steps + final.steps)
        return final

    def _keep(
        self, final: Candidate, evidence: Evidence, plan: TimePlan, choice: Choice | None, single: tuple[str, ...]
    ) -> Version:
        """Add the candidate to the library."""
        work = self._work
        rows = {row.structure: row.candidate for row in evidence.rows if row.candidate is not None}
        metrics = {
            "held out": {
                "cases": len({whole_case(one.case, work.groups) for one in evidence.cases}),
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
        self._whole.begin(SAVING, "Saving the version")
        try:
            version = add_version(
                work.library,
                work.name,
                replace(work.describe(metrics, single), fit=profile_of_version(work, final.state_dict)),
                final.state_dict,
                record,
                origin=self._parent_copy,
                log="\n".join(lines) + "\n",
                promote=work.request.promotion,
                cancel=self._cancel,
            )
        except ModelError as error:
            raise ModelError(
                f"{error} The new version is trained, and kept in {self._folder.folder}: when that is mended, give the "
                "same command again (or resume the job), and only the saving is left."
            ) from error
        self._whole.report(Progress("Saving the version", 1.0))
        self._whole.end()
        return version

    def _say(self, line: str) -> None:
        """Write a line into the version's log."""
        self._log.append(line)


@dataclass(frozen=True, eq=False)
class _Planned:
    """What is settled before the first candidate is trained."""

    cases: Cases
    comparisons: FoldComparisons
    time: TimePlan
    folds: tuple[Fold, ...]


def _choice_entry(choice: Choice | None) -> dict[str, Any]:
    return {} if choice is None else {"strategy_choice": choice.to_json()}
