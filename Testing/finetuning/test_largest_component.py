"""Far islands of a new structure: kept or not by what the held-out cases say, and then in evidence and model alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from TransferSegLib.datasets.dataset import Dataset
from TransferSegLib.evaluation import predict_and_score
from TransferSegLib.evaluation.scores import Score
from TransferSegLib.finetuning.evidence import (
    largest_component_note,
    largest_component_structures,
    with_largest_components,
)
from TransferSegLib.finetuning.held_out import MODEL_GRID, CaseComparison, HeldOutScorer
from TransferSegLib.finetuning.label_change import plan_label_change
from TransferSegLib.inference.devices import choose_device
from TransferSegLib.training.validation import validate


def comparison(number: int, **dice: tuple[float, float]) -> CaseComparison:
    """Return a case with Dice (all parts, largest part) by structure."""

    def score(value: float) -> Score:
        return Score(value, value, 1.0, 1.0, 1.0)

    every = {name: score(values[0]) for name, values in dice.items()}
    return CaseComparison(f"c{number}", {}, every, {}, {name: score(values[1]) for name, values in dice.items()})


def test_the_largest_part_is_kept_where_held_out_cases_are_better_for_it() -> None:
    cases = [
        comparison(1, mandible=(0.6, 0.8), kidneys=(0.9, 0.5), larynx=(0.7, 0.7)),
        comparison(2, mandible=(0.7, 0.69), kidneys=(0.8, 0.9), larynx=(0.6, 0.6)),
    ]
    names = ("mandible", "kidneys", "larynx")
    assert largest_component_structures(cases, names) == ("mandible",)
    assert largest_component_structures(cases[:1], names) == (), "one case says nothing of another"
    # A gain on average is no reason to lose half of a structure in one patient.
    torn = [comparison(n, mandible=(0.6, 0.8)) for n in range(3)] + [comparison(9, mandible=(0.7, 0.4))]
    assert largest_component_structures(torn, names) == ()
    seen = with_largest_components(cases, ["mandible"])
    assert [one.candidate["mandible"].dice for one in seen] == [0.8, 0.69]
    assert [one.candidate["kidneys"].dice for one in seen] == [0.9, 0.8]
    note = largest_component_note(cases, ["mandible"])
    assert "mandible (Dice 0.650 to 0.745)" in note and "largest connected part" in note
    assert largest_component_note(cases, []) == ""


def test_a_comparison_is_read_as_it_was_written() -> None:
    one = comparison(1, mandible=(0.6, 0.8))
    assert CaseComparison.from_json(one.to_json()) == one


def test_an_island_of_a_new_structure_is_scored_both_ways(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = world.make_parent(world.label_set("bright"))
    change = plan_label_change(parent.description.label_set, world.label_set("dark"))
    case = world.ball_case()
    island = case.labels.copy()
    island[0:3, 0:3, 0:3] = 2
    island[28:, 28:, 28:] = 1
    monkeypatch.setattr(predict_and_score, "label_volume", lambda *a, **k: island.copy())
    scorer = HeldOutScorer(parent, change, _with_case(case.id), choose_device("cpu", torch.float32), MODEL_GRID, 3.0)
    candidate = world.make_parent(change.label_set)
    found = scorer.compare(candidate, case, case.id, None)
    dark = (case.labels == 2).sum()
    assert found.candidate["dark"].dice == pytest.approx(2 * dark / (2 * dark + 27))
    assert found.largest_part["dark"].dice == 1.0
    # What the parent knows is cut, or not, by the parent's own rule.
    assert set(found.largest_part) == {"dark"} and found.candidate["bright"].dice < 1.0
    not_annotated = scorer.compare(candidate, replace(case, annotated=np.array([True, True, False])), case.id, None)
    assert not_annotated.largest_part == {}


def test_validation_and_comparison_keep_the_largest_component_as_users_get_it(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_set = world.label_set("bright", "dark")
    parent = world.make_parent(label_set)
    parent = replace(parent, description=replace(parent.description, single_part=("dark",)))
    case = world.ball_case()
    island = case.labels.copy()
    island[0:3, 0:3, 0:3] = 2
    monkeypatch.setattr(predict_and_score, "label_volume", lambda *a, **k: island.copy())
    parts = parent.network(), parent.description.backbone
    assert validate(*parts, [case], label_set, torch.float32)["dark"] < 1.0
    assert validate(*parts, [case], label_set, torch.float32, single_part=["dark"])["dark"] == 1.0
    change = plan_label_change(label_set, label_set)
    device = choose_device("cpu", torch.float32)
    scorer = HeldOutScorer(parent, change, _with_case(case.id), device, MODEL_GRID, 3.0)
    assert scorer.compare(parent, case, case.id, None).candidate["dark"].dice == 1.0
    # Outside the annotated region nothing counts.
    region = np.ones(case.labels.shape, bool)
    region[0:3, 0:3, 0:3] = False
    assert validate(*parts, [replace(case, region=region)], label_set, torch.float32)["dark"] == 1.0


def _with_case(case_id: str) -> Dataset:
    """Return something that knows a case by its id and nothing else: on the model's grid no file is read."""

    class Known:
        def case(self, wanted: str) -> str:
            assert wanted == case_id
            return wanted

    return Known()  # type: ignore[return-value]
