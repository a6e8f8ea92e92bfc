"""Paired statistics against scipy and against numbers done by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from TransferSegLib.evaluation.statistics import (
    PairedScore,
    bootstrap_interval,
    by_patient,
    compare,
    differences_by_patient,
    holm,
    pair_scores,
    wilcoxon,
)


def test_wilcoxon_agrees_with_scipy_without_ties() -> None:
    random = np.random.default_rng(1)
    for count in (6, 7, 12, 30):
        differences = random.normal(0.3, 1, count)
        expected = stats.wilcoxon(differences, method="exact").pvalue
        assert wilcoxon(differences)[0] == pytest.approx(expected, rel=1e-9)


def test_wilcoxon_with_ties_and_zeros_is_exact() -> None:
    # Every one of the 2^n ways to give signs to the ranks, counted.
    differences = np.array([0.0, 0.1, 0.1, -0.1, 0.2, 0.3, 0.3, 0.9 - 0.8, 0.0])
    kept = np.round(differences[differences != 0], 8)
    ranks = stats.rankdata(np.abs(kept))
    sums = [sum(r for bit, r in enumerate(ranks) if way >> bit & 1) for way in range(2 ** len(ranks))]
    observed = ranks[kept > 0].sum()
    tail = min(np.mean(np.array(sums) <= observed), np.mean(np.array(sums) >= observed))
    p_value, note = wilcoxon(differences)
    assert p_value == pytest.approx(min(1, 2 * tail), rel=1e-12)
    assert "exact" in note and "2 without a difference" in note


def test_wilcoxon_smallest_p_and_too_few() -> None:
    assert wilcoxon(np.arange(1.0, 7.0))[0] == pytest.approx(2 / 64)
    p_value, note = wilcoxon(np.arange(1.0, 6.0))
    assert p_value is None and "5 patients" in note and "at least 6" in note
    assert wilcoxon(np.array([0.0] * 9))[0] is None
    assert wilcoxon(np.array([]))[0] is None


def test_wilcoxon_of_many() -> None:
    differences = np.random.default_rng(2).normal(0.1, 1, 300)
    p_value, note = wilcoxon(differences)
    assert p_value == pytest.approx(stats.wilcoxon(differences, method="approx").pvalue) and "approximation" in note


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # Not tested is not counted.
    assert holm([0.03, None, 0.01]) == pytest.approx([0.03, None, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([None]) == [None] and holm([]) == []


def test_bootstrap_interval() -> None:
    differences = np.random.default_rng(3).normal(0.05, 0.04, 40)
    low, high = bootstrap_interval(differences) or (np.nan, np.nan)
    # With 40 values of a normal distribution it is close to the textbook interval.
    expected = stats.t.interval(0.95, 39, differences.mean(), stats.sem(differences))
    assert (low, high) == pytest.approx(expected, abs=0.003)
    assert bootstrap_interval(differences) == (low, high)
    assert bootstrap_interval(differences, seed=1) != (low, high)
    assert bootstrap_interval(differences[:5]) is None
    assert bootstrap_interval(np.full(8, 0.25)) == (0.25, 0.25)


def test_pairs_match_by_name_and_leave_out_what_one_side_lacks() -> None:
    parent = {"a": {"Spinal_Cord": 0.5, "mandible": 0.9, "larynx": float("nan")}, "b": {"mandible": 0.7}}
    candidate = {"a": {"spinal cord": 0.75, "larynx": 0.5, "heart": 0.1}, "c": {"mandible": 0.8}}
    assert pair_scores(parent, candidate) == [PairedScore("spinal cord", "a", "a", 0.5, 0.75)]
    assert pair_scores(parent, candidate)[0].difference == 0.25


def test_a_patient_weighs_the_same_however_often_scanned() -> None:
    parent = {"p1 first": {"x": 0.5, "y": 0.5}, "p1 second": {"x": 0.5}, "p2": {"x": 0.5}}
    candidate = {"p1 first": {"x": 0.6, "y": 0.8}, "p1 second": {"x": 0.5}, "p2": {"x": 0.4}}
    pairs = pair_scores(parent, candidate, {"p1 first": "p1", "p1 second": "p1"})
    assert by_patient(pairs)["p1"] == pytest.approx((0.5, 0.6))
    assert differences_by_patient(pairs) == pytest.approx([0.1, -0.1])
    rows = compare(pairs)
    assert (rows[0].structure, rows[0].patients, rows[0].cases) == (None, 2, 3)
    assert rows[0].difference == pytest.approx(0.0)
    assert [row.structure for row in rows[1:]] == ["x", "y"]
    assert rows[1].difference == pytest.approx(-0.025)
    assert rows[2].patients == 1 and rows[2].p_value is None and "at least 6" in rows[2].note
    json.dumps([row.to_json() for row in rows], allow_nan=False)


def test_compare_corrects_for_the_number_of_structures() -> None:
    random = np.random.default_rng(4)
    names = ["x", "y", "z"]
    parent = {f"case {n}": dict.fromkeys(names, 0.5) for n in range(10)}
    candidate = {case: {name: 0.5 + random.normal(0.05, 0.03) for name in names} for case in parent}
    rows = compare(pair_scores(parent, candidate))
    assert rows[0].p_holm == rows[0].p_value
    p_values = [row.p_value for row in rows[1:]]
    assert [row.p_holm for row in rows[1:]] == pytest.approx(holm(p_values))
    assert all(row.low is not None and row.low < row.difference < row.high for row in rows)
    assert rows == compare(pair_scores(parent, candidate))
    assert compare([]) == []


def test_one_patient_is_one_sample_not_twenty() -> None:
    parent = {f"scan {n}": {"x": 0.5} for n in range(20)}
    candidate = {case: {"x": 0.6 + 0.001 * n} for n, case in enumerate(parent)}
    row = compare(pair_scores(parent, candidate, dict.fromkeys(parent, "the patient")))[0]
    assert (row.patients, row.cases, row.p_value, row.low) == (1, 20, None, None)
