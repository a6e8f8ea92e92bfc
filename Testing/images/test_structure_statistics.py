"""Statistics of structures against geometry and values that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.images.structure_statistics import structure_statistics
from TransferSegLib.structures import LabelSet, Structure

BALL, CUBE, NOTHING = (Structure(name, label, (255, 0, 0)) for label, name in ((1, "ball"), (2, "cube"), (5, "none")))


def test_a_ball_a_cuboid_and_nothing() -> None:
    spacing_mm, origin_mm = (1.0, 1.0, 2.0), (-10.0, 5.0, 100.0)
    z, y, x = np.mgrid[:40, :70, :60]
    labels = np.zeros(z.shape, np.uint8)
    labels[((x - 30) ** 2 + (y - 30) ** 2 + ((z - 20) * 2) ** 2) <= 20**2] = 1
    labels[2:4, 60:65, 2:6] = 2
    scan = np.zeros(z.shape, np.int16)
    scan[labels == 1] = 50
    scan[2, 60:65, 2:6], scan[3, 60:65, 2:6] = 100, 200
    images = []
    for array in (scan, labels):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing_mm)
        image.SetOrigin(origin_mm)
        images.append(image)
    ball, cube, nothing = structure_statistics(*images, LabelSet((BALL, CUBE, NOTHING)))
    assert ball.volume_ml == pytest.approx((labels == 1).sum() * 2 / 1000)
    assert ball.volume_ml == pytest.approx(4 / 3 * math.pi * 20**3 / 1000, rel=0.02)
    assert ball.surface_mm2 == pytest.approx(4 * math.pi * 20**2, rel=0.03)
    assert ball.centroid_lps_mm == pytest.approx((30 - 10, 30 + 5, 20 * 2 + 100))
    assert (ball.mean_intensity, ball.sd_intensity) == (50, 0)
    # 20 voxels of 100 and 20 of 200: the mean is 150, the sample's deviation 50 * sqrt(40 / 39).
    assert cube.mean_intensity == pytest.approx(150)
    assert cube.sd_intensity == pytest.approx(50 * math.sqrt(40 / 39))
    assert cube.volume_ml == pytest.approx(40 * 2 / 1000)
    assert cube.centroid_lps_mm == pytest.approx((3.5 - 10, 62 + 5, 2.5 * 2 + 100))
    assert nothing.volume_ml == 0 and nothing.cells() == ["0.0000", *[""] * 6]


def test_one_voxel_has_no_deviation() -> None:
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[2, 2, 2] = 1
    scan = sitk.GetImageFromArray(np.full((5, 5, 5), 7, np.float32))
    (one,) = structure_statistics(scan, sitk.GetImageFromArray(labels), LabelSet((BALL,)))
    assert one.mean_intensity == 7 and one.sd_intensity is None and one.volume_ml == pytest.approx(0.001)
