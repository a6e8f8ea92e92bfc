"""The interval of a mean Dice over unseen patients: by hand, its invariants, and how often it holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from TransferSegLib.evaluation.statistics import mean_interval, patients_for

SCORES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12)


def test_by_hand() -> None:
    # All equal: the weight of the imagined patient is Beta(1, n), so the ends are x q and 1 - (1 - x) q with
    # q = 0.05 ** (1 / n).
    for count in (2, 3, 5, 10):
        q = 0.05 ** (1 / count)
        assert mean_interval([0.8] * count) == pytest.approx((0.8 * q, 1 - 0.2 * q), abs=0.01)
    low, high = mean_interval([0.0] * 5)
    assert low == 0.0 and high == pytest.approx(1 - 0.05**0.2, abs=0.01)


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="no patient"):
        mean_interval([])
    with pytest.raises(ValueError, match="score of every patient"):
        mean_interval([0.5, float("nan")])


@settings(max_examples=25, deadline=None)
@given(SCORES, st.randoms())
def test_it_holds_the_mean_seen_in_any_order(scores: list[float], random: object) -> None:
    low, high = mean_interval(scores)
    assert 0.0 <= low <= np.mean(scores) + 1e-12 and np.mean(scores) - 1e-12 <= high <= 1.0
    assert mean_interval(scores[::-1]) == (low, high)
    better = [min(1.0, score + 0.1) for score in scores]
    assert mean_interval(better)[0] >= low - 1e-12 and mean_interval(better)[1] >= high - 1e-12
    mirrored = mean_interval([1.0 - score for score in scores])
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=0.02), "good and bad are treated alike"


def test_more_patients_say_more() -> None:
    widths = [np.subtract(*mean_interval([0.6, 0.8] * count)[::-1]) for count in (1, 2, 4, 8, 20)]
    assert widths == sorted(widths, reverse=True) and widths[-1] < 0.1
    assert patients_for([0.8, 0.8], 0.4) == 5 and patients_for([0.6, 0.6], 0.4) == 8
    assert patients_for([0.3], 0.4) is None


@pytest.mark.parametrize("missed", [0.0, 0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("patients", [2, 4, 10])
def test_it_holds_the_truth_where_structures_are_missed(missed: float, patients: int) -> None:
    random = np.random.default_rng(3)
    truth, held, runs = 0.8 * (1 - missed), 0, 150
    for _ in range(runs):
        dice = np.where(random.random(patients) < missed, 0.0, random.normal(0.8, 0.05, patients))
        low, high = mean_interval(dice)
        held += low <= truth <= high
    assert held / runs >= 0.9
