"""The curve from margins to shares of wrong voxels: counted by hand, falling, stored and read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from TransferSegLib.doubt.calibration import DoubtCalibration, DoubtCounts, uncalibrated
from TransferSegLib.errors import ModelError
from TransferSegLib.models.store import load_description, set_doubt

MODEL = Path(__file__).resolve().parents[1] / "Data" / "model_format_2" / "model"
BINS = len(DoubtCounts.middles())


def counts(voxels: dict[int, int], wrong: dict[int, int], cases: int = 4) -> DoubtCounts:
    """Return counts that are 0 in all other bins."""
    return DoubtCounts(cases, *(tuple(of.get(number, 0) for number in range(BINS)) for of in (voxels, wrong)))


def test_voxels_are_counted_by_their_margin() -> None:
    margins = np.array([0.0, 0.1, 0.3, 0.3, 13.0, 16.0], np.float16)
    found = DoubtCounts.of(margins, np.array([True, False, True, True, False, True]))
    assert found.voxels[:3] == (2, 2, 0) and found.wrong[:2] == (1, 2)
    assert found.voxels[-2:] == (1, 1) and found.wrong[-2:] == (0, 1)
    assert DoubtCounts.total([found, found]) == replace(
        found, cases=2, voxels=tuple(2 * n for n in found.voxels), wrong=tuple(2 * n for n in found.wrong)
    )
    assert DoubtCounts.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert DoubtCounts.total([]).cases == 0


def test_the_curve_has_the_shares_that_were_counted() -> None:
    found = DoubtCalibration.of(counts({0: 1000, 4: 1000, 8: 10_000}, {0: 450, 4: 200, 8: 100}))
    assert found is not None and found.cases == 4
    assert found.margins == (0.125, 1.25, 3.25) and found.wrong == (0.45, 0.2, 0.01)
    # Between two margins linearly, beyond them as at the ends.
    assert np.allclose(found.share_wrong(np.array([0.0, 0.6875, 100.0])), [0.45, 0.325, 0.01], atol=1e-6)


def test_shares_that_rise_become_their_mean() -> None:
    found = DoubtCalibration.of(counts({0: 100, 1: 300, 2: 1000}, {0: 40, 1: 160, 2: 100}))
    assert found is not None and found.wrong == (0.5, 0.5, 0.1)  # 200 of 400, although 40 of 100 came first


@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 1)), min_size=BINS, max_size=BINS))
def test_every_curve_falls_and_keeps_the_number_of_errors(each: list[tuple[int, float]]) -> None:
    voxels, wrong = [n for n, _ in each], [int(n * share) for n, share in each]
    found = DoubtCalibration.of(DoubtCounts(2, tuple(voxels), tuple(wrong)))
    if found is None:
        return
    assert all(first >= second for first, second in zip(found.wrong, found.wrong[1:], strict=False))
    filled = [n for n in voxels if n]
    assert np.dot(found.wrong, filled) == pytest.approx(sum(wrong), rel=1e-3)


def test_too_few_errors_or_cases_make_no_curve() -> None:
    assert DoubtCalibration.of(counts({0: 1000, 4: 1000}, {0: 150, 4: 49})) is None
    assert DoubtCalibration.of(counts({0: 1000, 4: 1000}, {0: 500, 4: 49}, cases=1)) is None
    assert DoubtCalibration.of(DoubtCounts.total([])) is None


def test_uncalibrated_doubt_of_two_classes_is_one_less_the_difference_of_their_probabilities() -> None:
    probability = np.array([0.5, 0.6, 0.9, 0.999])
    margins = np.log(probability / (1 - probability))
    assert np.allclose(uncalibrated(margins), 1 - (2 * probability - 1), atol=1e-6)


def test_it_is_stored_in_the_model(tmp_path: Path) -> None:
    for file in MODEL.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    before = load_description(tmp_path)
    assert before.doubt is None
    curve = DoubtCalibration(3, (0.125, 1.25), (0.4, 0.02))
    set_doubt(tmp_path, curve)
    assert load_description(tmp_path) == replace(before, doubt=curve)
    set_doubt(tmp_path, None)
    assert load_description(tmp_path) == before


GOOD = {"version": 1, "cases": 3, "margins": [0.1, 1.0], "wrong": [0.4, 0.1]}


@pytest.mark.parametrize(
    "damage",
    [{"margins": [1.0, 0.1]}, {"wrong": [0.1, 0.4]}, {"wrong": [1.2, 0.1]}, {"wrong": [0.4, -0.1]}, {"wrong": [0.4]},
     {"cases": 0}, {"margins": None}, {"wrong": ["a", "b"]}, {"margins": [0.1, float("nan")]}],
)  # fmt: skip
def test_a_damaged_entry_is_a_clear_error(damage: dict) -> None:
    with pytest.raises(ModelError, match="entry 'doubt'"):
        DoubtCalibration.from_json(GOOD | damage)


def test_none_and_another_version_are_left_out() -> None:
    assert DoubtCalibration.from_json(None) is None
    assert DoubtCalibration.from_json(GOOD | {"version": 2, "margins": "new"}) is None
    found = DoubtCalibration.from_json(GOOD)
    assert found is not None and found.to_json() == GOOD
