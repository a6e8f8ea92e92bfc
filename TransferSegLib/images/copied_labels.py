"""Labels that go back to a scan by copying the nearest voxel of the model's grid, as TotalSegmentator does.

Its labels are coarser than those of ``LabelResampler``, which interpolates probabilities, but equal to the original's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.images.label_resampling import LabelResampler, TilePrediction, smallest_label_type
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.progress import Task

Triple = tuple[int, int, int]


class LabelWriter(Protocol):
    """Takes a network's predictions tile by tile and makes a label map of the scan's own voxels."""

    @property
    def labels_zyx(self) -> np.ndarray:
        """The labels in the scan's own axis order; changes to it are seen by ``label_map``."""

    def write(self, answers: TilePrediction, start_zyx: Triple, task: Task | None = None) -> None:
        """Take one tile, which begins at ``start_zyx`` of the grid; raises Cancelled."""

    def label_map(self, scan: sitk.Image) -> sitk.Image:
        """Return the labels as an image on the grid of the scan."""


def label_writer(grid: ModelGrid, label_values: Sequence[int], elsewhere: int = 0) -> LabelWriter:
    """Return what writes labels from a grid to its scan; the arguments are those of ``LabelResampler``."""
    kind = LabelResampler if grid.copied_from_zyx is None else CopiedLabels
    return kind(grid, label_values, elsewhere)


def copied_voxels(scan_size: int, grid_size: int) -> np.ndarray:
    """Return for each voxel of a scan along an axis the voxel of the grid that it copies.

    The first and last voxels coincide; ties go to the later voxel. It is what ``ndimage.zoom`` does with order 0.
    """
    step = (grid_size - 1) / (scan_size - 1) if scan_size > 1 else 1.0
    copied: np.ndarray = np.floor(np.clip(np.arange(scan_size) * step, 0, grid_size - 1) + 0.5).astype(np.int64)
    return copied


class CopiedLabels:
    """Collects the labels of the model's grid and copies them to the scan's voxels at the end."""

    def __init__(self, grid: ModelGrid, label_values: Sequence[int], elsewhere: int = 0) -> None:
        """Begin with the channel ``elsewhere`` everywhere; ``label_values`` holds the label of every channel."""
        self.grid = grid
        self._values = np.array(label_values, dtype=smallest_label_type(label_values))
        self._on_grid = np.full(grid.size_zyx, self._values[elsewhere], self._values.dtype)
        self._elsewhere = elsewhere
        self._on_scan: np.ndarray | None = None

    def write(self, answers: TilePrediction, start_zyx: Triple, task: Task | None = None) -> None:
        """Label the grid's voxels of one tile, which begins at ``start_zyx`` of the grid."""
        channels = answers.most_probable()
        z, y, x = (slice(start, start + length) for start, length in zip(start_zyx, channels.shape, strict=True))
        self._on_grid[z, y, x] = self._values[channels]
        if task is not None:
            task.check()

    @property
    def labels_zyx(self) -> np.ndarray:
        """The labels in the scan's own axis order (zyx of its array), computed when first asked for."""
        if self._on_scan is None:
            own_size = [0, 0, 0]
            for world, axis in enumerate(self.grid.order.axes):
                own_size[axis] = self.grid.whole_zyx[2 - world]
            self._on_scan = np.full(own_size[::-1], self._values[self._elsewhere], self._values.dtype)
            self._copy_to(self.grid.order.apply(self._on_scan))
        return self._on_scan

    def label_map(self, scan: sitk.Image) -> sitk.Image:
        """Return the labels as an image with the size, spacing, origin and direction of the scan."""
        if tuple(scan.GetSize()) != self.labels_zyx.shape[::-1]:
            raise ScanError(f"The scan has size {scan.GetSize()}, its labels {self.labels_zyx.shape[::-1]} (xyz).")
        image = sitk.GetImageFromArray(self.labels_zyx)
        image.CopyInformation(scan)
        return image

    def _copy_to(self, oriented: np.ndarray) -> None:
        """Copy the labels to a view of the scan's array whose axes are the grid's."""
        assert self.grid.copied_from_zyx is not None
        places, sources = [], []
        for axis, whole in enumerate(self.grid.copied_from_zyx):
            copies = copied_voxels(oriented.shape[axis], whole) - self.grid.copied_start_zyx[axis]
            inside = np.flatnonzero((copies >= 0) & (copies < self.grid.size_zyx[axis]))
            places.append(slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 0))
            sources.append(copies[inside])
        oriented[places[0], places[1], places[2]] = self._on_grid[np.ix_(*sources)]
