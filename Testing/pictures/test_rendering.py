"""Slices on the pixels of a picture: exact interpolation, right side up, outlines that keep every voxel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from TransferSegLib.pictures.rendering import render_channels, render_intensities, widened


def whole(shape: tuple[int, ...], sides: tuple[float, float]) -> tuple[tuple[float, float], tuple[float, float]]:
    return (0.0, shape[0] * sides[0]), (0.0, shape[1] * sides[1])


def test_a_ramp_stays_a_ramp_in_mm_whatever_the_voxels() -> None:
    sides = (2.5, 0.8)
    y, x = np.mgrid[0:12, 0:40]
    ramp = 3.0 * (y + 0.5) * sides[0] - 2.0 * (x + 0.5) * sides[1]
    crop = ((5.0, 21.0), (6.0, 26.0))
    picture = render_intensities(ramp, crop, sides, 4.0, upwards=False)
    assert picture.shape == (64, 80)
    rows, columns = np.mgrid[0:64, 0:80]
    expected = 3.0 * (5.0 + (rows + 0.5) / 4) - 2.0 * (6.0 + (columns + 0.5) / 4)
    assert np.allclose(picture, expected, atol=1e-3)


def test_upwards_turns_the_picture_over() -> None:
    slice_ = np.arange(12.0).reshape(3, 4)
    crop = whole(slice_.shape, (1, 1))
    upright = render_intensities(slice_, crop, (1, 1), 1.0, upwards=True)
    assert np.array_equal(upright, slice_[::-1])
    labels = np.zeros((30, 30), np.uint16)
    labels[2:8, 5:20] = 3
    assert np.array_equal(render_channels(labels, whole((30, 30), (1, 1)), (1, 1), 2.0, True)[::-1],
                          render_channels(labels, whole((30, 30), (1, 1)), (1, 1), 2.0, False))  # fmt: skip


def test_values_that_are_no_numbers_are_drawn_black() -> None:
    slice_ = np.array([[1.0, np.nan], [1.0, 1.0]])
    assert np.isfinite(render_intensities(slice_, whole((2, 2), (1, 1)), (1, 1), 5.0, False)).all()


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.uint16, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3)),
    st.sampled_from([(1.0, 1.0), (3.0, 1.0), (1.0, 3.0)]),
)
def test_the_centre_of_every_voxel_keeps_its_structure(labels: np.ndarray, sides: tuple[float, float]) -> None:
    # Three pixels a millimetre: the middle of the 3 or 9 pixels of a voxel lies on its centre.
    picture = render_channels(labels, whole(labels.shape, sides), sides, 3.0, upwards=False)
    down, across = (round(3 * side) for side in sides)
    assert np.array_equal(picture[down // 2 :: down, across // 2 :: across], labels)


def ellipse(seed: int, sides: tuple[float, float]) -> np.ndarray:
    """Return a field of 60 x 60 mm with an ellipse somewhere near its middle."""
    rng = np.random.default_rng(seed)
    (middle_y, middle_x), radius = rng.uniform(28, 32, 2), rng.uniform(8, 26)
    flatness, angle = rng.uniform(0.5, 1), rng.uniform(0, np.pi)
    y, x = (np.arange(round(60 / side)) * side + side / 2 for side in sides)
    down, across = y[:, None] - middle_y, x[None, :] - middle_x
    along = across * np.cos(angle) + down * np.sin(angle)
    beside = (down * np.cos(angle) - across * np.sin(angle)) / flatness
    return (np.hypot(along, beside) < radius).astype(np.uint16)


@pytest.mark.parametrize("sides", [(4.0, 4.0), (2.5, 4.0), (6.0, 2.0)])
def test_smooth_outlines_are_truer_than_stairs_and_enclose_as_much(sides: tuple[float, float]) -> None:
    wrong_smooth = wrong_stairs = smooth_area = stairs_area = 0
    for seed in range(25):
        labels, true = ellipse(seed, sides), ellipse(seed, (0.25, 0.25)) == 1
        smooth = render_channels(labels, whole(labels.shape, sides), sides, 4.0, upwards=False) == 1
        stairs = np.kron(labels, np.ones([round(4 * side) for side in sides])) == 1
        wrong_smooth += np.count_nonzero(smooth != true)
        wrong_stairs += np.count_nonzero(stairs != true)
        smooth_area += np.count_nonzero(smooth)
        stairs_area += np.count_nonzero(stairs)
    assert wrong_smooth < 0.75 * wrong_stairs
    assert smooth_area == pytest.approx(stairs_area, rel=0.05)


def test_a_single_voxel_and_a_thin_line_are_not_lost() -> None:
    labels = np.zeros((15, 15), np.uint16)
    labels[3, 4] = 1
    labels[10, 2:13] = 2
    picture = render_channels(labels, whole(labels.shape, (4, 4)), (4, 4), 2.0, upwards=False)
    # 64 and 704 pixels; the ends of interpolated shapes are pointed.
    assert 32 <= np.count_nonzero(picture == 1) <= 64
    assert np.count_nonzero(picture == 2) == pytest.approx(704, rel=0.1)


def test_a_structure_that_fills_the_slice_fills_the_picture() -> None:
    labels = np.full((6, 5), 2, np.uint16)
    assert (render_channels(labels, whole(labels.shape, (2, 2)), (2, 2), 3.0, False) == 2).all()


def test_widening_grows_towards_the_ratio_and_stays_in_the_slice() -> None:
    crop = ((40.0, 60.0), (10.0, 30.0))
    (top, bottom), (left, right) = widened(crop, (100, 100), (1.0, 1.0), 2.0)
    assert (top, bottom) == (40.0, 60.0) and (left, right) == (0.0, 40.0)
    (top, bottom), (left, right) = widened(crop, (100, 25), (1.0, 1.0), 4.0)
    assert (left, right) == (0.0, 25.0)
    (top, bottom), _ = widened(crop, (100, 100), (1.0, 1.0), 0.5)
    assert (top, bottom) == (30.0, 70.0)
