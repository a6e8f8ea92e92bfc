"""The verdict: what a person would say of clear cases, honesty with few, and how often it errs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from Testing.research.benchmarks import verdict_simulation
from TransferSegLib.evaluation.verdict import Answer, Results, VerdictRule, judge

NAMES = ("brainstem", "mandible", "larynx")


def results(*rows: tuple[float, ...], names: tuple[str, ...] = NAMES) -> dict[str, dict[str, float]]:
    return {f"case {n}": dict(zip(names, row, strict=True)) for n, row in enumerate(rows)}


def changed(parent: Results, *changes: tuple[float, ...] | float) -> dict[str, dict[str, float]]:
    candidate = {}
    for (case, scores), change in zip(parent.items(), changes, strict=True):
        by_name = change if isinstance(change, tuple) else (change,) * len(scores)
        candidate[case] = {name: value + by for (name, value), by in zip(scores.items(), by_name, strict=True)}
    return candidate


PARENT_5 = results(*[(0.75, 0.85, 0.65)] * 5)


def test_interval_by_hand() -> None:
    # Usual spread 0.04 counted for 3, seen: 0.00, 0.04, 0.08; 3 * 0.0016 + 0.0032 = 0.0080 over 5 degrees of freedom.
    low, high = VerdictRule().interval(np.array([0.0, 0.04, 0.08]))
    half = 2.015048 * np.sqrt(0.0080 / 5 / 3 + 0.01**2)
    assert (low, high) == pytest.approx((0.04 - half, 0.04 + half), abs=1e-6)
    with pytest.raises(ValueError, match="no patient"):
        VerdictRule().interval(np.array([]))


def test_clear_cases() -> None:
    better = judge(PARENT_5, changed(PARENT_5, 0.05, 0.08, 0.06, 0.04, 0.07))
    assert better.answer is Answer.BETTER and not better.warnings
    assert better.reasons[0] == "On scans left out of training, the new version is better (Dice 0.81, before 0.75)."
    assert "Over 5 patients" in better.reasons[1] and "rose from 0.750 to 0.810 (+0.060)" in better.reasons[1]
    worse = judge(PARENT_5, changed(PARENT_5, -0.05, -0.08, -0.06, -0.04, -0.07))
    assert worse.answer is Answer.WORSE and "fell from 0.750 to 0.690" in worse.reasons[1]
    same = judge(PARENT_5, changed(PARENT_5, 0.02, -0.02, 0.01, 0.0, -0.01))
    assert same.answer is Answer.NO_CLEAR_DIFFERENCE and "chance" in same.reasons[1]
    assert "about as good as the old one" in same.reasons[0] and "Keep the old version" in same.reasons[0]
    stayed = judge(PARENT_5, changed(PARENT_5, 0.02, -0.02, 0.01, -0.0101, -0.001))
    assert "the mean Dice stayed at 0.750 (0.000); " in stayed.reasons[1]
    unsure = judge(PARENT_5, changed(PARENT_5, 0.3, -0.2, 0.2, -0.1, 0.05))
    assert unsure.answer is Answer.TOO_FEW


@pytest.mark.parametrize("count", [3, 4, 5])
def test_a_spoilt_candidate_is_seen_with_three_to_five_cases(count: int) -> None:
    parent = results(*[(0.75, 0.85, 0.65)] * count)
    drops = [-0.12, -0.08, -0.15, -0.06, -0.1][:count]
    assert judge(parent, changed(parent, *drops)).answer is Answer.WORSE


def test_two_patients_who_agree_by_chance_are_no_proof() -> None:
    parent = results((0.7, 0.7, 0.7), (0.7, 0.7, 0.7))
    # The textbook's interval for two equal differences has no width at all.
    verdict = judge(parent, changed(parent, 0.03, 0.03))
    assert verdict.answer is not Answer.BETTER
    assert verdict.comparisons[0].p_value is None and "at least 6" in verdict.comparisons[0].note


def test_one_patient_raises_an_alarm_but_proves_nothing() -> None:
    parent = results((0.7, 0.7, 0.7))
    for gain in (0.0, 0.05, 0.29):
        verdict = judge(parent, changed(parent, gain))
        assert verdict.answer is Answer.TOO_FEW and "1 patient cannot show" in verdict.reasons[0]
    assert judge(parent, changed(parent, -0.3)).answer is Answer.WORSE
    # Ten scans of one patient are one patient.
    parent = results(*[(0.7, 0.7, 0.7)] * 10)
    verdict = judge(parent, changed(parent, *[0.1] * 10), dict.fromkeys(parent, "she"))
    assert verdict.answer is Answer.TOO_FEW
    assert judge(parent, changed(parent, *[0.1] * 10)).answer is Answer.BETTER


def test_a_sure_difference_that_does_not_matter() -> None:
    parent = results(*[(0.7, 0.7, 0.7)] * 400)
    rule = VerdictRule(training_noise=0.0)
    verdict = judge(parent, changed(parent, *[0.008] * 400), rule=rule)
    assert verdict.overall is not None and verdict.overall.low > 0
    assert verdict.answer is Answer.NO_CLEAR_DIFFERENCE and "too little to matter" in verdict.reasons[1]
    assert judge(parent, changed(parent, *[0.012] * 400), rule=rule).answer is Answer.BETTER
    # What another training run would change by itself is no proof however many patients there are.
    assert judge(parent, changed(parent, *[0.012] * 400)).answer is Answer.NO_CLEAR_DIFFERENCE


def test_a_worse_structure_is_named_although_the_mean_is_better() -> None:
    parent = results(*[(0.75, 0.85, 0.65)] * 10)
    verdict = judge(parent, changed(parent, *[(0.15, -0.06, 0.2)] * 10))
    assert verdict.overall is not None and verdict.overall.answer is Answer.BETTER
    assert verdict.answer is Answer.PARTLY_WORSE
    assert verdict.warnings == ("mandible is worse by 0.06 (0.85 to 0.79) although the mean is better.",)
    assert verdict.obstacles == ("mandible is worse (0.85 to 0.79).",)


def test_a_collapsed_structure_outweighs_the_gain_of_others() -> None:
    parent = results(*[(0.75, 0.85, 0.35)] * 5)
    verdict = judge(parent, changed(parent, *[(0.2, -0.4, 0.5)] * 5))
    assert verdict.overall is not None and verdict.overall.answer is Answer.BETTER
    assert verdict.answer is Answer.WORSE and "worse in mandible (Dice 0.45, before 0.85)" in verdict.reasons[0]
    assert [change.structure for change in verdict.structures if change.collapsed] == ["mandible"]


def test_a_new_structure_counts_but_does_not_make_up_for_a_loss() -> None:
    known = ("brainstem", "larynx")
    parent = results(*[(0.75, 0.65)] * 6, names=known)

    def candidate(by: float, new: float) -> Results:
        return {case: scores | {"mandible": new} for case, scores in changed(parent, *[by] * 6).items()}

    assert judge(parent, candidate(0.0, 0.7)).answer is Answer.BETTER
    assert "finds mandible" in judge(parent, candidate(0.0, 0.7)).reasons[0]
    assert judge(parent, candidate(-0.1, 0.9)).answer is Answer.WORSE
    weak = judge(parent, candidate(0.0, 0.2))
    assert weak.answer is Answer.NOT_USABLE and "It is being learned, and is not usable yet" in weak.text
    assert (weak.new[0].structure, weak.new[0].patients, weak.new[0].mean) == ("mandible", 6, pytest.approx(0.2))
    nothing_shared = judge({case: {} for case in parent}, {case: {"mandible": 0.7} for case in parent})
    assert nothing_shared.answer is Answer.BETTER and nothing_shared.overall is None
    one = judge({}, {"case": {"mandible": 0.7}})
    assert one.answer is Answer.LOOKS_USABLE and "One patient" in one.text


def test_lost_structures_and_false_claims_are_named() -> None:
    parent = {"a": {"brainstem": 0.7, "larynx": 0.6}, "b": {"brainstem": 0.7, "mandible": 0.8}}
    candidate = {"a": {"brainstem": 0.7, "mandible": 0.0}, "b": {"brainstem": 0.7, "mandible": 0.8}}
    warnings = " ".join(judge(parent, candidate).warnings)
    assert "larynx is no longer found" in warnings
    assert "marks mandible where there is none" in warnings and warnings.rstrip(".").endswith(" a")


def test_nothing_to_compare() -> None:
    verdict = judge({"a": {"x": 0.5}}, {"b": {"x": 0.5}})
    assert verdict.answer is Answer.TOO_FEW and "no scan in which both" in verdict.text
    assert judge({}, {}).answer is Answer.TOO_FEW


def test_caveat_and_json() -> None:
    caveat = "Weak evidence: measured on parts of the training case."
    verdict = judge(PARENT_5, changed(PARENT_5, *[0.1] * 5), caveat=caveat)
    entry = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert entry["verdict"] == "better" and entry["reasons"][-1] == caveat
    assert entry["overall"]["difference"] == pytest.approx(0.1) and entry["overall"]["answer"] == "better"
    assert [row["structure"] for row in entry["structures"]] == list(NAMES)
    assert entry["rule"]["smallest_difference"] == 0.01
    assert judge(PARENT_5, changed(PARENT_5, *[0.1] * 5), caveat=caveat) == verdict


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-0.3, 0.3), min_size=2, max_size=10), st.floats(0.0, 0.2))
def test_moving_every_case_up_never_makes_the_verdict_worse(changes: list[float], by: float) -> None:
    rule = VerdictRule()
    answers = []
    for differences in (np.array(changes), np.array(changes) + by):
        low, high = rule.interval(differences)
        answers.append(rule.answer(len(differences), float(differences.mean()), low, high))
    order = [Answer.WORSE, Answer.TOO_FEW, Answer.BETTER]
    ranks = [order.index(Answer.TOO_FEW if a is Answer.NO_CLEAR_DIFFERENCE else a) for a in answers]
    assert ranks[0] <= ranks[1]
    mirrored = rule.answer(len(changes), -float(np.mean(changes)), *rule.interval(-np.array(changes)))
    swap = {Answer.BETTER: Answer.WORSE, Answer.WORSE: Answer.BETTER}
    assert mirrored is swap.get(answers[0], answers[0])


@pytest.mark.parametrize("patients", [2, 3, 5, 10])
def test_few_false_claims_and_few_missed_losses(patients: int) -> None:
    random, rule = np.random.default_rng(7), VerdictRule()

    def share(answer: Answer, truth: float, runs: int = 600) -> float:
        count = 0
        for _ in range(runs):
            values = truth + random.standard_t(4, patients) * np.sqrt(0.5) * 0.05 + random.normal(0, 0.01)
            count += rule.answer(patients, float(values.mean()), *rule.interval(values)) is answer
        return count / runs

    assert share(Answer.BETTER, 0.0) < 0.07
    assert share(Answer.BETTER, -0.05) < 0.01
    assert share(Answer.WORSE, -0.15) > (0.85 if patients == 2 else 0.95)


def test_the_simulation_uses_the_rule_that_users_get() -> None:
    random, seen = np.random.default_rng(3), set()
    for truth in (-0.3, -0.1, 0.0, 0.1):
        for patients, lost in ((1, False), (2, True), (4, False), (4, True)):
            differences = verdict_simulation.drawn(patients, truth, 0.05, lost, random)
            parent = {
                f"case {n}": {f"structure {i}": 0.5 for i in range(differences.shape[1])} for n in range(patients)
            }
            candidate = changed(parent, *map(tuple, differences))
            answer = judge(parent, candidate).answer
            assert verdict_simulation.ours(differences) is answer
            seen.add(answer)
    assert len(seen) >= 4
