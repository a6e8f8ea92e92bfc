"""Parents that were themselves made of few cases: all of their layers continue to learn.

A base model was trained on many scans, and a few more cases change little in it: its last layers come first. A model
that learned a new structure from two corrected cases has seen little so far, and two more teach all of its layers
something. Measured with ``Testing/research/benchmarks/continued.py`` (docs/measurements.md).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.label_change import LabelChange
from TransferSegLib.finetuning.strategies import FINETUNE, VANILLA
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.structures import structure_key


def is_still_learning(parent: ModelDescription) -> bool:
    """Tell whether a model was made by a fine-tuning that had much to learn, or by one that continued it."""
    return parent.provenance.configuration.get("much_to_learn") is True


def for_continuation(
    configuration: FineTuningConfiguration, change: LabelChange, parent: ModelDescription, reviewed: Collection[str]
) -> tuple[FineTuningConfiguration, tuple[str, ...]]:
    """Return the settings for a parent that is still learning, and a note for a person where they are others.

    ``reviewed`` are the structures of the cases. The settings stay where structures are new or scans are prepared
    otherwise, because then there is much to learn in any case; where the parent has more structures than were reviewed,
    which it may have learned from many scans; and where a strategy or a start of the heads was chosen.
    """
    is_same = not change.fresh_channels and configuration.preparation(parent) == parent.preparation
    known, found = ({structure_key(name) for name in names} for names in (parent.label_set.names, reviewed))
    is_asked = configuration.much_to_learn is not False and known <= found
    if not (is_same and is_asked and is_still_learning(parent)):
        return configuration, ()
    settings = replace(configuration, much_to_learn=True)
    if configuration.strategy != FINETUNE or configuration.head_start != "auto":
        return settings, ()
    # A mean with weights that have seen less would take back a part of what was learned.
    settings = replace(settings, strategy=VANILLA, blend=False)
    if settings.vanilla_rate == FineTuningConfiguration.vanilla_rate:
        settings = replace(settings, vanilla_rate=settings.continued_rate)
    return settings, (
        "The parent learned its structures in fine-tunings like this one, so all of its layers continue to learn, not "
        "the last ones first.",
    )
