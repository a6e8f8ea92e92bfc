from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from TransferSegLib.errors import ScanError
from TransferSegLib.images.intensity import CT_WINDOW, IntensityRule
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.images.preprocess import (
    averaging_weights,
    coverage,
    labels_on_grid,
    preprocess,
    resample_to_grid,
)


def smooth_image(size_xyz, spacing_xyz, direction=None, seed=0) -> sitk.Image:
    noise = np.random.default_rng(seed).normal(size=size_xyz[::-1])
    image = sitk.GetImageFromArray((ndimage.gaussian_filter(noise, 1.0) * 500).astype(np.float32))
    image.SetSpacing(spacing_xyz)
    image.SetOrigin((11.5, -20.25, 4.0))
    if direction is not None:
        image.SetDirection(np.asarray(direction, float).ravel().tolist())
    return image


def turned(degrees_xyz) -> np.ndarray:
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*np.radians(degrees_xyz))
    return np.array(transform.GetMatrix()).reshape(3, 3)


def by_simpleitk(image: sitk.Image, grid: ModelGrid) -> np.ndarray:
    """Linear interpolation by SimpleITK on the canonical grid, edges repeated outwards."""
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(grid.size_zyx[::-1])
    resampler.SetOutputSpacing(grid.spacing_zyx_mm[::-1])
    resampler.SetOutputOrigin(grid.origin_mm)
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetUseNearestNeighborExtrapolator(True)
    return sitk.GetArrayFromImage(resampler.Execute(image))


def oriented_copy(image: sitk.Image, axes, reversed_axes) -> sitk.Image:
    """Return the same image in the world with its axes in another order and direction."""
    permuted = sitk.PermuteAxes(image, list(axes))
    return sitk.Flip(permuted, list(reversed_axes))


ORIENTATIONS = list(product(permutations(range(3)), product((False, True), repeat=3)))


@pytest.mark.parametrize("spacing_xyz", [(1.5, 1.5, 1.5), (1.5, 2.0, 6.0)])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_finer_grid_is_linear_interpolation(spacing_xyz, axes):
    image = oriented_copy(smooth_image((14, 12, 7), spacing_xyz), axes, (True, False, True))
    grid = ModelGrid.around(image, (1.5,) * 3)
    assert grid.aligned
    got = resample_to_grid(grid.order.apply(sitk.GetArrayViewFromImage(image)), grid)
    np.testing.assert_allclose(got, by_simpleitk(image, grid), atol=1e-3)


def test_finer_oblique_grid_is_linear_interpolation_inside_of_the_scan():
    image = smooth_image((16, 14, 9), (2.0, 1.5, 4.0), turned((8, -15, 20)))
    grid = ModelGrid.around(image, (1.5,) * 3)
    assert not grid.aligned
    got = resample_to_grid(grid.order.apply(sitk.GetArrayViewFromImage(image)), grid)
    # Beyond the outermost centres the two repeat edges in different ways.
    inner = ndimage.binary_erosion(coverage(grid), iterations=3)
    assert inner.sum() > 500
    np.testing.assert_allclose(got[inner], by_simpleitk(image, grid)[inner], atol=1e-2)


def test_weights_by_hand():
    # Four voxels to two: centres at 0.5 and 2.5, a triangle of half width 2: 0.75, 0.75, 0.25, 0 of a sum of 1.75.
    expected = np.array([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7
    np.testing.assert_allclose(averaging_weights(4, 2, 0.5, -0.25), expected, atol=1e-6)
    # Two voxels to four: linear interpolation, the ends repeated.
    expected = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    np.testing.assert_allclose(averaging_weights(2, 4, 2.0, 0.5), expected, atol=1e-6)
    np.testing.assert_allclose(averaging_weights(3, 3, 1.0, 0.0), np.eye(3), atol=1e-6)


def test_a_ramp_stays_a_ramp_when_averaged():
    image = sitk.GetImageFromArray(np.arange(40, dtype=np.float32)[None, None].repeat(6, 0).repeat(6, 1))
    grid = ModelGrid.around(image, (4.0,) * 3)
    row = resample_to_grid(sitk.GetArrayViewFromImage(image), grid)[1, 1]
    # New centres lie at 1.5, 5.5, 9.5 ...; the first and last triangle are cut at the edge.
    np.testing.assert_allclose(row[1:-1], np.arange(5.5, 36, 4), atol=1e-4)


def test_averaging_removes_noise_that_picking_would_keep():
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(32, 32, 32)).astype(np.float32))
    for direction in (np.eye(3), turned((20, 10, 5))):
        image.SetDirection(direction.ravel().tolist())
        grid = ModelGrid.around(image, (4.0,) * 3)
        coarse = resample_to_grid(sitk.GetArrayViewFromImage(image), grid)
        inside = np.ones(coarse.shape, bool) if grid.aligned else coverage(grid)
        assert coarse[inside].std() < 0.15


@pytest.mark.parametrize(("axes", "reversed_axes"), ORIENTATIONS)
def test_the_48_orientations_are_one_scan(axes, reversed_axes):
    image = smooth_image((9, 8, 6), (1.0, 1.5, 2.5))
    labels = sitk.Cast(image > 30, sitk.sitkUInt8) + 2 * sitk.Cast(image < -60, sitk.sitkUInt8)
    expected = preprocess(image, Preparation.isotropic(1.5, CT_WINDOW))
    turned_image, turned_labels = (oriented_copy(one, axes, reversed_axes) for one in (image, labels))
    got = preprocess(turned_image, Preparation.isotropic(1.5, CT_WINDOW))
    np.testing.assert_allclose(got.intensities_czyx, expected.intensities_czyx, atol=1e-5)
    np.testing.assert_allclose(got.grid.origin_mm, expected.grid.origin_mm, atol=1e-5)
    np.testing.assert_array_equal(
        labels_on_grid(turned_labels, (1, 2), got.grid), labels_on_grid(labels, (1, 2), expected.grid)
    )


def test_stored_orientations_are_one_scan(shared_data):
    files = sorted((shared_data / "odd_volumes" / "orientations").glob("*.nii*"))
    assert len(files) == 48
    rule = IntensityRule("percentiles", 1, 99)
    scans = [preprocess(sitk.ReadImage(str(file)), Preparation.isotropic(4.0, rule)) for file in files]
    first = scans[0].intensities_czyx[0]
    assert first.std() > 0.1
    for scan in scans:
        assert scan.intensities_czyx[0].shape == first.shape
        np.testing.assert_allclose(scan.intensities_czyx[0], first, atol=1e-4)


def test_beyond_an_oblique_scan_there_is_the_intensity_of_outside():
    image = smooth_image((20, 20, 10), (1.0, 1.0, 2.0), turned((0, 0, 30)))
    scan = preprocess(image, Preparation.isotropic(1.0, CT_WINDOW))
    inside = coverage(scan.grid)
    assert scan.padding_values[0] == -1.0
    assert (scan.intensities_czyx[0][~inside] == -1.0).all()
    # As much is inside as the scan is large: 20 x 20 x 20 mm.
    assert inside.sum() == pytest.approx(8000, rel=0.03)


def test_outside_of_a_rule_without_output_range_is_the_minimum():
    image = smooth_image((20, 20, 10), (1.0, 1.0, 2.0), turned((0, 0, 30)))
    scan = preprocess(image, Preparation.isotropic(1.0, IntensityRule("percentiles", 0, 100, None)))
    assert scan.padding_values[0] == pytest.approx(scan.intensities_czyx[0][coverage(scan.grid)].min())
    assert scan.intensities_czyx[0].min() == scan.padding_values[0]


@pytest.mark.parametrize("slices", [1, 2, 5])
def test_thin_stacks(slices):
    image = smooth_image((10, 12, slices), (2.0, 2.0, 8.0))
    scan = preprocess(image, Preparation.isotropic(2.0, CT_WINDOW))
    assert scan.intensities_czyx[0].shape == (4 * slices, 12, 10)
    first = np.clip(sitk.GetArrayFromImage(image)[0], -500, 400) / 450 + 1 / 9
    # The lower half of the first slice is the slice itself.
    np.testing.assert_allclose(scan.intensities_czyx[0][0], first, atol=1e-5)
    np.testing.assert_allclose(scan.intensities_czyx[0][1], first, atol=1e-5)


def test_a_scan_without_contrast_is_refused():
    with pytest.raises(ScanError, match="same intensity everywhere"):
        preprocess(sitk.Image((8, 8, 8), sitk.sitkInt16), Preparation.isotropic(1.0, CT_WINDOW))


@pytest.mark.parametrize("resampling", ["average", "nnunet", "totalsegmentator"])
def test_a_scan_that_is_larger_than_the_memory_is_refused(resampling: str):
    """As one whose spacing has the wrong unit."""
    rule = CT_WINDOW if resampling == "average" else IntensityRule("zscore")
    preparation = Preparation((1.0, 1.0, 1.5), (rule,), "RAS", resampling)
    image = smooth_image((40, 47, 34), (1000.0, 500.0, 1000.0))
    with pytest.raises(
        ScanError, match=r"40000 x 23500 x 34000 mm.* 1.5 x 1 x 1 mm: check its spacing, 1000 x 500 x 1000"
    ):
        preprocess(image, preparation)


def test_labels_on_the_scans_own_grid_stay_as_they_are():
    voxels = np.random.default_rng(1).integers(0, 4, (6, 7, 8)).astype(np.uint8)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((2.0, 2.0, 2.0))
    grid = ModelGrid.around(image, (2.0,) * 3)
    np.testing.assert_array_equal(labels_on_grid(image, (1, 2, 3), grid), voxels)
    # Another order of channels, and a value that is none of them.
    expected = np.array([0, 0, 2, 1])[voxels]
    np.testing.assert_array_equal(labels_on_grid(image, (3, 2), grid), expected)


def test_labels_of_another_size_are_refused():
    grid = ModelGrid.around(sitk.Image((8, 8, 8), sitk.sitkUInt8), (2.0,) * 3)
    with pytest.raises(ScanError, match="label map has size"):
        labels_on_grid(sitk.Image((8, 8, 9), sitk.sitkUInt8), (1,), grid)


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SLA", "PIR"])
def test_any_axes_and_spacings_go_there_and_back(axes: str):
    """On a grid with other axes and spacings a label map keeps its voxels, and the scan its values."""
    voxels = np.random.default_rng(3).integers(0, 3, (5, 6, 7)).astype(np.uint8)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.0, 1.5, 2.0))
    image.SetOrigin((10.0, -20.0, 5.0))
    world = {"L": 0, "R": 0, "P": 1, "A": 1, "S": 2, "I": 2}
    spacing_zyx_mm = tuple(image.GetSpacing()[world[letter]] for letter in reversed(axes))
    grid = ModelGrid.around(image, spacing_zyx_mm, axes)
    reoriented = sitk.DICOMOrient(image, axes)
    expected = sitk.GetArrayFromImage(reoriented)
    assert grid.aligned and grid.size_zyx == expected.shape
    np.testing.assert_allclose(grid.origin_mm, reoriented.GetOrigin(), atol=1e-9)
    np.testing.assert_array_equal(labels_on_grid(image, (1, 2), grid), expected)
    np.testing.assert_array_equal(resample_to_grid(grid.order.apply(sitk.GetArrayViewFromImage(image)), grid), expected)


def test_each_channel_has_its_own_intensities():
    image = sitk.GetImageFromArray(np.linspace(-1000, 1000, 60, dtype=np.float32).reshape(3, 4, 5))
    bone = IntensityRule("window", 0.0, 1000.0, (0.0, 1.0))
    scan = preprocess(image, Preparation((1.0, 1.0, 1.0), (CT_WINDOW, bone)))
    one, other = (preprocess(image, Preparation.isotropic(1.0, rule)) for rule in (CT_WINDOW, bone))
    assert scan.padding_values == (-1.0, 0.0)
    np.testing.assert_array_equal(scan.intensities_czyx, np.concatenate([one.intensities_czyx, other.intensities_czyx]))
