"""The rules of the verdict: when a model is better than another, when a structure is usable, and the words for it.

``docs/evidence.md`` tells where the thresholds come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

from TransferSegLib.evaluation.statistics import mean_interval, patients_for


class Answer(StrEnum):
    """The verdicts on a candidate; those on a single change are the first five."""

    BETTER = "better"
    NO_CLEAR_DIFFERENCE = "no clear difference"
    WORSE = "worse"
    TOO_FEW = "too few cases to say"
    PROBABLY_WORSE = "probably worse"
    PARTLY_WORSE = "worse in some structures"
    NOT_USABLE = "not usable yet"
    TOO_SHORT = "trained too short to say"
    LOOKS_USABLE = "looks usable, not certain yet"


#: Verdicts with which a version is never used without a warning.
WARNED = (Answer.WORSE, Answer.PROBABLY_WORSE, Answer.PARTLY_WORSE, Answer.NOT_USABLE, Answer.TOO_SHORT)


class Usability(StrEnum):
    """What can be said of a structure by itself, without a model to compare it with."""

    USABLE = "usable"
    LOOKS_USABLE = "looks usable, not certain yet"
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


@dataclass(frozen=True)
class VerdictRule:
    """The thresholds of the rule; differences are in Dice."""

    #: A mean difference below this does not matter, however sure it is.
    smallest_difference: float = 0.01
    #: 'No clear difference' is only said when a gain or loss beyond this can be ruled out.
    largest_overlooked: float = 0.1
    #: A structure that clearly lost at least so much makes the candidate worse, whatever the others gained. Where it
    #: is not clear, a loss of so much is 'probably worse' however few the patients are.
    unacceptable_loss: float = 0.1
    #: A smaller loss, from this on, is 'probably worse' where the interval lies below 0 as that of a single structure.
    suspicious_loss: float = 0.05
    #: Coverage of the interval: 0.9 leaves 5 % on either side, so 5 % false claims of 'better' at most.
    confidence: float = 0.9
    #: Usual standard deviation between patients, of a case's mean over structures and of a single structure ...
    usual_spread: float = 0.04
    usual_spread_of_structure: float = 0.06
    #: ... and the number of patients (less one) that this knowledge counts for.
    usual_weight: float = 3.0
    #: Standard deviation of what another training run would change by itself, the same in every case.
    training_noise: float = 0.01
    #: Candidates that made fewer optimisation steps are not evaluated: the learning rate has hardly reached its peak.
    fewest_steps: int = 30
    usability: UsabilityRule = field(default_factory=UsabilityRule)

    def interval(self, differences: np.ndarray, of_structure: bool = False, tests: int = 1) -> tuple[float, float]:
        """Return the interval of the mean of one difference per patient; wider for one of several tests (Bonferroni).

        Raises ValueError for no difference.
        """
        count = len(differences)
        if count == 0:
            raise ValueError("There is no patient to compare on.")
        usual = self.usual_spread_of_structure if of_structure else self.usual_spread
        seen = float(np.sum((differences - differences.mean()) ** 2))
        freedom = self.usual_weight + count - 1
        spread_squared = (self.usual_weight * usual**2 + seen) / freedom
        error = math.sqrt(spread_squared / count + self.training_noise**2)
        half = _t_quantile(1 - (1 - self.confidence) / (2 * tests), freedom) * error
        mean = float(differences.mean())
        return mean - half, mean + half

    def collapsed(self, differences: np.ndarray, tests: int) -> bool:
        """Tell whether one of several structures clearly lost more than is acceptable; one difference per patient."""
        lost = _mean(differences) <= -self.unacceptable_loss
        return lost and self.interval(differences, True, tests)[1] < 0

    def judge(self, differences: np.ndarray, of_structure: bool = False, tests: int = 1) -> Answer:
        """Return the verdict on one difference per patient: that of ``answer``, or 'probably worse'.

        As one of several structures (``tests``) one is 'worse' only where that is certain in spite of their number, so
        that looking at many raises no more alarms; 'probably worse' where its loss is large, or certain by itself.
        """
        mean = _mean(differences)
        low, high = self.interval(differences, of_structure)
        answer = self.answer(len(differences), mean, low, high)
        if answer is Answer.WORSE and self.interval(differences, of_structure, tests)[1] < 0:
            return answer
        if -mean >= self.unacceptable_loss or (-mean >= self.suspicious_loss and high < 0):
            return Answer.PROBABLY_WORSE
        if answer is Answer.WORSE:
            return Answer.NO_CLEAR_DIFFERENCE if -low <= self.largest_overlooked else Answer.TOO_FEW
        return answer

    def answer(self, patients: int, difference: float, low: float, high: float) -> Answer:
        """Return the verdict on one mean difference with its interval.

        One patient can raise the alarm, but cannot show that a model is better.
        """
        if high < 0 and difference <= -self.smallest_difference:
            return Answer.WORSE
        if patients < 2:
            return Answer.TOO_FEW
        if low > 0 and difference >= self.smallest_difference:
            return Answer.BETTER
        if max(-low, high) <= self.largest_overlooked:
            return Answer.NO_CLEAR_DIFFERENCE
        return Answer.TOO_FEW

    def more_patients(self, differences: np.ndarray, most: int = 40) -> int | None:
        """Return how many more patients like these would settle it; None: more than ``most`` in all."""
        for count in range(len(differences) + 1, most + 1):
            like = np.resize(differences, count)
            if self.answer(count, _mean(like), *self.interval(like)) is not Answer.TOO_FEW:
                return count - len(differences)
        return None

    def of_known(self, mean: Answer, difference: float, structures: Sequence[Answer], collapsed: bool) -> Answer:
        """Return the word for all known structures from those for their mean and for each: none is outvoted.

        ``difference`` is that of the mean; ``collapsed``: one of the structures did.
        """
        if mean is Answer.WORSE or collapsed:
            return Answer.WORSE
        if mean is Answer.PROBABLY_WORSE:
            return mean
        if any(answer in (Answer.WORSE, Answer.PROBABLY_WORSE) for answer in structures):
            return Answer.PARTLY_WORSE if difference > 0 else Answer.PROBABLY_WORSE
        return mean

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return vars(self) | {"usability": dict(vars(self.usability))}


def _mean(differences: np.ndarray) -> float:
    """Return the mean difference without the noise of floating point: 0.8 - 0.9 is a loss of 0.1, not of 0.0999..."""
    return round(float(differences.mean()), 9)


@lru_cache
def _t_quantile(level: float, freedom: float) -> float:
    """Return a quantile of Student's t distribution."""
    return float(special.stdtrit(freedom, level))
