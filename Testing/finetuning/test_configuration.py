"""The knobs: round trip, clear refusals, what the strategies mean."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from TransferSegLib.errors import TrainingError
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.images.intensity import MR_PERCENTILES
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_description
from TransferSegLib.training.configuration import AugmentationConfiguration


def test_round_trip_through_json() -> None:
    configuration = FineTuningConfiguration(
        strategy="vanilla",
        minutes=2.5,
        spacing_mm=1.5,
        intensity=MR_PERCENTILES,
        augmentation=AugmentationConfiguration(gamma=0.7, inversion=0.5),
    )
    text = json.dumps(configuration.to_json())
    assert FineTuningConfiguration.from_json(json.loads(text)) == configuration
    assert FineTuningConfiguration.from_json({}) == FineTuningConfiguration()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"strategy": "magic"}, "strategy must be one of finetune, vanilla, scratch, .*auto, not 'magic'"),
        ({"strategy": 3}, "must be a word"),
        ({"step": 3}, "Unknown setting of fine-tuning: step"),
        ({"steps": 3.5}, "must be a whole number"),
        ({"steps": float("inf")}, "must be a whole number"),
        ({"steps": float("nan")}, "must be a whole number"),
        ({"minutes": "five"}, "minutes of fine-tuning must be a number"),
        ({"minutes": -1}, "minutes must be 0"),
        ({"tail_patch": 0}, "tail_patch must be 1 or more"),
        ({"patch": 0}, "patch must be 1 or more"),
        ({"frame": 17}, "frame must be between 0 and a quarter of the patch"),
        ({"augmentation": {"inversion": 1.5}}, "inversion must be between 0 and 1, not 1.5"),
        ({"augmentation": {"curve_points": 2}}, "curve_points must be 3"),
        ({"augmentation": {"colour": 1}}, "Unknown setting of fine-tuning: colour"),
        ({"intensity": {"kind": "window"}}, "not an intensity rule"),
    ],
)
def test_refusals_name_the_knob(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        FineTuningConfiguration.from_json(knobs)


def test_whole_numbers_of_a_request(tmp_path: Path) -> None:
    made = FineTuneRequest.from_json({"project": str(tmp_path), "most_folds": 3.0, "workers": 2.0, "threads": 4.0})
    assert (made.most_folds, made.workers, made.threads) == (3, 2, 4)
    assert all(type(number) is int for number in (made.most_folds, made.workers, made.threads))
    for name, value in (("most_folds", 2.5), ("workers", "2"), ("threads", None)):
        with pytest.raises(TrainingError, match=f"'{name}' of a fine-tuning must be a whole number"):
            FineTuneRequest(project=tmp_path, **{name: value})


def test_what_the_strategies_mean() -> None:
    finetune = FineTuningConfiguration()
    assert finetune.has_tail_stage and finetune.inits_from_data and finetune.rate == finetune.full_rate
    vanilla = replace(finetune, strategy="vanilla")
    assert not vanilla.has_tail_stage and not vanilla.inits_from_data and vanilla.rate == vanilla.vanilla_rate
    assert replace(vanilla, head_start="data").inits_from_data
    assert replace(finetune, strategy="scratch").rate == finetune.scratch_rate
    assert finetune.with_steps(10, 20).minutes == 0


@pytest.mark.parametrize(
    ("asked", "any_new"),
    [({}, True), ({"spacing_mm": 1.0}, False), ({"intensity": MR_PERCENTILES}, False)],
)
def test_where_there_is_much_to_learn_more_layers_learn_faster(asked: dict[str, Any], any_new: bool) -> None:
    parent = load_description(find_model())
    knobs = FineTuningConfiguration(full_rate=0.003, new_rate=0.03, tail_rate=0.004, new_tail_rate=0.04)
    same = replace(knobs, spacing_mm=parent.preparation.spacing_mm, intensity=parent.preparation.channels[0])
    for little in (knobs.for_change(parent, any_new=False), same.for_change(parent, any_new=False)):
        assert (little.rate, little.tail_rate, little.tail) == (0.003, 0.004, "last convolution")
        assert little.for_change(parent, any_new=False) == little
    much = replace(knobs, **asked).for_change(parent, any_new)
    assert (much.rate, much.tail_rate, much.tail) == (0.03, 0.04, "last pair")
    assert much.for_change(parent, any_new) == much
    own = replace(knobs, tail="last convolution", **asked).for_change(parent, any_new)
    assert own.tail == "last convolution"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"tail_patch": 45}, "tail_patch must be 20"),
        ({"patch": 60}, "patch must be a multiple of 8"),
        ({"tail": "first layer"}, "must be one of auto, last convolution, last pair"),
    ],
)
def test_settings_that_the_network_does_not_take_are_refused(knobs: dict[str, Any], message: str) -> None:
    parent = load_description(find_model())
    with pytest.raises(TrainingError, match=message):
        FineTuningConfiguration.from_json(knobs).for_change(parent, any_new=False)
