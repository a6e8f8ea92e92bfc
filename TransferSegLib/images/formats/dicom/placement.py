"""Where the slices of a series lie, and the rectangular grid on which the scan is given.

The four corners that every slice states may differ from the grid by ``LARGEST_SHIFT_MM``, the rounding of vendors.
Slices at uneven distances, or shifted evenly by a tilted gantry, are known
exactly and are resampled; whatever else does not fit is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.dicom.frames import Slice
from TransferSegLib.images.geometry_checks import sheared_error

#: A corner of a slice may lie this far from its place on the grid, and never more than half a voxel side. Positions are
#: written with one decimal by some scanners: 0.05 mm along each axis, twice (the first slice is rounded as well).
LARGEST_SHIFT_MM = 0.2
#: A gap wider than this, as a multiple of the usual one, means that slices are missing.
_MISSING = 1.5
_STEEPEST_TILT_DEGREES = 45.0


@dataclass(frozen=True)
class Placement:
    """The grid of a scan, and where its slices (sorted along the normal) lie on it.

    ``heights_mm`` are above the first slice, ``shifts_xy`` the place of every slice's first pixel on the grid, in
    voxels; None for both when slice k simply is plane k. ``direction`` has the axes x, y, z as columns.
    """

    origin_mm: np.ndarray
    direction: np.ndarray
    spacing_mm: np.ndarray
    size_xyz: tuple[int, int, int]
    heights_mm: np.ndarray | None = None
    shifts_xy: np.ndarray | None = None
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Stack:
    """Positions of the slices along the axes of the first one, in mm from its first pixel."""

    name: str
    slices: Sequence[Slice]
    axes: np.ndarray
    heights_mm: np.ndarray
    sideways_mm: np.ndarray

    @property
    def origin_mm(self) -> np.ndarray:
        """The first pixel of the first slice."""
        return self.slices[0].position_mm

    @property
    def spacing_xy_mm(self) -> tuple[float, float]:
        """The pixel size of the first slice."""
        return self.slices[0].frame.spacing_xy_mm

    @property
    def size_xy(self) -> tuple[int, int]:
        """Columns and rows, the same for all slices."""
        return self.slices[0].storage.columns, self.slices[0].storage.rows

    @property
    def distance_mm(self) -> float:
        """The mean distance of the slices."""
        return float(self.heights_mm[-1] / (len(self.slices) - 1))

    @property
    def limit_mm(self) -> float:
        """How far a corner may lie from its place."""
        return min(LARGEST_SHIFT_MM, 0.5 * min(*self.spacing_xy_mm, self.distance_mm))

    def corner_shifts_mm(self, heights_mm: np.ndarray, sideways_mm: np.ndarray) -> np.ndarray:
        """Return for every slice how far its furthest corner lies from where it would be on the grid."""
        last = np.array(self.size_xy) - 1
        corners = np.array([[x, y] for x in (0, last[0]) for y in (0, last[1])], float)
        shifts = []
        for one, height, sideways in zip(self.slices, heights_mm, sideways_mm, strict=True):
            stated = one.position_mm + (corners * one.frame.spacing_xy_mm) @ one.directions
            flat = corners * self.spacing_xy_mm + sideways
            used = self.origin_mm + np.column_stack([flat, np.full(4, height)]) @ self.axes.T
            shifts.append(float(np.linalg.norm(stated - used, axis=1).max()))
        return np.array(shifts)


def sort_by_height(slices: Sequence[Slice]) -> list[Slice]:
    """Return slices sorted along the normal of the first one."""
    normal = slices[0].normal
    return sorted(slices, key=lambda one: float(one.position_mm @ normal))


def place(slices: Sequence[Slice], name: str) -> Placement:
    """Return the grid for slices of one size, sorted by height, all of which state where they lie.

    Raises ScanError for slices that are missing, turned against each other, shifted without a rule, or not at right
    angles.
    """
    stack = _stack(slices, name)
    still = np.zeros((len(slices), 2))
    for candidate in (stack, _along_positions(stack)):
        even = np.arange(len(slices)) * candidate.distance_mm
        if candidate.corner_shifts_mm(even, still).max() <= candidate.limit_mm:
            return Placement(
                candidate.origin_mm,
                candidate.axes,
                np.array([*candidate.spacing_xy_mm, candidate.distance_mm]),
                (*candidate.size_xy, len(slices)),
            )
    even = np.arange(len(slices)) * stack.distance_mm
    half = 0.5 * stack.limit_mm
    is_uneven = bool(np.abs(stack.heights_mm - even).max() > half)
    is_tilted = bool(np.linalg.norm(stack.sideways_mm, axis=1).max() > half)
    if is_uneven:
        _check_nothing_is_missing(stack)
    if is_tilted:
        _check_tilt(stack)
    heights = stack.heights_mm if is_uneven else even
    sideways = stack.sideways_mm if is_tilted else still
    shifts = stack.corner_shifts_mm(heights, sideways)
    if shifts.max() > stack.limit_mm:
        worst = int(shifts.argmax())
        raise ScanError(
            f"{name}: its slices are turned against each other, or differ in voxel size: a corner of slice {worst + 1} "
            f"of {len(slices)} lies {shifts[worst]:.2g} mm from the grid of the first one. They make no volume."
        )
    return _resampled(stack, heights, sideways, is_uneven, is_tilted)


def _stack(slices: Sequence[Slice], name: str) -> _Stack:
    """Return the positions of slices along the axes of the first one; raises ScanError for axes that are skew."""
    row, column = slices[0].directions
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if abs(lengths[0] - 1) > 0.01 or abs(lengths[1] - 1) > 0.01 or abs(row @ column) > 1e-3:
        raise sheared_error(Path(name))
    row = row / lengths[0]
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    return _on_axes(slices, np.column_stack([row, column, np.cross(row, column)]), name)


def _on_axes(slices: Sequence[Slice], axes: np.ndarray, name: str) -> _Stack:
    """Return the positions of slices along three axes (columns)."""
    along = (np.array([one.position_mm for one in slices]) - slices[0].position_mm) @ axes
    return _Stack(name, slices, axes, heights_mm=along[:, 2], sideways_mm=along[:, :2])


def _along_positions(stack: _Stack) -> _Stack:
    """Return a stack whose z axis is the line from the first to the last position, the others turned as little.

    Directions that were written with few decimals point a millimetre beside the last slice of a long scan.
    """
    first, last = stack.slices[0].position_mm, stack.slices[-1].position_mm
    line = (last - first) / np.linalg.norm(last - first)
    row = stack.axes[:, 0] - (stack.axes[:, 0] @ line) * line
    row = row / np.linalg.norm(row)
    return _on_axes(stack.slices, np.column_stack([row, np.cross(line, row), line]), stack.name)


def _check_nothing_is_missing(stack: _Stack) -> None:
    """Raise ScanError when a gap is so wide that slices are missing.

    A gap that slices as thick as it fill is none: a head CT may have thin slices below and thick ones above.
    """
    gaps = np.diff(stack.heights_mm)
    usual = float(np.median(gaps))
    thickness = np.array([one.frame.thickness_mm for one in stack.slices])
    filled = np.zeros(len(gaps), bool)
    if thickness.min() > 0 and thickness.max() > 1.4 * thickness.min():
        filled = gaps <= 1.1 * np.maximum(thickness[1:], thickness[:-1])
    wide = np.flatnonzero((gaps > _MISSING * usual) & ~filled)
    if len(wide):
        worst = int(wide[np.argmax(gaps[wide])])
        count = int(np.sum(np.maximum(1, np.round(gaps[wide] / usual) - 1)))
        raise ScanError(
            f"{stack.name} misses {count} slice{'' if count == 1 else 's'}: they are {usual:.4g} mm apart as a rule, "
            f"{gaps[worst]:.4g} mm after slice {worst + 1} of {len(stack.slices)}. Export the whole series."
        )


def _check_tilt(stack: _Stack) -> None:
    """Raise ScanError unless slices are shifted sideways by the same amount per mm, as by a tilted gantry."""
    slope = np.linalg.lstsq(stack.heights_mm[:, None], stack.sideways_mm, rcond=None)[0]
    # The first slice's position is rounded like the others, so the line need not go through it.
    away = stack.sideways_mm - stack.heights_mm[:, None] * slope
    away = np.linalg.norm(away - away.mean(axis=0), axis=1)
    if away.max() > stack.limit_mm:
        furthest = float(np.linalg.norm(stack.sideways_mm, axis=1).max())
        raise ScanError(
            f"{stack.name}: its slices are shifted sideways against each other, by up to {furthest:.3g} mm and not "
            "evenly (the patient or the table moved, or two scans are mixed). They make no volume."
        )
    if _tilt_degrees(stack) > _STEEPEST_TILT_DEGREES:
        raise sheared_error(Path(stack.name))


def _tilt_degrees(stack: _Stack) -> float:
    """Return the angle between the slices' normal and the line through their first pixels."""
    return float(np.degrees(np.arctan2(np.linalg.norm(stack.sideways_mm[-1]), stack.heights_mm[-1])))


def _resampled(
    stack: _Stack, heights_mm: np.ndarray, sideways_mm: np.ndarray, is_uneven: bool, is_tilted: bool
) -> Placement:
    """Return a rectangular grid with the slices' own axes that covers all of them, and notices about it."""
    gaps = np.diff(heights_mm)
    planes, distance = len(stack.slices), stack.distance_mm
    notices = []
    if is_uneven:
        # As fine as the closest slices, so that nothing is lost, but not absurdly fine for one slice too many.
        wanted = max(float(gaps.min()), 0.5 * float(np.median(gaps)))
        planes = int(np.ceil(heights_mm[-1] / wanted - 0.01)) + 1
        distance = float(heights_mm[-1]) / (planes - 1)
        notices.append(
            f"{stack.name}: its slices are {gaps.min():.4g} to {gaps.max():.4g} mm apart. They were resampled to an "
            f"even distance of {distance:.4g} mm ({planes} slices), and results lie on that grid."
        )
    if is_tilted:
        notices.append(
            f"{stack.name}: the gantry was tilted by {_tilt_degrees(stack):.3g} degrees. The slices were shifted to a "
            "rectangular grid, and results lie on that grid."
        )
    shifts = sideways_mm / np.array(stack.spacing_xy_mm)
    first = np.floor(shifts.min(axis=0) + 1e-6)
    room = np.ceil(shifts.max(axis=0) - 1e-6) - first
    start = np.array([*(first * stack.spacing_xy_mm), 0.0])
    return Placement(
        origin_mm=stack.origin_mm + stack.axes @ start,
        direction=stack.axes,
        spacing_mm=np.array([*stack.spacing_xy_mm, distance]),
        size_xyz=(stack.size_xy[0] + int(room[0]), stack.size_xy[1] + int(room[1]), planes),
        heights_mm=heights_mm,
        shifts_xy=shifts - first,
        notices=tuple(notices),
    )
