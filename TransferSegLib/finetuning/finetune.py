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
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from TransferSegLib.errors import Cancelled, ModelError, TrainingError
from TransferSegLib.evaluation.verdict import Training
from TransferSegLib.finetuning.adapt import Weights
from TransferSegLib.finetuning.all_layers import follow, leading
from TransferSegLib.finetuning.blending import blended
from TransferSegLib.finetuning.cross_validation import (
    FINAL_TRAINING,
    SAVING,
    Candidate,
    CandidateTrainer,
    Cases,
    FoldComparisons,
    learnable_cases,
    read_cases,
)
from TransferSegLib.finetuning.evidence import (
    Evidence,
    candidate_dice,
    changed_without_correction,
    largest_component_note,
    largest_component_structures,
    summarise,
    whole_case,
    with_largest_components,
)
from TransferSegLib.finetuning.folds import Fold
from TransferSegLib.finetuning.held_out import CaseComparison, calibration_of
from TransferSegLib.finetuning.holding_out import HeldOut, HoldingOut, Settled, patients_of
from TransferSegLib.finetuning.needs import check_outputs
from TransferSegLib.finetuning.parent_cases import parent_cases
from TransferSegLib.finetuning.plan import FineTuningPlan, plan_fine_tuning
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.rounds import RoundResult, rounds_text, share_of_all
from TransferSegLib.finetuning.run_folder import PLAN, Run, RunFolder, runs_of
from TransferSegLib.finetuning.side_by_side import JOBS, FoldWorkers, OpenWorkers, remove_left_jobs
from TransferSegLib.finetuning.strategy_choice import Choice, evaluation_folds
from TransferSegLib.finetuning.time_budget import TimeBudget
from TransferSegLib.finetuning.time_plan import TimePlan
from TransferSegLib.fit.profile import FitProfile
from TransferSegLib.models.description import finite
from TransferSegLib.models.versions.history import Version, history
from TransferSegLib.models.versions.record import LearnedCase, VersionRecord
from TransferSegLib.models.versions.versions import add_version
from TransferSegLib.progress import CancelToken, ProgressCallback, Task
from TransferSegLib.training.processes import joined

_FINAL = "final"
#: A run that took so much longer than asked for says so.
_TOLERATED = 1.05


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A new version of a model, the evidence on it, and what happened to what its parent knew (``changes``).

    ``plan`` says by which strategy it was made, and ``choice`` why, where several were tried. ``in_use`` is the number
    of the version that is the current one (None: the library does not know). ``curve`` has an entry for each round of a
    training until it no longer improved.
    """

    version: Version
    plan: FineTuningPlan
    evidence: Evidence
    time_plan: TimePlan
    changes: tuple[dict[str, Any], ...]
    seconds: float
    choice: Choice | None = None
    in_use: int | None = None
    curve: tuple[RoundResult, ...] = ()

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
            "rounds": [one.to_json() for one in self.curve],
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
    workers: OpenWorkers | None = None,
) -> FineTuned:
    """Make a new version of a model from corrected cases; called again after an interruption it resumes.

    Progress is of the whole. ``tell`` gets the plan, as text, before the work begins, and what changes it. ``started``
    is the moment of the clock at which the minutes begin (None: now). Raises DatasetError, ModelError, TrainingError
    (TooLittleTime where the minutes do not suffice) and DeviceError with a line for a person, and Cancelled.

    Called in each process that torchrun started, they train all layers together, and each returns the result; the first
    one does everything else (``all_layers.py``). ``workers`` starts those that ``request.workers`` asks for
    (``TransferSegLib.executors.fold_jobs``).
    """
    if (workers is None) != (request.workers == 0):
        raise TrainingError("The number of workers and what starts them must be given together.")
    started = clock() if started is None else started
    with joined(request.device) as processes:
        if workers is not None and processes.count > 1:
            raise TrainingError("--workers is not for torchrun: give it without.")
        if not processes.is_first:
            follow(processes, request.device, cancel)
            return processes.first_does(_told_by_the_first)
        with leading(processes) as leader:
            plan = plan_fine_tuning(request, Task("", None, cancel))
            processes.check_batch(plan.configuration.batch)
            check_outputs(plan)
            with RunFolder(runs_of(request), plan.identity()) as folder, ExitStack() as stack:
                remove_left_jobs(folder.folder / JOBS, cancel)
                opened = None if workers is None else _opened(workers, folder, plan)
                if opened is not None:
                    stack.callback(opened.close)
                    plan = replace(plan, request=replace(plan.request, workers=opened.at_once))
                run = Run(plan, folder, Task("", progress, cancel), clock, started, leader, opened)
                result = _FineTuning(run, tell).run()
        return processes.first_does(lambda: result)


def _opened(workers: OpenWorkers, folder: RunFolder, plan: FineTuningPlan) -> FoldWorkers:
    """Return the workers; where they cannot be had, a run that was not begun leaves nothing behind."""
    try:
        with ExitStack() as stack:
            opened = workers(folder.folder / JOBS)
            stack.callback(opened.close)
            check_outputs(plan, opened.at_once, opened.are_here)
            stack.pop_all()
        return opened
    except BaseException:
        if not folder.spent_s and not folder.has(PLAN):
            folder.remove()
        raise


def _told_by_the_first() -> FineTuned:
    raise AssertionError("only the first process makes a version")


def overrun_note(minutes: float, seconds: float) -> tuple[str, ...]:
    """Return a sentence where a run took longer than its minutes by more than some per cent."""
    if minutes <= 0 or seconds <= 60.0 * minutes * _TOLERATED:
        return ()
    return (
        f"It took {seconds / 60:.1f} min, longer than the {minutes:g} min given: this machine was slower than it was "
        "when the time was planned.",
    )


class _FineTuning:
    """The parts of one fine-tuning, in order."""

    def __init__(self, run: Run, tell: Callable[[str], None]) -> None:
        self._run, self._tell = run, tell
        self._budget = TimeBudget(run)
        self._trainer = CandidateTrainer(run)

    def run(self) -> FineTuned:
        """Do what is left and return the result."""
        run = self._run
        try:
            self._foresee()
            settled = self._settle(read_cases(run))
            folds, groups = settled.folds, run.plan.groups
            holding_out = HoldingOut(run, self._budget, self._trainer, settled)
            choice = holding_out.choose()
            evaluating = range(len(folds)) if choice is None else evaluation_folds(folds, groups)
            held_out = holding_out.compare(evaluating)
            if run.workers is not None:
                run.workers.close()  # the rest is for one
            comparisons, notes = held_out.comparisons, held_out.notes
            notes += [] if choice is None else [choice.caveat]
            # Slabs of one patient cannot tell what is an island in another one.
            single = largest_component_structures(comparisons, run.plan.fresh) if run.plan.patients > 1 else ()
            notes += [largest_component_note(comparisons, single)] if single else []
            comparisons = with_largest_components(comparisons, single)
            start = holding_out.average(held_out, evaluating) if run.plan.configuration.way.from_parent else None
            final, share = self._final(settled, start, held_out), held_out.blend.share
            fates = self._forgetting(settled, final, share, single)
            final = replace(final, state_dict=blended(run.plan.parent, run.plan.change, final.state_dict, share))
            compared = [folds[number] for number in evaluating]
            training = held_out.training(run.plan.request.minutes, run.spent_s)
            evidence = self._summarise(compared, settled, comparisons, notes, training)
            version = self._keep(final, fates, evidence, settled.time_plan, choice, single, held_out.curve)
        except Cancelled:
            with suppress(TrainingError):  # the disk may be full
                run.save_time()
            raise
        finally:
            self._trainer.close()
        seconds = run.spent_s
        run.folder.remove()
        in_use = history(run.plan.name, run.plan.library).current
        plan, curve = settled.time_plan, held_out.curve
        return FineTuned(version, run.plan, evidence, plan, tuple(fates), seconds, choice, in_use, curve)

    def _foresee(self) -> None:
        """Plan before any work; a run whose minutes do not suffice leaves nothing behind."""
        run = self._run
        try:
            time_plan = self._budget.draft()
        except BaseException:
            if not run.earlier_s:
                run.folder.remove()
            raise
        request = run.plan.request
        rounds = [rounds_text(request.minutes)] if request.until_converged else []
        for line in (*rounds, *([] if time_plan is None else [f"Plan: {time_plan.text}"]), *run.plan.unevaluated_note):
            self._tell(line)

    def _settle(self, cases: Cases) -> Settled:
        """Let the parent predict, then decide on folds and time, or take what was decided before."""
        run = self._run
        comparisons = FoldComparisons(run, cases, self._trainer)
        prediction_s = comparisons.predict_by_parent()
        run.save_time()
        time_plan, folds = self._budget.settle(cases, prediction_s, self._trainer)
        run.save_time()
        self._tell(f"Plan{', as measured' if time_plan.minutes_each > 0 else ''}: {time_plan.text}")
        run.log.append(f"{run.plan.reference}: {run.device}, {time_plan.text}")
        return Settled(cases, comparisons, time_plan, folds)

    def _final(self, settled: Settled, start: Weights | None, held_out: HeldOut) -> Candidate:
        """Train the candidate that is kept, on all cases, for as long as all that were compared together."""
        minutes = self._budget.minutes_of_final(_FINAL, held_out.kept_round)
        settings = replace(self._run.plan.configuration, minutes=minutes, report_cases=0)
        if held_out.kept_round and not minutes:
            steps = (int(share_of_all(held_out.kept_round + 1) * one) for one in (settings.tail_steps, settings.steps))
            settings = settings.with_steps(*steps)
        learnable = learnable_cases(settled.cases)
        final = self._trainer.train(_FINAL, learnable, settings, FINAL_TRAINING, "Final training", settled.cases, start)
        self._run.save_time()
        return final

    def _forgetting(
        self, settled: Settled, final: Candidate, share: float, single: tuple[str, ...]
    ) -> list[dict[str, Any]]:
        """Return what became of the parent's structures, on as many training cases as there is time for."""
        wanted = self._run.plan.configuration.report_cases
        cases = learnable_cases(settled.cases)[: self._budget.reported(wanted)]
        return settled.comparisons.forgetting(final, share, cases, single)

    def _summarise(
        self,
        folds: Sequence[Fold],
        settled: Settled,
        comparisons: list[CaseComparison],
        notes: list[str],
        training: Training | None,
    ) -> Evidence:
        """Return the verdict on all comparisons."""
        plan = self._run.plan
        groups, names, request = patients_of({0.0: comparisons}, plan.groups), plan.change.label_set.names, plan.request
        grid, seed = settled.comparisons.grid, plan.configuration.seed
        mm, before = request.tolerance_mm, parent_cases(plan)
        known = plan.change.known
        return summarise(comparisons, groups, folds, names, grid, mm, notes, seed, training, before, known)

    def _keep(
        self,
        final: Candidate,
        fates: list[dict[str, Any]],
        evidence: Evidence,
        time_plan: TimePlan,
        choice: Choice | None,
        single: tuple[str, ...],
        curve: Sequence[RoundResult],
    ) -> Version:
        """Add the candidate to the library."""
        run, plan = self._run, self._run.plan
        rows = candidate_dice(evidence.cases, plan.change.label_set.names)
        metrics = {
            "held out": {
                "cases": len({whole_case(one.case, plan.groups) for one in evidence.cases}),
                "method": evidence.method,
                "grid": evidence.grid,
                "mean_dice": float(np.mean(list(rows.values()))) if rows else None,
                "dice": rows,
            }
        }
        chosen: dict[str, Any] = {} if choice is None else {"strategy_choice": choice.to_json()}
        chosen |= {"rounds": [one.to_json() for one in curve]} if curve else {}
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


def profile_of_version(plan: FineTuningPlan, state_dict: Mapping[str, torch.Tensor]) -> FitProfile | None:
    """Return the fit profile of a new version: its parent's, joined with what the corrected cases tell; None without.

    Sizes and positions of structures that were kept as they are come from the parent and from the cases, those of
    other ones from the cases only: tolerances are wide where these are few. What the network's deepest maps hold is
    the parent's where only the last layers were trained; a few cases cannot tell it anew.
    """
    change, scratch = plan.change, not plan.configuration.way.from_parent
    own = FitProfile.of([plan.survey[case.id].shapes for case in plan.dataset.cases])
    known = plan.parent.description.fit or FitProfile(0, {}, {})
    # New names by those of the parent, which may be written in another case.
    kept = {
        sources[0]: name
        for name, sources, fate in zip(change.label_set.names, change.sources, change.fates, strict=True)
        if fate == "kept" and not scratch
    }
    parent = FitProfile(
        known.cases if kept else 0,
        {kept[name]: one for name, one in known.structures.items() if name in kept},
        {(kept[a], kept[b]): spread for (a, b), spread in known.pairs.items() if {a, b} <= kept.keys()},
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
