"""Verdicts that were confidently wrong once: what is right for each, and that none of them is used by itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from TransferSegLib.evaluation.verdict import Answer, Training, Verdict, judge
from TransferSegLib.evaluation.verdict_advice import IMPROVES
from TransferSegLib.evaluation.verdict_rule import Usability, UsabilityRule

ENOUGH = Training(steps=400)


def fresh(name: str, *dice: float, nsd: float | None = None, training: Training = ENOUGH) -> Verdict:
    """Return the verdict on a new structure with these Dice, one per patient."""
    candidate = {f"case {n}": {name: value} for n, value in enumerate(dice)}
    surface = None if nsd is None else {case: {name: nsd} for case in candidate}
    return judge({case: {} for case in candidate}, candidate, surface=surface, training=training)


def known(before: dict[str, list[float]], after: dict[str, list[float]], training: Training = ENOUGH) -> Verdict:
    """Return the verdict on known structures: Dice by structure, one per patient."""
    count = len(next(iter(before.values())))
    parent, candidate = (
        {f"case {n}": {name: values[n] for name, values in dice.items()} for n in range(count)}
        for dice in (before, after)
    )
    return judge(parent, candidate, training=training)


def promotes(verdict: Verdict) -> bool:
    return bool(verdict.to_json()["promotion"]["automatic"])


def test_a_structure_at_0_0125_is_not_found_and_not_better() -> None:
    verdict = fresh("mandible", 0.02, 0.01, 0.0, 0.02)
    assert verdict.new[0].mean == pytest.approx(0.0125)
    assert verdict.answer is Answer.NOT_USABLE and verdict.new[0].word is Usability.NOT_FOUND
    assert not promotes(verdict) and verdict.to_json()["promotion"]["warned"]
    assert verdict.obstacles == ("mandible: not found (mean Dice 0.01).",)


def test_the_claim_of_0_203_holds_the_truth_of_0_100() -> None:
    verdict = fresh("left ventricle", 0.31, 0.20, 0.10, 0.20)
    row = verdict.new[0]
    assert row.mean == pytest.approx(0.2025) and row.interval[0] <= 0.100 <= row.interval[1]
    assert row.word is Usability.LEARNS and verdict.answer is Answer.NOT_USABLE and not promotes(verdict)
    assert "in other patients 0.0" in verdict.text


def test_five_patients_at_0_are_not_one_patient() -> None:
    verdict = fresh("larynx", 0.0, 0.0, 0.0, 0.0, 0.0)
    assert verdict.answer is Answer.NOT_USABLE and "5 patients" in verdict.text
    assert "one patient" not in verdict.text.lower() and "finds larynx" not in verdict.text


@pytest.mark.parametrize("steps", [0, 10, 29])
def test_ten_steps_are_no_result(steps: int) -> None:
    for verdict in (
        fresh("larynx", *[0.9] * 10, training=Training(steps)),
        known({"larynx": [0.5] * 10}, {"larynx": [0.9] * 10}, Training(steps)),
        known({"larynx": [0.9] * 10}, {"larynx": [0.1] * 10}, Training(steps)),
    ):
        assert verdict.answer is Answer.TOO_SHORT and not promotes(verdict)
        assert f"{steps} training steps" in verdict.reasons[0] and verdict.to_json()["steps"] == steps
    assert fresh("larynx", *[0.9] * 10, training=Training(30)).answer is Answer.BETTER


def test_larynx_0_614_to_0_299_is_probably_worse() -> None:
    for before, after in (([0.614], [0.299]), ([0.62, 0.608], [0.02, 0.578]), ([0.6, 0.6, 0.642], [0.6, 0.297, 0.0])):
        others = {"brainstem": [0.7] * len(before)}
        verdict = known({"larynx": before} | others, {"larynx": after} | others)
        larynx = verdict.structures[0]
        assert (larynx.parent, larynx.candidate) == (pytest.approx(0.614), pytest.approx(0.299, abs=1e-3))
        assert larynx.answer in (Answer.PROBABLY_WORSE, Answer.WORSE)
        assert verdict.answer in (Answer.PROBABLY_WORSE, Answer.WORSE) and not promotes(verdict)
        assert "larynx is" in verdict.obstacles[0] and "0.614 to 0.299" in verdict.obstacles[0]


def test_no_structure_is_outvoted() -> None:
    before = {"brainstem": [0.6] * 6, "larynx": [0.7] * 6, "mandible": [0.6] * 6}
    after = {"brainstem": [0.8] * 6, "larynx": [0.63] * 6, "mandible": [0.8] * 6}
    verdict = known(before, after)
    assert verdict.overall is not None and verdict.overall.answer is Answer.BETTER
    assert verdict.answer is Answer.PARTLY_WORSE and not promotes(verdict)
    # Nor by a new structure.
    parent = {f"case {n}": {"larynx": 0.7} for n in range(6)}
    candidate = {case: {"larynx": 0.63, "mandible": 0.9} for case in parent}
    verdict = judge(parent, candidate, training=ENOUGH)
    assert verdict.new[0].word is Usability.USABLE
    assert verdict.answer in (Answer.WORSE, Answer.PROBABLY_WORSE) and not promotes(verdict)


def test_an_unusable_new_structure_is_not_carried_by_gains_of_others() -> None:
    parent = {f"case {n}": {"larynx": 0.6} for n in range(6)}
    verdict = judge(parent, {case: {"larynx": 0.75, "mandible": 0.3} for case in parent}, training=ENOUGH)
    assert verdict.structures[0].word == "better"
    assert verdict.answer is Answer.NOT_USABLE and not promotes(verdict)


def test_a_known_structure_that_gets_better_and_stays_useless_is_not_better() -> None:
    verdict = known({"oesophagus": [0.1] * 6}, {"oesophagus": [0.3] * 6})
    assert verdict.structures[0].answer is Answer.BETTER and verdict.structures[0].word == IMPROVES
    assert verdict.answer is Answer.NOT_USABLE and not promotes(verdict)


def test_what_got_better_is_to_be_usable_whatever_the_mean_of_all_is() -> None:
    useless_gain = known({"liver": [0.8] * 6, "oesophagus": [0.1] * 6}, {"liver": [0.8] * 6, "oesophagus": [0.35] * 6})
    assert useless_gain.overall is not None and useless_gain.overall.candidate > 0.5
    assert useless_gain.answer is Answer.NOT_USABLE and not promotes(useless_gain)
    assert useless_gain.obstacles == ("oesophagus got better, and is not usable yet.",)
    usable_gain = known({"liver": [0.7] * 6, "oesophagus": [0.1] * 6}, {"liver": [0.8] * 6, "oesophagus": [0.1] * 6})
    assert usable_gain.overall is not None and usable_gain.overall.candidate < 0.5
    assert usable_gain.answer is Answer.BETTER and promotes(usable_gain)


def test_a_thin_structure_that_gets_better_is_better_as_a_whole_too() -> None:
    parent = {f"case {n}": {"optic nerve": 0.30} for n in range(6)}
    candidate = {case: {"optic nerve": 0.45} for case in parent}
    surface = {case: {"optic nerve": 0.95} for case in parent}
    verdict = judge(parent, candidate, surface=surface, training=ENOUGH)
    assert verdict.structures[0].word == Answer.BETTER and verdict.answer is Answer.BETTER and promotes(verdict)


def test_few_patients_cannot_make_sure_of_a_new_structure_and_are_told_how_many_would() -> None:
    verdict = fresh("mandible", 0.8, 0.8)
    assert verdict.new[0].word is Usability.LOOKS_USABLE and verdict.answer is Answer.LOOKS_USABLE
    assert verdict.new[0].more_patients == 3 and "3 more cases" in verdict.text and not promotes(verdict)
    assert not verdict.to_json()["promotion"]["warned"]
    five = fresh("mandible", *[0.8] * 5)
    assert five.new[0].word is Usability.USABLE and five.answer is Answer.BETTER and promotes(five)
    assert fresh("mandible", 0.9).answer is Answer.LOOKS_USABLE


def test_what_would_help() -> None:
    assert fresh("x", *[0.3] * 6, training=Training(60, minutes=10)).new[0].hint.startswith("15 more minutes")
    assert "a longer training" in fresh("x", *[0.3] * 6, training=Training(60)).new[0].hint
    assert fresh("x", *[0.3] * 6, training=Training(400)).new[0].hint == "more cases"
    assert "like these would do" in fresh("x", 0.8, 0.8).text


def test_surface_dice_decides_along() -> None:
    assert fresh("liver", *[0.6] * 10, nsd=0.2).new[0].word is Usability.LEARNS
    assert fresh("liver", *[0.6] * 10, nsd=0.5).new[0].word is Usability.USABLE
    nerve = fresh("optic nerve", *[0.45] * 10, nsd=0.95).new[0]
    assert nerve.word is Usability.USABLE and nerve.nsd == pytest.approx(0.95)
    assert fresh("optic nerve", *[0.45] * 10, nsd=0.8).new[0].word is Usability.LEARNS
    assert fresh("optic nerve", *[0.35] * 10, nsd=1.0).new[0].word is Usability.LEARNS


def test_the_json_has_what_it_had_and_the_new_entries() -> None:
    entry = json.loads(json.dumps(fresh("x", *[0.7] * 6, nsd=0.6).to_json(), allow_nan=False))
    assert {"verdict", "reasons", "warnings", "overall", "structures", "new", "comparisons", "rule"} < set(entry)
    assert entry["promotion"] == {"automatic": True, "warned": False, "obstacles": []} and entry["steps"] == 400
    row = entry["new"][0]
    assert {"structure", "patients", "mean", "smallest"} < set(row) and row["word"] == "usable"
    assert row["interval"][0] < 0.7 < row["interval"][1] and row["nsd"] == pytest.approx(0.6)
    change = known({"x": [0.6] * 6}, {"x": [0.7] * 6}).to_json()["structures"][0]
    assert change["parent_interval"][0] < 0.6 < change["parent_interval"][1]
    assert change["candidate_interval"][0] < 0.7 < change["candidate_interval"][1] and change["word"] == "better"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=10))
def test_what_is_useless_is_never_better(dice: list[float]) -> None:
    verdict = fresh("x", *dice)
    if np.mean(dice) < UsabilityRule().dice or len(dice) < 4:
        assert verdict.answer is not Answer.BETTER and not promotes(verdict)
    assert (verdict.answer is Answer.BETTER) is (verdict.new[0].word is Usability.USABLE)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0)), min_size=1, max_size=8),
)
@example([(1.0, 0.0, 0.0)])
def test_a_large_loss_of_one_structure_is_never_promoted(rows: list[tuple[float, float, float]]) -> None:
    before = {"a": [0.9] * len(rows), "b": [row[1] for row in rows]}
    after = {"a": [0.8 * row[0] for row in rows], "b": [row[2] for row in rows]}
    verdict = known(before, after)
    assert verdict.answer in (Answer.WORSE, Answer.PROBABLY_WORSE, Answer.PARTLY_WORSE) and not promotes(verdict)


def test_a_loss_of_just_0_1_is_one_however_it_is_rounded() -> None:
    # In floating point 0.8 - 0.9 is more than -0.1.
    for patients in (1, 2, 5):
        before, after = {"a": [0.9] * patients, "b": [0.0] * patients}, {"a": [0.8] * patients, "b": [0.0] * patients}
        verdict = known(before, after)
        assert verdict.structures[0].answer in (Answer.WORSE, Answer.PROBABLY_WORSE)
        assert verdict.answer in (Answer.WORSE, Answer.PROBABLY_WORSE) and not promotes(verdict)
