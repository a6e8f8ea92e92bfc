"""How well two segmentations overlap."""

from __future__ import annotations

import numpy as np


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice coefficient 2 |A and B| / (|A| + |B|) of two boolean arrays; nan when both are empty."""
    total = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    if total == 0:
        return float("nan")
    return 2.0 * int(np.count_nonzero(first & second)) / total
