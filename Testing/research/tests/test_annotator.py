"""The simulated annotator: what it draws, what it counts, when it stops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from Testing.research.common.annotator import Person, displacements, draw_structure, filled_between, signed_distance
from TransferSegLib.evaluation.effort import drawing_effort
from TransferSegLib.evaluation.surface_distance import surface_dice

SPACING = (3.0, 1.0, 1.0)
EXACT = Person(precision_pixels=0.0)


def ball(radius: float = 9.0, centre: tuple[float, float, float] = (8, 20, 20)) -> np.ndarray:
    z, y, x = np.indices((17, 40, 40))
    return ((z - centre[0]) * 3) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= radius**2


def test_a_right_prediction_needs_nothing() -> None:
    drawn = draw_structure(ball(), ball(), SPACING, Person())
    assert (drawn.path_mm, drawn.slices, drawn.before, drawn.interpolated) == (0.0, 0, 1.0, False)
    assert np.array_equal(drawn.mask_zyx, ball())


def test_nothing_to_draw() -> None:
    nothing = np.zeros((4, 8, 8), bool)
    assert draw_structure(None, nothing, SPACING, Person()).path_mm == 0.0
    wrong = nothing.copy()
    wrong[2, 3:6, 3:6] = True
    erased = draw_structure(wrong, nothing, SPACING, Person())
    assert not erased.mask_zyx.any() and (erased.path_mm, erased.slices, erased.after) == (0.0, 1, 1.0)


def test_every_slice_drawn_exactly_is_the_whole_contour() -> None:
    drawn = draw_structure(None, ball(), SPACING, replace(EXACT, every=1))
    whole = drawing_effort(np.zeros_like(ball()), ball(), SPACING)
    assert drawn.path_mm == pytest.approx(whole.path_mm) and drawn.slices == whole.slices
    assert drawn.interpolated and drawn.after == 1.0 and np.array_equal(drawn.mask_zyx, ball())


def test_interpolation_saves_slices() -> None:
    z, y, x = np.indices((31, 40, 40))
    spindle = (y - 20) ** 2 + (x - 15 - z / 4) ** 2 <= np.clip(14.0 - abs(z - 15), 0, 9) ** 2
    each, third = (draw_structure(None, spindle, SPACING, replace(EXACT, every=every)) for every in (1, 3))
    assert third.after >= 0.95 and third.slices < each.slices and third.path_mm < 0.7 * each.path_mm


def test_only_the_wrong_slice_is_corrected_and_only_where_it_is_wrong() -> None:
    truth = np.zeros((9, 40, 40), bool)
    truth[1:8, 10:30, 10:30] = True
    predicted = truth.copy()
    predicted[4, 10:30, 22:30] = False
    person = replace(EXACT, target=1.0, tolerance_voxels=0.0)
    drawn = draw_structure(predicted, truth, SPACING, person)
    assert np.array_equal(drawn.mask_zyx, truth) and drawn.slices == 1
    assert drawn.path_mm == drawing_effort(predicted, truth, SPACING).added_path_mm == 20 + 2 * 7


def test_the_worst_slice_comes_first() -> None:
    truth = np.zeros((9, 40, 40), bool)
    truth[1:8, 10:30, 10:30] = True
    predicted = truth.copy()
    predicted[2, 10:30, 26:30] = False
    predicted[5, 10:30, 15:30] = False
    start = surface_dice(predicted, truth, SPACING, 2.0)
    drawn = draw_structure(predicted, truth, SPACING, replace(EXACT, target=start + 1e-6))
    assert drawn.slices == 1 and np.array_equal(drawn.mask_zyx[5], truth[5])
    assert np.array_equal(drawn.mask_zyx[2], predicted[2])


def test_a_useless_prediction_is_thrown_away() -> None:
    far = ball(4.0, (3, 8, 8))
    person = Person(every=2)
    thrown, none = draw_structure(far, ball(), SPACING, person), draw_structure(None, ball(), SPACING, person)
    assert thrown.interpolated and not (thrown.mask_zyx & far & ~ball(12.0)).any()
    assert (thrown.path_mm, thrown.slices) == (none.path_mm, none.slices) and thrown.before < 0.5


def test_the_hand_is_not_exact_but_reaches_the_target() -> None:
    for seed in range(5):
        drawn = draw_structure(None, ball(), SPACING, Person(every=2, seed=seed))
        assert drawn.after >= 0.95 and not np.array_equal(drawn.mask_zyx, ball())
        again = draw_structure(None, ball(), SPACING, Person(every=2, seed=seed))
        assert np.array_equal(again.mask_zyx, drawn.mask_zyx) and again.path_mm == drawn.path_mm
    shaky = draw_structure(None, ball(), SPACING, Person(every=1, precision_pixels=1.0, target=0.0001))
    steady = draw_structure(None, ball(), SPACING, Person(every=1, precision_pixels=0.3, target=0.0001))
    wrong = [np.count_nonzero(one.mask_zyx ^ ball()) for one in (steady, shaky)]
    assert 0 < wrong[0] < wrong[1]


def test_a_slice_is_drawn_again_with_more_care() -> None:
    truth = np.zeros((9, 40, 40), bool)
    truth[4, 10:30, 10:30] = True
    exact = replace(EXACT, precision_pixels=0.6, target=1.0, tolerance_voxels=0.0)
    drawn = draw_structure(None, truth, SPACING, exact)
    assert drawn.slices in (2, 3, 4) and np.array_equal(drawn.mask_zyx, truth), "with 0.6, then 0.3 pixels and so on"


def test_better_predictions_need_less() -> None:
    efforts = [draw_structure(ball(radius), ball(), SPACING, Person()).path_mm for radius in (5.5, 6.5, 9.0)]
    assert efforts[0] >= efforts[1] > efforts[2] == 0.0


def test_sagittal_slices_are_drawn_as_they_were_made() -> None:
    turned = np.ascontiguousarray(np.moveaxis(ball(), 0, 2))
    one = draw_structure(None, turned, (1.0, 1.0, 3.0), EXACT)
    assert one.path_mm == pytest.approx(draw_structure(None, ball(), SPACING, EXACT).path_mm)


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match="has the shape"):
        draw_structure(ball()[1:], ball(), SPACING, EXACT)


def test_signed_distances() -> None:
    mask = np.zeros((5, 9), bool)
    mask[:, 3:6] = True
    assert signed_distance(mask)[2].tolist() == [-2.5, -1.5, -0.5, 0.5, 1.5, 0.5, -0.5, -1.5, -2.5]
    assert (signed_distance(np.zeros((3, 3), bool)) == -np.inf).all()
    assert (signed_distance(np.ones((3, 3), bool)) == np.inf).all()


def test_the_hand_is_off_by_its_precision_also_in_small_slices() -> None:
    fields = [displacements((6, 9), 0.5, np.random.default_rng(seed)) for seed in range(400)]
    assert np.mean(fields) == pytest.approx(0.0, abs=0.05) and np.std(fields) == pytest.approx(0.5, rel=0.08)
    steps = [np.abs(np.diff(one, axis=1)).mean() for one in fields]
    assert np.mean(steps) < 0.2, "smooth along the contour"


def test_slices_between_are_in_proportion() -> None:
    first, last = np.zeros((20, 40), bool), np.zeros((20, 40), bool)
    first[5:15, 5:15], last[5:15, 9:19] = True, True
    between = filled_between(first, last, 4)
    assert np.array_equal(between[0], first) and np.array_equal(between[4], last)
    middle = between[2][10]
    assert np.flatnonzero(middle).tolist() == list(range(7, 17)), "half the way"
    assert not filled_between(first, np.zeros_like(first), 3)[1:].any()
