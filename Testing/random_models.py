"""Small networks and models with random weights, for the tests of networks and inference."""

from __future__ import annotations

from pathlib import Path

import torch

from TransferSegLib.images.intensity import CT_WINDOW, IntensityRule
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.models.description import ModelDescription, Provenance
from TransferSegLib.models.store import Model
from TransferSegLib.networks.unet_valid.backbone import ValidUNetBackbone, unet_valid_spec
from TransferSegLib.networks.unet_valid.unet import UNet3D, initialise
from TransferSegLib.structures import LabelSet, Structure


def random_network(classes: int = 4, width: int = 2, seed: int = 4, content: int | None = None) -> UNet3D:
    """Return a network whose random weights and biases make every class win somewhere.

    It does so in Gaussian noise, or in a small box of so many voxels (``content``) of uniform noise, -1 around.
    """
    network = UNet3D(classes, width)
    initialise(network, seed)
    generator = torch.Generator().manual_seed(seed)
    if content is None:
        seen, judged = torch.randn(1, 1, 108, 108, 108, generator=generator), slice(None)
    else:
        seen, judged = torch.full((1, 1, 108, 108, 108), -1.0), slice(0, content)
        box = slice(44, 44 + content)
        seen[:, :, box, box, box] = 2 * torch.rand(content, content, content, generator=generator) - 1
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:
                parameter.normal_(0.2, 0.2, generator=generator)
        network.head.weight.normal_(0, 1, generator=generator)
        # Logits of mean 0 and deviation 1: no class is out of the competition.
        logits = network(seen)[:, :, judged, judged, judged]
        deviation = logits.std(dim=(0, 2, 3, 4))
        network.head.weight /= deviation[:, None, None, None, None]
        network.head.bias.copy_((network.head.bias - logits.mean(dim=(0, 2, 3, 4))) / deviation)
    return network


def backbone(network: UNet3D) -> ValidUNetBackbone:
    """Return the backbone of a network."""
    return ValidUNetBackbone(unet_valid_spec(network.width, network.classes))


def random_model(
    spacing_mm: float = 1.5, classes: int = 4, width: int = 1, rule: IntensityRule = CT_WINDOW, factor: int = 10
) -> Model:
    """Return a model with random weights, labels 10, 20, 30 ... for a spacing."""
    structures = tuple(Structure(f"part {n}", factor * n, (n, 0, 0)) for n in range(1, classes))
    description = ModelDescription(
        name="random",
        version="1",
        label_set=LabelSet(structures),
        preparation=Preparation.isotropic(spacing_mm, rule),
        network=unet_valid_spec(width=width, classes=classes),
        modality="CT",
        summary="",
        license="",
        training_data="",
        citation="",
        metrics={},
        provenance=Provenance("test", 3, "0", "2024-01-01"),
    )
    return Model(description, dict(random_network(classes, width, content=12).state_dict()), Path("random"))
