"""What changes when the cases are of another modality than the parent knows."""

from __future__ import annotations

from dataclasses import replace

from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.names import FINETUNE, VANILLA
from TransferSegLib.images.intensity import CT_WINDOW, MR_PERCENTILES
from TransferSegLib.images.modality import modality_word
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.models.description import ModelDescription


def is_another_modality(modality: str, parent: ModelDescription, preparation: Preparation) -> bool:
    """Return whether cases look different from what the parent learned from.

    ``modality`` is the cases', ``preparation`` how their scans are prepared: where one of the modalities is not
    named, other intensity rules than the parent's tell.
    """
    if modality and parent.modality:
        return modality_word(modality) != modality_word(parent.modality)
    return preparation.channels != parent.preparation.channels


def default_strategy(other_modality: bool) -> str:
    """Return the strategy when nobody chose one: all layers at once on another modality (docs/study.md)."""
    return VANILLA if other_modality else FINETUNE


def for_modality(
    configuration: FineTuningConfiguration, modality: str, parent: ModelDescription
) -> tuple[FineTuningConfiguration, tuple[str, ...]]:
    """Return the knobs for cases of a modality, and notes for a person where they are others than those asked for.

    A ``head_start`` that was chosen says that ``finetune`` is meant as it is.
    """
    notes: tuple[str, ...] = ()
    kind, known = modality_word(modality), modality_word(parent.modality)
    if kind and known and kind != known and configuration.intensity is None:
        configuration = replace(configuration, intensity=CT_WINDOW if kind == "CT" else MR_PERCENTILES)
        notes += (
            f"The cases are {kind}, the parent knows {known}: intensities are prepared as usual for {kind}. If that is "
            "not right, name their modality (--modality on the command line).",
        )
    if not is_another_modality(modality, parent, configuration.preparation(parent)):
        return configuration, notes
    if configuration.vanilla_rate == FineTuningConfiguration.vanilla_rate:
        configuration = replace(configuration, vanilla_rate=configuration.new_rate)
    if configuration.strategy == FINETUNE and configuration.head_start == "auto":
        configuration = replace(configuration, strategy=default_strategy(other_modality=True))
        notes += (
            "Because the modality (or how intensities are prepared) is another one, all layers learn at once "
            "('vanilla'): in our study that was better on one of two tasks and as good on the other. With the strategy "
            "'auto' your own cases decide.",
        )
    return configuration, notes
