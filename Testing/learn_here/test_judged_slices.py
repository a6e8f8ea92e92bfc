"""Interpolation between judged slices, and which slices count as judged, on shapes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from TransferSegLib.learn_here.judged_slices import between_slices, judged_slices, learning_region, slice_axis

SPACING = (2.0, 1.0, 1.0)


def discs(radii: dict[int, float], depth: int = 9, side: int = 41) -> np.ndarray:
    """Return discs of these radii (pixels) in these slices, around the middle."""
    row, column = np.mgrid[:side, :side] - side // 2
    found = np.zeros((depth, side, side), bool)
    for number, radius in radii.items():
        found[number] = np.hypot(row, column) <= radius
    return found


def test_between_two_discs_the_radius_grows_evenly() -> None:
    between = between_slices(discs({0: 6, 8: 14}), [0, 8], 0, 4.0, SPACING)
    for number in range(1, 8):
        area = np.count_nonzero(between.distances[number] > 0)
        assert np.sqrt(area / np.pi) == pytest.approx(6.1 + number, abs=0.5)


def test_a_slice_that_is_left_out_says_nothing_of_itself() -> None:
    one, other = discs({0: 6, 4: 10, 8: 14}), discs({0: 6, 4: 3, 8: 14})
    found, without = (between_slices(mask, [0, 4, 8], 0, 4.0, SPACING) for mask in (one, other))
    assert np.array_equal(found.at_slices[4], without.at_slices[4])
    assert np.flatnonzero(found.is_known.any(axis=(1, 2))).tolist() == [4]
    assert not np.array_equal(found.distances[2], without.distances[2])


def test_nothing_is_interpolated_across_a_slice_without_the_structure() -> None:
    between = between_slices(discs({0: 6, 8: 6}), [0, 4, 8], 0, 4.0, SPACING)
    assert not between.distances[1:8].any() and not between.is_known.any()


def test_an_interpolation_is_surer_the_closer_a_judged_slice_is() -> None:
    """Of a cylinder all slices say the same; only how much it counts differs. Slices are 4 apart."""
    between = between_slices(discs({0: 9, 4: 9, 8: 9, 12: 9}, depth=13), [0, 4, 8, 12], 0, 4.0, SPACING)
    middle = (slice(None), 20, 20)
    own = 8.5 / 4.0 + 0.125  # the centre's distance to the edge, in units of 4 mm, before it is scaled
    inside = between.distances[middle]
    # in proportion to 1 / ((n - low)(high - n) / (high - low)): 1 / 0.75, 1 / 1, 1 / 0.75
    assert inside[[1, 2, 3]] / inside[2] == pytest.approx([4 / 3, 1, 4 / 3])
    # A slice that is left out is 4 slices away from both others: 1 / 2.
    assert between.at_slices[middle][[4, 8]] == pytest.approx([inside[2] / 2] * 2)
    assert inside[2] == pytest.approx(2 * 0.64 * own, rel=0.1)


def test_slices_beyond_the_structure_change_nothing() -> None:
    """Whoever marks the empty slices on either side, too, gets the same."""
    mask = discs({3: 9, 7: 9, 11: 9}, depth=15)
    plain, more = (between_slices(mask, marked, 0, 4.0, SPACING) for marked in ([3, 7, 11], [2, 3, 7, 11, 12]))
    assert np.array_equal(plain.distances[3:12], more.distances[3:12])
    assert np.array_equal(plain.at_slices, more.at_slices)


def test_slices_side_by_side_and_single_ones_are_no_trouble() -> None:
    """Between two neighbours there is nothing to interpolate, and one slice says nothing of others."""
    close = between_slices(discs({2: 9, 3: 9, 4: 9}), [2, 3, 4], 0, 4.0, SPACING)
    assert np.isfinite(close.distances).all() and np.flatnonzero(close.is_known.any(axis=(1, 2))).tolist() == [3]
    single = between_slices(discs({4: 9}), [4], 0, 4.0, SPACING)
    assert not single.distances.any() and not single.is_known.any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_all_axes_are_alike(axis: int) -> None:
    mask = discs({0: 6, 4: 9, 8: 6})
    turned = np.moveaxis(mask, 0, axis)
    spacing = (1.0, 1.0, 1.0)
    reference = between_slices(mask, [0, 4, 8], 0, 4.0, spacing)
    found = between_slices(turned, [0, 4, 8], axis, 4.0, spacing)
    assert np.array_equal(np.moveaxis(found.distances, axis, 0), reference.distances)
    judged = np.zeros(turned.shape, bool)
    np.moveaxis(judged, axis, 0)[[0, 4, 8]] = True
    assert slice_axis(judged, spacing) == axis
    assert judged_slices(judged, turned, axis) == [0, 4, 8]


def test_without_a_complete_slice_they_are_the_scanners() -> None:
    judged = np.zeros((5, 6, 7), bool)
    judged[1, 2:4, 3] = True
    assert slice_axis(judged, (1.0, 1.0, 3.0)) == 2 and slice_axis(judged, (3.0, 1.0, 1.0)) == 0


def test_a_slice_is_judged_where_the_whole_structure_was() -> None:
    around = discs({2: 6, 4: 6})
    judged = np.zeros(around.shape, bool)
    judged[2, :, 10:31] = True  # all of the disc, not all of the slice
    judged[4, :, :20] = True
    assert judged_slices(judged, around, 0) == [2]


def test_the_region_reaches_a_slice_and_some_units_beyond_the_structure() -> None:
    region = learning_region(discs({4: 3}), 2.0, SPACING, 0)
    assert np.flatnonzero(region.any(axis=(1, 2))).tolist() == [3, 4, 5]
    assert np.flatnonzero(region[4, 20]).tolist() == list(range(20 - 3 - 8, 20 + 3 + 8 + 1))
