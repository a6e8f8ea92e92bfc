"""A parent made of few cases is continued with all layers; a base model is not, nor what was asked for otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from TransferSegLib.errors import TrainingError
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


def continued(
    parent: ModelDescription, asked: FineTuningConfiguration = USUAL
) -> tuple[FineTuningConfiguration, tuple[str, ...]]:
    """Return the settings for cases with all of a parent's structures."""
    return for_continuation(asked, same_structures(parent), parent, parent.label_set.names)


def test_a_base_model_is_not_still_learning(base: ModelDescription) -> None:
    assert not is_still_learning(base)
    assert continued(base) == (USUAL, ())
    # Nor is what a base model became with more cases of the structures that it knows.
    assert not is_still_learning(child(base, USUAL, any_new=False))


def test_a_model_with_a_new_structure_and_its_children_are(base: ModelDescription) -> None:
    first = child(base, USUAL, any_new=True)
    assert is_still_learning(first)
    settings, notes = continued(first)
    assert (settings.strategy, settings.rate, settings.blend) == ("vanilla", USUAL.continued_rate, False)
    assert not settings.has_tail_stage and len(notes) == 1
    second = child(first, settings, any_new=False)
    assert is_still_learning(second)
    assert continued(second)[0] == settings


def test_another_grid_is_much_to_learn_too(base: ModelDescription) -> None:
    assert is_still_learning(child(base, replace(USUAL, spacing_mm=1.5), any_new=False))


@pytest.mark.parametrize("asked", [{"strategy": "scratch"}, {"strategy": "vanilla"}, {"head_start": "data"}])
def test_what_was_asked_for_stays_and_the_child_is_still_learning(
    base: ModelDescription, asked: dict[str, str]
) -> None:
    first, wanted = child(base, USUAL, any_new=True), replace(USUAL, **asked)
    settings, notes = continued(first, wanted)
    assert replace(settings, much_to_learn=None) == wanted and not notes
    assert is_still_learning(child(first, settings, any_new=False))


def test_it_can_be_switched_off(base: ModelDescription) -> None:
    settings = replace(USUAL, much_to_learn=False)
    assert continued(child(base, USUAL, any_new=True), settings) == (settings, ())
    with pytest.raises(TrainingError, match="much_to_learn of fine-tuning must be true or false, not 'yes'"):
        FineTuningConfiguration.from_json({"much_to_learn": "yes"})


@pytest.mark.parametrize("value", [True, False, None])
def test_it_is_read_as_it_was_written(value: bool | None) -> None:
    settings = replace(USUAL, much_to_learn=value)
    assert FineTuningConfiguration.from_json(settings.to_json()) == settings


def test_an_own_rate_stays(base: ModelDescription) -> None:
    settings, notes = continued(child(base, USUAL, any_new=True), replace(USUAL, vanilla_rate=0.003))
    assert (settings.strategy, settings.rate, len(notes)) == ("vanilla", 0.003, 1)


def test_a_model_that_knows_more_than_was_reviewed_is_a_base(base: ModelDescription) -> None:
    """One new structure beside seven old ones: further cases of the old ones are not many."""
    first = child(base, USUAL, any_new=True)
    assert for_continuation(USUAL, same_structures(first), first, first.label_set.names[1:]) == (USUAL, ())


def test_names_may_be_written_otherwise(base: ModelDescription) -> None:
    first = child(base, USUAL, any_new=True)
    written = [name.upper().replace(" ", "_") for name in first.label_set.names]
    assert for_continuation(USUAL, same_structures(first), first, written)[0].much_to_learn


def test_random_weights_have_much_to_learn(base: ModelDescription) -> None:
    assert is_still_learning(child(base, replace(USUAL, strategy="scratch"), any_new=False))


def test_a_further_new_structure_is_learned_as_new_ones_are(base: ModelDescription) -> None:
    first = child(base, USUAL, any_new=True)
    names = LabelSet((*first.label_set.structures, Structure("thyroid", 99, (1.0, 0.0, 0.0))))
    change = plan_label_change(first.label_set, names)
    assert for_continuation(USUAL, change, first, names.names) == (USUAL, ())


def test_models_of_earlier_versions_say_nothing(base: ModelDescription) -> None:
    entry = USUAL.for_change(base, True).to_json()
    del entry["much_to_learn"]
    assert not is_still_learning(replace(base, provenance=replace(base.provenance, configuration=entry)))
