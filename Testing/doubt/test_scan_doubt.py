"""The doubt of a scan: restricted to structures, on the scan's own voxels, counted against the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.doubt.scenes import CURVE, LABELS, ball, doubt_of, turned_scan
from Testing.impatient import Impatient
from TransferSegLib.doubt.calibration import LARGEST_MARGIN
from TransferSegLib.doubt.scan_doubt import DoubtCollector, doubt_volume
from TransferSegLib.errors import Cancelled
from TransferSegLib.progress import Task


@dataclass
class Box:
    """A box of a grid whose margins are all the same."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]
    margin: float

    @property
    def window(self):
        return tuple(slice(low, high) for low, high in zip(self.start, self.stop, strict=True))

    @property
    def own(self):
        return tuple(slice(0, high - low) for low, high in zip(self.start, self.stop, strict=True))

    def two_best(self):
        shape = tuple(high - low + 1 for low, high in zip(self.start, self.stop, strict=True))  # one voxel more
        margins = np.full(shape, self.margin, np.float16)
        return margins, np.full(shape, 2, np.uint8), np.full(shape, 1, np.uint8)


def test_boxes_are_put_together_and_what_no_box_owns_is_certain() -> None:
    collector = DoubtCollector((6, 4, 4), 3)
    collector.add(Box((0, 0, 0), (3, 4, 4), 1.0))
    collector.add(Box((3, 0, 0), (5, 4, 4), 40.0))
    margins = collector.margins_zyx
    assert (margins[:3] == 1.0).all() and (margins[3:] == LARGEST_MARGIN).all()
    assert (collector.best_zyx[:5] == 2).all() and (collector.second_zyx[:5] == 1).all()
    assert not collector.best_zyx[5].any()


def test_only_structures_asked_for_count() -> None:
    doubt = doubt_of(turned_scan())
    doubt.margins_zyx[2, 2, 2], doubt.margins_zyx[2, 2, 4] = 1.0, 2.0
    doubt.best_zyx[2, 2, 4] = 2  # structure two against one
    doubt.second_zyx[2, 2, 2] = 2  # background against two
    assert doubt.margins_of(["two"])[2, 2, [2, 4]].tolist() == [1.0, 2.0]
    assert doubt.margins_of(["one"])[2, 2, [2, 4]].tolist() == [LARGEST_MARGIN, 2.0]
    assert doubt.margins_of(["one", "two"]) is doubt.margins_zyx
    assert doubt.on_grid(["one"])[2, 2, 4] == np.float32(0.25)  # half way down the curve


def test_the_volume_has_the_geometry_of_the_scan_and_its_doubt_lies_where_it_is() -> None:
    image = turned_scan()
    doubt = doubt_of(image)
    away_zyx = np.indices(doubt.margins_zyx.shape) - np.array((14, 12, 15))[:, None, None, None]
    doubt.margins_zyx[:] = np.minimum(2.0 * np.sqrt((away_zyx**2).sum(axis=0)) / 3, 16.0)  # 2, so 0.25, 6 mm away
    volume = doubt_volume([doubt], image, LABELS.names)
    assert volume.GetSize() == image.GetSize() and volume.GetDirection() == image.GetDirection()
    assert volume.GetOrigin() == image.GetOrigin() and volume.GetSpacing() == image.GetSpacing()
    values = sitk.GetArrayFromImage(volume)
    assert values.dtype == np.float32 and 0.45 < values.max() <= 0.5 and values.min() == 0.0
    centre = np.array(doubt.grid.origin_mm) + 2.0 * np.array([15, 12, 14])  # x, y, z of the grid, which is LPS
    z, y, x = np.nonzero(values > 0.25)
    points = [volume.TransformIndexToPhysicalPoint((int(a), int(b), int(c))) for a, b, c in zip(x, y, z, strict=True)]
    away = np.linalg.norm(np.array(points) - centre, axis=1)
    assert away.max() < 6.5 and np.linalg.norm(np.mean(points, axis=0) - centre) < 0.5
    assert values[z, y, x].size * 1.0 * 1.2 * 2.0 == pytest.approx(4 / 3 * np.pi * 6.0**3, rel=0.1)


def test_of_several_models_the_largest_doubt_counts() -> None:
    image = turned_scan()
    first, second = doubt_of(image), doubt_of(image, None)
    first.margins_zyx[ball(first, (10, 12, 9), 5.0)] = 0.0
    second.margins_zyx[ball(second, (20, 12, 20), 5.0)] = 0.0
    both = sitk.GetArrayFromImage(doubt_volume([first, second], image, LABELS.names))
    each = [sitk.GetArrayFromImage(doubt_volume([one], image, LABELS.names)) for one in (first, second)]
    assert np.array_equal(both, np.maximum(*each)) and each[0].any() and each[1].any()


def test_errors_are_counted_where_the_truth_is_known() -> None:
    doubt = doubt_of(turned_scan(), CURVE)
    truth = np.zeros(doubt.margins_zyx.shape, np.uint8)
    doubt.second_zyx[:] = 2
    doubt.second_zyx[0] = 1
    truth[0, 0, :4] = 1  # missed
    truth[1, 0, :6] = 2  # not annotated
    doubt.best_zyx[0, 1, :3] = 1  # found where there is none
    doubt.margins_zyx[0, 1, :3] = 0.1
    found = doubt.counts(truth, ["one"], None)
    assert found.cases == 1 and sum(found.voxels) == truth[0].size, "only where both of the best classes are known"
    assert found.wrong[0] == 3 and found.wrong[-1] == 4 and sum(found.wrong) == 7
    region = np.zeros(truth.shape, bool)
    region[0, 1] = True
    assert sum(doubt.counts(truth, ["one"], region).wrong) == 3
    assert sum(doubt.counts(truth, ["one", "two"], None).wrong) == 4 + 3 + 6


def test_making_the_volume_stops_when_asked_to() -> None:
    image = turned_scan()
    for at in (1, 4, 20):
        with pytest.raises(Cancelled):
            doubt_volume([doubt_of(image)], image, LABELS.names, Task("", None, Impatient(at)))
