"""How much a person had to draw to correct a prediction: added path length, surface Dice, slices touched.

A person draws contours in the slices of the scan, so contours are those within a slice. The **contour** of a structure
in a slice is made of its pixels that have a side in common with a pixel of the slice outside it; the edge of the image
counts as outside. The **added path** are the contour pixels of the corrected structure that are no contour pixels of
the predicted one in the same slice (Vaassen et al., Phys Imaging Radiat Oncol 13:1-6, 2020). Its length in mm is the
sum over its pixels: each counts as long as its side along the contour, which is the mean of both sides where the pixel
is a corner. Where pixels are square, that is their number times their side, as Vaassen et al. count. (A slanted line is
longer than that by up to the square root of 2, in what is drawn anew and in the whole contour alike.)

What is only erased adds no path: where the prediction claims a structure in a slice that has none, the added path is 0
and the slice counts as touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_erosion
from scipy.spatial import KDTree

from TransferSegLib.evaluation.scores import DEFAULT_TOLERANCE_MM
from TransferSegLib.evaluation.surface_distance import ROUNDING_MM, bounding_box, surface_dice

#: Spacings that differ by less than this part count as equal: files round them.
_EQUAL_WITHIN = 0.01
#: Pixels of a slice that share a side.
_SIDES = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], bool)


@dataclass(frozen=True)
class DrawingEffort:
    """What correcting one structure of a scan took; only the annotated region counts.

    ``added_path_mm`` is the contour that had to be drawn, ``added_path_beyond_mm`` the part of it that lies more than
    ``tolerance_mm`` from the predicted contour of its slice, ``path_mm`` the whole contour: what drawing it without a
    prediction takes. ``slices_touched`` are the slices in which a voxel changed, ``slices`` those that hold the
    corrected structure. ``surface_dice`` (0 to 1, at the tolerance) is None where neither has the structure, or where
    the region has none of its surface.
    """

    added_path_mm: float
    added_path_beyond_mm: float
    path_mm: float
    slices_touched: int
    slices: int
    surface_dice: float | None
    tolerance_mm: float


def slice_axis_of(spacing_zyx_mm: Sequence[float]) -> int:
    """Return the axis (0: z, 1: y, 2: x of the stored array) across the slices in which a scan is drawn.

    Scanners make slices of square pixels, so it is the axis whose spacing differs from that of the two others, which
    are equal (within 1 %): of 3.9 x 3.9 x 2.5 mm the third. Where all are equal it is the third as stored (z of the
    array, k of the file); where all differ, the one with the largest spacing.
    """
    for axis in range(3):
        one, other = (step for number, step in enumerate(spacing_zyx_mm) if number != axis)
        if abs(one - other) <= _EQUAL_WITHIN * max(one, other):
            return axis
    return int(np.argmax(spacing_zyx_mm))


def drawing_effort(
    predicted_zyx: np.ndarray,
    corrected_zyx: np.ndarray,
    spacing_zyx_mm: tuple[float, float, float],
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
    region_zyx: np.ndarray | None = None,
    slice_axis: int | None = None,
) -> DrawingEffort:
    """Return what it took to make one structure's corrected mask (boolean, zyx) of the predicted one.

    ``region_zyx`` (None: everywhere) limits it: what lies outside is neither structure nor contour, and where its
    border cuts a structure there is no contour either. ``slice_axis`` None: that of ``slice_axis_of``. Raises
    ValueError when shapes or types do not fit, or for a tolerance below 0 or a spacing not above 0.
    """
    # The surface Dice checks all arguments.
    agreement = surface_dice(predicted_zyx, corrected_zyx, spacing_zyx_mm, tolerance_mm, region_zyx)
    axis = slice_axis_of(spacing_zyx_mm) if slice_axis is None else slice_axis
    box = bounding_box(predicted_zyx | corrected_zyx)
    if box is None:
        return DrawingEffort(0.0, 0.0, 0.0, 0, 0, None, tolerance_mm)
    region = None if region_zyx is None else np.moveaxis(region_zyx[box], axis, 0)
    steps_mm = tuple(step for number, step in enumerate(spacing_zyx_mm) if number != axis)
    predicted, corrected = (np.moveaxis(mask[box], axis, 0) for mask in (predicted_zyx, corrected_zyx))
    changed = predicted ^ corrected
    if region is not None:
        predicted, corrected, changed = predicted & region, corrected & region, changed & region
    path, drawn = contours(corrected, region), contours(predicted, region)
    added = path & ~drawn
    beyond = _farther(added, drawn, steps_mm, tolerance_mm)
    return DrawingEffort(
        added_path_mm=_length_mm(added, corrected, region, steps_mm),
        added_path_beyond_mm=_length_mm(beyond, corrected, region, steps_mm),
        path_mm=_length_mm(path, corrected, region, steps_mm),
        slices_touched=int(np.count_nonzero(changed.any(axis=(1, 2)))),
        slices=int(np.count_nonzero(corrected.any(axis=(1, 2)))),
        surface_dice=None if np.isnan(agreement) else agreement,
        tolerance_mm=tolerance_mm,
    )


def slices_changed(changed_zyx: np.ndarray, slice_axis: int) -> np.ndarray:
    """Return for each slice along an axis whether it holds a true voxel."""
    return np.asarray(np.moveaxis(changed_zyx, slice_axis, 0).any(axis=(1, 2)))


def contours(mask: np.ndarray, region: np.ndarray | None = None) -> np.ndarray:
    """Return the contour pixels of a mask (slices first, boolean): those with a side neighbour outside, in the region.

    A mask lies within its region (None: everywhere); beyond the edge of the array is outside.
    """
    return mask & ~binary_erosion(mask if region is None else mask | ~region, _SIDES)


def _length_mm(path: np.ndarray, mask: np.ndarray, region: np.ndarray | None, steps_mm: tuple[float, ...]) -> float:
    """Return the length of contour pixels of a mask; ``steps_mm`` are the distances of rows and of columns."""
    inside = mask if region is None else mask | ~region
    ends = [path & ~binary_erosion(inside, _neighbours(axis)) for axis in (1, 2)]
    corners = np.count_nonzero(ends[0] & ends[1])
    # A pixel with its neighbour outside in the row above or below lies on a contour along the row.
    along_rows, along_columns = (np.count_nonzero(end) - corners for end in ends)
    row_mm, column_mm = steps_mm
    return float(along_rows * column_mm + along_columns * row_mm + corners * (row_mm + column_mm) / 2)


def _neighbours(axis: int) -> np.ndarray:
    """Return a voxel and its two neighbours along an axis."""
    return np.ones(tuple(3 if number == axis else 1 for number in range(3)), bool)


def _farther(path: np.ndarray, contour: np.ndarray, steps_mm: tuple[float, ...], tolerance_mm: float) -> np.ndarray:
    """Return those pixels of a path that are farther than the tolerance from any contour pixel of their slice."""
    places, others = np.argwhere(path), np.argwhere(contour)
    if not len(places) or not len(others):
        return path
    limit_mm = tolerance_mm + ROUNDING_MM
    scale = np.array([2 * limit_mm, *steps_mm])  # slices so far apart that none reaches another
    tree = KDTree(others * scale, leafsize=32)
    away = tree.query(places * scale, distance_upper_bound=limit_mm * (1 + 1e-9))[0]
    result = np.zeros_like(path)
    result[tuple(places[away > limit_mm].T)] = True
    return result
