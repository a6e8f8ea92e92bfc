"""``finetune``: corrected cases in, a new version of a model out, with evidence, kept and never promoted silently.

>>> result = finetune(FineTuneRequest(project, model="head-neck-ct", minutes=5), progress, cancel)
>>> print(result.evidence.verdict.text, result.version.number, result.version.current)

In order: the parent predicts every case once; features are computed once; for every fold a candidate is made and
measured on what it did not see; the final candidate learns from all cases; it becomes a version in the library. What
is done is on the disk: killed and called again with the same request, it goes on and ends with the same version.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from TransferSegLib.finetuning.adapt import Adapted, adapt
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.evidence import Evidence, changed_without_correction, weigh
from TransferSegLib.finetuning.features import FeatureCache, cache_features
from TransferSegLib.finetuning.held_out_scores import (
    CANONICAL_GRID,
    CaseComparison,
    HeldOutScorer,
    affordable_grid,
)
from TransferSegLib.finetuning.holding_out import Fold, divide, learned_structures, plan_folds
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.run_folder import RUNS_NAME, RunFolder
from TransferSegLib.finetuning.time_plan import FEATURE_SHARE, TimePlan, plan_time, training_seconds
from TransferSegLib.finetuning.undertaking import Undertaking, undertake
from TransferSegLib.finetuning.whole_progress import WholeProgress
from TransferSegLib.models.description import finite
from TransferSegLib.models.store import Model
from TransferSegLib.models.versions import add_version
from TransferSegLib.models.versions_history import Version
from TransferSegLib.models.versions_record import LearnedCase, VersionRecord
from TransferSegLib.progress import CancelToken, Progress, ProgressCallback
from TransferSegLib.segmenting.devices import Device, choose_device
from TransferSegLib.training.cases import PreparedCase, prepare_cases

#: Seconds that parts are thought to take before anything was measured: they only move the progress bar.
_READ_S, _PREDICT_S, _FEATURES_S, _CANDIDATE_S = 0.5, 4.0, 20.0, 60.0
_FINAL = "final"


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A new version of a model, the evidence on it, and what happened to what its parent knew (``fates``)."""

    version: Version
    undertaking: Undertaking
    evidence: Evidence
    plan: TimePlan
    fates: tuple[dict[str, Any], ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values; ``report.report_text`` makes a text for a person of it."""
        work = self.undertaking
        return {
            "model": work.name,
            "version": self.version.number,
            "path": str(self.version.path),
            "current": self.version.current,
            "parent": str(work.reference),
            "structures": list(work.change.label_set.names),
            "new_structures": [work.change.label_set.names[channel - 1] for channel in work.change.fresh_channels],
            "dropped": list(work.change.dropped),
            "cases": len(work.dataset.cases),
            "patients": work.patients,
            "strategy": work.configuration.strategy,
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


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A trained candidate as it is kept on the disk."""

    state_dict: dict[str, torch.Tensor]
    history: list[dict[str, Any]]
    fates: list[dict[str, Any]]
    starts: list[dict[str, Any]]
    tail_steps: int
    steps: int

    @staticmethod
    def of(adapted: Adapted) -> _Candidate:
        """Keep what is needed of an adaptation."""
        fates = [fate.to_json() for fate in adapted.fates]
        starts = [asdict(start) for start in adapted.starts]
        return _Candidate(adapted.state_dict, adapted.history, fates, starts, adapted.tail_steps, adapted.steps)


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
        self._work, self._folder = work, folder
        self._cancel, self._clock, self._started = cancel, clock, started
        self._parent_copy = folder.pin(work.parent_path)
        self._saved = folder.read_plan()
        precision = None if self._saved is None else getattr(torch, self._saved["precision"])
        self._device: Device = choose_device(work.request.device, precision)
        self._cache: FeatureCache | None = None
        self._log: list[str] = []
        count = len(work.dataset.cases)
        folds = max(2, min(work.patients, 5))
        candidate_s = 60.0 * work.request.minutes * 0.7 / (folds + 1) or _CANDIDATE_S
        self._whole = WholeProgress(progress, self._estimates(count, folds, _PREDICT_S, candidate_s), clock)

    def run(self) -> FineTuned:
        """Do what is left and return the result."""
        try:
            cases = self._read()
            scorer, prediction_s = self._parent_answers(cases)
            plan, folds = self._plan(cases, prediction_s)
            self._say(f"{self._work.reference}: {self._device}, {plan.text}")
            comparisons, notes = self._hold_out(cases, folds, plan, scorer)
            evidence = self._weigh(folds, comparisons, notes)
            final = self._final(cases, plan)
            version = self._keep(final, evidence, plan)
        finally:
            if self._cache is not None:
                self._cache.close()
        self._folder.remove()
        return FineTuned(version, self._work, evidence, plan, tuple(final.fates), self._clock() - self._started)

    # The parts, in order.

    def _read(self) -> dict[str, PreparedCase]:
        """Bring all cases to the model's grid."""
        work = self._work
        spacing_mm, rule = work.configuration.preparation(work.parent.description)
        report = self._whole.begin("reading", "Reading cases")
        prepared = prepare_cases(work.dataset, work.change.label_set, spacing_mm, rule, report, self._cancel)
        self._whole.end()
        return {case.id: case for case in prepared}

    def _parent_answers(self, cases: dict[str, PreparedCase]) -> tuple[HeldOutScorer, float]:
        """Let the parent predict every case once; also returns the seconds that one prediction took."""
        work = self._work
        self._grid = CANONICAL_GRID if work.patients < 2 else affordable_grid(cases.values())
        scorer = HeldOutScorer(
            work.parent, work.change, work.dataset, self._device, self._grid, work.request.tolerance_mm
        )
        if not scorer.parent_knows:
            self._whole.skip("parent")
            return scorer, 0.0
        took: list[float] = []
        which = _OneOfSeveral(len(cases))
        report = self._whole.begin("parent", "Segmenting with the parent", which.done)
        for which.index, case in enumerate(cases.values()):
            if self._folder.read_array(_answer_file(which.index)) is None:
                began = self._clock()
                answer = scorer.parent_answer(case, case.id, report, self._cancel)
                took.append(self._clock() - began)
                self._folder.write_array(_answer_file(which.index), answer)
        self._whole.end()
        return scorer, float(np.median(took)) if took else 0.0

    def _answer(self, case_id: str) -> np.ndarray | None:
        """Return the parent's prediction of a case, None where it knows nothing of what is wanted."""
        return self._folder.read_array(_answer_file(self._work.dataset.ids.index(case_id)))

    def _plan(self, cases: dict[str, PreparedCase], prediction_s: float) -> tuple[TimePlan, tuple[Fold, ...]]:
        """Decide on folds and time, or return what was decided before."""
        work, knobs = self._work, self._work.configuration
        if self._saved is not None:
            plan = TimePlan(**self._saved["time"])
            folds = tuple(Fold.from_json(fold) for fold in self._saved["folds"])
            self._estimate(plan, len(cases), prediction_s)
            return plan, folds
        left_s: float | None = None
        if work.request.minutes > 0:
            spent_s = self._clock() - self._started
            left_s = training_seconds(
                work.request.minutes, spent_s, prediction_s, len(cases), min(len(cases), knobs.report_cases)
            )
        rounds = None
        if self._shares_features:
            began = self._clock()
            rounds = self._compute_features(cases, None, None if left_s is None else FEATURE_SHARE * left_s)
            if left_s is not None:
                left_s -= self._clock() - began
        plan = plan_time(left_s, work.patients, work.request.most_folds)
        folds = plan_folds(work.dataset, plan.folds, knobs.seed)
        self._saved = {
            "precision": str(self._device.dtype).removeprefix("torch."),
            "time": plan.to_json(),
            "folds": [fold.to_json() for fold in folds],
            "rounds": rounds,
        }
        self._folder.write_plan(self._saved)
        self._estimate(plan, len(cases), prediction_s)
        return plan, folds

    @property
    def _shares_features(self) -> bool:
        """Whether all candidates learn from the same cached features."""
        knobs = self._work.configuration
        starts = bool(self._work.change.fresh_channels) and knobs.starts_from_data and knobs.strategy != "scratch"
        # Slabs are judged otherwise in every fold, so their patches are others.
        return (starts or knobs.has_tail_stage) and self._work.patients > 1

    def _compute_features(self, cases: dict[str, PreparedCase], rounds: int | None, limit_s: float | None) -> int:
        """Compute the features of all cases once; returns how many patches there are of each."""
        learnable = _learnable(cases)
        report = self._whole.begin("features", "Computing features")
        began = self._clock()
        enough = None if limit_s is None or rounds is not None else lambda: self._clock() - began >= limit_s
        work = self._work
        self._cache = cache_features(
            work.parent.network(),
            learnable,
            work.change,
            work.configuration,
            self._device,
            patches_per_case=rounds,
            enough=enough,
            progress=report,
            cancel=self._cancel,
        )
        self._whole.end()
        return len(self._cache) // len(learnable)

    def _hold_out(
        self,
        cases: dict[str, PreparedCase],
        folds: tuple[Fold, ...],
        plan: TimePlan,
        scorer: HeldOutScorer,
    ) -> tuple[list[CaseComparison], list[str]]:
        """Make a candidate for every fold and compare it on what it did not see; also returns notes on the evidence."""
        comparisons: list[CaseComparison] = []
        unlearned: set[str] = set()
        for number, fold in enumerate(folds, start=1):
            entry = self._folder.read_json(f"fold-{number}.json")
            if entry is None:
                entry = self._fold(number, len(folds), fold, cases, plan, scorer)
                self._folder.write_json(f"fold-{number}.json", entry)
                self._folder.forget(f"fold-{number}.pt")
                self._folder.forget(f"fold-{number}-trained.pt")
            else:
                self._whole.skip(f"candidate {number}")
                self._whole.skip(f"held out {number}")
            found = [CaseComparison.from_json(one) for one in entry["comparisons"]]
            self._say(f"fold {number} of {len(folds)}: {json.dumps(finite([one.to_json() for one in found]))}")
            comparisons += found
            unlearned |= set(entry["unlearned"])
        notes = [
            f"Nothing can be said of {', '.join(sorted(unlearned))} in patients who were held out: too few others have "
            "it drawn."
        ]
        return comparisons, notes if unlearned else []

    def _fold(
        self,
        number: int,
        count: int,
        fold: Fold,
        cases: dict[str, PreparedCase],
        plan: TimePlan,
        scorer: HeldOutScorer,
    ) -> dict[str, Any]:
        """Train one fold's candidate and return its comparisons, and the structures it could not learn."""
        work = self._work
        training, held_out = divide(cases, fold)
        knobs = replace(work.configuration, minutes=plan.minutes_each, report_cases=0)
        title = f"Held-out comparison {number} of {count}"
        trained = self._train(f"fold-{number}", training, knobs, f"candidate {number}", title, cases)
        candidate = Model(work.describe(), trained.state_dict, work.parent_path)
        names = work.change.label_set.names
        fresh = {names[channel - 1] for channel in work.change.fresh_channels}
        unlearned = fresh - learned_structures(training, names)
        comparisons = []
        which = _OneOfSeveral(len(held_out))
        report = self._whole.begin(f"held out {number}", title, which.done)
        for which.index, (case_id, case) in enumerate(zip(fold.held_out, held_out, strict=True)):
            found = scorer.compare(candidate, case, case_id, self._answer(case_id), report, self._cancel)
            scores = {name: score for name, score in found.candidate.items() if name not in unlearned}
            comparisons.append(replace(found, candidate=scores).to_json())
            measured = [score.dice for score in scores.values() if np.isfinite(score.dice)]
            if report is not None and measured:
                stage = f"Held-out case {which.index + 1} of {len(held_out)}"
                report(Progress(stage, 1.0, dice=float(np.mean(measured))))
        self._whole.end()
        drawn = {name for case in held_out for name in learned_structures([case], names)}
        return {"comparisons": comparisons, "unlearned": sorted(unlearned & drawn)}

    def _weigh(self, folds: tuple[Fold, ...], comparisons: list[CaseComparison], notes: list[str]) -> Evidence:
        """Return the verdict on all comparisons."""
        work = self._work
        groups = {}
        for one in comparisons:
            # Parts of a case are called after it.
            case_id = one.case if one.case in work.groups else one.case.rsplit(" part ", 1)[0]
            groups[one.case] = work.groups[case_id]
        names = work.change.label_set.names
        tolerance_mm, seed = work.request.tolerance_mm, work.configuration.seed
        return weigh(comparisons, groups, folds, names, self._grid, tolerance_mm, notes, seed)

    def _final(self, cases: dict[str, PreparedCase], plan: TimePlan) -> _Candidate:
        """Train the candidate that is kept, on all cases."""
        knobs = replace(self._work.configuration, minutes=plan.minutes_each)
        return self._train(_FINAL, _learnable(cases), knobs, f"candidate {plan.folds + 1}", "Final training", cases)

    def _train(
        self,
        name: str,
        training: list[PreparedCase],
        knobs: FineTuningConfiguration,
        part: str,
        title: str,
        cases: dict[str, PreparedCase],
    ) -> _Candidate:
        """Train a candidate, go on with it, or return it when it is on the disk."""
        done, state = f"{name}-trained.pt", f"{name}.pt"
        kept = self._folder.read_state(done)
        if kept is not None:
            self._whole.skip(part)
            kept.pop("checkpoint_version", None)
            return _Candidate(**kept)
        if self._shares_features and self._cache is None:
            assert self._saved is not None
            self._compute_features(cases, self._saved["rounds"], None)
        work = self._work
        report = self._whole.begin(part, title, self._inside_training(knobs))
        adapted = adapt(
            work.parent,
            training,
            work.change,
            knobs,
            device=self._device,
            cache=self._cache,
            progress=report,
            cancel=self._cancel,
            save=lambda reached: self._folder.write_state(state, reached),
            resume=self._folder.read_state(state),
            clock=self._clock,
        )
        candidate = _Candidate.of(adapted)
        self._folder.write_state(done, dict(vars(candidate)))
        self._folder.forget(state)
        self._whole.end()
        self._say(f"{name}: {candidate.tail_steps} + {candidate.steps} steps")
        return candidate

    def _inside_training(self, knobs: FineTuningConfiguration) -> Callable[[Progress], float]:
        """Return what tells from a report of ``adapt`` how much of a training is done."""
        tail = 0.3 if knobs.has_tail_stage else 0.0

        def done(report: Progress) -> float:
            by_time = self._whole.elapsed_s / (60.0 * knobs.minutes) if knobs.minutes > 0 else 0.0
            by_steps = 0.0
            if report.stage == "Training the last layers":
                by_steps = tail * report.fraction
            elif report.stage == "Training all layers":
                by_steps = tail + (0.98 - tail) * report.fraction
            elif report.stage == "Looking for what was forgotten":
                by_steps = 0.98 + 0.02 * report.fraction
            return min(0.99, max(by_time, by_steps))

        return done

    def _keep(self, final: _Candidate, evidence: Evidence, plan: TimePlan) -> Version:
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
            evidence=finite(evidence.to_json() | {"time": plan.to_json()}),
            forgetting=tuple(finite(final.fates)),
        )
        lines = [*self._log, *(json.dumps(finite(line)) for line in final.history)]
        lines += [json.dumps(finite(start)) for start in final.starts]
        return add_version(
            work.library,
            work.name,
            work.describe(metrics),
            final.state_dict,
            record,
            origin=self._parent_copy,
            log="\n".join(lines) + "\n",
            promote="unless worse" if work.request.promote else "if better",
            cancel=self._cancel,
        )

    def _say(self, line: str) -> None:
        """Write a line into the version's log."""
        self._log.append(line)

    def _estimate(self, plan: TimePlan, cases: int, prediction_s: float) -> None:
        """Tell the progress how long the candidates will take."""
        candidate_s = 60.0 * plan.minutes_each or _CANDIDATE_S
        estimates = self._estimates(cases, plan.folds, prediction_s or _PREDICT_S, candidate_s)
        for done in ("reading", "parent", *(["features"] if self._cache is not None else [])):
            estimates.pop(done)
        self._whole.estimate(estimates)

    def _estimates(self, cases: int, folds: int, prediction_s: float, candidate_s: float) -> dict[str, float]:
        """Return the seconds that every part may take."""
        parts = {"reading": _READ_S * cases, "parent": prediction_s * cases}
        parts["features"] = _FEATURES_S if self._shares_features else 0.0
        for number in range(1, folds + 1):
            parts[f"candidate {number}"] = candidate_s
            parts[f"held out {number}"] = prediction_s * max(1, cases // folds)
        parts[f"candidate {folds + 1}"] = candidate_s
        return parts


def _learnable(cases: dict[str, PreparedCase]) -> list[PreparedCase]:
    """Return the cases with a voxel of something to learn."""
    return [case for case in cases.values() if case.voxels]


class _OneOfSeveral:
    """Tells how much of several predictions is done from the reports of the one with the current index."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.index = 0

    def done(self, report: Progress) -> float:
        """Return the share of all."""
        return (self.index + report.fraction) / self._count


def _answer_file(index: int) -> str:
    return f"parent-{index}.npz"
