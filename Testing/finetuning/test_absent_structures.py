"""Structures that the parent knows, reviewed and absent in held-out cases: rows, verdict and report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from TransferSegLib.evaluation.scores import Score
from TransferSegLib.finetuning.evidence import Evidence, candidate_dice, summarise
from TransferSegLib.finetuning.folds import Fold
from TransferSegLib.finetuning.held_out import CaseComparison
from TransferSegLib.finetuning.label_change import LabelChange, plan_label_change
from TransferSegLib.finetuning.report import report_text

CASES = tuple(f"c{number}" for number in range(5))


def score(dice: float) -> Score:
    return Score(dice, dice, 2.0 if dice else float("inf"), 1.0, 1.0 if dice else 0.0)


def compared(before: dict[str, float], after: dict[str, float]) -> list[CaseComparison]:
    """Return comparisons of cases with a liver that gets better; the kidney has the Dice that is given."""
    return [
        CaseComparison(
            case,
            {"liver": score(0.8)} | ({"kidney": score(before[case])} if case in before else {}),
            {"liver": score(0.9)} | ({"kidney": score(after[case])} if case in after else {}),
            {},
        )
        for case in CASES
    ]


def evidence(cases: list[CaseComparison], change: LabelChange) -> Evidence:
    folds = [Fold((), (case,)) for case in CASES]
    groups = {case: f"p{case}" for case in CASES}
    return summarise(cases, groups, folds, change.label_set.names, "grid", 3.0, known=change.known)


def report(found: Evidence) -> str:
    result: dict[str, Any] = {
        "model": "ours", "version": 1, "path": "somewhere", "current": False, "in_use": 0, "parent": "tiny version 1",
        "new_structures": [], "dropped": [], "cases": 5, "patients": 5, "strategy": "finetune", "not_corrected": [],
        "forgetting": [], "notes": [], "seconds": 90.0, "evidence": found.to_json(),
    }  # fmt: skip
    return report_text(result)


@pytest.fixture
def change(world: Any) -> LabelChange:
    return plan_label_change(
        world.label_set("liver", "old kidney"), world.label_set("liver", "kidney"), renamed={"kidney": "old kidney"}
    )


def test_what_is_known_of_a_change(world: Any) -> None:
    parent = world.label_set("keep", "old", "left", "right", "whole", "gone")
    new = world.label_set("keep", "name", "pair", "half", "other half", "added")
    change = plan_label_change(
        parent,
        new,
        renamed={"name": "old"},
        merged={"pair": ("left", "right")},
        split={"half": "whole", "other half": "whole"},
        dropped=("gone",),
    )
    assert sorted(change.known) == ["keep", "name", "pair"]


def test_a_claim_is_told_and_before_and_after_are_of_the_same_cases(change: LabelChange) -> None:
    after = {"c0": 0.82, "c1": 0.82, "c2": 0.0, "c3": 0.0, "c4": 0.0}
    found = evidence(compared({"c0": 0.8, "c1": 0.8}, after), change)
    kidney = found.rows[1]
    assert (kidney.cases, kidney.patients, kidney.parent, kidney.candidate) == (2, 2, 0.8, 0.82)
    assert kidney.nsd == (0.8, 0.82) and kidney.hd95_mm == (2.0, 2.0)
    assert found.answer == "worse in some structures"
    text = report(found)
    assert "Look: The new version marks kidney where there is none, and the old one marks none: c2, c3, c4." in text
    assert (
        "kidney is marked in 3 cases that have none." in text
        and "promote ours 1    # to use it all the same, a" in text
    )
    assert candidate_dice(found.cases, change.label_set.names) == pytest.approx({"liver": 0.9, "kidney": 1.64 / 5})


def test_a_known_structure_that_is_nowhere_is_not_new(change: LabelChange) -> None:
    found = evidence(compared({}, {"c0": 0.0}), change)
    assert not found.verdict.new and found.answer == "worse in some structures"
    assert [row.structure for row in found.rows] == ["liver"]
    assert "kidney is new" not in report(found) and "does not find kidney" not in report(found)


def test_a_false_positive_that_is_gone(change: LabelChange) -> None:
    found = evidence(compared({"c0": 0.8, "c1": 0.0}, {"c0": 0.8}), change)
    assert found.answer == "better" and not found.verdict.warnings
    assert (found.rows[1].parent, found.rows[1].candidate) == (0.8, 0.8), "0.4 before was of other cases"
    assert "In 1 case without kidney the new version no longer marks it." in report(found)


def parts(reference_ml: float) -> list[CaseComparison]:
    """Return the comparisons of both parts of a scan; both find no kidney right in the first, in the second it is not.

    ``reference_ml`` is the volume of the kidney in the first part.
    """
    first, nowhere = Score(0.0, 0.0, float("inf"), 1.0, reference_ml), score(0.0)
    return [
        CaseComparison("a part 1", {"liver": score(0.8), "kidney": first}, {"liver": score(0.9), "kidney": first}, {}),
        CaseComparison("a part 2", {"liver": score(0.8)}, {"liver": score(0.9), "kidney": nowhere}, {}),
    ]


@pytest.mark.parametrize(("reference_ml", "claims"), [(1.0, 0), (0.0, 1)])
def test_a_part_of_a_scan_is_no_case_without_what_another_part_has(
    change: LabelChange, reference_ml: float, claims: int
) -> None:
    """A kidney that ends where a slab does, and goes on for a plane in the prediction, was called false."""
    folds = [Fold(("a",), ("a",), parity) for parity in (0, 1)]
    groups = dict.fromkeys(("a part 1", "a part 2"), "p")
    compared = parts(reference_ml)
    found = summarise(compared, groups, folds, change.label_set.names, "grid", 3.0, known=change.known)
    assert found.is_weak and len(found.verdict.claims) == claims
    assert (found.answer == "worse in some structures") is bool(claims)
    assert ("where there is none" in report(found)) is bool(claims)
    # Nor is it told as an improvement of the old version's.
    back = [replace(one, parent=one.candidate, candidate=one.parent) for one in compared]
    gone = summarise(back, groups, folds, change.label_set.names, "grid", 3.0, known=change.known)
    assert ("without kidney the new version no longer marks it" in report(gone)) is bool(claims)


def test_parts_of_another_scan_do_not_excuse_a_claim(change: LabelChange) -> None:
    """The kidney was removed between two scans of one patient."""
    folds = [Fold(("a", "b"), ("a", "b"), parity) for parity in (0, 1)]
    there, after = parts(1.0)[0], replace(parts(1.0)[1], case="b part 2")
    found = summarise(
        [there, after], dict.fromkeys(("a part 1", "b part 2"), "p"), folds, change.label_set.names, "grid", 3.0,
        known=change.known,
    )  # fmt: skip
    assert [claim.cases for claim in found.verdict.claims] == [("b part 2",)]
