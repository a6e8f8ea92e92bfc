"""The parts of a fine-tuning as its progress knows them: their names, and the seconds that each may take.

The estimates only move the progress bar: parts that end say how long the others of their kind really take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from TransferSegLib.finetuning.strategy_choice import CHOOSING_FOLDS

#: Names of the parts that there is one of.
READING, PARENT, FEATURES = "reading", "parent", "features"
#: Seconds that parts are thought to take before anything was measured.
_READ_S, _PREDICT_S, _FEATURES_S, _CANDIDATE_S = 0.5, 4.0, 20.0, 60.0


def training_part(number: int, strategy: str) -> str:
    """Return the name of the part that trains a fold's candidate; the final one has the number after the folds'."""
    return f"candidate {strategy} {number + 1}"


def held_out_part(number: int, strategy: str) -> str:
    """Return the name of the part that measures a fold's candidate."""
    return f"held out {strategy} {number + 1}"


@dataclass(frozen=True)
class PartEstimates:
    """How long the parts take for so many cases and folds; ``prediction_s`` and ``candidate_s`` 0: not known yet."""

    cases: int
    folds: int
    prediction_s: float = 0.0
    candidate_s: float = 0.0

    def of_all(self, tried: Sequence[str], shares_features: bool) -> dict[str, float]:
        """Return the seconds of every part, in order; ``tried`` are the strategies, of which the first may go on."""
        parts = {READING: _READ_S * self.cases, PARENT: (self.prediction_s or _PREDICT_S) * self.cases}
        parts[FEATURES] = _FEATURES_S if shares_features else 0.0
        first, *others = tried
        chosen_by = [(number, strategy) for number in range(CHOOSING_FOLDS) for strategy in others]
        return parts | self.of_candidates([*chosen_by, *((number, first) for number in range(self.folds))], first)

    def of_candidates(self, to_train: Sequence[tuple[int, str]], final: str) -> dict[str, float]:
        """Return the seconds of candidates (fold, strategy), their comparisons, and the one by the final strategy."""
        parts = {}
        candidate_s, prediction_s = self.candidate_s or _CANDIDATE_S, self.prediction_s or _PREDICT_S
        held_out = max(1, self.cases // self.folds)
        for number, strategy in to_train:
            parts[training_part(number, strategy)] = candidate_s
            parts[held_out_part(number, strategy)] = prediction_s * held_out
        return parts | {training_part(self.folds, final): candidate_s}
