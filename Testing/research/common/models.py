"""Models to measure with: random weights, or a model that has lost a structure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from TransferSegLib.finetuning.label_change import adapted_state, plan_label_change
from TransferSegLib.images.intensity import CT_WINDOW
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.models.description import ModelDescription, Provenance
from TransferSegLib.models.store import Model
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
from TransferSegLib.networks.unet_valid.unet import UNet3D, initialise
from TransferSegLib.structures import LabelSet, Structure, default_color


def random_network(classes: int, width: int) -> UNet3D:
    """Return the paper's network with random weights, ready to predict."""
    network = UNet3D(classes, width)
    initialise(network, 0)
    return network.eval()


def random_model(classes: int, width: int, spacing_mm: float) -> Model:
    """Return a CT model with random weights."""
    structures = (Structure(f"structure {n}", n, default_color(n)) for n in range(1, classes))
    description = ModelDescription(
        name="random",
        version="1",
        label_set=LabelSet(tuple(structures)),
        preparation=Preparation.isotropic(spacing_mm, CT_WINDOW),
        network=unet_valid_spec(width=width, classes=classes),
        modality="CT",
        summary="",
        license="",
        training_data="",
        citation="",
        metrics={},
        provenance=Provenance("benchmark", 0, "0", "2024-01-01"),
    )
    return Model(description, random_network(classes, width).state_dict(), Path("random"))


def without_structure(model: Model, name: str) -> Model:
    """Return a model that has lost a structure's channel; its features have seen the structure all the same."""
    description = model.description
    less = LabelSet(tuple(one for one in description.label_set if one.name != name))
    state, _ = adapted_state(
        model.state_dict,
        model.description.backbone.heads,
        plan_label_change(description.label_set, less, dropped=[name]),
    )
    network = description.network.with_classes(less.classes)
    return replace(model, description=replace(description, label_set=less, network=network), state_dict=state)
