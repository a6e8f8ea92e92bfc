"""Slices at uneven distances or shifted by a tilted gantry, on the planes of a rectangular grid: linear interpolation.

A slice is shifted within its own plane only, and planes between two slices are their weighted mean, so a tilted series
of even distance keeps every slice and its sharpness across slices.
"""

from __future__ import annotations

import numpy as np

from TransferSegLib.images.formats.dicom.placement import Placement


def resample_slices(slices_zyx: np.ndarray, placement: Placement) -> np.ndarray:
    """Return the voxels (zyx, same type) on the grid of a placement with heights and shifts.

    Voxels that no slice covers get the lowest value of the scan.
    """
    assert placement.heights_mm is not None and placement.shifts_xy is not None
    columns, rows, planes = placement.size_xyz
    outside = float(slices_zyx.min())
    result = np.empty((planes, rows, columns), slices_zyx.dtype)
    last = len(slices_zyx) - 1
    for plane in range(planes):
        height = plane * float(placement.spacing_mm[2])
        below = int(np.clip(np.searchsorted(placement.heights_mm, height + 1e-6, side="right") - 1, 0, last))
        above = min(below + 1, last)
        gap = float(placement.heights_mm[above] - placement.heights_mm[below])
        share = 0.0 if gap <= 0 else float(np.clip((height - placement.heights_mm[below]) / gap, 0.0, 1.0))
        share = 0.0 if share < 1e-6 else share
        values = _shifted(slices_zyx[below], placement.shifts_xy[below], (rows, columns), outside)
        if share:
            other = _shifted(slices_zyx[above], placement.shifts_xy[above], (rows, columns), outside)
            values = values * (1 - share) + other * share
        result[plane] = np.rint(values) if result.dtype.kind in "iu" else values
    return result


def _shifted(slice_yx: np.ndarray, shift_xy: np.ndarray, size_yx: tuple[int, int], outside: float) -> np.ndarray:
    """Return a slice whose first pixel lies at ``shift_xy`` of a larger plane (float64)."""
    along_y = _shifted_rows(slice_yx.astype(np.float64), float(shift_xy[1]), size_yx[0], outside)
    return _shifted_rows(along_y.T, float(shift_xy[0]), size_yx[1], outside).T


def _shifted_rows(rows: np.ndarray, shift: float, size: int, outside: float) -> np.ndarray:
    """Return rows moved down by ``shift`` (0 or more) rows into ``size`` rows.

    Up to half a row beyond the outermost ones their values are repeated, as a pixel is as wide as the row distance.
    """
    source = np.arange(size) - shift
    source = np.where(np.abs(source - np.rint(source)) < 1e-6, np.rint(source), source)
    inside = (source >= -0.5) & (source <= len(rows) - 0.5)
    clipped = np.clip(source, 0, len(rows) - 1)
    lower = np.floor(clipped).astype(np.int64)
    upper = np.minimum(lower + 1, len(rows) - 1)
    share = (clipped - lower)[:, None]
    moved = rows[lower] * (1 - share) + rows[upper] * share
    moved[~inside] = outside
    return moved
