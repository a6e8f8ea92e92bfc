"""Weights between the parent's and the trained ones, for fine-tuning on structures that the parent knows.

A few cases of a new site teach a network much about themselves and make it forget some of the many cases that its
parent learned from. Between the two sets of weights most of the gain is there and little of the loss (Wortsman et al.
2022, "Robust fine-tuning of zero-shot models"). Whether that is so is decided on held-out cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from TransferSegLib.evaluation.statistics import by_patient, pair_scores
from TransferSegLib.finetuning.label_change import LabelChange, adapted_state

if TYPE_CHECKING:
    import torch

    from TransferSegLib.finetuning.held_out import CaseComparison
    from TransferSegLib.models.store import Model

#: The parent's share of blended weights, by default and with the cases of few patients, and how many are few
#: (docs/measurements.md, "Known structures").
_SHARE, _SHARE_OF_FEW, _FEW = 0.5, 0.75, 3
#: The trained weights alone must be better than blended ones by more than this Dice.
_TIE = 0.005


@dataclass(frozen=True)
class Blend:
    """The parent's share of the weights that are kept, and the mean held-out Dice of each share that was compared."""

    share: float
    mean_dice: Mapping[float, float]

    @property
    def note(self) -> str:
        """What is kept, in a sentence; empty where nothing was blended or compared."""
        mixed = max(self.mean_dice)
        if mixed == 0:
            return ""
        mixture = f"{mixed:.0%} of the parent and {1 - mixed:.0%} of what was trained"
        if len(self.mean_dice) < 2:
            return f"The new version's weights are {mixture}."
        of_mixture, of_trained = (f"{self.mean_dice[share]:.3f}" for share in (mixed, 0.0))
        if self.share:
            return (
                f"The new version's weights are {mixture}: on cases left out of training its mean Dice was "
                f"{of_mixture}, that of the trained weights alone {of_trained}."
            )
        return (
            f"The trained weights are kept as they are: on cases left out of training their mean Dice was "
            f"{of_trained}, that of {mixture} {of_mixture}."
        )


def default_share(patients: int) -> float:
    """Return the parent's share of blended weights that is compared with the trained weights alone."""
    return _SHARE_OF_FEW if patients <= _FEW else _SHARE


def blended(
    parent: Model, change: LabelChange, trained: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """Return weights with the parent's share (0 to 1); all structures of the change must be the parent's."""
    if share == 0:
        return dict(trained)
    state, fresh = adapted_state(parent.fold_weights(), parent.description.backbone.heads, change)
    assert not fresh, "the weights of new structures have no counterpart in the parent"
    return {name: share * state[name].float() + (1 - share) * weights for name, weights in trained.items()}


def choose_blend(compared: Mapping[float, Sequence[CaseComparison]], groups: Mapping[str, str]) -> Blend:
    """Return the share that did best on the same held-out cases; ``groups`` gives the patient of each.

    The first share is the default: another one must be clearly better.
    """
    means = {share: mean_dice(comparisons, groups) for share, comparisons in compared.items()}
    default = next(iter(means))
    best = max(means, key=lambda share: means[share])
    return Blend(best if means[best] > means[default] + _TIE else default, means)


def mean_dice(comparisons: Sequence[CaseComparison], groups: Mapping[str, str]) -> float:
    """Return the candidate's mean Dice over a case's structures, a patient's cases, the patients."""
    scores = {one.case: {name: score.dice for name, score in one.candidate.items()} for one in comparisons}
    patients = [after for _, after in by_patient(pair_scores(scores, scores, groups)).values()]
    return float(np.mean(patients)) if patients else 0.0
