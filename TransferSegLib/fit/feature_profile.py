"""What the deepest maps of a network hold on its training scans, in a few kilobytes.

A scan is summarised by one vector: the logarithm of each channel's mean over the scan's tissue. The model stores mean,
deviation and some principal axes of these vectors. Scans of other regions excite the deepest maps *less* than those
trained on, so distances are between logarithms, and the excitement of every place is measured.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from TransferSegLib.errors import ModelError

#: Principal axes of the scans' vectors that are kept.
_AXES = 4
#: What is added to means before the logarithm, as a share of the mean of all channels: silent ones have no influence.
_FLOOR_SHARE = 0.05
#: A deviation is at least so much, in logarithms, and the variance beside the axes at least so much of the whole.
_LEAST_DEVIATION, _LEAST_REST = 1e-2, 1e-3
#: Training scans farther than this from the others are left out of the statistics, found in so many rounds.
_TRIMMED, _ROUNDS = 3.0, 3
#: The share of the training scans' places that excite the maps less than ``FeatureProfile.familiar``.
_UNFAMILIAR_SHARE = 0.1
#: Fewer scans are too few to estimate how scans differ.
FEWEST_SCANS = 12
_MOST_CHANNELS = 1 << 14


@dataclass(frozen=True)
class ScanFeatures:
    """Deepest maps of one scan: mean by channel over ``cells`` places in its tissue, and the share of familiar ones."""

    mean: np.ndarray
    cells: int
    familiar_share: float = float("nan")


@dataclass(frozen=True, eq=False)
class FeatureProfile:
    """Statistics of training scans: see the module. ``usual`` is the mean by channel over all their places.

    ``axes`` (n, channels) are orthonormal in vectors divided by ``deviation``, ``variances`` (n) theirs along them,
    ``rest`` the mean variance of what the axes leave. A place whose maps, divided by ``usual``, have a mean of at least
    ``familiar`` is familiar.
    """

    floor: float
    mean: np.ndarray
    deviation: np.ndarray
    axes: np.ndarray
    variances: np.ndarray
    rest: float
    usual: np.ndarray
    familiar: float

    @staticmethod
    def of(scans: Sequence[ScanFeatures], excitements: Sequence[np.ndarray] | None = None) -> FeatureProfile | None:
        """Return the statistics of training scans, None where they are too few.

        ``excitements`` holds, per scan, the mean over channels of every place's maps divided by ``usual_maps(scans)``.
        """
        scans_with_places = [scan for scan in scans if scan.cells > 0]
        if len(scans_with_places) < FEWEST_SCANS:
            return None
        usual = usual_maps(scans_with_places)
        floor = _FLOOR_SHARE * float(usual.mean())
        if not floor > 0:
            return None
        vectors = np.log(np.stack([scan.mean for scan in scans_with_places]) + floor)
        kept = np.ones(len(vectors), bool)
        for _ in range(_ROUNDS):
            profile = _statistics(vectors[kept], floor, usual)
            distances = np.array([profile._distance(vector) for vector in vectors])
            if np.count_nonzero(distances < _TRIMMED) < FEWEST_SCANS:
                break
            kept = distances < _TRIMMED
        profile = _statistics(vectors[kept], floor, usual)
        pooled = np.concatenate(excitements) if excitements else np.zeros(0)
        familiar = float(np.quantile(pooled, _UNFAMILIAR_SHARE)) if pooled.size else 0.0
        return FeatureProfile(**{**vars(profile), "familiar": familiar})

    def distance(self, scan: ScanFeatures) -> float:
        """Return how unlike the training scans a scan is: about 1 for one like them."""
        return self._distance(np.log(scan.mean + self.floor))

    def _distance(self, vector: np.ndarray) -> float:
        """Return the root mean square of the distances along the axes and beside them, each in its deviations."""
        scaled = (vector - self.mean) / self.deviation
        along = self.axes @ scaled
        beside = scaled - self.axes.T @ along
        return math.sqrt((float(np.mean(along**2 / self.variances)) + float(np.mean(beside**2)) / self.rest) / 2)

    @property
    def channels(self) -> int:
        """How many channels the deepest maps have."""
        return len(self.mean)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description: arrays as base64 of little-endian float16."""
        return {
            "channels": self.channels,
            "floor": float(f"{self.floor:.6g}"),
            "rest": float(f"{self.rest:.6g}"),
            "familiar": float(f"{self.familiar:.6g}"),
            "variances": [float(f"{value:.6g}") for value in self.variances],
            "mean": _packed(self.mean),
            "deviation": _packed(self.deviation),
            "axes": _packed(self.axes),
            "usual": _packed(self.usual),
        }

    @staticmethod
    def from_json(entry: Any) -> FeatureProfile | None:
        """Read what ``to_json`` wrote; raises ModelError."""
        if entry is None:
            return None
        try:
            channels = int(entry["channels"])
            variances = np.array([float(value) for value in entry["variances"]])
            if not 0 < channels <= _MOST_CHANNELS or not 0 < len(variances) <= 64:
                raise ValueError("its sizes cannot be")
            mean, deviation, usual = (_unpacked(entry[key], channels) for key in ("mean", "deviation", "usual"))
            axes = _unpacked(entry["axes"], channels * len(variances)).reshape(len(variances), channels)
            numbers = [float(entry[key]) for key in ("floor", "rest", "familiar")]
            positive = min(numbers[:2]) > 0 and variances.min() > 0 and deviation.min() > 0 and usual.min() >= 0
            if not positive or not all(math.isfinite(value) for value in numbers):
                raise ValueError("its numbers cannot be")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, binascii.Error) as error:
            raise ModelError(f"The model's entry 'fit' has damaged features ({error}).") from error
        return FeatureProfile(numbers[0], mean, deviation, axes, variances, numbers[1], usual, numbers[2])


def usual_maps(scans: Sequence[ScanFeatures]) -> np.ndarray:
    """Return the mean by channel over all places of some scans."""
    weights = np.array([scan.cells for scan in scans], np.float64)
    return np.asarray(np.average(np.stack([scan.mean for scan in scans]), axis=0, weights=weights))


def _statistics(vectors: np.ndarray, floor: float, usual: np.ndarray) -> FeatureProfile:
    """Return mean, deviation and principal axes of vectors (scans, channels)."""
    mean, deviation = vectors.mean(axis=0), vectors.std(axis=0) + _LEAST_DEVIATION
    # As read back, so that a stored profile measures the same distances.
    mean, deviation = (values.astype(np.float16).astype(np.float64) for values in (mean, deviation))
    _, singular, axes = np.linalg.svd((vectors - mean) / deviation, full_matrices=False)
    variances = np.maximum(singular**2 / len(vectors), _LEAST_REST)
    count = min(_AXES, len(variances))
    rest = float(variances[count:].sum()) / max(1, vectors.shape[1] - count)
    axes = axes[:count].astype(np.float16).astype(np.float64)
    return FeatureProfile(floor, mean, deviation, axes, variances[:count], max(_LEAST_REST, rest), usual, 0.0)


def _packed(values: np.ndarray) -> str:
    """Return an array as base64 of little-endian float16."""
    return base64.b64encode(np.ascontiguousarray(values, "<f2").tobytes()).decode("ascii")


def _unpacked(text: Any, count: int) -> np.ndarray:
    """Return the numbers of ``_packed``; raises ValueError unless there are so many finite ones."""
    values = np.frombuffer(base64.b64decode(text.encode("ascii"), validate=True), "<f2").astype(np.float64)
    if values.size != count or not np.isfinite(values).all():
        raise ValueError(f"there are not {count} finite numbers")
    return values
