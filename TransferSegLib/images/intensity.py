"""How a model wants its intensities: a fixed window (CT), robust percentiles of each scan (MR), or nnU-Net's ways.

The rule belongs to the model's description, so that a scan is always prepared as the model was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from TransferSegLib.errors import ModelError, ScanError

#: At most so many voxels are sorted to find percentiles; a regular sample of a scan is as good as the whole.
_PERCENTILE_SAMPLE = 2_000_000


IntensityKind = Literal["window", "percentiles", "fixed-zscore", "zscore", "zscore-nonzero", "unit", "rgb", "none"]
#: nnU-Net divides by no less.
_SMALLEST_DEVIATION = 1e-8


@dataclass(frozen=True)
class IntensityRule:
    """Clip to [lower, upper], then map those ends linearly to ``output`` (None: leave the clipped values).

    ``kind`` "window": the ends are intensities, Hounsfield units for CT. ``kind`` "percentiles": the ends are
    percentiles (0 to 100) of the scan's own voxels, the exact minimum (the air around an MR) left out. The other kinds
    are nnU-Net's, for models made by it: "fixed-zscore" clips to the ends, subtracts ``mean`` and divides by ``std``
    (its CTNormalization); "zscore" takes the scan's own mean and deviation, "zscore-nonzero" those inside the filled
    region that is not 0, and leaves the rest; "unit" maps the scan's range to 0 to 1, "rgb" divides by 255, "none"
    changes nothing. These ignore ``output``.
    """

    kind: IntensityKind
    lower: float = 0.0
    upper: float = 1.0
    output: tuple[float, float] | None = (-1.0, 1.0)
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        """Raise ModelError for a rule that cannot be applied."""
        if self.kind not in get_args(IntensityKind):
            known = ", ".join(f"'{kind}'" for kind in get_args(IntensityKind))
            raise ModelError(f"Unknown intensity rule '{self.kind}': this version knows {known}.")
        if not (np.isfinite(self.mean) and np.isfinite(self.std) and self.std >= 0):
            raise ModelError(f"The intensity rule's mean {self.mean} and deviation {self.std} must be finite numbers.")
        if not (np.isfinite(self.lower) and np.isfinite(self.upper) and self.lower < self.upper):
            raise ModelError(f"The intensity rule's lower end {self.lower} must be below its upper end {self.upper}.")
        if self.kind == "percentiles" and not (self.lower >= 0 and self.upper <= 100):
            raise ModelError("Percentiles of an intensity rule lie between 0 and 100.")

    @property
    def is_of_nnunet(self) -> bool:
        """Whether this is one of nnU-Net's own rules, which ``normalised`` applies before resampling."""
        return self.kind not in ("window", "percentiles")

    def normalised(self, intensities: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Return float32 intensities by one of nnU-Net's rules; ``inside`` is the filled region that is not 0."""
        if self.kind == "fixed-zscore":
            clipped = np.clip(intensities, self.lower, self.upper) - np.float32(self.mean)
            return clipped / max(self.std, _SMALLEST_DEVIATION)
        if self.kind == "zscore":
            return _zscore(intensities)
        if self.kind == "zscore-nonzero":
            result, seen = intensities.copy(), intensities[inside]
            result[inside] = _zscore(seen)
            return result
        if self.kind == "unit":
            above = intensities - intensities.min()
            return above / max(above.max(), _SMALLEST_DEVIATION)
        return intensities / np.float32(255.0) if self.kind == "rgb" else intensities

    def ends(self, intensities: np.ndarray) -> tuple[float, float]:
        """Return the two intensities that are mapped to the ends of the output for this scan (any shape)."""
        if self.kind == "window":
            return self.lower, self.upper
        flat = intensities.reshape(-1)
        sample = flat[:: max(1, flat.size // _PERCENTILE_SAMPLE)]
        above = sample[sample > sample.min()]
        low, high = np.percentile(above if above.size else sample, [self.lower, self.upper])
        return float(low), float(max(high, low + 1e-6 * max(1.0, abs(low))))

    def apply(self, intensities: np.ndarray, ends: tuple[float, float] | None = None) -> np.ndarray:
        """Return float32 intensities as the network wants them, same shape; ``ends`` as returned by ``ends``."""
        low, high = self.ends(intensities) if ends is None else ends
        clipped = np.clip(intensities, low, high, dtype=np.float32)
        if self.output is None:
            return clipped
        first, last = self.output
        clipped -= np.float32(low)
        clipped *= np.float32((last - first) / (high - low))
        clipped += np.float32(first)
        return clipped

    @property
    def outside(self) -> float | None:
        """The prepared intensity that stands for 'outside the scan'; None: the prepared scan's own minimum."""
        if self.output is not None:
            return self.output[0]
        return self.lower if self.kind == "window" else None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        entry: dict[str, Any] = {
            "kind": self.kind,
            "lower": self.lower,
            "upper": self.upper,
            "output": None if self.output is None else list(self.output),
        }
        return entry | {"mean": self.mean, "std": self.std} if self.kind == "fixed-zscore" else entry

    @staticmethod
    def from_json(entry: Any) -> IntensityRule:
        """Read a description written by ``to_json``; raises ModelError when it is not one."""
        try:
            output = entry["output"]
            ends = None if output is None else (float(output[0]), float(output[1]))
            mean, std = float(entry.get("mean", 0.0)), float(entry.get("std", 1.0))
            return IntensityRule(entry["kind"], float(entry["lower"]), float(entry["upper"]), ends, mean, std)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ModelError(f"This is not an intensity rule: {entry!r} ({error}).") from error


#: CT window of the paper, scaled for training from random weights.
CT_WINDOW = IntensityRule("window", -500.0, 400.0)
#: MR: the scan's own range without its rare extremes.
MR_PERCENTILES = IntensityRule("percentiles", 0.5, 99.5)


def _zscore(values: np.ndarray) -> np.ndarray:
    """Return float32 values with mean 0 and deviation 1; raises ScanError when they are too large for float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = values.mean(), values.std()
    if not (np.isfinite(mean) and np.isfinite(deviation)):
        raise ScanError(f"The scan's intensities, up to {np.abs(values).max():.3g}, are too large: export it again.")
    return (values - mean) / max(deviation, _SMALLEST_DEVIATION)
