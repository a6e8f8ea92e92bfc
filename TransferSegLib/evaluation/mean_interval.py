"""An interval for the mean score over patients nobody has seen, that few patients and missed structures do not fool.

Dice lies between 0 and 1, and now and then a structure is missed altogether. Three patients in whom all went well do
not rule out that every fourth one is missed, and no formula that looks at their spread can know it. So the interval
uses no more than the range: one more patient is imagined, at 0 for the lower end and at 1 for the upper, and the
weights of all are drawn from a flat Dirichlet distribution (Gaffke, Statistics 39, 2005; Learned-Miller and Thomas,
arXiv 1905.06208: no distribution between 0 and 1 is known for which it covers less than it says).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

#: Coverage of the interval: 0.9 leaves 5 % on either side.
CONFIDENCE = 0.9
_DRAWS = 8000
_SEED = 15


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval of the mean over unseen patients from one score (0 to 1) of each patient seen.

    The same values give the same interval, in any order. Raises ValueError for no value, or one that is no number.
    """
    seen = np.sort(np.clip(np.asarray(values, float), 0.0, 1.0))
    if seen.size == 0:
        raise ValueError("There is no patient, so there is no interval.")
    if not np.isfinite(seen).all():
        raise ValueError(f"The interval needs the score of every patient: {seen.tolist()}.")
    weights = _weights(seen.size)
    means = weights[:, :-1] @ seen
    tail = (1.0 - confidence) / 2.0
    low = float(np.quantile(means, tail))
    high = float(np.quantile(means + weights[:, -1], 1.0 - tail))
    mean = float(seen.mean())
    return min(max(low, 0.0), mean), max(min(high, 1.0), mean)


def patients_for(values: Sequence[float] | np.ndarray, least: float, most: int = 40) -> int | None:
    """Return how many patients like these put the lower end of the interval at ``least``; None above ``most``."""
    seen = np.asarray(values, float)
    for count in range(len(seen), most + 1):
        if mean_interval(np.resize(seen, count))[0] >= least:
            return count
    return None


@lru_cache(maxsize=64)
def _weights(patients: int) -> np.ndarray:
    """Return draws (draws, patients + 1) of the weights of so many patients and the imagined one."""
    draws = _DRAWS if patients <= 50 else _DRAWS // 4
    return np.random.default_rng(_SEED).dirichlet(np.ones(patients + 1), draws)
