"""From class probabilities on the model's grid back to labels of the scan's own voxels.

Every voxel of the scan takes the class whose *linearly interpolated* probability at its centre is the largest. That
keeps a boundary where the network predicts it, between two voxels of its grid; the label of the nearest voxel would
make steps as large as the grid's spacing (on head and neck CT at 3 mm a perfect network could reach a Dice of 0.98 to
0.99 one way, 0.97 the other).

Predictions arrive tile by tile, so that those of a whole scan are never in memory. Where all eight voxels around a
point agree on their class, the interpolated probabilities do too (each difference of two classes is a weighted mean of
differences of one sign): probabilities are needed only near boundaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np
import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.progress import Task

#: So many interpolated probabilities are held at once (float32).
_AT_ONCE = 4_000_000
#: Positions closer than this, in voxels, are the same.
_ROUNDING = 1e-9

Triple = tuple[int, int, int]
Positions = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class LabelRule:
    """How the interpolated outputs of a network become a channel number.

    That is the number of the largest one; with ``regions``, which overlap, that of the last one above 0, from 1 on, or
    0 for the background, which has no output. ``as_nnunet`` interpolates at every voxel and rounds to float16, as
    nnU-Net does.
    """

    regions: bool = False
    as_nnunet: bool = False

    @property
    def dtype(self) -> np.dtype:
        """The precision of interpolating."""
        return np.dtype(np.float64 if self.as_nnunet else np.float32)

    def channels(self, outputs: np.ndarray) -> np.ndarray:
        """Return the channel of n points with interpolated outputs (n, outputs)."""
        rounded = outputs.astype(np.float16) if self.as_nnunet else outputs
        if not self.regions:
            return rounded.argmax(axis=1)
        # The last region is the first one from behind.
        above = rounded[:, ::-1] > 0
        return np.where(above.any(axis=1), above.shape[1] - above.argmax(axis=1), 0)


#: The rule of classes that exclude each other.
MOST_PROBABLE = LabelRule()


class TilePrediction(Protocol):
    """A network's prediction for a box of voxels, in any kind of memory."""

    @property
    def classes(self) -> int:
        """How many classes there are, the background included."""

    @property
    def outputs(self) -> int:
        """How many probabilities, or what is interpolated instead, a voxel has."""

    @property
    def rule(self) -> LabelRule:
        """How they become a channel."""

    def most_probable(self) -> np.ndarray:
        """Return the channel of every voxel by the rule (zyx; an unsigned type that also holds ``classes``)."""

    def probabilities_at(self, positions_zyx: Positions) -> np.ndarray:
        """Return what is interpolated (n, outputs; float32) at n voxels given by their positions in the box."""


@dataclass(frozen=True)
class Probabilities:
    """A prediction as an array of probabilities (z, y, x, classes; float32)."""

    values: np.ndarray
    rule: LabelRule = MOST_PROBABLE

    @property
    def classes(self) -> int:
        """How many classes there are, the background included."""
        return self.outputs + self.rule.regions

    @property
    def outputs(self) -> int:
        """How many probabilities a voxel has."""
        return self.values.shape[3]

    def most_probable(self) -> np.ndarray:
        """Return the most probable channel of every voxel (zyx)."""
        channels = self.rule.channels(self.values.reshape(-1, self.outputs))
        return channels.reshape(self.values.shape[:3]).astype(np.min_scalar_type(self.classes))

    def probabilities_at(self, positions_zyx: Positions) -> np.ndarray:
        """Return the probabilities (n, classes) at n voxels."""
        return self.values[positions_zyx]


class LabelResampler:
    """Writes a network's predictions for tiles of the model's grid into a label map of the scan's own voxels.

    >>> decoder = LabelResampler(grid, label_set.label_values)
    >>> for start_zyx, answers in tiles:
    ...     decoder.write(answers, start_zyx)
    >>> label_map = decoder.label_map(image)
    """

    def __init__(self, grid: ModelGrid, label_values: Sequence[int], elsewhere: int = 0) -> None:
        """Begin with the channel ``elsewhere`` everywhere; ``label_values`` holds the label of every channel."""
        self.grid = grid
        self._values = np.array(label_values, dtype=smallest_label_type(label_values))
        own_size = [0, 0, 0]
        for world, axis in enumerate(grid.order.axes):
            own_size[axis] = grid.whole_zyx[2 - world]
        #: Labels in the scan's own axis order (zyx of its array).
        self.labels_zyx = np.full(own_size[::-1], self._values[elsewhere], self._values.dtype)
        self._oriented = grid.oriented(self.labels_zyx)

    def write(self, answers: TilePrediction, start_zyx: Triple, task: Task | None = None) -> None:
        """Label the scan's voxels that lie among the voxels of one tile, which begins at ``start_zyx`` of the grid.

        A voxel of the scan belongs to a tile when both voxels of the grid around it, along each axis, do: neighbouring
        tiles must share one voxel. Voxels beyond the outermost centres of the grid take the outermost values.
        Raises Cancelled from the task, between two slices.
        """
        task = task or Task()
        channels = answers.most_probable()
        for axis, (length, size) in enumerate(zip(channels.shape, self.grid.size_zyx, strict=True)):
            if length == size == 1:
                channels = np.repeat(channels, 2, axis=axis)  # so that there is a cell between two voxels
        if self.grid.aligned:
            self._write_aligned(answers, channels, start_zyx, task)
        else:
            self._write_oblique(answers, self._cells(answers, channels), start_zyx, task)

    def label_map(self, scan: sitk.Image) -> sitk.Image:
        """Return the labels as an image with the size, spacing, origin and direction of the scan."""
        if tuple(scan.GetSize()) != self.labels_zyx.shape[::-1]:
            raise ScanError(f"The scan has size {scan.GetSize()}, its labels {self.labels_zyx.shape[::-1]} (xyz).")
        image = sitk.GetImageFromArray(self.labels_zyx)
        image.CopyInformation(scan)
        return image

    @staticmethod
    def _cells(answers: TilePrediction, channels: np.ndarray, axes: Sequence[int] = (0, 1, 2)) -> np.ndarray:
        """Return ``agreeing_cells``, or that none agrees where the rule asks for interpolation everywhere."""
        cells = agreeing_cells(channels, answers.classes, axes)
        if answers.rule.as_nnunet:
            # Rounded after interpolation, two classes may be equal even where the voxels around agree.
            cells[:] = answers.classes
        return cells

    def _write_aligned(self, answers: TilePrediction, channels: np.ndarray, start_zyx: Triple, task: Task) -> None:
        """Write a tile of a grid whose axes are the scan's: positions along the three axes are independent."""
        firsts, bases, fractions = [], [], []
        for axis in range(3):
            world = 2 - axis
            index = np.arange(self.grid.scan_size_zyx[axis])
            position = positions_along(index, float(self.grid.matrix[world, world]), float(self.grid.offset_xyz[world]))
            base, fraction = base_and_fraction(position, self.grid.size_zyx[axis], answers.rule.dtype)
            if axis == self.grid.nearest_axis:
                fraction = (fraction >= 0.5).astype(answers.rule.dtype)
            base -= start_zyx[axis]
            mine = np.flatnonzero((base >= 0) & (base < channels.shape[axis] - 1))
            if not mine.size:
                return
            firsts.append(int(mine[0]))
            bases.append(base[mine])
            fractions.append(fraction[mine])
        # Along an axis whose positions are voxels of the grid nothing is interpolated, and one voxel decides.
        between = [axis for axis, along in enumerate(fractions) if not np.isin(along, (0, 1)).all()]
        cells = self._cells(answers, channels, between)
        z_place, y_place, x_place = (
            base if axis in between else base + (fraction == 1)
            for axis, (base, fraction) in enumerate(zip(bases, fractions, strict=True))
        )
        height, width = len(bases[1]), len(bases[2])
        window = self._oriented[:, firsts[1] : firsts[1] + height, firsts[2] : firsts[2] + width]
        for number in task.over(range(len(bases[0]))):
            base, fraction = bases[0][number], fractions[0][number]
            found = cells[z_place[number]].take(y_place, axis=0).take(x_place, axis=1)
            unsure = np.flatnonzero(found == answers.classes)
            if unsure.size:
                row, column = np.divmod(unsure, width)
                found.reshape(-1)[unsure] = self._most_probable(
                    answers,
                    (np.full_like(row, base), bases[1][row], bases[2][column]),
                    (np.full(len(row), fraction), fractions[1][row], fractions[2][column]),
                    task,
                )
            window[firsts[0] + number] = self._values[found]

    def _write_oblique(self, answers: TilePrediction, cells: np.ndarray, start_zyx: Triple, task: Task) -> None:
        """Write a tile of a grid that is turned against the scan, slice by slice of the scan."""
        box = self._scan_box(cells.shape, start_zyx)
        y_range, x_range = (np.arange(first, last) for first, last in box[1:])
        window = self._oriented[:, box[1][0] : box[1][1], box[2][0] : box[2][1]]
        for z in task.over(range(*box[0])):
            bases, fractions = [], []
            mine = np.ones((len(y_range), len(x_range)), bool)
            for axis in range(3):
                along_x, along_y, along_z = self.grid.matrix[2 - axis]
                rest = along_z * z + self.grid.offset_xyz[2 - axis]
                position = (along_y * y_range + rest)[:, None] + (along_x * x_range)[None, :]
                base, fraction = base_and_fraction(position, self.grid.size_zyx[axis], answers.rule.dtype)
                base -= start_zyx[axis]
                mine &= (base >= 0) & (base < cells.shape[axis])
                bases.append(base)
                fractions.append(fraction)
            own = tuple(base[mine] for base in bases)
            channels = cells[own]
            unsure = np.flatnonzero(channels == answers.classes)
            if unsure.size:
                channels[unsure] = self._most_probable(
                    answers,
                    (own[0][unsure], own[1][unsure], own[2][unsure]),
                    (fractions[0][mine][unsure], fractions[1][mine][unsure], fractions[2][mine][unsure]),
                    task,
                )
            window[z][mine] = self._values[channels]

    def _most_probable(self, answers: TilePrediction, bases: Positions, fractions: Positions, task: Task) -> np.ndarray:
        """Return the channel by the interpolated probabilities at points given by base voxel and fraction."""
        found = np.empty(len(bases[0]), np.min_scalar_type(answers.classes))
        chunk = max(1, _AT_ONCE // answers.outputs)
        for first in range(0, len(found), chunk):
            task.check()
            part = slice(first, first + chunk)
            interpolated = np.zeros((len(found[part]), answers.outputs), answers.rule.dtype)
            for corner in product((0, 1), repeat=3):
                weight = np.ones(len(interpolated), answers.rule.dtype)
                voxel = []
                for base, fraction, step, size in zip(bases, fractions, corner, self.grid.size_zyx, strict=True):
                    weight *= fraction[part] if step else 1 - fraction[part]
                    voxel.append(base[part] + step if size > 1 else base[part])
                reached = np.flatnonzero(weight)
                values = answers.probabilities_at((voxel[0][reached], voxel[1][reached], voxel[2][reached]))
                interpolated[reached] += values * weight[reached, None]
            found[part] = answers.rule.channels(interpolated)
        return found

    def _scan_box(self, cells_zyx: tuple[int, ...], start_zyx: Triple) -> list[tuple[int, int]]:
        """Return, per axis zyx, the range of the scan's voxels that may lie among a tile's voxels."""
        ends = []
        for start, count, size in zip(start_zyx, cells_zyx, self.grid.size_zyx, strict=True):
            # Beyond the outermost centres the grid's outermost values count, up to the edge of the scan.
            ends.append((start if start > 0 else -1, start + count if start + count < size - 1 else size))
        corners_xyz = np.array([[x, y, z] for z in ends[0] for y in ends[1] for x in ends[2]], float)
        scan_xyz = np.linalg.solve(self.grid.matrix, (corners_xyz - self.grid.offset_xyz).T)
        lowest, highest = np.floor(scan_xyz.min(axis=1))[::-1], np.ceil(scan_xyz.max(axis=1))[::-1]
        return [
            (int(np.clip(low, 0, size)), int(np.clip(high + 1, 0, size)))
            for low, high, size in zip(lowest, highest, self.grid.scan_size_zyx, strict=True)
        ]


def agreeing_cells(channels_zyx: np.ndarray, classes: int, axes: Sequence[int] = (0, 1, 2)) -> np.ndarray:
    """Return, per cell of eight neighbouring voxels, the channel that all of them have.

    Cells reach from voxel to voxel along the axes given; the result is one shorter along each of them. Where a cell's
    voxels do not agree it holds the number of classes.
    """
    lowest = highest = channels_zyx
    for axis in axes:
        length = lowest.shape[axis]
        here, there = (np.arange(length - 1), np.arange(1, length))
        lowest = np.minimum(lowest.take(here, axis), lowest.take(there, axis))
        highest = np.maximum(highest.take(here, axis), highest.take(there, axis))
    return np.where(lowest == highest, lowest, np.array(classes, channels_zyx.dtype))


def smallest_label_type(label_values: Sequence[int]) -> np.dtype:
    """Return uint8 where every label value fits, else the next larger unsigned type."""
    return np.min_scalar_type(max(label_values))


def positions_along(index: np.ndarray, step: float, offset: float) -> np.ndarray:
    """Return where voxels of the scan lie along an axis of the grid.

    Grids that begin at the scan's edge are computed as scipy's zoom does, because rounding decides at half a voxel.
    """
    at_edge = offset - 0.5 * step
    return step * (index + 0.5) + (-0.5 if abs(at_edge + 0.5) < _ROUNDING else at_edge)


def base_and_fraction(position: np.ndarray, size: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower of the two voxels around positions along one axis, and how far on they lie (0 to 1)."""
    inside = np.clip(position, 0, size - 1)
    base = np.minimum(inside.astype(np.int64), max(0, size - 2))
    return base, (inside - base).astype(dtype)
