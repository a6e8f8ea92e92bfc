"""How the minutes that a user gives are divided: over the candidates that are held out from, and the one that is kept.

Every candidate gets the same time, those of the folds as the final one: evidence from candidates that were trained for
less would speak of another model. The plan is made when it is known how long the parent takes for the cases, and how
long computing features took.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Features take at most this share of what is left for training.
FEATURE_SHARE = 0.25
#: Predictions that take nearly all of the time must leave this share of it for training; then it takes longer in all.
_LEAST_SHARE = 0.3
#: A fold is not trained for less than this if fewer folds can be made.
_SHORTEST_FOLD_S = 20.0
#: Leaving out every single patient is worth its time up to this number; then so many folds.
MOST_FOLDS = 10
#: No candidate has less, however little time is left.
_SHORTEST_MINUTES = 0.05


@dataclass(frozen=True)
class TimePlan:
    """Folds and the minutes of each candidate (0: its steps decide); ``text`` says it to a person."""

    folds: int
    minutes_each: float
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return dict(vars(self))


def training_seconds(minutes: float, spent_s: float, prediction_s: float, held_out: int, reported: int) -> float:
    """Return the seconds left for features and training all candidates.

    ``prediction_s`` is what one prediction took; ``held_out`` cases will be predicted once more, ``reported`` ones
    twice more.
    """
    limit_s = 60.0 * minutes
    left_s = limit_s - spent_s - prediction_s * (held_out + 2 * reported)
    return max(left_s, _LEAST_SHARE * limit_s)


def plan_time(left_s: float | None, patients: int, most_folds: int | None = None, extra: int = 0) -> TimePlan:
    """Return the plan for so many seconds of training (None: steps decide) and patients.

    ``most_folds`` caps the number of folds. One patient has two folds (of slabs). ``extra`` candidates are trained for
    the choice of a strategy only.
    """
    wanted = 2 if patients < 2 else min(patients, max(2, most_folds or MOST_FOLDS))
    also = f" {extra} more serve to choose the strategy." if extra else ""
    if left_s is None:
        text = f"{wanted} folds and the final candidate, each for the number of steps set.{also}"
        return TimePlan(wanted, 0.0, text)
    affordable = int(left_s // _SHORTEST_FOLD_S) - 1 - extra
    folds = max(2, min(wanted, affordable))
    minutes = max(left_s / (folds + 1 + extra) / 60.0, _SHORTEST_MINUTES)
    text = (
        f"{60 * minutes:.0f} s at most for each of {folds} candidates that are compared with the parent on cases they "
        f"did not see, and as much for the final one.{also}"
    )
    if folds < wanted:
        text += f" For {wanted} folds there was not enough time."
    return TimePlan(folds, minutes, text)
