"""Numbers on a model's grid at the scan's voxels: linear functions stay themselves, positions are the world's."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from TransferSegLib.images.grid_to_scan import scan_index, values_on_scan
from TransferSegLib.images.intensity import IntensityRule
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.images.preprocess import preprocess

TURNED = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.4).GetMatrix()
FLIPPED = (-1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0)
STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def scan(direction: tuple[float, ...], size_xyz: tuple[int, int, int] = (14, 17, 11)) -> sitk.Image:
    image = sitk.Image(size_xyz, sitk.sitkFloat32)
    image.SetSpacing((1.1, 0.9, 2.3))
    image.SetOrigin((-20.0, 33.0, 7.0))
    image.SetDirection(direction)
    return image


def world_points(image: sitk.Image) -> np.ndarray:
    """Return the world position (LPS) of every voxel (z, y, x, 3)."""
    z, y, x = np.indices(image.GetSize()[::-1])
    matrix = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    return np.stack([x, y, z], axis=-1) @ matrix.T + np.array(image.GetOrigin())


@pytest.mark.parametrize("direction", [STRAIGHT, FLIPPED, TURNED])
def test_a_linear_function_of_the_world_stays_itself(direction: tuple[float, ...]) -> None:
    image = scan(direction)
    grid = ModelGrid.around(image, (1.7, 1.3, 1.5))
    z, y, x = np.indices(grid.size_zyx)
    world = np.array(grid.origin_mm) + np.stack([1.5 * x, 1.3 * y, 1.7 * z], axis=-1)  # the grid's axes are LPS
    slope = np.array([0.3, -0.7, 0.2])
    found = values_on_scan((world @ slope).astype(np.float32), grid)
    expected = world_points(image) @ slope
    assert found.shape == expected.shape
    indices = np.array([scan_index(at, grid) for at in [(0, 0, 0), tuple(n - 1 for n in grid.size_zyx)]])
    inside = np.ones(found.shape, bool)  # at the edge the grid's outermost values are repeated
    if direction != TURNED:
        low, high = np.ceil(indices.min(axis=0) - 1e-6), np.floor(indices.max(axis=0) + 1e-6)
        axes = np.indices(found.shape)[::-1]
        inside = np.all([(at >= lo) & (at <= hi) for at, lo, hi in zip(axes, low, high, strict=True)], axis=0)
    assert inside.any() and np.allclose(found[inside], expected[inside], atol=1e-3)


@pytest.mark.parametrize("direction", [STRAIGHT, FLIPPED, TURNED])
def test_a_position_of_the_grid_is_where_the_world_has_it(direction: tuple[float, ...]) -> None:
    image = scan(direction)
    grid = ModelGrid.around(image, (1.7, 1.3, 1.5))
    point = image.TransformContinuousIndexToPhysicalPoint(scan_index((2.0, 4.0, 3.0), grid))
    assert np.allclose(point, np.array(grid.origin_mm) + np.array([3 * 1.5, 4 * 1.3, 2 * 1.7]), atol=1e-6)


def test_a_random_volume_is_interpolated_as_scipy_does() -> None:
    image = scan(STRAIGHT)
    grid = ModelGrid.around(image, (2.9, 1.6, 1.6))
    values = np.random.default_rng(0).normal(size=grid.size_zyx).astype(np.float32)
    index = np.stack(np.indices(grid.scan_size_zyx)[::-1])
    position = np.tensordot(grid.matrix, index, axes=1) + grid.offset_xyz[:, None, None, None]
    expected = ndimage.map_coordinates(values, position[::-1], order=1, mode="nearest")
    assert np.allclose(values_on_scan(values, grid), expected, atol=1e-5)


@pytest.mark.parametrize("resampling", ["nnunet", "totalsegmentator"])
def test_what_the_grid_leaves_out_is_elsewhere(resampling: str) -> None:
    voxels = np.zeros((12, 14, 16), np.int16)
    voxels[3:9, 4:12, 5:15] = 100 + np.arange(10)
    image = sitk.GetImageFromArray(voxels)
    preparation = Preparation((2.0, 2.0, 2.0), (IntensityRule("none", output=None),), "RAS", resampling)
    grid = preprocess(image, preparation).grid
    found = values_on_scan(np.full(grid.size_zyx, 3.0, np.float16), grid, elsewhere=16.0)
    assert set(np.unique(found)) == {3.0, 16.0} and found[6, 8, 10] == 3.0 and found[0, 0, 0] == 16.0
