"""What judged slices say of the slices between them: signed distances to the contour, interpolated from slice to slice.

All arrays are of a box of the scan and lie along the model's axes (zyx).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from TransferSegLib.evaluation.effort import slice_axis_of

#: Distances are cut off at so many units: farther away nothing is in doubt.
REACH_UNITS = 4.0
#: Next to a judged slice, in slices: closer than this an interpolation gets no surer.
_LEAST_SPREAD = 0.5
#: How sure an interpolation is of a slice that is left out of evenly spaced ones; the weights that are tried
#: (``refit.Recipe``) were chosen with it.
_SURENESS_LEFT_OUT = 0.64


@dataclass(frozen=True)
class BetweenSlices:
    """Signed distances (zyx, in units, positive inside) interpolated between judged slices, 0 where there are none.

    They are scaled by how sure the interpolation is: larger near a judged slice (``_sureness``). ``at_slices`` holds,
    in each judged slice with one on either side, what those two say of it; 0 in the others.
    ``is_known`` is true in the slices that have an ``at_slices``. ``axis`` is the axis across the slices.
    """

    distances: np.ndarray
    at_slices: np.ndarray
    is_known: np.ndarray
    axis: int


def learning_region(present: np.ndarray, unit_mm: float, spacing_zyx_mm: tuple[float, ...], axis: int) -> np.ndarray:
    """Return the voxels that may change: within ``REACH_UNITS`` of a structure in its slice or, beyond it, in the next.

    ``present`` is the structure, including what is interpolated; ``axis`` is the axis across the slices.
    """
    reach = [1 if n == axis else max(1, round(REACH_UNITS * unit_mm / step)) for n, step in enumerate(spacing_zyx_mm)]
    size = tuple(2 * more + 1 for more in reach)
    return np.asarray(ndimage.maximum_filter(present.view(np.uint8), size, mode="constant") != 0)


def slice_axis(judged: np.ndarray, spacing_zyx_mm: tuple[float, ...]) -> int:
    """Return the axis across the slices that were judged: that with most complete ones, else that of the scanner."""
    counts = [np.count_nonzero(np.moveaxis(judged, axis, 0).all(axis=(1, 2))) for axis in range(3)]
    return int(np.argmax(counts)) if any(counts) else slice_axis_of(spacing_zyx_mm)


def judged_slices(judged: np.ndarray, around: np.ndarray, axis: int) -> list[int]:
    """Return the slices through ``around`` (a mask) in which all of its voxels were judged."""
    others = tuple(n for n in range(3) if n != axis)
    is_there = around.any(axis=others)
    return [int(n) for n in np.flatnonzero(is_there & ~(around & ~judged).any(axis=others))]


def between_slices(
    corrected: np.ndarray, slices: list[int], axis: int, unit_mm: float, spacing_zyx_mm: tuple[float, ...]
) -> BetweenSlices:
    """Interpolate the contours of judged slices of a corrected structure (boolean) linearly.

    Only between two slices that hold the structure, with no judged slice between them. What two slices say of one
    between them counts less the farther it is from both: a judged slice that is left out is twice as far from its
    neighbours as a slice between two judged ones, so that without this interpolating would look worse than it is.
    """
    along = np.moveaxis(corrected, axis, 0)
    steps_mm = [step for n, step in enumerate(spacing_zyx_mm) if n != axis]
    own = {number: _signed_distance(along[number], steps_mm, unit_mm) for number in slices if along[number].any()}
    distances, at_slices = np.zeros(along.shape, np.float32), np.zeros(along.shape, np.float32)
    is_known = np.zeros(along.shape, bool)
    gaps = [high - low for low, high in pairwise(slices) if low in own and high in own]
    gap = float(np.mean(gaps)) if gaps else 1.0

    def said_of(number: int, low: int, high: int) -> np.ndarray:
        share = (number - low) / (high - low)
        return np.asarray(_sureness(number, low, high, gap) * ((1 - share) * own[low] + share * own[high]))

    for low, high in pairwise(slices):
        if low in own and high in own:
            for number in range(low, high + 1):
                distances[number] = said_of(number, low, high)
    for low, number, high in zip(slices, slices[1:], slices[2:], strict=False):
        if low in own and number in own and high in own:
            at_slices[number] = said_of(number, low, high)
            is_known[number] = True
    return BetweenSlices(
        np.moveaxis(distances, 0, axis), np.moveaxis(at_slices, 0, axis), np.moveaxis(is_known, 0, axis), axis
    )


def _sureness(number: int, low: int, high: int, gap: float) -> float:
    """Return how much what two slices say of one between them counts; ``gap`` is the mean distance of judged slices.

    The spread of a path that is held at both ends grows with (n - low)(high - n) / (high - low); here it is taken in
    place of its root, which is better where few slices were judged.
    """
    spread = (number - low) * (high - number) / (high - low)
    return _SURENESS_LEFT_OUT * 0.5 * gap / max(spread, _LEAST_SPREAD)


def _signed_distance(mask: np.ndarray, steps_mm: list[float], unit_mm: float) -> np.ndarray:
    """Return distances from pixel centres to the edge of a mask, positive inside, cut off at ``REACH_UNITS``."""
    if mask.all():
        return np.full(mask.shape, REACH_UNITS, np.float32)
    half = 0.5 * float(np.mean(steps_mm))
    inside = ndimage.distance_transform_edt(mask, steps_mm) - half
    outside = half - ndimage.distance_transform_edt(~mask, steps_mm)
    edge = np.where(mask, inside, outside) / unit_mm
    return np.clip(edge, -REACH_UNITS, REACH_UNITS).astype(np.float32)
