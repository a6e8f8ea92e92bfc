"""``finetune``: corrected cases in, a new version of a model out, with evidence, kept and never promoted silently.

>>> result = finetune(FineTuneRequest(project, model="head-neck-ct", minutes=5), progress, cancel)
>>> print(result.evidence.verdict.text, result.version.number, result.version.current)

In order: the parent predicts every case once; features are computed once; for every fold a candidate is trained and
compared on what it did not see (for the strategy ``auto`` the first folds by several strategies, of which the best is
kept); the final candidate learns from all cases; it becomes a version in the library. What is done is on the disk:
killed and called again with the same request, it resumes and ends with the same version.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from TransferSegLib.datasets.prepared import prepare_cases
from TransferSegLib.errors import Cancelled, ModelError, TrainingError
from TransferSegLib.evaluation.verdict import Training
from TransferSegLib.finetuning.adapt import Weights
from TransferSegLib.finetuning.blending import Blend, blended, choose_blend
from TransferSegLib.finetuning.cross_validation import (
    FINAL_TRAINING,
    READING,
    SAVING,
    Candidate,
    CandidateTrainer,
    Cases,
    FoldComparisons,
    candidate_name,
    learnable_cases,
)
from TransferSegLib.finetuning.evidence import (
    Evidence,
    changed_without_correction,
    largest_component_note,
    largest_component_structures,
    summarise,
    whole_case,
    with_largest_components,
)
from TransferSegLib.finetuning.folds import Fold, learned_structures
from TransferSegLib.finetuning.held_out import CaseComparison, calibration_of
from TransferSegLib.finetuning.plan import FineTuningPlan, check_outputs, plan_fine_tuning
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.run_folder import Run, RunFolder, runs_of
from TransferSegLib.finetuning.strategy_choice import Choice, choose, choosing_folds, evaluation_folds
from TransferSegLib.finetuning.time_budget import TimeBudget
from TransferSegLib.finetuning.time_plan import TimePlan
from TransferSegLib.fit.profile import FitProfile
from TransferSegLib.models.description import finite
from TransferSegLib.models.versions.history import Version, history
from TransferSegLib.models.versions.record import LearnedCase, VersionRecord
from TransferSegLib.models.versions.versions import add_version
from TransferSegLib.progress import CancelToken, ProgressCallback, Task

_FINAL = "final"
_LOWER_BOUND = (
    "The new version continues from the average of the compared candidates and was trained further, on all cases: it "
    "is usually better than these numbers."
)
#: A run that took so much longer than asked for says so.
_TOLERATED = 1.05


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A new version of a model, the evidence on it, and what happened to what its parent knew (``changes``).

    ``plan`` says by which strategy it was made, and ``choice`` why, where several were tried. ``in_use`` is the number
    of the version that is the current one (None: the library does not know).
    """

    version: Version
    plan: FineTuningPlan
    evidence: Evidence
    time_plan: TimePlan
    changes: tuple[dict[str, Any], ...]
    seconds: float
    choice: Choice | None = None
    in_use: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values; ``report.report_text`` makes a text for a person of it."""
        plan = self.plan
        return {
            "model": plan.name,
            "version": self.version.number,
            "path": str(self.version.path),
            "current": self.version.current,
            "in_use": self.in_use,
            "promotion": plan.request.promotion,
            "parent": str(plan.reference),
            "structures": list(plan.change.label_set.names),
            "new_structures": list(plan.fresh),
            "dropped": list(plan.change.dropped),
            "cases": len(plan.dataset.cases),
            "patients": plan.patients,
            "strategy": plan.configuration.strategy,
            "strategy_choice": None if self.choice is None else self.choice.to_json(),
            "evidence": finite(self.evidence.to_json()),
            "not_corrected": list(changed_without_correction(self.evidence.rows)),
            "forgetting": finite(list(self.changes)),
            "time": self.time_plan.text,
            "notes": [*plan.notes, *overrun_note(plan.request.minutes, self.seconds)],
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
    """Make a new version of a model from corrected cases; called again after an interruption it resumes.

    Progress is of the whole. ``tell`` gets the plan, as text, before the work begins, and what changes it. ``started``
    is the moment of the clock at which the minutes begin (None: now). Raises DatasetError, ModelError, TrainingError
    (TooLittleTime where the minutes do not suffice) and DeviceError with a line for a person, and Cancelled.
    """
    started = clock() if started is None else started
    plan = plan_fine_tuning(request, Task("", None, cancel))
    check_outputs(plan)
    with RunFolder(runs_of(request), plan.identity()) as folder:
        return _FineTuning(Run(plan, folder, Task("", progress, cancel), clock, started), tell).run()


def overrun_note(minutes: float, seconds: float) -> tuple[str, ...]:
    """Return a sentence where a run took longer than its minutes by more than some per cent."""
    if minutes <= 0 or seconds <= 60.0 * minutes * _TOLERATED:
        return ()
    return (
        f"It took {seconds / 60:.1f} min, longer than the {minutes:g} min given: this machine was slower than it was "
        "when the time was planned.",
    )


@dataclass(frozen=True, eq=False)
class _Settled:
    """What is settled before the first candidate is trained."""

    cases: Cases
    comparisons: FoldComparisons
    time_plan: TimePlan
    folds: tuple[Fold, ...]


class _FineTuning:
    """The parts of one fine-tuning, in order."""

    def __init__(self, run: Run, tell: Callable[[str], None]) -> None:
        self._run, self._tell = run, tell
        self._budget = TimeBudget(run)
        self._trainer = CandidateTrainer(run)
        #: Optimisation steps of every candidate that the verdict is about.
        self._steps: list[int] = []

    def run(self) -> FineTuned:
        """Do what is left and return the result."""
        run = self._run
        try:
            self._foresee()
            settled = self._settle(self._read())
            folds, groups = settled.folds, run.plan.groups
            choice = self._choose(settled)
            evaluating = range(len(folds)) if choice is None else evaluation_folds(folds, groups)
            comparisons, blend, notes = self._hold_out(settled, evaluating)
            notes += [] if choice is None else [choice.caveat]
            # Slabs of one patient cannot tell what is an island in another one.
            single = largest_component_structures(comparisons, run.plan.fresh) if run.plan.patients > 1 else ()
            notes += [largest_component_note(comparisons, single)] if single else []
            comparisons = with_largest_components(comparisons, single)
            final = self._final(settled)
            fates = self._forgetting(settled, final, blend, single)
            final = replace(final, state_dict=blended(run.plan.parent, run.plan.change, final.state_dict, blend.share))
            evidence = self._summarise([folds[number] for number in evaluating], settled, comparisons, notes)
            version = self._keep(final, fates, evidence, settled.time_plan, choice, single)
        except Cancelled:
            with suppress(TrainingError):  # the disk may be full
                run.save_time()
            raise
        finally:
            self._trainer.close()
        seconds = run.spent_s
        run.folder.remove()
        in_use = history(run.plan.name, run.plan.library).current
        return FineTuned(version, run.plan, evidence, settled.time_plan, tuple(fates), seconds, choice, in_use)

    def _foresee(self) -> None:
        """Plan before any work; a run whose minutes do not suffice leaves nothing behind."""
        run = self._run
        try:
            time_plan = self._budget.draft()
        except BaseException:
            if not run.earlier_s:
                run.folder.remove()
            raise
        for line in (*([] if time_plan is None else [f"Plan: {time_plan.text}"]), *run.plan.unevaluated_note):
            self._tell(line)

    def _read(self) -> Cases:
        """Bring all cases to the model's grid."""
        plan, parts = self._run.plan, self._run.parts
        preparation = plan.configuration.preparation(plan.parent.description)
        task = parts.begin(READING, "Reading cases")
        prepared = prepare_cases(plan.dataset, plan.change.label_set, preparation, task)
        parts.end()
        return {case.id: case for case in prepared}

    def _settle(self, cases: Cases) -> _Settled:
        """Let the parent predict, then decide on folds and time, or take what was decided before."""
        run = self._run
        comparisons = FoldComparisons(run, cases, self._trainer)
        prediction_s = comparisons.predict_by_parent()
        run.save_time()
        time_plan, folds = self._budget.settle(cases, prediction_s, self._trainer)
        run.save_time()
        self._tell(f"Plan{', as measured' if time_plan.minutes_each > 0 else ''}: {time_plan.text}")
        run.log.append(f"{run.plan.reference}: {run.device}, {time_plan.text}")
        return _Settled(cases, comparisons, time_plan, folds)

    def _entry(self, settled: _Settled, number: int, strategy: str, title: str) -> dict[str, Any]:
        """Return the entry of one fold's comparisons, see ``FoldComparisons``, and account for its time."""
        name, made = candidate_name(number, strategy), settled.comparisons
        entry = made.entry(number, settled.folds[number], strategy, self._budget.minutes_of(name), title)
        self._budget.took(name, made.training_s.get(strategy), made.compare_s)
        self._run.save_time()
        return entry

    def _choose(self, settled: _Settled) -> Choice | None:
        """Try every strategy on the first folds and keep the best; None where there is nothing to choose."""
        candidates = self._budget.tried
        if len(candidates) == 1:
            return None
        folds, groups, log = settled.folds, self._run.plan.groups, self._run.log
        numbers = choosing_folds(folds)
        tried: dict[str, list[CaseComparison]] = {strategy: [] for strategy in candidates}
        for number in numbers:
            for strategy, comparisons in tried.items():
                entry = self._entry(settled, number, strategy, f"Trying '{strategy}' {number + 1} of {len(numbers)}")
                log.append(f"{candidate_name(number, strategy)}: {json.dumps(finite(entry['comparisons']))}")
                comparisons += [CaseComparison.from_json(one) for one in entry["comparisons"]]
        choice = choose(tried, groups, len(evaluation_folds(folds, groups)) < len(folds))
        log.append(choice.text)
        self._budget.choose(choice.strategy, folds)
        return choice

    def _hold_out(self, settled: _Settled, evaluating: Sequence[int]) -> tuple[list[CaseComparison], Blend, list[str]]:
        """Train a candidate for every fold that the verdict is about, and compare it.

        Returns the comparisons, how much of the parent's weights is kept, and notes on the evidence.
        """
        compared: dict[float, list[CaseComparison]] = {share: [] for share in self._run.plan.parent_shares}
        unlearned: set[str] = set()
        plan, folds = self._run.plan, settled.folds
        strategy, names = plan.configuration.strategy, plan.change.label_set.names
        for number in evaluating:
            entry = self._entry(settled, number, strategy, f"Held-out comparison {number + 1} of {len(folds)}")
            self._run.log.append(f"fold {number + 1} of {len(folds)}: {json.dumps(finite(entry['comparisons']))}")
            for share, comparisons in compared.items():
                comparisons += [CaseComparison.from_json(one) for one in entry["by_share"][str(share)]]
            unlearned |= set(entry["unlearned"])
            self._steps.append(entry["tail_steps"] + entry["steps"])
        blend = choose_blend(compared, _patients_of(compared, plan.groups))
        self._run.log.append(f"The parent's share of the weights: {blend}")
        notes = [_LOWER_BOUND] if plan.configuration.way.from_parent else []
        notes += [blend.note] if blend.note else []
        if unlearned:
            notes.append(
                f"Nothing can be said of {', '.join(sorted(unlearned))} in patients who were held out: too few others "
                "have it drawn."
            )
        evaluated = learned_structures([settled.cases[id] for n in evaluating for id in folds[n].held_out], names)
        elsewhere = learned_structures(settled.cases.values(), names) - evaluated
        if elsewhere:
            notes.append(f"Only patients who chose the strategy have {', '.join(sorted(elsewhere))} drawn.")
        return compared[blend.share], blend, notes

    def _final(self, settled: _Settled) -> Candidate:
        """Train the candidate that is kept, on all cases."""
        settings = replace(self._run.plan.configuration, minutes=self._budget.minutes_of(_FINAL), report_cases=0)
        start = self._average(len(settled.folds), settings.strategy) if settings.way.from_parent else None
        learnable = learnable_cases(settled.cases)
        final = self._trainer.train(_FINAL, learnable, settings, FINAL_TRAINING, "Final training", settled.cases, start)
        self._run.save_time()
        return final

    def _forgetting(
        self, settled: _Settled, final: Candidate, blend: Blend, single: tuple[str, ...]
    ) -> list[dict[str, Any]]:
        """Return what became of the parent's structures, on as many training cases as there is time for."""
        wanted = self._run.plan.configuration.report_cases
        cases = learnable_cases(settled.cases)[: self._budget.reported(wanted)]
        return settled.comparisons.forgetting(final, blend.share, cases, single)

    def _average(self, folds: int, strategy: str) -> Weights | None:
        """Return the average of the candidates that learned every structure, of all where none did."""
        names = [candidate_name(number, strategy) for number in range(folds)]
        whole = [name for name in names if not (self._run.folder.read_json(f"{name}.json") or {}).get("unlearned")]
        return self._trainer.average(whole or names)

    def _summarise(
        self, folds: Sequence[Fold], settled: _Settled, comparisons: list[CaseComparison], notes: list[str]
    ) -> Evidence:
        """Return the verdict on all comparisons."""
        plan = self._run.plan
        groups = _patients_of({0.0: comparisons}, plan.groups)
        names, request = plan.change.label_set.names, plan.request
        training = Training(min(self._steps), request.minutes) if self._steps else None
        grid, seed = settled.comparisons.grid, plan.configuration.seed
        return summarise(comparisons, groups, folds, names, grid, request.tolerance_mm, notes, seed, training)

    def _keep(
        self,
        final: Candidate,
        fates: list[dict[str, Any]],
        evidence: Evidence,
        time_plan: TimePlan,
        choice: Choice | None,
        single: tuple[str, ...],
    ) -> Version:
        """Add the candidate to the library."""
        run, plan = self._run, self._run.plan
        rows = {row.structure: row.candidate for row in evidence.rows if row.candidate is not None}
        metrics = {
            "held out": {
                "cases": len({whole_case(one.case, plan.groups) for one in evidence.cases}),
                "method": evidence.method,
                "grid": evidence.grid,
                "mean_dice": float(np.mean(list(rows.values()))) if rows else None,
                "dice": rows,
            }
        }
        chosen = {} if choice is None else {"strategy_choice": choice.to_json()}
        record = VersionRecord(
            parent=plan.reference,
            cases=tuple(LearnedCase(plan.hashes[case.id], case.id) for case in plan.dataset.cases),
            evidence=finite(evidence.to_json() | {"time": time_plan.to_json()} | chosen),
            forgetting=tuple(finite(fates)),
        )
        lines = [*run.log, *(json.dumps(finite(line)) for line in [*final.history, *final.starts])]
        saving = run.parts.begin(SAVING, "Saving the version")
        try:
            version = add_version(
                plan.library,
                plan.name,
                replace(
                    plan.describe(metrics, single),
                    fit=profile_of_version(plan, final.state_dict),
                    doubt=calibration_of(evidence.cases),
                ),
                final.state_dict,
                record,
                origin=run.parent_copy,
                log="\n".join(lines) + "\n",
                promote=plan.request.promotion,
                cancel=run.cancel,
            )
        except ModelError as error:
            raise ModelError(
                f"{error} The new version is trained, and kept in {run.folder.folder}: when that is mended, give the "
                "same command again (or resume the job), and only the saving is left."
            ) from error
        saving.done(look=False)
        run.parts.end()
        return version


def _patients_of(compared: Mapping[float, Sequence[CaseComparison]], groups: Mapping[str, str]) -> dict[str, str]:
    """Return the patient of every case, or slab of one, that was compared."""
    return {one.case: groups[whole_case(one.case, groups)] for cases in compared.values() for one in cases}


def profile_of_version(plan: FineTuningPlan, state_dict: Mapping[str, torch.Tensor]) -> FitProfile | None:
    """Return the fit profile of a new version: its parent's, joined with what the corrected cases tell; None without.

    Sizes and positions of structures that were kept as they are come from the parent and from the cases, those of
    other ones from the cases only: tolerances are wide where these are few. What the network's deepest maps hold is
    the parent's where only the last layers were trained; a few cases cannot tell it anew.
    """
    change, scratch = plan.change, not plan.configuration.way.from_parent
    own = FitProfile.of([plan.survey[case.id].shapes for case in plan.dataset.cases])
    known = plan.parent.description.fit or FitProfile(0, {}, {})
    kept = {
        name
        for name, sources, fate in zip(change.label_set.names, change.sources, change.fates, strict=True)
        if fate == "kept" and tuple(sources) == (name,) and not scratch
    }
    parent = FitProfile(
        known.cases if kept else 0,
        {name: one for name, one in known.structures.items() if name in kept},
        {pair: spread for pair, spread in known.pairs.items() if set(pair) <= kept},
    )
    features = known.features if _has_frozen_layers_of_parent(plan, state_dict) else None
    profile = parent.derived(change.label_set.names, own, features)
    return profile if profile.structures else None


def _has_frozen_layers_of_parent(plan: FineTuningPlan, state_dict: Mapping[str, torch.Tensor]) -> bool:
    """Tell whether all but the last layers, and how scans are prepared for them, are the parent's."""
    parent = plan.parent
    if plan.configuration.preparation(parent.description) != parent.description.preparation:
        return False
    backbone, network = parent.description.backbone, parent.network()
    last = {id(weights) for weights in backbone.last_layers(network, backbone.split_points[-1]).parameters()}
    heads = tuple(f"{name}." for name in backbone.heads)
    # Models are often stored in half precision.
    return all(
        name in state_dict
        and state_dict[name].shape == weights.shape
        and torch.equal(state_dict[name].cpu().to(torch.float16), weights.to(torch.float16))
        for name, weights in network.named_parameters()
        if id(weights) not in last and not name.startswith(heads)
    )
