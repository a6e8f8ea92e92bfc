from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from TransferSegLib.errors import ScanError
from TransferSegLib.images.intensity import IntensityRule
from TransferSegLib.images.label_resampling import (
    LabelResampler,
    LabelRule,
    Probabilities,
    agreeing_cells,
    smallest_label_type,
)
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.images.preprocess import labels_on_grid, preprocess

LABELS = (0, 7, 3, 200, 9)


def blank_scan(size_xyz, spacing_xyz, direction=None) -> sitk.Image:
    image = sitk.Image(size_xyz, sitk.sitkInt16)
    image.SetSpacing(spacing_xyz)
    image.SetOrigin((-12.5, 31.0, 7.25))
    if direction is not None:
        image.SetDirection(np.asarray(direction, float).ravel().tolist())
    return image


def turned(degrees_xyz) -> np.ndarray:
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*np.radians(degrees_xyz))
    return np.array(transform.GetMatrix()).reshape(3, 3)


def random_probabilities(size_zyx, classes=5, seed=0, smooth=1.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(*size_zyx, classes))
    logits = ndimage.gaussian_filter(noise, (smooth, smooth, smooth, 0)) * 12 * smooth
    odds = np.exp(logits - logits.max(axis=3, keepdims=True))
    return (odds / odds.sum(axis=3, keepdims=True)).astype(np.float32)


def reference_labels(probabilities, grid: ModelGrid, labels=LABELS) -> np.ndarray:
    """Every voxel and every class by scipy, in the oriented scan's axis order."""
    z, y, x = np.indices(grid.scan_size_zyx, dtype=float)
    position_xyz = np.tensordot(grid.matrix, np.stack([x, y, z]), axes=1) + grid.offset_xyz[:, None, None, None]
    classes = [
        ndimage.map_coordinates(probabilities[..., c].astype(float), position_xyz[::-1], order=1, mode="nearest")
        for c in range(probabilities.shape[3])
    ]
    return np.array(labels)[np.argmax(classes, axis=0)]


def decoded(probabilities, grid, tile=None, labels=LABELS) -> np.ndarray:
    """Decode all at once, or in tiles of so many voxels that share one with the next."""
    decoder = LabelResampler(grid, labels)
    size = grid.size_zyx
    steps = size if tile is None else (tile, tile, tile)
    starts = [range(0, max(1, n - 1), step) for n, step in zip(size, steps, strict=True)]
    for z in starts[0]:
        for y in starts[1]:
            for x in starts[2]:
                part = probabilities[z : z + steps[0] + 1, y : y + steps[1] + 1, x : x + steps[2] + 1]
                decoder.write(Probabilities(np.ascontiguousarray(part)), (z, y, x))
    return grid.order.apply(decoder.labels_zyx)


SCANS = {
    "finer": blank_scan((31, 26, 22), (1.1, 0.9, 1.3)),
    "coarser": blank_scan((6, 7, 5), (7.0, 8.0, 9.0)),
    "anisotropic": blank_scan((40, 40, 4), (0.8, 0.8, 10.0)),
    "the grid's planes": blank_scan((20, 22, 9), (1.2, 2.0, 3.0)),
    "one slice": blank_scan((30, 30, 1), (1.0, 1.0, 2.0)),
    "one column": blank_scan((1, 1, 40), (2.0, 1.0, 1.0)),
    "reordered": blank_scan((20, 31, 24), (1.2, 1.0, 1.5), np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]])),
    "oblique": blank_scan((22, 26, 15), (1.3, 1.1, 2.2), turned((10, -20, 15))),
    "oblique and reordered": blank_scan(
        (22, 26, 15), (1.3, 1.1, 2.2), turned((30, 5, -12)) @ np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0]])
    ),
    "oblique slice": blank_scan((30, 30, 1), (1.0, 1.0, 4.0), turned((20, 10, 0))),
}


@pytest.mark.parametrize("name", SCANS)
def test_same_as_interpolating_every_class_everywhere(name):
    grid = ModelGrid.around(SCANS[name], (3.0,) * 3)
    probabilities = random_probabilities(grid.size_zyx)
    expected = reference_labels(probabilities, grid)
    labels = decoded(probabilities, grid)
    assert labels.shape == expected.shape
    # float32 weights may decide a tie the other way.
    assert np.mean(labels != expected) < 2e-4
    assert len(np.unique(expected)) > 1


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("tile", [1, 4])
def test_tiles_leave_no_seam(name, tile):
    grid = ModelGrid.around(SCANS[name], (3.0,) * 3)
    probabilities = random_probabilities(grid.size_zyx, seed=1)
    np.testing.assert_array_equal(decoded(probabilities, grid, tile), decoded(probabilities, grid))


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(*(st.integers(1, 12) for _ in range(3))),
    spacing=st.tuples(*(st.floats(0.5, 7) for _ in range(3))),
    angles=st.tuples(*(st.floats(-44, 44) for _ in range(3))),
    seed=st.integers(0, 100),
)
def test_any_geometry(size, spacing, angles, seed):
    grid = ModelGrid.around(blank_scan(size, spacing, turned(angles)), (2.0,) * 3)
    probabilities = random_probabilities(grid.size_zyx, classes=3, seed=seed, smooth=0.5)
    expected = reference_labels(probabilities, grid, (0, 1, 2))
    assert np.sum(decoded(probabilities, grid, 3, (0, 1, 2)) != expected) <= 1


def test_a_boundary_lies_where_the_probabilities_cross():
    # Two voxels 3 mm apart, their centres at scan positions 1 and 4: P(1) rises from 0.1 to 0.8, half at 4 / 7.
    image = blank_scan((6, 1, 1), (1.0, 3.0, 3.0))
    grid = ModelGrid.around(image, (3.0,) * 3)
    assert grid.size_zyx == (1, 1, 2)
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32).reshape(1, 1, 2, 2)
    # Positions -1/3, 0, 1/3, 2/3, 1, 4/3: from 2/3 on it is the structure.
    assert decoded(probabilities, grid, labels=(0, 5)).ravel().tolist() == [0, 0, 0, 5, 5, 5]


def test_a_third_class_wins_between_two_others():
    image = blank_scan((3, 1, 1), (1.0, 2.0, 2.0))
    grid = ModelGrid.around(image, (2.0,) * 3)
    # Centres at scan positions 0 and 2: in the middle the first two have 0.3, the third 0.4.
    probabilities = np.array([[0.6, 0.0, 0.4], [0.0, 0.6, 0.4]], np.float32).reshape(1, 1, 2, 3)
    grid = ModelGrid(
        grid.size_zyx,
        2.0,
        grid.order,
        grid.scan_size_zyx,
        grid.matrix,
        np.array([0.0, 0.0, 0.0]),
        grid.origin_mm,
        True,
    )
    assert decoded(probabilities, grid, labels=(0, 1, 2)).ravel().tolist() == [0, 2, 1]


def test_on_the_scans_own_grid_it_is_the_argmax():
    grid = ModelGrid.around(blank_scan((9, 8, 7), (2.0, 2.0, 2.0)), (2.0,) * 3)
    probabilities = random_probabilities((7, 8, 9))
    np.testing.assert_array_equal(decoded(probabilities, grid), np.array(LABELS)[probabilities.argmax(axis=3)])


def test_labels_survive_the_way_there_and_back():
    scan = blank_scan((60, 50, 30), (1.0, 1.2, 2.0), turned((4, -7, 12)))
    z, y, x = np.indices((30, 50, 60))
    voxels = np.zeros((30, 50, 60), np.uint8)
    voxels[((x - 20) / 14) ** 2 + ((y - 24) / 12) ** 2 + ((z - 14) / 7) ** 2 < 1] = 7
    voxels[((x - 42) / 11) ** 2 + ((y - 24) / 12) ** 2 + ((z - 14) / 7) ** 2 < 1] = 3
    labels = sitk.GetImageFromArray(voxels)
    labels.CopyInformation(scan)
    grid = ModelGrid.around(scan, (2.0,) * 3)
    channels = labels_on_grid(labels, (7, 3), grid)
    back = LabelResampler(grid, (0, 7, 3))
    back.write(Probabilities(np.eye(3, dtype=np.float32)[channels]), (0, 0, 0))
    for value in (7, 3):
        here, there = voxels == value, back.labels_zyx == value
        assert 2 * np.sum(here & there) / (here.sum() + there.sum()) > 0.96


def test_label_map_lies_exactly_on_its_scan():
    scan = SCANS["oblique and reordered"]
    decoder = LabelResampler(ModelGrid.around(scan, (3.0,) * 3), (0, 1), elsewhere=1)
    label_map = decoder.label_map(scan)
    for part in ("Size", "Spacing", "Origin", "Direction"):
        assert getattr(label_map, f"Get{part}")() == getattr(scan, f"Get{part}")()
    assert label_map.GetPixelID() == sitk.sitkUInt8
    assert (sitk.GetArrayViewFromImage(label_map) == 1).all()


def test_another_scan_is_refused():
    decoder = LabelResampler(ModelGrid.around(SCANS["finer"], (3.0,) * 3), (0, 1))
    with pytest.raises(ScanError, match="has size"):
        decoder.label_map(SCANS["coarser"])


def test_voxels_of_no_tile_keep_their_channel():
    grid = ModelGrid.around(blank_scan((20, 20, 20), (1.0, 1.0, 1.0)), (1.0,) * 3)
    decoder = LabelResampler(grid, (0, 7, 3), elsewhere=2)
    probabilities = np.zeros((6, 6, 6, 3), np.float32)
    probabilities[..., 1] = 1
    decoder.write(Probabilities(probabilities), (5, 0, 14))
    expected = np.full((20, 20, 20), 3)
    expected[5:10, 0:5, 14:20] = 7
    np.testing.assert_array_equal(decoder.labels_zyx, expected)


def test_agreeing_cells_by_hand():
    channels = np.array([[[0, 0, 1], [0, 0, 1]], [[0, 0, 1], [0, 0, 1]]])
    assert agreeing_cells(np.array(channels), 2).tolist() == [[[0, 2]]]


@pytest.mark.parametrize(("values", "dtype"), [((0, 1, 255), np.uint8), ((0, 256), np.uint16), ((0, 70000), np.uint32)])
def test_smallest_label_type(values, dtype):
    assert smallest_label_type(values) == dtype


def test_more_classes_than_a_byte_holds():
    grid = ModelGrid.around(blank_scan((3, 2, 2), (1.0, 1.0, 1.0)), (1.0,) * 3)
    channels = np.array([0, 255, 299] * 4).reshape(2, 2, 3)
    labels = decoded(np.eye(300, dtype=np.float32)[channels], grid, labels=tuple(range(0, 600, 2)))
    np.testing.assert_array_equal(labels, 2 * channels)


class Unasked(Probabilities):
    """Fails when something is to be interpolated."""

    def probabilities_at(self, positions_zyx):
        raise AssertionError("nothing lies between voxels of the grid")


def test_nothing_is_interpolated_on_the_scans_own_grid():
    grid = ModelGrid.around(blank_scan((9, 8, 7), (1.0, 1.0, 1.0)), (1.0,) * 3)
    probabilities = random_probabilities(grid.size_zyx, smooth=0.1)
    decoder = LabelResampler(grid, LABELS)
    decoder.write(Unasked(probabilities), (0, 0, 0))
    expected = np.array(LABELS)[probabilities.argmax(axis=3)]
    np.testing.assert_array_equal(grid.order.apply(decoder.labels_zyx), expected)


@pytest.mark.parametrize("name", ["finer", "coarser", "the grid's planes", "reordered"])
def test_the_last_region_above_0_wins(name):
    grid = ModelGrid.around(SCANS[name], (3.0,) * 3)
    noise = np.random.default_rng(1).normal(size=(*grid.size_zyx, 3)) - 0.3
    logits = ndimage.gaussian_filter(noise, (0.7, 0.7, 0.7, 0)).astype(np.float32)
    decoder = LabelResampler(grid, (0, 7, 3, 200))
    for z in range(0, max(1, grid.size_zyx[0] - 1), 4):
        decoder.write(Probabilities(logits[z : z + 5], LabelRule(regions=True)), (z, 0, 0))
    z, y, x = np.indices(grid.scan_size_zyx, dtype=float)
    position = np.tensordot(grid.matrix, np.stack([x, y, z]), axes=1) + grid.offset_xyz[:, None, None, None]
    expected = np.zeros(grid.scan_size_zyx, int)
    for region, value in enumerate((7, 3, 200)):
        values = ndimage.map_coordinates(logits[..., region].astype(float), position[::-1], order=1, mode="nearest")
        expected[values > 0] = value
    assert len(np.unique(expected)) == 4
    assert np.mean(grid.order.apply(decoder.labels_zyx) != expected) < 1e-3, "but for rounding"


@pytest.mark.parametrize(
    ("size_xyz", "spacing_xyz", "wanted_zyx"),
    [
        ((23, 31, 17), (1.0, 0.8, 1.3), (1.1, 1.4, 0.9)),
        ((20, 30, 12), (1.0, 1.0, 1.0), (1.5, 1.5, 1.5)),  # 2/3: half voxels are met often
        ((26, 26, 5), (1.0, 1.0, 6.0), (4.0, 1.2, 1.2)),  # one coarse axis
        ((12, 13, 14), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
        ((4, 50, 50), (9.0, 1.0, 1.0), (1.0, 1.0, 9.0)),
    ],
)
def test_rounded_as_nnunet_rounds(size_xyz, spacing_xyz, wanted_zyx):
    """Logits of few values are equal often, so that rounding and the first of equals decide."""
    image = blank_scan(size_xyz, spacing_xyz) + 1
    image[3, 3, 3] = 5
    rule = IntensityRule("zscore", output=None)
    grid = preprocess(image, Preparation(wanted_zyx, (rule,), "kji"[::-1], "nnunet")).grid
    logits = (np.random.default_rng(2).integers(-40, 40, size=(4, *grid.size_zyx)) / 7).astype(np.float16)
    decoder = LabelResampler(grid, (0, 1, 2, 3))
    values = np.ascontiguousarray(np.moveaxis(logits, 0, -1))
    for z in range(0, max(1, grid.size_zyx[0] - 1), 4):
        decoder.write(Probabilities(values[z : z + 5], LabelRule(as_nnunet=True)), (z, 0, 0))
    expected = np.stack([resampled_as_nnunet(one, grid.scan_size_zyx, grid.nearest_axis) for one in logits])
    np.testing.assert_array_equal(grid.oriented(decoder.labels_zyx), expected.argmax(axis=0))


def resampled_as_nnunet(logits, size_zyx, coarse) -> np.ndarray:
    """Return float16 logits resampled by scipy as nnU-Net asks scikit-image to do."""
    if logits.shape == tuple(size_zyx):
        return logits

    def resized(values, size):
        ratios = [after / before for after, before in zip(size, values.shape, strict=True)]
        return ndimage.zoom(values.astype(float), ratios, order=1, mode="nearest", grid_mode=True)

    if coarse is None:
        return resized(logits, size_zyx).astype(np.float16)
    flat = [side for axis, side in enumerate(size_zyx) if axis != coarse]
    planes = np.stack([resized(plane, flat) for plane in np.moveaxis(logits, coarse, 0)])
    places = (np.arange(size_zyx[coarse]) + 0.5) * (len(planes) / size_zyx[coarse]) - 0.5
    nearest = np.clip(np.floor(places + 0.5).astype(int), 0, len(planes) - 1)
    return np.moveaxis(planes[nearest], 0, coarse).astype(np.float16)
