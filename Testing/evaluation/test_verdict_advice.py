"""What a person reads first: what the verdict means and what to do, in words that need no explanation."""

from __future__ import annotations

import re
from typing import Any

import pytest

from TransferSegLib.evaluation.verdict import Answer, Training, Verdict, judge

ENOUGH = Training(steps=400)
#: Words of statistics and of the program, which somebody who has read nothing does not know.
JARGON = re.compile(r"held.out|candidate|interval|fold|parent|optimisation|Bonferroni|%", re.IGNORECASE)


def verdict(
    before: dict[str, list[float]], after: dict[str, list[float]], training: Training = ENOUGH, **more: Any
) -> Verdict:
    """Return the verdict on Dice by structure, one per patient; what is not in ``before`` is new."""
    count = len(next(iter(after.values())))
    parent, candidate = (
        {f"case {n}": {name: values[n] for name, values in dice.items()} for n in range(count)}
        for dice in (before, after)
    )
    return judge(parent, candidate, training=training, **more)


def test_a_structure_that_is_found_is_said_first() -> None:
    found = verdict({}, {"vertebrae": [0.75] * 6})
    assert found.answer is Answer.BETTER
    assert found.reasons[0] == (
        "On scans left out of training, the new version finds vertebrae (Dice 0.75), which the old one does not know."
    )
    both = verdict({"mandible": [0.8] * 6}, {"mandible": [0.81] * 6, "vertebrae": [0.75] * 6})
    assert both.reasons[0].endswith("; what the old one knows is about as good as before (Dice 0.81, before 0.80).")


def test_a_structure_that_five_patients_cannot_prove_comes_with_what_would_settle_it() -> None:
    """Of the test person: five patients, mean Dice 0.72. One more patient like these is enough."""
    dice = [0.6, 0.7, 0.75, 0.77, 0.78]
    few = verdict({}, {"vertebrae": dice})
    assert few.answer is Answer.LOOKS_USABLE == few.new[0].word
    assert few.reasons[0] == (
        "On scans left out of training, the new version finds vertebrae (Dice 0.72), which the old one does not know, "
        "but 5 patients cannot show that it does so in others. Correct about 1 more scan of another patient and "
        "fine-tune again, or look at the worst case and decide yourself."
    )
    assert "in other patients 0.39 to 0.85 is to be expected (90 % interval)" in few.reasons[1]
    assert "this range must begin at 0.40 or above to be sure: 1 more case like these would do." in few.reasons[1]
    assert verdict({}, {"vertebrae": [*dice, 0.72]}).answer is Answer.BETTER, "the advice is true"


@pytest.mark.parametrize(("patients", "dice"), [(5, 0.74), (6, 0.67), (10, 0.54)])
def test_what_is_enough_is_what_the_page_says(patients: int, dice: float) -> None:
    assert verdict({}, {"x": [dice] * patients}).answer is Answer.BETTER
    assert verdict({}, {"x": [dice - 0.01] * patients}).answer is Answer.LOOKS_USABLE


def test_a_range_that_begins_just_below_does_not_look_as_if_it_were_enough() -> None:
    (said,) = verdict({}, {"vertebrae": [0.73] * 5}).reasons[1:]
    assert "0.399 to 0.85" in said and "must begin at 0.40 or above" in said


def test_how_many_more_would_settle_a_change() -> None:
    before, after = [0.75] * 3, [0.7, 0.9, 0.8]
    few = verdict({"mandible": before}, {"mandible": after})
    assert few.answer is Answer.TOO_FEW
    said = re.search(r"Correct about (\d+) more scans? of", few.reasons[0])
    assert said is not None and "3 patients cannot show whether that is chance" in few.reasons[0]
    enough = 3 + int(said[1])
    for count in range(4, enough + 1):
        more = verdict({"mandible": (before * 20)[:count]}, {"mandible": (after * 20)[:count]})
        assert (more.answer is Answer.TOO_FEW) is (count < enough)


@pytest.mark.parametrize(
    ("before", "after", "training", "expected"),
    [
        ([0.75] * 5, [0.8] * 5, ENOUGH, "the new version is better (Dice 0.80, before 0.75)."),
        ([0.75] * 5, [0.75] * 5, ENOUGH, "Keep the old version, or correct more scans of other patients"),
        ([0.75] * 5, [0.65] * 5, ENOUGH, "worse in mandible (Dice 0.65, before 0.75). Keep the old version, and check"),
        ([0.7], [0.6], ENOUGH, "the new version is worse (Dice 0.60, before 0.70). Keep the old version, and check"),
        ([0.1] * 6, [0.3] * 6, ENOUGH, "finds mandible (Dice 0.30, before 0.10) better than the old one, but not well"),
        ([0.7] * 6, [0.9] * 6, Training(10), "made 10 training steps, and need at least 30. Fine-tune again with more"),
    ],
)
def test_each_verdict_says_what_to_do(
    before: list[float], after: list[float], training: Training, expected: str
) -> None:
    first = verdict({"mandible": before}, {"mandible": after}, training).reasons[0]
    assert expected in first and not JARGON.search(first)


def test_what_is_not_usable_says_what_would_help() -> None:
    def first(training: Training) -> str:
        return verdict({}, {"vertebrae": [0.3] * 6, "larynx": [0.02] * 6}, training).reasons[0]

    assert "does not find larynx and does not find vertebrae (Dice 0.30) well enough. Keep the old" in first(ENOUGH)
    assert first(ENOUGH).endswith("Correct more scans of other patients and fine-tune again.")
    assert "Fine-tune again with about 15 more minutes; if that does not help" in first(Training(60, minutes=10))
    assert "Train longer; if that does not help" in first(Training(60))
    assert first(Training(60, 10, has_converged=True)).endswith(
        "More training brought nothing. Correct more scans of other patients and fine-tune again."
    )
    converged = verdict({}, {"vertebrae": [0.3] * 6}, Training(60, 10, has_converged=True))
    assert converged.new[0].hint == "more cases" and "minute" not in converged.text


def test_a_loss_that_is_not_certain_says_what_would_show_it() -> None:
    unsure = verdict({"a": [0.62, 0.608], "b": [0.7, 0.7]}, {"a": [0.02, 0.578], "b": [0.7, 0.7]})
    assert unsure.answer is Answer.PROBABLY_WORSE
    assert "probably worse in a (Dice 0.299, before 0.614). Keep the old version. More corrected" in unsure.reasons[0]


def test_one_that_is_worse_in_a_structure_names_it() -> None:
    first = verdict({"a": [0.5] * 10, "b": [0.8] * 10}, {"a": [0.8] * 10, "b": [0.74] * 10}).reasons[0]
    assert "better on average (Dice 0.77, before 0.65), but worse in b (Dice 0.74, before 0.80). Look at" in first


def test_the_new_version_is_not_said_to_be_what_was_measured() -> None:
    """It has learned from all cases; only the networks that were compared were trained without some of them."""
    dice = {"mandible": [0.7] * 5}, {"mandible": [0.8] * 5}
    assert verdict(*dice).reasons[0].startswith("On scans left out of training, the new")
    parts = verdict(*dice, on_parts=True).reasons[0]
    assert parts.startswith("On parts of the scans that were left out of training, the new")


def test_the_numbers_say_what_the_networks_were_trained_without() -> None:
    """Of one patient they learned from other parts: nothing was measured without that patient."""
    one = {"mandible": [0.7]}, {"mandible": [0.8]}
    several = verdict({"mandible": [0.7] * 5}, {"mandible": [0.8] * 5})
    without = "measured by a network that was trained without that patient, the mean Dice rose"
    assert several.reasons[1].startswith(f"Over 5 patients, each {without}")
    assert verdict(*one).reasons[1].startswith(f"Over 1 patient, {without}"), "others lack the structure"
    assert (
        verdict(*one, on_parts=True)
        .reasons[1]
        .startswith(
            "Over parts of the scans of 1 patient, each measured by a network that was trained on other parts, the mean"
        )
    )


def test_before_and_after_differ_where_the_scores_do() -> None:
    """Seen in a verdict: 'better (Dice 0.79, before 0.79)'."""
    better = verdict({"a": [0.7751] * 40}, {"a": [0.7949] * 40})
    assert "better (Dice 0.79, before 0.78)" not in better.reasons[0], "that is a change of 0.01, not 0.02"
    assert "better (Dice 0.795, before 0.775)" in better.reasons[0]
    lost = verdict({"a": [0.6951] * 9}, {"a": [0.5649] * 9})
    assert "(Dice 0.565, before 0.695)" in lost.reasons[0] and lost.obstacles == ("a is worse (0.695 to 0.565).",)


def test_a_mean_that_stays_is_not_called_better() -> None:
    first = verdict({"a": [0.7] * 10, "b": [0.8] * 10}, {"a": [0.762] * 10, "b": [0.74] * 10}).reasons[0]
    assert "is about as good as the old one on average (Dice 0.75, before 0.75), but worse in b" in first


def test_a_loss_is_not_called_both_certain_and_probable() -> None:
    """One structure certainly lost a little, their mean did not."""
    unsure = verdict({"a": [0.7] * 10, "b": [0.8] * 10}, {"a": [0.755] * 10, "b": [0.74] * 10})
    assert unsure.answer is Answer.PROBABLY_WORSE
    assert unsure.structures[1].answer is Answer.WORSE
    assert ", the new version is probably worse in b (Dice 0.74, before 0.80). Keep the old" in unsure.reasons[0]


def test_a_new_structure_that_looks_usable_does_not_hide_that_the_known_ones_may_have_lost() -> None:
    known = {"mandible": [0.8] * 3}
    same = verdict(known, {"mandible": [0.8] * 3, "vertebrae": [0.7] * 3})
    assert same.structures[0].answer is Answer.NO_CLEAR_DIFFERENCE and same.answer is Answer.LOOKS_USABLE
    unsure = verdict(known, {"mandible": [0.68, 0.96, 0.82], "vertebrae": [0.7] * 3})
    assert unsure.overall is not None
    assert unsure.overall.answer is unsure.answer is Answer.TOO_FEW


NOTE = "The old version had learned from this scan before: its Dice is too high there, so a gain may be hidden."
FINE_TUNE = "Correct more scans of other patients and fine-tune again."


@pytest.mark.parametrize(
    ("before", "after", "answer", "in_use"),
    [
        ({"a": [0.75] * 5}, {"a": [0.75] * 5}, Answer.NO_CLEAR_DIFFERENCE, ""),
        ({"a": [0.75] * 5}, {"a": [0.65] * 5}, Answer.WORSE, "Check your corrections."),
        (
            {"a": [0.7] * 10, "b": [0.8] * 10},
            {"a": [0.755] * 10, "b": [0.74] * 10},
            Answer.PROBABLY_WORSE,
            "More corrected scans of other patients would show whether that is so.",
        ),
        (
            {"a": [0.7] * 10, "b": [0.8] * 10},
            {"a": [0.762] * 10, "b": [0.74] * 10},
            Answer.PARTLY_WORSE,
            "Look at the worst case.",
        ),
        ({"a": [0.75] * 5}, {"a": [0.75] * 5, "b": [0.3] * 5}, Answer.NOT_USABLE, FINE_TUNE),
        ({"a": [0.75] * 5}, {"a": [0.75] * 5, "b": [0.6] * 5}, Answer.LOOKS_USABLE, "and fine-tune again."),
        ({"a": [0.75] * 5}, {"a": [0.9] * 5}, Answer.BETTER, ""),
    ],
)
def test_who_uses_the_new_version_gets_other_advice(
    before: dict[str, list[float]], after: dict[str, list[float]], answer: Answer, in_use: str
) -> None:
    """Seen in the panel: "Look at the worst case before you use it", of a version in use."""
    found = verdict(before, after, parent_note=NOTE)
    assert found.answer is answer
    assert found.first_in_use == found.to_json()["first_in_use"]
    for word in ("eep the old", "before you use", "decide"):
        assert word not in found.first_in_use
    assert found.first_in_use.endswith(f"{in_use} {NOTE}" if in_use else f"). {NOTE}")
    finding = found.first_in_use.removesuffix(NOTE).rstrip().removesuffix(in_use)
    assert found.reasons[0].startswith(finding.rsplit(". ", 1)[0]) and found.reasons[0].endswith(NOTE)
    assert (found.first_in_use == found.reasons[0]) is (answer is Answer.BETTER)
