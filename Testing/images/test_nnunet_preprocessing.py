"""Scans prepared for models of nnU-Net, against the arrays of the real package: identical to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.nnunet_fixtures import OLD, RESIDUAL, TRAINED, NnUNetFixture, every_second, imported
from TransferSegLib.errors import ScanError
from TransferSegLib.images.intensity import IntensityKind, IntensityRule
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.images.preprocess import labels_on_grid, preprocess
from TransferSegLib.images.read import read_scan


@pytest.mark.parametrize("name", [RESIDUAL, OLD, TRAINED])
def test_arrays_are_nnunets(name: str) -> None:
    fixture = NnUNetFixture(name)
    description, _ = imported(name)
    scan = preprocess(read_scan(fixture.images[0]), description.preparation)
    assert scan.intensities_czyx.shape == fixture.preprocessed_shape
    np.testing.assert_array_equal(every_second(scan.intensities_czyx), fixture.preprocessed)


def test_labels_follow_the_planes_of_a_coarse_axis() -> None:
    """Where nnU-Net repeats or leaves out whole planes of the scan, a label stays on the plane it was drawn on."""
    drawn = np.zeros((6, 8, 8), np.uint8)
    drawn[1:3, 2:6, 2:6], drawn[4, 2:6, 2:6] = 1, 2
    image = sitk.GetImageFromArray(np.where(drawn > 0, 100.0 * drawn, 7.0).astype(np.float32))
    labels = sitk.GetImageFromArray(drawn)
    for each in (image, labels):
        each.SetSpacing((1.0, 1.0, 7.0))
    rule = IntensityRule("none", 0.0, 1.0, output=None)
    for spacing_z in (4.0, 7.0, 9.0):
        scan = preprocess(image, Preparation((spacing_z, 1.0, 1.0), (rule,), "ijk", "nnunet"))
        assert scan.grid.nearest_axis == 0
        expected = np.rint(scan.intensities_czyx[0] / 100.0).astype(np.uint8)
        np.testing.assert_array_equal(labels_on_grid(labels, (1, 2), scan.grid), expected)


def test_labels_lie_where_their_scan_lies_after_the_crop() -> None:
    voxels = np.zeros((20, 24, 28), np.float32)
    voxels[5:17, 6:20, 9:25] = 50.0
    voxels[8:12, 10:16, 12:20] = 200.0
    image, labels = sitk.GetImageFromArray(voxels), sitk.GetImageFromArray((voxels == 200.0).astype(np.uint8))
    rule = IntensityRule("none", 0.0, 1.0, output=None)
    scan = preprocess(image, Preparation((1.0, 1.0, 1.0), (rule,), "kji", "nnunet"))
    found = labels_on_grid(labels, (1,), scan.grid)
    assert found.shape == (16, 14, 12)
    np.testing.assert_array_equal(found, scan.intensities_czyx[0] == 200.0)


@pytest.mark.parametrize("kind", ["zscore", "zscore-nonzero"])
def test_intensities_that_overflow_are_refused(kind: IntensityKind) -> None:
    values = np.full((2, 2, 2), 1e30, np.float32)
    values[0] = 0
    values[1, 1] = 2e30
    with pytest.raises(ScanError, match=r"up to 2e\+30, are too large"):
        IntensityRule(kind, output=None).normalised(values, values > 0)
