"""How often a model is wrong where the margin between its two best classes is so large, measured on held-out cases.

The margin is the difference of two logits. What it means differs from model to model: a margin of 2 may be wrong in one
voxel of five or of fifty. A model stores the curve in ``model.json`` as the entry ``doubt``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from TransferSegLib.errors import ModelError
from TransferSegLib.json_fields import damage_as

#: The version of the entry; a reader leaves out one it does not know.
CALIBRATION_VERSION = 1
#: Where the bins of margins begin; the last one has no end.
_EDGES = np.array([0, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10, 12, 14])
#: Margins are not told apart beyond this.
LARGEST_MARGIN = 16.0
#: Fewer wrong voxels than this, or cases, are too few to measure how often a model is wrong.
_FEWEST_WRONG, _FEWEST_CASES = 200, 2


@dataclass(frozen=True)
class DoubtCounts:
    """Voxels of ``cases`` held-out cases by bin of their margin, and how many of them were wrong."""

    cases: int
    voxels: tuple[int, ...]
    wrong: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raise ValueError for counts that cannot be."""
        each_fits = all(0 <= wrong <= voxels for wrong, voxels in zip(self.wrong, self.voxels, strict=True))
        if len(self.voxels) != len(_EDGES) or not each_fits:
            raise ValueError("counts of doubt that cannot be")

    @staticmethod
    def of(margins: np.ndarray, wrong: np.ndarray) -> DoubtCounts:
        """Return the counts of one case from the margins of its judged voxels (n), and which of them are wrong."""
        bins = np.searchsorted(_EDGES, margins.astype(np.float32), side="right") - 1
        counts = [np.bincount(each, minlength=len(_EDGES)).tolist() for each in (bins, bins[wrong])]
        return DoubtCounts(1, tuple(counts[0]), tuple(counts[1]))

    @staticmethod
    def middles() -> np.ndarray:
        """Return the margin in the middle of each bin."""
        return np.asarray((_EDGES + np.append(_EDGES[1:], LARGEST_MARGIN)) / 2)

    @staticmethod
    def total(counts: Iterable[DoubtCounts]) -> DoubtCounts:
        """Return the counts of all cases together."""
        every = list(counts)
        sums = [
            tuple(sum(column) for column in zip(*(getattr(one, name) for one in every), strict=True))
            for name in ("voxels", "wrong")
        ]
        nothing = (0,) * len(_EDGES)
        return DoubtCounts(sum(one.cases for one in every), sums[0] or nothing, sums[1] or nothing)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {"cases": self.cases, "voxels": list(self.voxels), "wrong": list(self.wrong)}

    @staticmethod
    def from_json(entry: Any) -> DoubtCounts:
        """Read what ``to_json`` wrote; raises KeyError, TypeError and ValueError for something else."""
        voxels, wrong = (tuple(int(count) for count in entry[key]) for key in ("voxels", "wrong"))
        return DoubtCounts(int(entry["cases"]), voxels, wrong)


@dataclass(frozen=True)
class DoubtCalibration:
    """The share of voxels that are wrong (0 to 1, falling) at some margins (rising), over so many held-out cases."""

    cases: int
    margins: tuple[float, ...]
    wrong: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise ValueError for what is no falling curve."""
        finite = all(math.isfinite(value) for value in (*self.margins, *self.wrong))
        if len(self.margins) < 2 or len(self.margins) != len(self.wrong) or not finite or self.cases < 1:
            raise ValueError("it is no curve")
        if np.any(np.diff(self.margins) <= 0) or np.any(np.diff(self.wrong) > 0):
            raise ValueError("it does not fall")
        if self.wrong[0] > 1 or self.wrong[-1] < 0:
            raise ValueError("its shares are not from 0 to 1")

    @staticmethod
    def of(counts: DoubtCounts) -> DoubtCalibration | None:
        """Return the curve of what was counted, None where that is too little.

        Shares that rise with the margin are averaged (pool adjacent violators), so that the curve falls.
        """
        voxels, wrong = np.array(counts.voxels, np.float64), np.array(counts.wrong, np.float64)
        if wrong.sum() < _FEWEST_WRONG or counts.cases < _FEWEST_CASES:
            return None
        filled = voxels > 0
        margins = DoubtCounts.middles()[filled]
        shares = _falling(wrong[filled] / voxels[filled], voxels[filled])
        if len(margins) < 2:
            return None
        return DoubtCalibration(
            counts.cases,
            tuple(float(value) for value in margins),
            tuple(float(f"{value:.4g}") for value in shares),
        )

    def share_wrong(self, margins: np.ndarray) -> np.ndarray:
        """Return the share of voxels with such margins that are wrong (float32), between two margins linearly."""
        return np.interp(margins, self.margins, self.wrong).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "version": CALIBRATION_VERSION,
            "cases": self.cases,
            "margins": list(self.margins),
            "wrong": list(self.wrong),
        }

    @staticmethod
    def from_json(entry: Any) -> DoubtCalibration | None:
        """Read what ``to_json`` wrote; None for none, and for a version this one does not know. Raises ModelError."""
        if entry is None:
            return None
        with damage_as(ModelError, "The model's entry 'doubt' is"):
            if entry["version"] != CALIBRATION_VERSION:
                return None
            margins, wrong = (tuple(float(value) for value in entry[key]) for key in ("margins", "wrong"))
            return DoubtCalibration(int(entry["cases"]), margins, wrong)


def uncalibrated(margins: np.ndarray) -> np.ndarray:
    """Return a number from 0 to 1 (float32) that falls with the margin, for a model whose errors were not counted.

    Of two classes it is 1 less the difference of their probabilities.
    """
    return (1 - np.tanh(np.asarray(margins, np.float32) / 2)).astype(np.float32)


def _falling(shares: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the closest falling shares: neighbours that rise become their weighted mean."""
    blocks: list[list[float]] = []  # mean, weight, length
    for share, weight in zip(shares, weights, strict=True):
        blocks.append([float(share), float(weight), 1])
        while len(blocks) > 1 and blocks[-1][0] > blocks[-2][0]:
            mean, weight_, length = blocks.pop()
            before = blocks[-1]
            together = before[1] + weight_
            before[0] = (before[0] * before[1] + mean * weight_) / together
            before[1], before[2] = together, before[2] + length
    return np.concatenate([np.full(int(length), mean) for mean, _, length in blocks])
