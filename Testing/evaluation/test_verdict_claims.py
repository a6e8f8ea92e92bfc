"""Structures that are reviewed and absent: what is marked where there is none, by which version."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from TransferSegLib.evaluation.verdict import Answer, Results, Training, Verdict, judge
from TransferSegLib.models.versions.record import LearnedCase, ModelReference, VersionRecord

ENOUGH = Training(steps=400)
KNOWN = ("liver", "left kidney")
LIVER = {f"case {n}": {"liver": 0.8} for n in range(5)}
BETTER_LIVER = {case: {"liver": 0.9} for case in LIVER}


def with_kidney(results: Results, **dice: float) -> dict[str, dict[str, float]]:
    """Return results with the left kidney's Dice in some cases, named by number: ``c3=0.0``."""
    return {case: scores | {"left kidney": dice[f"c{n}"]} if f"c{n}" in dice else dict(scores)
            for n, (case, scores) in enumerate(results.items())}  # fmt: skip


def compared(parent: Results, candidate: Results) -> Verdict:
    return judge(parent, candidate, training=ENOUGH, known=KNOWN)


def is_promoted(verdict: Verdict) -> bool:
    return bool(verdict.to_json()["promotion"]["automatic"])


def test_what_is_marked_where_there_is_none_is_never_better() -> None:
    parent = with_kidney(LIVER, c0=0.80, c1=0.80)
    verdict = compared(parent, with_kidney(BETTER_LIVER, c0=0.82, c1=0.82, c2=0.0, c3=0.0, c4=0.0))
    assert verdict.answer is Answer.PARTLY_WORSE and not is_promoted(verdict)
    assert verdict.to_json()["promotion"]["warned"]
    assert (
        "better on average (Dice 0.88, before 0.80), but marks left kidney where there is none." in verdict.reasons[0]
    )
    assert verdict.obstacles == ("left kidney is marked in 3 cases that have none.",)
    assert any(
        "marks left kidney where there is none" in line and "case 2, case 3" in line for line in verdict.warnings
    )
    kidney = next(change for change in verdict.structures if change.structure == "left kidney")
    assert (kidney.patients, kidney.parent, kidney.candidate) == (2, pytest.approx(0.80), pytest.approx(0.82))
    assert kidney.word == "marked where there is none"
    entry = verdict.to_json()["claims"]
    assert entry == [{"structure": "left kidney", "cases": 3, "gone": 0}], "nothing that names a case"


def test_a_structure_that_both_know_and_that_is_never_there_is_not_new() -> None:
    verdict = compared(LIVER, with_kidney(LIVER, c0=0.0))
    assert not verdict.new and "is new" not in verdict.text and "does not find" not in verdict.text
    assert verdict.answer is Answer.PARTLY_WORSE and not is_promoted(verdict)
    assert "marks left kidney where there is none" in verdict.reasons[0]
    assert verdict.obstacles == ("left kidney is marked in 1 case that has none.",)


def test_a_claim_is_told_where_there_is_nothing_else_to_compare() -> None:
    nothing = {"a": {}, "b": {}}
    verdict = compared(nothing, {"a": {"left kidney": 0.0}, "b": {}})
    assert verdict.answer is Answer.PARTLY_WORSE and verdict.overall is None and not is_promoted(verdict)
    assert verdict.reasons[0].startswith(
        "On scans left out of training, the new version marks left kidney where there is none, which the old one does "
        "not."
    )


def test_a_claim_is_an_obstacle_beside_new_structures_and_losses() -> None:
    fresh = {case: scores | {"spleen": 0.9} for case, scores in LIVER.items()}
    verdict = compared(LIVER, with_kidney(fresh, c0=0.0))
    assert [row.structure for row in verdict.new] == ["spleen"]
    assert verdict.answer is Answer.PARTLY_WORSE and not is_promoted(verdict)
    lost = compared(LIVER, with_kidney({case: {"liver": 0.6} for case in LIVER}, c0=0.0))
    assert lost.answer is Answer.WORSE
    assert "left kidney is marked in 1 case that has none." in lost.obstacles and "liver is worse" in lost.obstacles[0]


def test_what_the_old_version_marks_in_other_cases_is_not_denied() -> None:
    """The old version marks it in two cases that have none, the new one in one other: never better, and said so."""
    verdict = compared(with_kidney(LIVER, c0=0.0, c1=0.0), with_kidney(BETTER_LIVER, c4=0.0))
    assert verdict.answer is Answer.PARTLY_WORSE and not is_promoted(verdict)
    assert "the old one does not" not in verdict.text
    assert verdict.reasons[0].startswith(
        "On scans left out of training, the new version is better on average (Dice 0.90, before 0.80), but marks left "
        "kidney in 1 case without it (the old one in 2 others). "
    )
    assert verdict.warnings == (
        "The new version marks left kidney where there is none, and the old one marks none: case 4.",
    )
    nothing = {"a": {}, "b": {}}
    other = compared(nothing | {"a": {"left kidney": 0.0}}, nothing | {"b": {"left kidney": 0.0}})
    assert other.overall is None and "the old one does not" not in other.text
    assert "the new version marks left kidney in 1 case without it (the old one in 1 other)." in other.reasons[0]


def test_both_rightly_find_nothing() -> None:
    verdict = compared(with_kidney(LIVER, c0=0.8, c1=0.8), with_kidney(BETTER_LIVER, c0=0.8, c1=0.8))
    assert verdict.answer is Answer.BETTER and is_promoted(verdict) and not verdict.warnings and not verdict.claims
    assert verdict == judge(
        with_kidney(LIVER, c0=0.8, c1=0.8), with_kidney(BETTER_LIVER, c0=0.8, c1=0.8), training=ENOUGH
    )


def test_a_false_positive_that_is_gone_is_no_loss() -> None:
    for known in (KNOWN, None):
        verdict = judge(with_kidney(LIVER, c0=0.0), BETTER_LIVER, training=ENOUGH, known=known)
        assert verdict.answer is Answer.BETTER and is_promoted(verdict)
        assert not verdict.warnings and "no longer found" not in verdict.text
    told = compared(with_kidney(LIVER, c0=0.0, c1=0.0), BETTER_LIVER)
    assert "In 2 cases without left kidney the new version no longer marks it." in told.reasons
    # It is as well where the structure is there in others.
    elsewhere = judge(with_kidney(LIVER, c0=0.0, c1=0.8), with_kidney(BETTER_LIVER, c1=0.8), training=ENOUGH)
    assert "In 1 case without left kidney the new version no longer marks it." in elsewhere.reasons
    assert elsewhere.answer is Answer.BETTER and not elsewhere.warnings


def test_what_the_new_version_does_not_know_any_more_is_still_told() -> None:
    verdict = judge(with_kidney(LIVER, c0=0.7), BETTER_LIVER, training=ENOUGH)
    assert verdict.warnings == ("left kidney is no longer found by the new version.",)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0.5, 1.0), st.floats(0.5, 1.0)), min_size=1, max_size=8),
    st.booleans(),
)
def test_no_verdict_with_a_claim_is_promoted(rows: list[tuple[bool, bool, float, float]], is_there: bool) -> None:
    """Whatever the other structures gain, and whether or not the structure is there in another case."""
    parent, candidate = {}, {}
    for number, (before, after, *dice) in enumerate(rows):
        parent[f"case {number}"] = {"liver": dice[0]} | ({"left kidney": 0.0} if before else {})
        candidate[f"case {number}"] = {"liver": dice[1]} | ({"left kidney": 0.0} if after else {})
    if is_there:
        parent["with"], candidate["with"] = {"left kidney": 0.6}, {"left kidney": 0.9}
    verdict = compared(parent, candidate)
    claimed = sum(after and not before for before, after, *_ in rows)
    gone = sum(before and not after for before, after, *_ in rows)
    assert sum(len(one.cases) for one in verdict.claims) == claimed
    assert sum(len(one.gone) for one in verdict.claims) == gone
    assert "no longer found" not in verdict.text and not verdict.new
    if claimed:
        assert verdict.answer is not Answer.BETTER and verdict.obstacles and not is_promoted(verdict)
        assert verdict.to_json()["promotion"]["warned"]


def test_claims_travel_without_the_names_of_cases() -> None:
    verdict = compared(LIVER, with_kidney(BETTER_LIVER, c0=0.0))
    record = VersionRecord(ModelReference("x", "1", "0" * 64), (LearnedCase("a" * 64, "case 0"),), verdict.to_json())
    travelling = record.without_cases()
    assert travelling.evidence["claims"] == [{"structure": "left kidney", "cases": 1, "gone": 0}]
    assert travelling.warning == record.warning == "left kidney is marked in 1 case that has none."
    assert "case 0" not in str(travelling.to_json())
