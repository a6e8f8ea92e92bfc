"""The doubt of one scan: collected box by box while it is predicted, brought to the scan's voxels when asked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import SimpleITK as sitk

from TransferSegLib.doubt.calibration import LARGEST_MARGIN, DoubtCalibration, DoubtCounts, uncalibrated
from TransferSegLib.images.grid_to_scan import values_on_scan
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Voxels of a grid whose doubt is computed in a second, and of a scan to which it is brought, roughly.
_ON_GRID_PER_SECOND, _ON_SCAN_PER_SECOND = 3e7, 4e7


class BoxOfClasses(Protocol):
    """The prediction of a box of a grid's voxels, of which it owns some."""

    @property
    def window(self) -> tuple[slice, slice, slice]:
        """The voxels of the grid that the box owns."""

    @property
    def own(self) -> tuple[slice, slice, slice]:
        """The voxels of the box that it owns."""

    def two_best(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the margin between the two best classes (float16), and the channels of both (all zyx)."""


class DoubtCollector:
    """Takes the boxes of a prediction and keeps the margin between the two best classes of every voxel of the grid."""

    def __init__(self, size_zyx: tuple[int, int, int], classes: int, elsewhere: int = 0) -> None:
        """Begin without a doubt: the channel ``elsewhere`` everywhere; ``classes`` count the background."""
        channels = np.min_scalar_type(classes - 1)
        self.margins_zyx = np.full(size_zyx, LARGEST_MARGIN, np.float16)
        self.best_zyx = np.full(size_zyx, elsewhere, channels)
        self.second_zyx = np.full(size_zyx, elsewhere, channels)

    def add(self, box: BoxOfClasses) -> None:
        """Take a box; a box that comes again overwrites what it was."""
        margins, best, second = box.two_best()
        window, own = box.window, box.own
        self.margins_zyx[window] = np.minimum(margins[own], LARGEST_MARGIN)
        self.best_zyx[window], self.second_zyx[window] = best[own], second[own]

    def doubt(self, grid: ModelGrid, label_set: LabelSet, calibration: DoubtCalibration | None) -> ScanDoubt:
        """Return what was collected."""
        return ScanDoubt(self.margins_zyx, self.best_zyx, self.second_zyx, grid, label_set, calibration)


@dataclass(frozen=True, eq=False)
class ScanDoubt:
    """How doubtful each voxel of a model's grid around one scan is.

    ``margins_zyx`` (float16) is the difference of the two largest logits, ``best_zyx`` and ``second_zyx`` are the
    channels of these classes, 0 the background. ``calibration`` None: the model's errors were not counted.
    """

    margins_zyx: np.ndarray
    best_zyx: np.ndarray
    second_zyx: np.ndarray
    grid: ModelGrid
    label_set: LabelSet
    calibration: DoubtCalibration | None = None

    def margins_of(self, names: Collection[str]) -> np.ndarray:
        """Return the margins (float16, zyx) where one of the two best classes is one of these structures, else 16."""
        if set(self.label_set.names) <= set(names):
            return self.margins_zyx
        chosen = np.zeros(len(self.label_set) + 1, bool)
        chosen[[self.label_set.channel(name) for name in names if self.label_set.find(name) is not None]] = True
        involved = chosen[self.best_zyx] | chosen[self.second_zyx]
        return np.where(involved, self.margins_zyx, np.float16(LARGEST_MARGIN))

    def of_margins(self, margins: np.ndarray) -> np.ndarray:
        """Return the doubt (float32, 0 to 1) of margins: the share of wrong voxels if that is known."""
        return uncalibrated(margins) if self.calibration is None else self.calibration.share_wrong(margins)

    def on_grid(self, names: Collection[str], task: Task | None = None) -> np.ndarray:
        """Return the doubt about these structures (float32, 0 to 1) of every voxel of the grid; raises Cancelled."""
        work = task or Task()
        found: np.ndarray = work.wait(
            lambda: self.of_margins(self.margins_of(names)), self.margins_zyx.size / _ON_GRID_PER_SECOND
        )
        return found

    def on_scan(self, names: Collection[str], task: Task | None = None) -> np.ndarray:
        """Return the doubt about these structures (float32, 0 to 1; zyx of the scan's own array).

        Margins are interpolated, not doubts: that points at errors better. Raises Cancelled.
        """
        restricting, resampling, converting = (task or Task()).split(1, 4, 4)
        expected_s = self.margins_zyx.size / _ON_GRID_PER_SECOND
        margins = restricting.wait(lambda: self.margins_of(names), expected_s)
        on_scan = values_on_scan(margins, self.grid, LARGEST_MARGIN, resampling)
        for number in converting.over(range(len(on_scan))):
            on_scan[number] = self.of_margins(on_scan[number])
        return on_scan

    def counts(self, channels_zyx: np.ndarray, annotated: Collection[str], region: np.ndarray | None) -> DoubtCounts:
        """Return how often the model is wrong by its margin, against the true channels of the grid's voxels.

        Only ``annotated`` structures are known, and only within the ``region`` (booleans; None: everywhere): a voxel
        counts where both of its best classes are known, or its true one is.
        """
        known = np.zeros(len(self.label_set) + 1, bool)
        known[[0, *(self.label_set.channel(name) for name in annotated)]] = True
        true = np.where(known[channels_zyx], channels_zyx, 0)
        judged = (known[self.best_zyx] & known[self.second_zyx]) | (true > 0)
        if region is not None:
            judged &= region
        return DoubtCounts.of(self.margins_zyx[judged], (self.best_zyx != true)[judged])


def doubt_volume(
    doubts: Iterable[ScanDoubt], like: sitk.Image, names: Collection[str], task: Task | None = None
) -> sitk.Image:
    """Return the doubt as an image (float32, 0 to 1) on the grid of a scan; of several models' the largest counts.

    Values are rounded to 1/1000, so that the file is small. Raises Cancelled from the task.
    """
    found = np.zeros(like.GetSize()[::-1], np.float32)
    for doubt, part in (task or Task()).each(list(doubts)):
        np.maximum(found, doubt.on_scan(names, part), out=found)
    for plane in found:
        np.round(plane, 3, out=plane)
    image = sitk.GetImageFromArray(found)
    image.CopyInformation(like)
    return image
