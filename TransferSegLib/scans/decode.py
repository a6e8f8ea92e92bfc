"""The way back: from class probabilities on a canonical grid to labels of the scan's own voxels.

Every voxel of the scan takes the class whose *linearly interpolated* probability at its centre is the largest. That
keeps a boundary where the network saw it, between two voxels of its grid; taking the label of the nearest voxel of the
grid makes steps of its spacing (on head and neck CT at 3 mm the best Dice a perfect network could reach is
0.98 to 0.99 one way, 0.97 the other).

Probabilities come tile by tile, so that those of a whole scan never exist. Where all eight voxels around a point agree
on their class, the interpolated probabilities do too (each difference of two classes is a weighted mean of differences
of one sign): only the rest, the neighbourhood of boundaries, is really interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.scans.grid import CanonicalGrid

#: So many interpolated probabilities are held at once (float32).
_AT_ONCE = 4_000_000

Triple = tuple[int, int, int]


class LabelDecoder:
    """Writes class probabilities of tiles of a canonical grid into a label map of the scan's own voxels.

    >>> decoder = LabelDecoder(grid, label_set.label_values)
    >>> for start_zyx, probabilities in tiles:
    ...     decoder.write(probabilities, start_zyx)
    >>> label_map = decoder.label_map(image)
    """

    def __init__(self, grid: CanonicalGrid, label_values: Sequence[int], elsewhere: int = 0) -> None:
        """Begin with the channel ``elsewhere`` everywhere; ``label_values`` holds the label of every channel."""
        self.grid = grid
        self._values = np.array(label_values, dtype=smallest_label_type(label_values))
        own_size = [0, 0, 0]
        for world, axis in enumerate(grid.order.axes):
            own_size[axis] = grid.scan_size_zyx[2 - world]
        #: Labels in the scan's own axis order (zyx of its array).
        self.labels_zyx = np.full(own_size[::-1], self._values[elsewhere], self._values.dtype)
        self._oriented = grid.order.apply(self.labels_zyx)

    def write(self, probabilities: np.ndarray, start_zyx: Triple) -> None:
        """Label the scan's voxels that lie among the voxels of one tile.

        ``probabilities`` (z, y, x, classes; float32) begin at voxel ``start_zyx`` of the grid. A voxel of the scan
        belongs to a tile when both voxels of the grid around it, along each axis, do: neighbouring tiles must share
        one voxel. Voxels beyond the outermost centres of the grid take the outermost values.
        """
        lengths = [
            _repeat_single(length, size)
            for length, size in zip(probabilities.shape[:3], self.grid.size_zyx, strict=True)
        ]
        for axis, length in enumerate(lengths):
            if length != probabilities.shape[axis]:
                probabilities = np.repeat(probabilities, 2, axis=axis)
        cells = agreeing_cells(probabilities)
        if self.grid.aligned:
            self._write_aligned(probabilities, cells, start_zyx)
        else:
            self._write_oblique(probabilities, cells, start_zyx)

    def label_map(self, scan: sitk.Image) -> sitk.Image:
        """Return the labels as an image with the size, spacing, origin and direction of the scan."""
        if tuple(scan.GetSize()) != self.labels_zyx.shape[::-1]:
            raise ScanError(f"The scan has size {scan.GetSize()}, its labels {self.labels_zyx.shape[::-1]} (xyz).")
        image = sitk.GetImageFromArray(self.labels_zyx)
        image.CopyInformation(scan)
        return image

    def _write_aligned(self, probabilities: np.ndarray, cells: np.ndarray, start_zyx: Triple) -> None:
        """Write a tile of a grid whose axes are the scan's: positions along the three axes are independent."""
        firsts, bases, fractions = [], [], []
        for axis in range(3):
            world = 2 - axis
            index = np.arange(self.grid.scan_size_zyx[axis])
            position = self.grid.matrix[world, world] * index + self.grid.offset_xyz[world]
            base, fraction = _base_and_fraction(position, self.grid.size_zyx[axis])
            base -= start_zyx[axis]
            mine = np.flatnonzero((base >= 0) & (base < cells.shape[axis]))
            if not mine.size:
                return
            firsts.append(int(mine[0]))
            bases.append(base[mine])
            fractions.append(fraction[mine])
        height, width = len(bases[1]), len(bases[2])
        window = self._oriented[:, firsts[1] : firsts[1] + height, firsts[2] : firsts[2] + width]
        for number, (base, fraction) in enumerate(zip(bases[0], fractions[0], strict=True)):
            channels = cells[base].take(bases[1], axis=0).take(bases[2], axis=1)
            unsure = np.flatnonzero(channels == probabilities.shape[3])
            if unsure.size:
                plane = probabilities[base] * (1 - fraction) + probabilities[base + 1] * fraction
                row, column = np.divmod(unsure, width)
                channels.reshape(-1)[unsure] = _most_probable(
                    plane[None],
                    (np.zeros_like(row), bases[1][row], bases[2][column]),
                    (None, fractions[1][row], fractions[2][column]),
                )
            window[firsts[0] + number] = self._values[channels]

    def _write_oblique(self, probabilities: np.ndarray, cells: np.ndarray, start_zyx: Triple) -> None:
        """Write a tile of a grid that is turned against the scan, slice by slice of the scan."""
        box = self._scan_box(cells.shape, start_zyx)
        z_range, y_range, x_range = (np.arange(first, last) for first, last in box)
        window = self._oriented[:, box[1][0] : box[1][1], box[2][0] : box[2][1]]
        for z in z_range:
            bases, fractions = [], []
            mine = np.ones((len(y_range), len(x_range)), bool)
            for axis in range(3):
                along_x, along_y, along_z = self.grid.matrix[2 - axis]
                rest = along_z * z + self.grid.offset_xyz[2 - axis]
                position = (along_y * y_range + rest)[:, None] + (along_x * x_range)[None, :]
                base, fraction = _base_and_fraction(position, self.grid.size_zyx[axis])
                base -= start_zyx[axis]
                mine &= (base >= 0) & (base < cells.shape[axis])
                bases.append(base)
                fractions.append(fraction)
            own = tuple(base[mine] for base in bases)
            channels = cells[own]
            unsure = np.flatnonzero(channels == probabilities.shape[3])
            if unsure.size:
                channels[unsure] = _most_probable(
                    probabilities,
                    (own[0][unsure], own[1][unsure], own[2][unsure]),
                    (fractions[0][mine][unsure], fractions[1][mine][unsure], fractions[2][mine][unsure]),
                )
            window[z][mine] = self._values[channels]

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


def agreeing_cells(probabilities: np.ndarray) -> np.ndarray:
    """Return, per cell of eight neighbouring voxels, the channel all of them hold most probable.

    ``probabilities`` is (z, y, x, classes), the result one shorter along each axis. Where the eight do not agree it
    holds the number of classes.
    """
    classes = probabilities.shape[3]
    lowest = highest = probabilities.argmax(axis=3).astype(np.min_scalar_type(classes))
    for axis in range(3):
        length = lowest.shape[axis]
        here, there = (np.arange(length - 1), np.arange(1, length))
        lowest = np.minimum(lowest.take(here, axis), lowest.take(there, axis))
        highest = np.maximum(highest.take(here, axis), highest.take(there, axis))
    lowest[lowest != highest] = classes
    return lowest


def smallest_label_type(label_values: Sequence[int]) -> np.dtype:
    """Return uint8 where every label value fits, else the next larger unsigned type."""
    return np.min_scalar_type(max(label_values))


def _base_and_fraction(position: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower of the two voxels around positions along one axis, and how far on they lie (0 to 1, float32)."""
    inside = np.clip(position, 0, size - 1)
    base = np.minimum(inside.astype(np.int64), max(0, size - 2))
    return base, (inside - base).astype(np.float32)


def _repeat_single(length: int, size: int) -> int:
    """Return how many voxels a tile needs along an axis: two even where the grid has only one."""
    return 2 if length == size == 1 else length


def _most_probable(
    probabilities: np.ndarray,
    bases: tuple[np.ndarray, np.ndarray, np.ndarray],
    fractions: tuple[np.ndarray | None, np.ndarray, np.ndarray],
) -> np.ndarray:
    """Return the channel with the largest interpolated probability at points given by base voxel and fraction (zyx).

    A fraction None means: exactly at the base voxel along that axis.
    """
    classes = probabilities.shape[3]
    rows = probabilities.reshape(-1, classes)
    strides = (probabilities.shape[1] * probabilities.shape[2], probabilities.shape[2], 1)
    found = np.empty(len(bases[0]), np.min_scalar_type(classes))
    chunk = max(1, _AT_ONCE // classes)
    for first in range(0, len(found), chunk):
        part = slice(first, first + chunk)
        lowest = sum(base[part] * stride for base, stride in zip(bases, strides, strict=True))
        corners: list[tuple[np.ndarray, np.ndarray]] = [(np.asarray(lowest), np.ones(len(found[part]), np.float32))]
        for fraction, stride in zip(fractions, strides, strict=True):
            if fraction is not None:
                share = fraction[part]
                corners = [(row, weight * (1 - share)) for row, weight in corners] + [
                    (row + stride, weight * share) for row, weight in corners
                ]
        interpolated = np.zeros((len(found[part]), classes), np.float32)
        for row, weight in corners:
            interpolated += rows.take(row, axis=0) * weight[:, None]
        found[part] = interpolated.argmax(axis=1)
    return found
