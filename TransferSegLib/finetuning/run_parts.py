"""The parts of a fine-tuning as its progress knows them: their names, and the seconds that each may take.

The estimates only move the progress bar: parts that end say how long the others of their kind really take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from TransferSegLib.finetuning.strategy_choice import CHOOSING_FOLDS
from TransferSegLib.finetuning.time_plan import Amount, Speeds, TimePlan

#: Names of the parts that there is one of.
MEASURING, READING, PARENT, FEATURES, SAVING = "measuring", "reading", "parent", "features", "saving"


def training_part(number: int, strategy: str) -> str:
    """Return the name of the part that trains a fold's candidate; the final one has the number after the folds'."""
    return f"candidate {strategy} {number + 1}"


def held_out_part(number: int, strategy: str) -> str:
    """Return the name of the part that measures a fold's candidate."""
    return f"held out {strategy} {number + 1}"


@dataclass(frozen=True)
class PartEstimates:
    """Seconds of reading all cases, the parent's predictions, features, a candidate, a fold's comparison, saving.

    ``reporting_s`` is what the final candidate takes longer than the others: looking for what was forgotten.
    """

    folds: int
    reading_s: float
    parent_s: float
    features_s: float
    candidate_s: float
    held_out_s: float
    reporting_s: float = 0.0
    saving_s: float = 0.0

    @staticmethod
    def of_plan(plan: TimePlan, amount: Amount, speeds: Speeds) -> PartEstimates:
        """Return the estimates that a plan makes."""
        parts, candidates = plan.parts_s, plan.folds + 1 + plan.extra
        return PartEstimates(
            plan.folds,
            speeds.read_s * amount.cases,
            speeds.predict_s * amount.cases * amount.parent_answers,
            parts.get("features", 0.0),
            parts.get("training", 0.0) / candidates + speeds.candidate_s,
            (speeds.predict_s + speeds.score_s) * amount.cases / plan.folds,
            parts.get("forgetting", 0.0),
            parts.get("saving", 0.0),
        )

    def of_all(self, tried: Sequence[str], shares_features: bool) -> dict[str, float]:
        """Return the seconds of every part, in order; ``tried`` are the strategies, of which the first may go on."""
        parts = {READING: self.reading_s, PARENT: self.parent_s}
        parts[FEATURES] = self.features_s if shares_features else 0.0
        first, *others = tried
        chosen_by = [(number, strategy) for number in range(CHOOSING_FOLDS) for strategy in others]
        return parts | self.of_candidates([*chosen_by, *((number, first) for number in range(self.folds))], first)

    def of_candidates(self, to_train: Sequence[tuple[int, str]], final: str) -> dict[str, float]:
        """Return the seconds of candidates (fold, strategy), their comparisons, and the one by the final strategy."""
        parts = {}
        for number, strategy in to_train:
            parts[training_part(number, strategy)] = self.candidate_s
            parts[held_out_part(number, strategy)] = self.held_out_s
        return parts | {training_part(self.folds, final): self.candidate_s + self.reporting_s, SAVING: self.saving_s}
