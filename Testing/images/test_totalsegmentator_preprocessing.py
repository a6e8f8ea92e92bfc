"""Scans prepared as TotalSegmentator does, and labels copied back: known geometry, and what ``ndimage.zoom`` does."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from TransferSegLib.errors import ModelError, ScanError
from TransferSegLib.images.copied_labels import CopiedLabels, copied_voxels, label_writer
from TransferSegLib.images.intensity import CT_WINDOW, IntensityRule
from TransferSegLib.images.label_resampling import LabelResampler, Probabilities
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.images.preprocess import labels_on_grid, preprocess

RULE = IntensityRule("none", output=None)
COARSE = Preparation((3.0, 3.0, 3.0), (RULE,), "RAS", "totalsegmentator")


def ramp(size_xyz: tuple[int, int, int] = (9, 13, 17), spacing_mm: float = 1.5) -> sitk.Image:
    """Return a scan whose intensities grow by 2 a voxel along x, 20 along y and 200 along z, from 1 on."""
    z, y, x = np.indices(size_xyz[::-1])
    image = sitk.GetImageFromArray((1 + 2 * x + 20 * y + 200 * z).astype(np.int16))
    image.SetSpacing((spacing_mm,) * 3)
    image.SetOrigin((10.0, -20.0, 30.0))
    return image


@pytest.mark.parametrize(("scan_size", "grid_size"), [(7, 7), (40, 23), (23, 40), (10, 4), (4, 10), (5, 1), (1, 1)])
def test_labels_are_copied_as_zoom_of_order_0_copies_them(scan_size: int, grid_size: int) -> None:
    expected = ndimage.zoom(np.arange(grid_size), scan_size / grid_size, order=0, mode="nearest")
    assert expected.shape == (scan_size,)
    assert np.array_equal(copied_voxels(scan_size, grid_size), expected)


def test_first_and_last_voxels_keep_their_places_and_values_between_are_linear() -> None:
    scan = preprocess(ramp(), COARSE)
    # 9, 13 and 17 voxels at twice the spacing: 4.5, 6.5 and 8.5, rounded to even.
    assert scan.intensities_czyx.shape == (1, 8, 6, 4)
    values = scan.intensities_czyx[0]
    # RAS: x and y run against the scan's, so that the first voxel is the scan's last.
    assert values[0, 0, 0] == 1 + 2 * 8 + 20 * 12 and values[-1, -1, -1] == 1 + 200 * 16
    step_z, step_y, step_x = 200 * 16 / 7, -20 * 12 / 5, -2 * 8 / 3
    z, y, x = np.indices(values.shape)
    exact = values[0, 0, 0] + step_z * z + step_y * y + step_x * x
    assert np.array_equal(values, np.floor(exact + 1e-9)), "rounded towards 0"
    assert scan.grid.origin_mm == (10.0 + 8 * 1.5, -20.0 + 12 * 1.5, 30.0)


def test_scan_of_the_models_spacing_is_not_touched() -> None:
    image = sitk.Cast(ramp(spacing_mm=3.0), sitk.sitkFloat32) + 0.25
    scan = preprocess(image, COARSE)
    expected = sitk.GetArrayFromImage(image)[:, ::-1, ::-1]
    assert np.array_equal(scan.intensities_czyx[0], expected), "neither resampled nor rounded"


def test_spacing_of_a_nifti_file_counts_as_float32() -> None:
    third = float(np.float32(0.6))
    preparation = Preparation((third,) * 3, (RULE,), "RAS", "totalsegmentator")
    image = sitk.Cast(ramp(spacing_mm=0.6), sitk.sitkFloat32) + 0.25
    assert (preprocess(image, preparation).intensities_czyx % 1 == 0.25).all()


def test_border_of_zeros_is_left_out_and_stays_background() -> None:
    array = sitk.GetArrayFromImage(ramp((20, 24, 28)))
    array[:7] = array[:, :, 15:] = 0
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.5, 1.5, 1.5))
    scan = preprocess(image, COARSE)
    grid = scan.grid
    assert grid.copied_from_zyx == (14, 12, 10) and grid.size_zyx < grid.copied_from_zyx
    writer = label_writer(grid, (0, 5))
    writer.write(Probabilities(np.tile(np.float32([0, 1]), (*grid.size_zyx, 1))), (0, 0, 0))
    labels = writer.labels_zyx
    whole = np.zeros(grid.copied_from_zyx, np.uint8)
    start, size = grid.copied_start_zyx, grid.size_zyx
    whole[start[0] : start[0] + size[0], start[1] : start[1] + size[1], start[2] : start[2] + size[2]] = 5
    zoom = [after / before for after, before in zip(labels.shape, whole.shape, strict=True)]
    expected = ndimage.zoom(whole, zoom, order=0, mode="nearest")[:, ::-1, ::-1]
    assert np.array_equal(labels, expected) and (labels == 5).any()
    assert not labels[:5].any() and not labels[:, :, 17:].any()


def test_tiles_are_joined() -> None:
    scan = preprocess(ramp(), COARSE)
    size, rng = scan.grid.size_zyx, np.random.default_rng(1)
    values = rng.random((*size, 3), np.float32)
    whole, tiles = CopiedLabels(scan.grid, (0, 1, 2)), CopiedLabels(scan.grid, (0, 1, 2))
    whole.write(Probabilities(values), (0, 0, 0))
    for z, x in product((0, 3), (0, 1)):
        tiles.write(Probabilities(values[z : z + 5, :, x : x + 3]), (z, 0, x))
    assert np.array_equal(whole.labels_zyx, tiles.labels_zyx) and len(np.unique(whole.labels_zyx)) == 3
    image = whole.label_map(ramp())
    assert image.GetOrigin() == (10.0, -20.0, 30.0) and image.GetSize() == (9, 13, 17)
    with pytest.raises(ScanError, match="has size"):
        whole.label_map(ramp((3, 3, 3)))


def test_labels_for_training_lie_where_their_voxels_do() -> None:
    """What is brought to the grid and copied back again is the same but for the surface."""
    image = ramp((40, 40, 40), 1.3)
    z, y, x = np.indices((40, 40, 40))
    truth = ((z - 25) ** 2 + (y - 14) ** 2 + (x - 22) ** 2 < 10**2).astype(np.uint8)
    label_map = sitk.GetImageFromArray(truth)
    label_map.CopyInformation(image)
    grid = preprocess(image, COARSE).grid
    on_grid = labels_on_grid(label_map, (1,), grid)
    writer = CopiedLabels(grid, (0, 1))
    writer.write(Probabilities(np.stack([on_grid == 0, on_grid == 1], axis=-1).astype(np.float32)), (0, 0, 0))
    both = 2 * (writer.labels_zyx & truth).sum() / (writer.labels_zyx.sum() + truth.sum())
    assert both > 0.9


def test_other_models_still_interpolate() -> None:
    grid = preprocess(ramp(), Preparation.isotropic(3.0, CT_WINDOW)).grid
    assert isinstance(label_writer(grid, (0, 1)), LabelResampler)


def test_preparation_is_written_and_read() -> None:
    assert Preparation.from_json(COARSE.to_json()) == COARSE and COARSE.is_of_nnunet
    with pytest.raises(ModelError, match="do not belong to its way of resampling"):
        Preparation((3.0, 3.0, 3.0), (CT_WINDOW,), "RAS", "totalsegmentator")
    with pytest.raises(ModelError, match="'totalseg', which this version does not know"):
        Preparation((3.0, 3.0, 3.0), (RULE,), "RAS", "totalseg")  # type: ignore[arg-type]


def test_scan_without_contrast_is_refused() -> None:
    image = sitk.Image(8, 8, 8, sitk.sitkInt16)
    with pytest.raises(ScanError, match="same intensity everywhere"):
        preprocess(image, COARSE)
