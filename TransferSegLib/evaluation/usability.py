"""Is what a model finds of a structure usable? By its Dice and its surface Dice in patients it did not learn from.

A Dice that is better than nothing is not yet a structure that somebody would start from. ``docs/evidence.md`` tells
where the thresholds come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from TransferSegLib.evaluation.mean_interval import mean_interval, patients_for


class Usability(StrEnum):
    """What can be said of a structure by itself, without a model to compare it with."""

    USABLE = "usable"
    LOOKS_USABLE = "looks usable, too few cases to be sure"
    LEARNS = "learns, not usable yet"
    NOT_FOUND = "not found"


@dataclass(frozen=True)
class UsabilityRule:
    """The thresholds; all are means over patients.

    A structure is usable from ``dice`` on, if the surface Dice reaches ``nsd``, too; a thin one (a nerve, a vessel),
    whose Dice is low wherever the contour is a voxel off, from ``thin_dice`` on if nearly all of its surface
    (``thin_nsd``) lies within the tolerance. This is sure when the lower end of the interval of the mean Dice over
    unseen patients reaches ``surely_dice``. Below ``found`` it counts as not found.
    """

    dice: float = 0.5
    nsd: float = 0.3
    thin_dice: float = 0.4
    thin_nsd: float = 0.9
    surely_dice: float = 0.4
    found: float = 0.1

    def reaches(self, dice: float, nsd: float | None) -> bool:
        """Tell whether these means are those of a usable structure; ``nsd`` None: it was not measured."""
        if nsd is None or np.isnan(nsd):
            return dice >= self.dice
        return (dice >= self.dice and nsd >= self.nsd) or (dice >= self.thin_dice and nsd >= self.thin_nsd)

    def surely(self, dice: float) -> float:
        """Return where the lower end of the interval must lie; a thin structure's threshold is lower."""
        return self.surely_dice if dice >= self.dice else self.surely_dice * self.thin_dice / self.dice

    def judge(self, dice: Sequence[float], nsd: Sequence[float]) -> Usability:
        """Return what can be said of one Dice per patient and the surface Dice of those in whom it was measured."""
        mean, surface = float(np.mean(dice)), float(np.mean(nsd)) if len(nsd) else None
        if mean < self.found:
            return Usability.NOT_FOUND
        if not self.reaches(mean, surface):
            return Usability.LEARNS
        is_sure = len(dice) > 1 and mean_interval(dice)[0] >= self.surely(mean)
        return Usability.USABLE if is_sure else Usability.LOOKS_USABLE

    def more_patients(self, dice: Sequence[float]) -> int | None:
        """Return how many more patients like these would make sure of a structure that looks usable; None: many."""
        wanted = patients_for(dice, self.surely(float(np.mean(dice))))
        return None if wanted is None else max(1, wanted - len(dice))
