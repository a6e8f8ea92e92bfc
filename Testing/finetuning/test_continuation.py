"""A parent made of few cases is continued with all layers; a base model is not, nor what was asked for otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.continuation import for_continuation, is_still_learning
from TransferSegLib.finetuning.label_change import LabelChange, plan_label_change
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_description
from TransferSegLib.structures import LabelSet, Structure

USUAL = FineTuningConfiguration()


@pytest.fixture(scope="module")
def base() -> ModelDescription:
    return load_description(find_model(None))


def child(parent: ModelDescription, configuration: FineTuningConfiguration, any_new: bool) -> ModelDescription:
    """Return the description of a model that a configuration made, as it is kept with it."""
    settled = configuration.for_change(parent, any_new)
    return replace(parent, provenance=replace(parent.provenance, configuration=settled.to_json()))


def same_structures(parent: ModelDescription) -> LabelChange:
    return plan_label_change(parent.label_set, parent.label_set)


def test_a_base_model_is_not_still_learning(base: ModelDescription) -> None:
    assert not is_still_learning(base)
    assert for_continuation(USUAL, same_structures(base), base) == (USUAL, ())
    # Nor is what a base model became with more cases of the structures that it knows.
    assert not is_still_learning(child(base, USUAL, any_new=False))


def test_a_model_with_a_new_structure_and_its_children_are(base: ModelDescription) -> None:
    first = child(base, USUAL, any_new=True)
    assert is_still_learning(first)
    settings, notes = for_continuation(USUAL, same_structures(first), first)
    assert (settings.strategy, settings.rate, settings.blend) == ("vanilla", USUAL.continued_rate, False)
    assert not settings.has_tail_stage and len(notes) == 1
    second = child(first, settings, any_new=False)
    assert is_still_learning(second)
    assert for_continuation(USUAL, same_structures(second), second)[0] == settings


def test_another_grid_is_much_to_learn_too(base: ModelDescription) -> None:
    assert is_still_learning(child(base, replace(USUAL, spacing_mm=1.5), any_new=False))


@pytest.mark.parametrize("asked", [{"strategy": "scratch"}, {"strategy": "vanilla"}, {"head_start": "random"}])
def test_what_was_asked_for_stays(base: ModelDescription, asked: dict[str, str]) -> None:
    first, settings = child(base, USUAL, any_new=True), replace(USUAL, **asked)
    assert for_continuation(settings, same_structures(first), first) == (settings, ())


def test_a_further_new_structure_is_learned_as_new_ones_are(base: ModelDescription) -> None:
    first = child(base, USUAL, any_new=True)
    names = LabelSet((*first.label_set.structures, Structure("thyroid", 99, (1.0, 0.0, 0.0))))
    assert for_continuation(USUAL, plan_label_change(first.label_set, names), first) == (USUAL, ())


def test_models_of_earlier_versions_say_nothing(base: ModelDescription) -> None:
    entry = USUAL.for_change(base, True).to_json()
    del entry["much_to_learn"]
    assert not is_still_learning(replace(base, provenance=replace(base.provenance, configuration=entry)))
