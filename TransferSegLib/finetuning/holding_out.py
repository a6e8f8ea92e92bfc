"""The candidates that are compared on cases left out of their training: which strategy, how long, what they show."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from TransferSegLib.errors import TrainingError
from TransferSegLib.evaluation.verdict import Training
from TransferSegLib.finetuning.adapt import Weights
from TransferSegLib.finetuning.blending import Blend, choose_blend
from TransferSegLib.finetuning.cross_validation import (
    CandidateTrainer,
    Cases,
    FoldComparisons,
    candidate_name,
    held_out_part,
    training_part,
)
from TransferSegLib.finetuning.evidence import whole_case
from TransferSegLib.finetuning.fold_worker import FoldTraining
from TransferSegLib.finetuning.folds import Fold, learned_structures
from TransferSegLib.finetuning.held_out import CaseComparison
from TransferSegLib.finetuning.rounds import RoundResult, best_round, curve_note, improves, round_share, share_of_all
from TransferSegLib.finetuning.run_folder import Run
from TransferSegLib.finetuning.side_by_side import FoldWork
from TransferSegLib.finetuning.strategy_choice import Choice, choose, choosing_folds, evaluation_folds
from TransferSegLib.finetuning.time_budget import TimeBudget
from TransferSegLib.finetuning.time_plan import TimePlan
from TransferSegLib.models.description import finite

_LOWER_BOUND = (
    "These numbers are of networks that each learned from a part of the cases. The new version starts from their "
    "average and learned from all cases: it is usually better."
)
#: How long a file that a worker on another computer has written may take to appear here.
_APPEARS_S, _LOOK_S = 15.0, 0.2
_CHOSEN_ROUND = "How long to train was chosen on the same cases, so their Dice is likely to be a little high."


@dataclass(frozen=True, eq=False)
class Settled:
    """What is settled before the first candidate is trained."""

    cases: Cases
    comparisons: FoldComparisons
    time_plan: TimePlan
    folds: tuple[Fold, ...]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What the candidates of all folds that count showed on the cases that they did not see.

    ``steps`` are the optimisation steps of each candidate, ``notes`` what is to be said of the evidence. ``curve`` has
    an entry for each round, where the training went on until it no longer improved; ``kept_round`` is the one that
    counts.
    """

    comparisons: list[CaseComparison]
    blend: Blend
    steps: list[int]
    notes: list[str]
    curve: tuple[RoundResult, ...] = ()
    kept_round: int = 0

    def training(self, limit: float, spent_s: float) -> Training | None:
        """Return how long the candidates were trained, None where there is none.

        ``limit`` are the minutes of the run (0: its steps decide), ``spent_s`` is what it has taken so far.
        """
        if not self.steps:
            return None
        return Training(min(self.steps), min(limit, spent_s / 60), bool(self.curve) and not improves(self.curve))


class HoldingOut:
    """Trains and compares the candidates of one fine-tuning."""

    def __init__(self, run: Run, budget: TimeBudget, trainer: CandidateTrainer, settled: Settled) -> None:
        self._run, self._budget, self._trainer, self._settled = run, budget, trainer, settled

    def choose(self) -> Choice | None:
        """Try every strategy on the first folds and keep the best; None where there is nothing to choose."""
        candidates = self._budget.tried
        if len(candidates) == 1:
            return None
        folds, groups, log = self._settled.folds, self._run.plan.groups, self._run.log
        numbers = choosing_folds(folds)
        tried: dict[str, list[CaseComparison]] = {strategy: [] for strategy in candidates}
        self._in_workers([(number, strategy) for number in numbers for strategy in candidates], "Trying strategies")
        for number in numbers:
            for strategy, comparisons in tried.items():
                entry = self._entry(number, strategy, f"Trying '{strategy}' {number + 1} of {len(numbers)}")
                log.append(f"{candidate_name(number, strategy)}: {json.dumps(finite(entry['comparisons']))}")
                comparisons += [CaseComparison.from_json(one) for one in entry["comparisons"]]
        choice = choose(tried, groups, len(evaluation_folds(folds, groups)) < len(folds))
        log.append(choice.text)
        self._budget.choose(choice.strategy, folds)
        return choice

    def compare(self, evaluating: Sequence[int]) -> HeldOut:
        """Train a candidate for every fold that the verdict is about, and compare it; in rounds where that is asked."""
        rounds = [self._compare_round(evaluating, 0)]
        if not self._run.plan.request.until_converged:
            return rounds[0]
        curve, budget = [self._result(rounds)], self._budget.rounds
        ended = budget.ended()
        while len(rounds) < ended[0] if ended is not None else self._goes_on(curve, evaluating):
            rounds.append(self._compare_round(evaluating, len(rounds)))
            curve.append(self._result(rounds))
        kept = best_round(curve) if ended is None else ended[1]
        budget.end(len(rounds), kept)
        self._run.log.append(f"Rounds: {json.dumps([one.to_json() for one in curve])}, of which {kept + 1} is kept")
        notes = [*rounds[kept].notes, curve_note(curve), *([_CHOSEN_ROUND] if len(curve) > 1 else [])]
        steps = [sum(of_fold) for of_fold in zip(*(one.steps for one in rounds[: kept + 1]), strict=True)]
        return HeldOut(rounds[kept].comparisons, rounds[kept].blend, steps, notes, tuple(curve), kept)

    def _goes_on(self, curve: Sequence[RoundResult], evaluating: Sequence[int]) -> bool:
        """Tell whether there is another round."""
        return improves(curve) and self._budget.rounds.begins(len(curve), evaluating, self._budget.speeds)

    def average(self, held_out: HeldOut, evaluating: Sequence[int]) -> Weights | None:
        """Return the average of the candidates that learned every structure, of all where none did."""
        strategy, last = self._run.plan.configuration.strategy, held_out.kept_round
        numbers = evaluating if last else range(len(self._settled.folds))
        names = [candidate_name(number, strategy, last) for number in numbers]
        whole = [name for name in names if not (self._run.folder.read_json(f"{name}.json") or {}).get("unlearned")]
        return self._trainer.average(whole or names)

    def _result(self, rounds: Sequence[HeldOut]) -> RoundResult:
        """Return what the last of some rounds reached."""
        minutes = self._settled.time_plan.minutes_each * share_of_all(len(rounds))
        steps = sum(min(one.steps, default=0) for one in rounds)
        blend = rounds[-1].blend
        return RoundResult(minutes, steps, blend.mean_dice[blend.share])

    def _entry(self, number: int, strategy: str, title: str, round_number: int = 0) -> dict[str, Any]:
        """Return the entry of one fold's comparisons, see ``FoldComparisons``, and account for its time."""
        name, made = candidate_name(number, strategy, round_number), self._settled.comparisons
        minutes = self._minutes_of(name, round_number)
        entry = made.entry(number, self._settled.folds[number], strategy, minutes, title, round_number)
        self._budget.took(name, made.training_s.get(strategy), made.compare_s)
        self._run.save_time()
        return entry

    def _minutes_of(self, name: str, round_number: int) -> float:
        """Return the minutes of a candidate that is about to be trained for one round."""
        if round_number:
            return self._settled.time_plan.minutes_each * round_share(round_number)
        return self._budget.minutes_of(name)

    def _in_workers(self, candidates: Sequence[tuple[int, str]], title: str, round_number: int = 0) -> None:
        """Let the workers of the run, if any, make the entries of candidates (fold, strategy), for ``_entry``."""
        run = self._run
        if run.workers is None:
            return
        works = [
            FoldWork(candidate_name(number, strategy, round_number), number, strategy, round_number, title)
            for number, strategy in candidates
        ]
        works = [work for work in works if not run.folder.has(f"{work.name}.json")]
        keys = [
            part(work.number, work.strategy, round_number) for work in works for part in (training_part, held_out_part)
        ]
        if not works:
            return
        key = f"{'folds' if len({work.strategy for work in works}) == 1 else 'choosing'}:{round_number + 1}"
        run.parts.join(keys, key, min(run.workers.at_once, len(works)))
        run.workers.train(works, self._parameters, run.parts.begin(key, title), self._worker_has_ended)
        run.parts.end()

    def _parameters(self, work: FoldWork) -> dict[str, Any]:
        """Return what a worker is told that is about to train a candidate."""
        return FoldTraining.of(self._run, work, self._minutes_of(work.name, work.round_number)).to_json()

    def _worker_has_ended(self, work: FoldWork) -> None:
        """Account for a candidate that a worker has made; raises TrainingError where it cannot be read here."""
        file = f"{work.name}.json"
        deadline = time.monotonic() + _APPEARS_S
        while not self._run.folder.has(file):
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"A worker has written {self._run.folder.folder / file}, and it cannot be seen here: the project "
                    "must be on a file system that all nodes share, under the same path."
                )
            if self._run.cancel is not None:
                self._run.cancel.check()
            time.sleep(_LOOK_S)
        self._budget.took(work.name, None, None)
        self._run.save_time()

    def _compare_round(self, evaluating: Sequence[int], round_number: int) -> HeldOut:
        """Train every fold's candidate for one round, and compare it."""
        compared: dict[float, list[CaseComparison]] = {share: [] for share in self._run.plan.parent_shares}
        unlearned: set[str] = set()
        plan, folds, steps = self._run.plan, self._settled.folds, []
        strategy, names = plan.configuration.strategy, plan.change.label_set.names
        of_round = f", round {round_number + 1}" if round_number else ""
        self._in_workers([(number, strategy) for number in evaluating], f"Candidates{of_round}", round_number)
        for number in evaluating:
            left_out = "cases" if folds[number].slabs is None else "parts"
            title = f"Comparison {number + 1} of {len(folds)} on {left_out} left out of training{of_round}"
            entry = self._entry(number, strategy, title, round_number)
            comparisons = json.dumps(finite(entry["comparisons"]))
            self._run.log.append(f"fold {number + 1} of {len(folds)}{of_round}: {comparisons}")
            for share, of_share in compared.items():
                of_share += [CaseComparison.from_json(one) for one in entry["by_share"][str(share)]]
            unlearned |= set(entry["unlearned"])
            steps.append(entry["tail_steps"] + entry["steps"])
        blend = choose_blend(compared, patients_of(compared, plan.groups))
        self._run.log.append(f"The parent's share of the weights: {blend}")
        notes = [_LOWER_BOUND] if plan.configuration.way.from_parent else []
        notes += [blend.note] if blend.note else []
        if unlearned:
            notes.append(
                f"Nothing can be said of {', '.join(sorted(unlearned))} in other patients: too few have it drawn to "
                "leave one out."
            )
        cases = self._settled.cases
        evaluated = learned_structures([cases[id] for n in evaluating for id in folds[n].held_out], names)
        elsewhere = learned_structures(cases.values(), names) - evaluated
        if elsewhere:
            notes.append(f"Only patients who chose the strategy have {', '.join(sorted(elsewhere))} drawn.")
        return HeldOut(compared[blend.share], blend, steps, notes)


def patients_of(compared: Mapping[float, Sequence[CaseComparison]], groups: Mapping[str, str]) -> dict[str, str]:
    """Return the patient of every case, or slab of one, that was compared."""
    return {one.case: groups[whole_case(one.case, groups)] for cases in compared.values() for one in cases}
