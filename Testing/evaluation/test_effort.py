"""Drawing effort against shapes counted by hand, a slow implementation of the definition, and what must not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from TransferSegLib.evaluation.effort import DrawingEffort, drawing_effort, slice_axis_of
from TransferSegLib.evaluation.surface_distance import surface_agreement, surface_dice

Spacing = tuple[float, float, float]
#: Slices 3 mm apart, pixels of 1 mm.
PLAIN: Spacing = (3.0, 1.0, 1.0)
SHAPE = (5, 12, 12)


def box(z: tuple[int, int], y: tuple[int, int], x: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[slice(*z), slice(*y), slice(*x)] = True
    return mask


def slow_contour(mask: np.ndarray, region: np.ndarray) -> dict[tuple[int, int, int], str]:
    """Return the contour pixels of a mask (slices first) and along what each lies, by visiting every pixel."""
    found = {}
    slices, rows, columns = mask.shape
    for place in np.ndindex(slices, rows, columns):
        if not (mask[place] and region[place]):
            continue
        z, y, x = place

        def is_outside(y: int, x: int, z: int = z) -> bool:
            if not (0 <= y < rows and 0 <= x < columns):
                return True
            return bool(region[z, y, x] and not mask[z, y, x])

        along_row = is_outside(y - 1, x) or is_outside(y + 1, x)
        along_column = is_outside(y, x - 1) or is_outside(y, x + 1)
        if along_row or along_column:
            found[place] = "corner" if along_row and along_column else "row" if along_row else "column"
    return found


def slow_effort(
    predicted: np.ndarray, corrected: np.ndarray, spacing: Spacing, tolerance_mm: float, region: np.ndarray
) -> DrawingEffort:
    """Return the effort by the definition, pixel by pixel; slices first."""
    _, row_mm, column_mm = spacing
    path, drawn = slow_contour(corrected, region), slow_contour(predicted, region)
    mm = {"row": column_mm, "column": row_mm, "corner": (row_mm + column_mm) / 2}

    def is_near(place: tuple[int, int, int]) -> bool:
        return any(
            z == place[0] and math.hypot((y - place[1]) * row_mm, (x - place[2]) * column_mm) <= tolerance_mm + 1e-6
            for z, y, x in drawn
        )

    touched = {z for z, y, x in np.argwhere((predicted ^ corrected) & region)}
    nsd = surface_agreement(predicted, corrected, spacing, tolerance_mm, region).nsd
    return DrawingEffort(
        added_path_mm=sum(mm[along] for place, along in path.items() if place not in drawn),
        added_path_beyond_mm=sum(
            mm[along] for place, along in path.items() if place not in drawn and not is_near(place)
        ),
        path_mm=sum(mm[along] for along in path.values()),
        slices_touched=len(touched),
        slices=len({z for z, y, x in np.argwhere(corrected & region)}),
        surface_dice=None if math.isnan(nsd) else nsd,
        tolerance_mm=tolerance_mm,
    )


def test_a_square_drawn_from_nothing() -> None:
    # 6 x 6 pixels of 1 mm have 20 contour pixels; two slices of it.
    square = box((1, 3), (2, 8), (3, 9))
    found = drawing_effort(np.zeros(SHAPE, bool), square, PLAIN)
    assert found == DrawingEffort(40.0, 40.0, 40.0, 2, 2, 0.0, 3.0)


def test_a_square_made_longer() -> None:
    # The right edge moves by two columns: 6 new pixels on it, and 2 more above and below, less the shared corner
    # pixels of the right edge: columns 9 and 10 of rows 2 and 7, and rows 3 to 6 of column 10. That is 2 * 2 + 4 = 8.
    before, after = box((2, 3), (2, 8), (3, 9)), box((2, 3), (2, 8), (3, 11))
    found = drawing_effort(before, after, PLAIN, 1.0)
    assert (found.added_path_mm, found.path_mm, found.slices_touched) == (8.0, 24.0, 1)
    # Within 1 mm of the old right edge (column 8) lie the two pixels of column 9.
    assert found.added_path_beyond_mm == 6.0
    assert drawing_effort(before, after, PLAIN, 2.0).added_path_beyond_mm == 0.0


def test_a_square_made_smaller() -> None:
    # Its new right edge (column 6) lies inside the old square: only its 4 inner pixels were no contour before.
    found = drawing_effort(box((2, 3), (2, 8), (3, 9)), box((2, 3), (2, 8), (3, 7)), PLAIN)
    assert (found.added_path_mm, found.slices_touched) == (4.0, 1)


def test_erasing_needs_no_contour() -> None:
    both, one = box((1, 4), (2, 8), (3, 9)), box((1, 2), (2, 8), (3, 9))
    found = drawing_effort(both, one, PLAIN)
    assert (found.added_path_mm, found.slices_touched, found.slices) == (0.0, 2, 1)
    gone = drawing_effort(both, np.zeros(SHAPE, bool), PLAIN)
    assert gone == DrawingEffort(0.0, 0.0, 0.0, 3, 0, 0.0, 3.0)


def test_a_hole_has_a_contour() -> None:
    # A hole of one pixel: its four side neighbours become contour pixels.
    holed = box((2, 3), (2, 9), (2, 9))
    holed[2, 5, 5] = False
    assert drawing_effort(box((2, 3), (2, 9), (2, 9)), holed, PLAIN).added_path_mm == 4.0


def test_pixels_that_are_not_square_count_with_their_side_along_the_contour() -> None:
    # Rows 2 mm apart, columns 1 mm; 4 rows x 5 columns. Above and below 3 pixels of 1 mm each, at the sides 2 of 2 mm
    # each, and 4 corners of 1.5 mm: 6 + 8 + 6.
    mask = box((2, 3), (2, 6), (3, 8))
    found = drawing_effort(np.zeros(SHAPE, bool), mask, (9.0, 2.0, 1.0), slice_axis=0)
    assert found.path_mm == 20.0


def test_the_edge_of_the_image_is_drawn_too() -> None:
    whole = np.ones((1, 4, 5), bool)
    assert drawing_effort(~whole, whole, PLAIN).path_mm == 14.0


def test_neither_has_it() -> None:
    nothing = np.zeros(SHAPE, bool)
    assert drawing_effort(nothing, nothing, PLAIN) == DrawingEffort(0.0, 0.0, 0.0, 0, 0, None, 3.0)


def test_a_region_of_two_slices() -> None:
    before, after = box((0, 5), (2, 8), (3, 9)), box((0, 5), (2, 8), (3, 11))
    region = np.zeros(SHAPE, bool)
    region[1:3] = True
    inside = drawing_effort(before, after, PLAIN, region_zyx=region)
    assert (inside.added_path_mm, inside.path_mm, inside.slices_touched, inside.slices) == (16.0, 48.0, 2, 2)
    assert drawing_effort(before, after, PLAIN).added_path_mm == 40.0


def test_the_border_of_a_region_is_no_contour() -> None:
    # Of 6 x 6 pixels the region has the three left columns: their left edge, and two more pixels above and below.
    square, region = box((2, 3), (2, 8), (3, 9)), box((0, 5), (0, 12), (0, 6))
    found = drawing_effort(np.zeros(SHAPE, bool), square, PLAIN, region_zyx=region)
    assert found.path_mm == 6.0 + 2 + 2


def test_the_slices_are_those_that_the_scanner_made() -> None:
    assert slice_axis_of((5.0, 1.0, 1.0)) == 0  # axial, thick
    assert slice_axis_of((2.5, 3.9, 3.9)) == 0  # axial, thin
    assert slice_axis_of((0.9, 0.9, 4.0)) == 2  # sagittal MR, stored with its slices along x
    assert slice_axis_of((0.9, 3.0, 0.9)) == 1
    assert slice_axis_of((1.0, 1.0, 1.0)) == 0  # none is different
    assert slice_axis_of((1.0, 1.001, 1.0)) == 0  # nor does rounding make one
    assert slice_axis_of((1.0, 1.5, 2.0)) == 2


def test_sagittal_slices() -> None:
    square = box((1, 3), (2, 8), (3, 9))
    turned = np.ascontiguousarray(np.moveaxis(square, 0, 2))
    found = drawing_effort(np.zeros_like(turned), turned, (1.0, 1.0, 3.0))
    assert (found.path_mm, found.slices) == (40.0, 2)


masks = arrays(bool, (3, 6, 7), elements=st.booleans())
spacings = st.sampled_from([PLAIN, (1.0, 2.0, 2.0), (2.5, 0.7, 0.7), (4.0, 1.5, 0.5), (1.0, 1.0, 1.0)])
tolerances = st.sampled_from([0.0, 0.7, 1.0, 2.1, 3.0])


def grown(seed: np.ndarray) -> np.ndarray:
    """Return a mask with edges and flat parts, where a random one has corners only."""
    return np.repeat(np.repeat(seed, 2, axis=1), 2, axis=2)


@settings(max_examples=60, deadline=None)
@given(masks, masks, st.one_of(st.none(), masks), spacings, tolerances, st.booleans())
def test_agrees_with_the_definition_pixel_by_pixel(
    one: np.ndarray, other: np.ndarray, region: np.ndarray | None, spacing: Spacing, tolerance_mm: float, blocks: bool
) -> None:
    if blocks:
        one, other, region = grown(one), grown(other), None if region is None else grown(region)
    found = drawing_effort(one, other, spacing, tolerance_mm, region, slice_axis=0)
    everywhere = np.ones_like(one) if region is None else region
    expected = slow_effort(one, other, spacing, tolerance_mm, everywhere)
    for name, value in vars(expected).items():
        assert vars(found)[name] == pytest.approx(value, abs=1e-9), name


@settings(max_examples=40, deadline=None)
@given(masks, masks, spacings, tolerances)
def test_what_must_not_matter(one: np.ndarray, other: np.ndarray, spacing: Spacing, tolerance_mm: float) -> None:
    found = drawing_effort(one, other, spacing, tolerance_mm, slice_axis=0)
    for axis in range(3):  # mirrored
        flipped = (np.ascontiguousarray(np.flip(mask, axis)) for mask in (one, other))
        assert drawing_effort(*flipped, spacing, tolerance_mm, slice_axis=0) == found
    turned = (np.ascontiguousarray(mask.transpose(0, 2, 1)) for mask in (one, other))
    z, y, x = spacing
    assert vars(drawing_effort(*turned, (z, x, y), tolerance_mm, slice_axis=0)) == pytest.approx(vars(found))
    padded = [np.pad(mask, 2) for mask in (one, other)]  # edges of the image become those of the structure
    shifted = [np.roll(mask, (1, -1, 2), (0, 1, 2)) for mask in padded]
    assert drawing_effort(*shifted, spacing, tolerance_mm, slice_axis=0) == drawing_effort(
        *padded, spacing, tolerance_mm, slice_axis=0
    )
    back = drawing_effort(other, one, spacing, tolerance_mm, slice_axis=0)
    assert (back.surface_dice, back.slices_touched) == (found.surface_dice, found.slices_touched)


@settings(max_examples=30, deadline=None)
@given(masks, spacings, tolerances)
def test_what_stays_as_it_is_needs_nothing(mask: np.ndarray, spacing: Spacing, tolerance_mm: float) -> None:
    found = drawing_effort(mask, mask, spacing, tolerance_mm)
    assert (found.added_path_mm, found.added_path_beyond_mm, found.slices_touched) == (0.0, 0.0, 0)
    assert found.surface_dice == (1.0 if mask.any() else None)


@settings(max_examples=40, deadline=None)
@given(masks, masks, st.one_of(st.none(), masks), spacings, tolerances)
def test_the_surface_dice_is_that_of_the_surface_agreement(
    one: np.ndarray, other: np.ndarray, region: np.ndarray | None, spacing: Spacing, tolerance_mm: float
) -> None:
    expected = surface_agreement(one, other, spacing, tolerance_mm, region).nsd
    assert surface_dice(one, other, spacing, tolerance_mm, region) == pytest.approx(expected, nan_ok=True)


def test_wrong_arguments_are_refused() -> None:
    mask = np.zeros(SHAPE, bool)
    for wrong in (
        (mask, mask[1:], PLAIN, 3.0),
        (mask.astype(np.uint8), mask, PLAIN, 3.0),
        (mask, mask, (0.0, 1.0, 1.0), 3.0),
        (mask, mask, PLAIN, -1.0),
    ):
        with pytest.raises(ValueError, match="must be"):
            drawing_effort(*wrong)
