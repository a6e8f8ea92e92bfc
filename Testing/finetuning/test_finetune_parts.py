"""The parts of ``finetune`` without training: slabs, words of the parent, time, progress, the report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from TransferSegLib.errors import TrainingError
from TransferSegLib.evaluation.scores import Score
from TransferSegLib.finetuning.blending import blended, choose_blend, default_share
from TransferSegLib.finetuning.evidence import changed_without_correction, summarise
from TransferSegLib.finetuning.folds import Fold, divide, held_out_slabs, learned_structures
from TransferSegLib.finetuning.forgetting import forgetting_of
from TransferSegLib.finetuning.held_out import CaseComparison, ParentLabels
from TransferSegLib.finetuning.label_change import plan_label_change
from TransferSegLib.finetuning.report import report_text


def test_slabs_divide_every_structure(world: Any) -> None:
    case = world.ball_case()
    masks = [held_out_slabs(case, parity) for parity in (0, 1)]
    assert (masks[0] ^ masks[1]).all()
    for mask in masks:
        for channel in (1, 2):
            assert 0.3 < (mask & (case.labels == channel)).sum() / (case.labels == channel).sum() < 0.7
    fold = Fold(("ball",), ("ball",), 1)
    (training,), (held_out,) = divide({"ball": case}, fold)
    assert training.region is not None and held_out.region is not None
    assert not (training.region & held_out.region).any()
    assert all(training.region.reshape(-1)[indices].all() for indices in training.voxels.values())
    assert training.id != case.id, "its patches are others"


@pytest.mark.parametrize("first", range(8, 14))
def test_a_structure_of_two_planes_lies_on_either_side_of_a_border(world: Any, first: int) -> None:
    """All of it was in one slab, and the run was refused after the parent's predictions had been made."""
    labels = np.zeros((32, 32, 32), np.uint8)
    labels[first : first + 2, 10:20, 10:20] = 1
    case = replace(world.ball_case(), labels=labels, voxels={1: np.flatnonzero(labels)})
    for parity in (0, 1):
        (training,), (held_out,) = divide({"ball": case}, Fold(("ball",), ("ball",), parity))
        assert training.voxels[1].size == held_out.voxels[1].size == 100


@pytest.mark.parametrize("drawn", [(10, 14), (10, 14, 18), (10, 18), (10, 18, 26), (10, 11), (10, 14, 18, 22)])
def test_checked_slices_at_equal_distances_are_divided(world: Any, drawn: tuple[int, ...]) -> None:
    """With slabs of one thickness all of them were in slabs of one parity."""
    labels = np.zeros((32, 32, 32), np.uint8)
    labels[list(drawn), 10:20, 10:20] = 1
    case = replace(world.ball_case(), labels=labels, voxels={1: np.flatnonzero(labels)})
    for parity in (0, 1):
        (training,), (held_out,) = divide({"ball": case}, Fold(("ball",), ("ball",), parity))
        assert training.voxels[1].size + held_out.voxels[1].size == 100 * len(drawn)
        assert training.voxels[1].size and held_out.voxels[1].size


def test_a_structure_of_one_plane_cannot_be_divided(world: Any) -> None:
    labels = np.zeros((32, 32, 32), np.uint8)
    labels[10, 10:20, 10:20] = 1
    case = replace(world.ball_case(), labels=labels, voxels={1: np.flatnonzero(labels)})
    with pytest.raises(TrainingError, match="draw a structure in more slices, or in a second patient"):
        for parity in (0, 1):
            divide({"ball": case}, Fold(("ball",), ("ball",), parity))


def test_slabs_keep_to_the_annotated_region(world: Any) -> None:
    region = np.zeros((32, 32, 32), bool)
    region[:, :16] = True
    case = replace(world.ball_case(), region=region)
    (training,), (held_out,) = divide({"ball": case}, Fold(("ball",), ("ball",), 0))
    assert not ((training.region | held_out.region) & ~region).any()


def test_cases_without_voxels_are_measured_on_but_not_learned_from(world: Any) -> None:
    empty = replace(world.ball_case("empty"), labels=np.zeros((32, 32, 32), np.uint8), voxels={})
    cases = {"a": world.ball_case("a"), "empty": empty}
    training, held_out = divide(cases, Fold(("a", "empty"), ("empty",)))
    assert [case.id for case in training] == ["a"] and [case.id for case in held_out] == ["empty"]
    assert learned_structures([*training, empty], ("bright", "dark")) == {"bright", "dark"}
    with pytest.raises(TrainingError, match="Without a no corrected case"):
        divide(cases, Fold(("empty",), ("a",)))


def test_labels_of_the_parent(world: Any) -> None:
    parent = world.label_set("keep", "old", "left", "right", "gone", "whole")
    change = plan_label_change(
        parent,
        world.label_set("new name", "pair", "half", "other half", "added"),
        renamed={"new name": "old"},
        merged={"pair": ("left", "right")},
        split={"half": "whole", "other half": "whole"},
        dropped=("gone",),
    )
    labels = ParentLabels(change)
    known = labels.known
    assert known is not None and set(known.names) == {"keep", "new name", "pair"}
    values = np.arange(7, dtype=np.uint8)
    translated = labels.translated(values, {one.name: one.label for one in parent})
    of = {one.name: one.label for one in change.label_set}
    assert translated.tolist() == [0, of["keep"], of["new name"], of["pair"], of["pair"], 0, 0]


def score(dice: float) -> Score:
    return Score(dice, dice, 2.0, 1.0, 1.0)


def comparisons() -> list[CaseComparison]:
    return [
        CaseComparison(f"c{number}", {"bright": score(0.5)}, {"bright": score(0.8), "dark": score(0.6)}, {"other": 0.7})
        for number in range(8)
    ]


def test_evidence_of_comparisons() -> None:
    folds = [Fold((), (f"c{number}",)) for number in range(8)]
    groups = {f"c{number}": f"p{number}" for number in range(8)}
    found = summarise(comparisons(), groups, folds, ("bright", "dark", "other"), "grid", 3.0, ["A note."])
    assert found.answer == "better" and found.method == "leave one patient out, 8 patients" and not found.is_weak
    assert "A note." in found.verdict.text
    assert [row.structure for row in found.rows] == ["bright", "dark", "other"]
    assert found.rows[0].parent == pytest.approx(0.5) and found.rows[1].parent is None
    assert changed_without_correction(found.rows) == (
        "other was not corrected, and is predicted differently than before (agreement 0.70).",
    )
    assert CaseComparison.from_json(found.cases[0].to_json()) == found.cases[0]


def test_what_was_forgotten_is_read_from_comparisons(world: Any) -> None:
    parent = world.label_set("kept", "old", "halves", "gone")
    new = world.label_set("kept", "name", "left", "right", "added")
    change = plan_label_change(
        parent, new, renamed={"name": "old"}, split={"left": "halves", "right": "halves"}, dropped=["gone"]
    )

    def score(dice: float) -> Score:
        return Score(dice, 1.0, 0.0, 1.0, 1.0)

    comparisons = [
        CaseComparison("a", {"kept": score(0.8)}, {"kept": score(0.6), "added": score(0.9)}, {"name": 0.5}),
        CaseComparison("b", {"kept": score(0.6), "name": score(0.4)}, {"kept": score(0.7), "name": score(0.5)}, {}),
    ]
    found = {one.parent: one for one in forgetting_of(comparisons, change)}
    kept, renamed = found[("kept",)], found[("old",)]
    assert (kept.fate, kept.reviewed_cases, kept.unreviewed_cases) == ("kept", 2, 0)
    assert (kept.dice_before, kept.dice_after) == (pytest.approx(0.7), pytest.approx(0.65))
    assert (renamed.reviewed_cases, renamed.dice_after, renamed.agreement) == (1, 0.5, 0.5)
    assert found[("halves",)].fate == "split" and found[("halves",)].dice_after is None
    assert found[("gone",)].fate == "dropped"


def test_blended_weights_are_between_the_parents_and_the_trained_ones(world: Any) -> None:
    parent = world.make_parent(world.label_set("a", "b", "c"), width=1)
    change = plan_label_change(parent.description.label_set, world.label_set("c", "a"), dropped=["b"])
    trained = {name: weights + 1.0 for name, weights in parent.state_dict.items()}
    order = [0, *(parent.description.label_set.channel(name) for name in change.label_set.names)]
    assert sorted(order) == [0, 1, 3]
    for name in ("head.weight", "head.bias"):
        trained[name] = parent.state_dict[name][order] + 2.0
    half = blended(parent, change, trained, 0.5)
    assert torch.allclose(half["head.weight"], parent.state_dict["head.weight"][order] + 1.0)
    assert torch.allclose(half["down.0.first.weight"], parent.state_dict["down.0.first.weight"] + 0.5)
    assert blended(parent, change, trained, 0.0).keys() == trained.keys()
    assert torch.equal(blended(parent, change, trained, 0.0)["head.bias"], trained["head.bias"])


def test_the_blend_is_chosen_by_patients_and_wins_ties() -> None:
    def compared(*dice: float) -> list[CaseComparison]:
        scores = [Score(value, 1.0, 0.0, 1.0, 1.0) for value in dice]
        return [CaseComparison(str(number), {}, {"a": score}, {}) for number, score in enumerate(scores)]

    groups = {"0": "one", "1": "one", "2": "two"}  # two cases of one patient weigh as much as one of the other
    blend = choose_blend({0.5: compared(0.8, 0.8, 0.4), 0.0: compared(0.7, 0.7, 0.52)}, groups)
    assert blend.share == 0.0 and blend.mean_dice == pytest.approx({0.5: 0.6, 0.0: 0.61})
    assert "their mean Dice was 0.610, that of 50% of the parent and 50% of what was trained 0.600" in blend.note
    tie = choose_blend({0.5: compared(0.60), 0.0: compared(0.604)}, {"0": "one"})
    assert tie.share == 0.5 and "its mean Dice was 0.600" in tie.note
    assert choose_blend({0.0: compared(0.5)}, {"0": "one"}).note == ""
    assert "75% of the parent" in choose_blend({0.75: compared(0.5)}, {"0": "one"}).note
    assert [default_share(patients) for patients in (1, 3, 4, 10)] == [0.75, 0.75, 0.5, 0.5]


def test_report_for_a_person() -> None:
    folds = [Fold((), (f"c{number}",)) for number in range(8)]
    groups = {f"c{n}": f"p{n}" for n in range(8)}
    found = summarise(comparisons(), groups, folds, ("bright", "dark", "other"), "grid", 3.0)
    result: dict[str, Any] = {
        "model": "our clinic",
        "version": 3,
        "path": "somewhere",
        "current": False,
        "in_use": 2,
        "parent": "tiny version 1",
        "new_structures": ["dark"],
        "dropped": ["gone"],
        "cases": 4,
        "patients": 4,
        "strategy": "finetune",
        "evidence": found.to_json(),
        "not_corrected": list(changed_without_correction(found.rows)),
        "forgetting": [{"new": ["bright"], "dice_before": 0.9, "dice_after": 0.5}],
        "notes": ["1 case is not used."],
        "seconds": 90.0,
    }
    text = report_text(result)
    assert "bright          8         8        0.500  0.800  +0.300" in text
    assert "dark (new)" in text and "Verdict: better." in text and "agreement" in text
    assert "bright got worse even on cases it learned from (Dice 0.90 to 0.50)" in text
    assert "No longer found: gone." in text and "1 case is not used." in text
    claims = text.split("Mean Dice to expect in other patients like these (90 % intervals):\n")[1].splitlines()
    assert claims[0].split() == ["structure", "before", "after", "verdict"]
    (low, high), told = found.verdict.structures[0].candidate_interval, claims[1].split()
    assert told[0] == "bright" and told[4:] == [f"{low:.2f}", "to", f"{high:.2f}", "better"] and low < 0.8 < high
    assert claims[2].split()[:2] == ["dark", "-"] and claims[2].endswith("usable")
    assert "made from (tiny version 1), but version 2 of 'our clinic' is in use, with which it was not compared" in text
    same = {"verdict": "no clear difference", "promotion": {"warned": False, "obstacles": ["It is not better."]}}
    asked = result | {"evidence": result["evidence"] | same, "promotion": "unless worse"}
    assert (
        "It is kept, and not the current one: it was compared with what it was made from (tiny version 1), but version "
        "2 of 'our clinic' is in use, with which it was not compared." in report_text(asked)
    )
    assert "its verdict is 'no clear difference'. It is not" in report_text(asked | {"promotion": "if better"})
    unusable = {"verdict": "not usable yet", "promotion": {"warned": True, "obstacles": ["dark: not found."]}}
    kept = report_text(result | {"evidence": result["evidence"] | unusable})
    assert "its verdict is 'not usable yet'. dark: not found." in report_text(
        asked | {"evidence": result["evidence"] | unusable}
    )
    assert "its verdict is 'not usable yet'. dark: not found." in kept and "against the warnings" in kept
    assert "transferseg models promote 'our clinic' 3    #" in text
    assert "transferseg models rollback 'our clinic'" in report_text(result | {"current": True})
    worse = result | {"evidence": result["evidence"] | {"verdict": "worse"}}
    assert "promote 'our clinic' 3 --force" in report_text(worse)
