"""The candidates of one fine-tuning, and what each fold's candidate and the parent do on cases it did not see.

The parent predicts every case once, for all folds. Candidates and comparisons are kept on the disk when they are made,
so that a resumed run does not make them again. The final candidate starts from the average of the folds' candidates
(Wortsman et al. 2022, "Model soups"): they all come from the same parent, and together they have seen all cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from TransferSegLib.datasets.prepared import PreparedCase, prepare_cases
from TransferSegLib.finetuning.adapt import OtherTraining, Weights, adapt
from TransferSegLib.finetuning.blending import blended
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.feature_cache import FeatureCache, cache_features, rounds_that_fit
from TransferSegLib.finetuning.folds import Fold, divide, learned_structures
from TransferSegLib.finetuning.forgetting import forgetting_of
from TransferSegLib.finetuning.held_out import HeldOutScorer, comparison_grid
from TransferSegLib.finetuning.rounds import settings_of_round
from TransferSegLib.finetuning.run_folder import Run
from TransferSegLib.models.store import Model
from TransferSegLib.progress import Task

Cases = dict[str, PreparedCase]
#: Keys of the parts of a run in its progress, of which there is one each; the others have a number.
MEASURING, READING, PARENT, FEATURES, SAVING = "measuring", "reading", "parent", "features", "saving"
FINAL_TRAINING, FORGETTING = "final-training", "forgetting"


def training_part(number: int, strategy: str, round_number: int = 0) -> str:
    """Return the key of the part that trains a fold's candidate, in a round (from 0) of its training."""
    return f"train-{strategy}{_of_round(round_number)}:{number + 1}"


def held_out_part(number: int, strategy: str, round_number: int = 0) -> str:
    """Return the key of the part that compares a fold's candidate."""
    return f"compare-{strategy}{_of_round(round_number)}:{number + 1}"


def candidate_name(number: int, strategy: str, round_number: int = 0) -> str:
    """Return the name of a fold's candidate after a round of its training; ``number`` is the fold's, from 0."""
    return f"fold-{number + 1}-{strategy}{_of_round(round_number)}"


def candidate_files(name: str) -> tuple[str, ...]:
    """Return the names of the files that hold a candidate, or what there is of it, and its comparisons."""
    return _state_file(name), _trained_file(name), f"{name}.json"


def _of_round(round_number: int) -> str:
    return f"-round-{round_number + 1}" if round_number else ""


def read_cases(run: Run) -> Cases:
    """Bring all cases of a run to the model's grid; raises TrainingError where they cannot be divided for the test."""
    plan, parts = run.plan, run.parts
    preparation = plan.configuration.preparation(plan.parent.description)
    task = parts.begin(READING, "Reading cases")
    prepared = prepare_cases(plan.dataset, plan.change.label_set, preparation, task)
    parts.end()
    cases = {case.id: case for case in prepared}
    if len({case.group for case in plan.dataset.cases}) == 1:
        # Before the parent predicts anything, which takes long.
        for parity in (0, 1):
            divide(cases, Fold(plan.dataset.ids, plan.dataset.ids, parity))
    return cases


def learnable_cases(cases: Cases) -> list[PreparedCase]:
    """Return the cases with a voxel of something to learn."""
    return [case for case in cases.values() if case.voxels]


@dataclass(frozen=True, eq=False)
class Candidate:
    """A trained candidate as it is kept on the disk; ``starts`` tell how new heads began."""

    state_dict: dict[str, torch.Tensor]
    history: list[dict[str, Any]]
    starts: list[dict[str, Any]]
    tail_steps: int
    steps: int


class CandidateTrainer:
    """Trains the candidates of one fine-tuning; they share the features of the frozen part.

    With ``computes_own`` it trains one of them only, and computes the features of no other case.
    """

    def __init__(self, run: Run, computes_own: bool = False) -> None:
        self._run, self._computes_own = run, computes_own
        #: Whether each candidate computes its own features in its own time, because the run has several workers.
        self.divides_features = False
        self._cache: FeatureCache | None = None
        #: Patches of each case whose features are cached; known when they were computed before.
        self.rounds: int | None = None

    def close(self) -> None:
        """Release the features."""
        if self._cache is not None:
            self._cache.close()

    def shares_features(self, strategy: str | None = None) -> bool:
        """Whether all candidates of a strategy (None: the plan's) learn from the same cached features."""
        plan = self._run.plan
        # Slabs differ from fold to fold, and so do their patches.
        needs = plan.by_strategy(strategy or plan.configuration.strategy).needs_features
        return needs and plan.patients > 1 and not self.divides_features

    def leave_features_to_workers(self, cases: Cases) -> None:
        """Compute none here: by minutes, each worker computes as many as it has time for, else as many as one would."""
        run = self._run
        self.divides_features = run.limit_s > 0
        if self.shares_features():
            self.rounds = self._rounds_that_fit(cases)

    def _rounds_that_fit(self, cases: Cases) -> int:
        plan = self._run.plan
        return rounds_that_fit(plan.parent, learnable_cases(cases), plan.change, plan.configuration)

    def compute_features(
        self, cases: Cases, limit_s: float | None = None, only: Sequence[PreparedCase] | None = None
    ) -> None:
        """Compute the features of all cases once, as many as before or as the time allows; ``only``: of these."""
        run, learnable = self._run, learnable_cases(cases)
        if only is not None:
            self.rounds = self.rounds or self._rounds_that_fit(cases)
            learnable = [case for case in learnable if case.id in {one.id for one in only}]
        task, began = run.parts.begin(FEATURES, "Computing features"), run.clock()

        def spent() -> float:
            return (run.clock() - began) / max(limit_s or 0.0, 1e-9)

        self._cache = cache_features(
            run.plan.parent,
            learnable,
            run.plan.change,
            run.plan.configuration,
            run.device,
            patches_per_case=self.rounds,
            spent=None if limit_s is None or self.rounds is not None else spent,
            task=task,
        )
        run.parts.end()
        self.rounds = len(self._cache) // len(learnable)

    def train(
        self,
        name: str,
        training: list[PreparedCase],
        settings: FineTuningConfiguration,
        part: str,
        title: str,
        cases: Cases,
        start: Weights | None = None,
    ) -> Candidate:
        """Train the candidate of this name, resume it, or return it when it is on the disk.

        ``part`` and ``title`` are the progress's; ``cases`` are all there are, for shared features; ``start`` as in
        ``adapt``.
        """
        candidate = self._read(name)
        if candidate is None:
            candidate = self._train(name, training, settings, part, title, cases, start)
        else:
            self._run.parts.skip(part)
        self._run.log.append(f"{name}: {candidate.tail_steps} + {candidate.steps} steps")
        return candidate

    def _train(
        self,
        name: str,
        training: list[PreparedCase],
        settings: FineTuningConfiguration,
        part: str,
        title: str,
        cases: Cases,
        start: Weights | None,
    ) -> Candidate:
        run = self._run
        has_first_stage = start is None or not settings.full_steps
        shares = self.shares_features(settings.strategy) and has_first_stage
        if shares and self._cache is None:
            self.compute_features(cases, only=training if self._computes_own else None)
        reached = run.folder.read_state(_state_file(name))
        adapting = partial(
            adapt,
            run.plan.parent,
            training,
            run.plan.change,
            settings,
            device=run.device,
            cache=self._cache if shares else None,
            start=start,
            task=run.parts.begin(part, title),
            save=lambda state: run.folder.write_state(_state_file(name), state),
            clock=run.clock,
            leader=run.leader,
        )
        try:
            adapted = adapting(resume=reached)
        except OtherTraining:  # decided otherwise since: it would be refused for ever
            run.log.append(f"{name}: what was there was trained with other settings, so it is trained anew")
            reached = None
            adapted = adapting()
        inits = [asdict(start) for start in adapted.starts]
        candidate = Candidate(adapted.state_dict, adapted.history, inits, adapted.tail_steps, adapted.steps)
        run.folder.write_state(_trained_file(name), dict(vars(candidate)))
        run.folder.forget(_state_file(name))
        run.parts.end(is_typical=reached is None)
        return candidate

    def _read(self, name: str) -> Candidate | None:
        """Return a candidate that is on the disk, None when it is not."""
        kept = self._run.folder.read_state(_trained_file(name))
        if kept is None:
            return None
        kept.pop("checkpoint_version", None)
        return Candidate(**kept)

    def average(self, names: Sequence[str]) -> Weights | None:
        """Return the mean of the weights of candidates that are on the disk, one after another; None where none is."""
        total: dict[str, torch.Tensor] = {}
        count = 0
        for name in names:
            candidate = self._read(name)
            if candidate is not None:
                count += 1
                for key, weights in candidate.state_dict.items():
                    total[key] = total[key] + weights if key in total else weights.clone()
        return {key: weights / count for key, weights in total.items()} if count else None

    def forget(self, name: str) -> None:
        """Remove a candidate from the disk."""
        self._run.folder.forget(_state_file(name))
        self._run.folder.forget(_trained_file(name))


class FoldComparisons:
    """Makes the comparisons of one fine-tuning, of all its folds and strategies, on one grid and one device."""

    def __init__(self, run: Run, cases: Cases, trainer: CandidateTrainer) -> None:
        self._run, self._cases, self._trainer = run, cases, trainer
        plan = run.plan
        #: The grid that is compared on, for a person.
        self.grid = comparison_grid(plan.patients, cases.values())
        tolerance_mm = plan.request.tolerance_mm
        self._scorer = HeldOutScorer(plan.parent, plan.change, plan.dataset, run.device, self.grid, tolerance_mm)
        #: Seconds that training a candidate took by strategy, of those that were trained in this process.
        self.training_s: dict[str, float] = {}
        #: Seconds that comparing one model on a case took on average, of the last fold compared in this process.
        self.compare_s: float | None = None

    def predict_by_parent(self) -> float:
        """Let the parent predict every case once; returns the median seconds of one prediction, 0 where none was made.

        Those that an earlier process of this run made count with what they took: the time is planned by it.
        """
        run = self._run
        if not self._scorer.parent_knows:
            run.parts.skip(PARENT)
            return 0.0
        took: list[float] = []
        task = run.parts.begin(PARENT, "Segmenting with the parent")
        for index, case in enumerate(self._cases.values()):
            if run.folder.read_array(_prediction_file(index)) is None:
                began = run.clock()
                prediction = self._scorer.predict_by_parent(case, case.id, task.share(index, len(self._cases)))
                run.folder.write_json(_seconds_file(index), {"seconds": run.clock() - began})
                run.folder.write_array(_prediction_file(index), prediction)
            seconds = (run.folder.read_json(_seconds_file(index)) or {}).get("seconds")
            took += [seconds] if isinstance(seconds, (int, float)) else []
        run.parts.end()
        return float(np.median(took)) if took else 0.0

    def forgetting(
        self, final: Candidate, share: float, cases: Sequence[PreparedCase], single_part: tuple[str, ...]
    ) -> list[dict[str, Any]]:
        """Return what became of each structure of the parent in the final candidate, seen on some training cases.

        ``share`` is the parent's share of its weights; ``single_part`` names the new structures of which only the
        largest part is kept.
        """
        run, plan = self._run, self._run.plan
        if not cases or not plan.configuration.way.from_parent:
            return []
        task = run.parts.begin(FORGETTING, "Looking for what was forgotten")
        model = self._model(final, share, single_part)
        comparisons = [
            self._scorer.compare(model, case, case.id, self._by_parent(case.id), part)
            for case, part in task.each(cases, lambda case: case.id)
        ]
        run.parts.end()
        return [change.to_json() for change in forgetting_of(comparisons, plan.change)]

    def _by_parent(self, case_id: str) -> np.ndarray | None:
        """Return the parent's prediction of a case, None where it knows no structure of the new model."""
        return self._run.folder.read_array(_prediction_file(self._run.plan.dataset.ids.index(case_id)))

    def entry(
        self, number: int, fold: Fold, strategy: str, minutes: float, title: str, round_number: int = 0
    ) -> dict[str, Any]:
        """Return the comparisons of a fold's candidate by a strategy, and what it could not learn: made, or read.

        ``number`` is the fold's, from 0; ``minutes`` is the time of its candidate (0: its steps decide). In a round but
        the first (0), it continues from what it was after the round before. The entry
        holds ``by_share`` of the parent's weights the comparisons (see ``CaseComparison.to_json``), ``comparisons``,
        those of the first share, ``unlearned`` (names), and the optimisation steps that the candidate made,
        ``tail_steps`` (of the last layers) and ``steps`` (of all layers). ``log`` has the lines of the version's log.
        """
        run, name = self._run, candidate_name(number, strategy, round_number)
        entry = run.folder.read_json(f"{name}.json")
        if entry is None:
            before = len(run.log)
            entry = self._compare(number, fold, strategy, minutes, title, round_number)
            run.folder.write_json(f"{name}.json", entry | {"log": run.log[before:]})
        else:
            # Made by a worker, or before the run was stopped: the version's log has its lines all the same, once.
            run.log += [line for line in entry.get("log", ()) if line not in run.log]
            run.parts.skip(training_part(number, strategy, round_number))
            run.parts.skip(held_out_part(number, strategy, round_number))
        return entry

    def _compare(
        self, number: int, fold: Fold, strategy: str, minutes: float, title: str, round_number: int
    ) -> dict[str, Any]:
        """Train one fold's candidate and return its comparisons, and the structures it could not learn."""
        run, plan = self._run, self._run.plan.by_strategy(strategy)
        training, held_out = divide(self._cases, fold)
        settings = settings_of_round(replace(plan.configuration, minutes=minutes, report_cases=0), round_number)
        name, part = candidate_name(number, strategy, round_number), training_part(number, strategy, round_number)
        began = run.clock()
        start = self._trainer.average([candidate_name(number, strategy, round_number - 1)]) if round_number else None
        trained = self._trainer.train(name, training, settings, part, title, self._cases, start)
        self.training_s[strategy] = run.clock() - began
        models = {share: self._model(trained, share) for share in plan.parent_shares}
        names = plan.change.label_set.names
        unlearned = set(plan.fresh) - learned_structures(training, names)
        began = run.clock()
        task = run.parts.begin(held_out_part(number, strategy, round_number), title)
        compared: dict[str, list[dict[str, Any]]] = {str(share): [] for share in models}
        for index, (case_id, case) in enumerate(zip(fold.held_out, held_out, strict=True)):
            of_case = task.share(index, len(held_out))
            for variant, (share, model) in enumerate(models.items()):
                predicting = of_case.share(variant, len(models)).named("Segmenting")
                compared[str(share)].append(self._compare_case(model, case_id, case, unlearned, predicting))
            dice = [_mean_dice(comparisons[-1]) for comparisons in compared.values()]
            of_case = of_case.named(f"Case {index + 1} of {len(held_out)}", "case")
            of_case.done(dice=max((one for one in dice if one is not None), default=None), look=False)
        run.parts.end()
        self.compare_s = (run.clock() - began) / max(1, len(held_out) * len(models))
        drawn = {name for case in held_out for name in learned_structures([case], names)}
        return {
            "comparisons": next(iter(compared.values())),
            "by_share": compared,
            "unlearned": sorted(unlearned & drawn),
            "tail_steps": trained.tail_steps,
            "steps": trained.steps,
        }

    def _model(self, trained: Candidate, share: float, single_part: tuple[str, ...] = ()) -> Model:
        """Return a candidate as a model, with the parent's share of its weights."""
        plan = self._run.plan
        state = blended(plan.parent, plan.change, trained.state_dict, share)
        return Model(plan.describe(None, single_part), state, plan.parent_path)

    def _compare_case(
        self, candidate: Model, case_id: str, case: PreparedCase, unlearned: set[str], task: Task
    ) -> dict[str, Any]:
        """Return the comparison of one case, without what the candidate could not learn."""
        found = self._scorer.compare(candidate, case, case_id, self._by_parent(case_id), task, unlearned)
        return replace(found, candidate={n: s for n, s in found.candidate.items() if n not in unlearned}).to_json()


def _mean_dice(comparison: dict[str, Any]) -> float | None:
    """Return the candidate's mean Dice of one case, for the curve of held-out Dice; None where there is none."""
    dice = [score["dice"] for score in comparison["candidate"].values() if score["dice"] is not None]
    return float(np.mean(dice)) if dice else None


def _state_file(name: str) -> str:
    return f"{name}.pt"


def _trained_file(name: str) -> str:
    return f"{name}-trained.pt"


def _prediction_file(number: int) -> str:
    return f"parent-{number}.npz"


def _seconds_file(number: int) -> str:
    return f"parent-{number}.json"
