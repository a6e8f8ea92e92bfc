"""A world of balls: a bright and a dark one in noise, and a tiny parent that has random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from TransferSegLib.datasets.prepared import PreparedCase
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.images.intensity import CT_WINDOW
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.inference.devices import Device
from TransferSegLib.models.description import ModelDescription, Provenance
from TransferSegLib.models.store import Model
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
from TransferSegLib.networks.unet_valid.unet import UNet3D, initialise
from TransferSegLib.structures import LabelSet, Structure
from TransferSegLib.training.configuration import AugmentationConfiguration

FLOAT32 = Device("cpu", "processor", torch.float32)
STILL = AugmentationConfiguration(rotation_degrees=0, scaling=0, intensity=0)
QUICK = FineTuningConfiguration(
    minutes=0,
    tail_steps=4,
    tail="last convolution",
    steps=3,
    patches_per_case=2,
    tail_patch=20,
    patch=32,
    frame=2,
    warm_up=1,
    report_cases=0,
    checkpoint_every=1,
    validate_every=1,
    augmentation=STILL,
    seed=5,
)


def label_set(*names: str) -> LabelSet:
    return LabelSet(tuple(Structure(name, label, (label, 0, 0)) for label, name in enumerate(names, start=1)))


def ball_case(id: str = "ball", annotated: tuple[bool, ...] = (True, True, True), shift: int = 0) -> PreparedCase:
    """Return a case of 32 voxels a side at 1 mm: channel 1 is bright, channel 2 dark where it is annotated."""
    z, y, x = np.indices((32, 32, 32))
    bright = (z - 12) ** 2 + (y - 14) ** 2 + (x - 12 - shift) ** 2 < 36
    dark = (z - 20) ** 2 + (y - 18) ** 2 + (x - 22) ** 2 < 25
    noise = np.random.default_rng(len(id) + shift).normal(0, 0.05, bright.shape)
    intensities = (np.where(bright, 0.8, np.where(dark, -0.9, -0.2)) + noise).astype(np.float16)
    labels = np.zeros(bright.shape, np.uint8)
    for channel, mask in ((1, bright), (2, dark)):
        if channel < len(annotated) and annotated[channel]:
            labels[mask] = channel
    voxels = {int(channel): np.flatnonzero(labels == channel) for channel in np.unique(labels) if channel}
    grid = ModelGrid.around(sitk.Image([32, 32, 32], sitk.sitkInt16), (1.0,) * 3)
    return PreparedCase(id, intensities[None], labels, None, np.array(annotated), (-1.0,), grid, voxels)


def make_parent(structures: LabelSet, width: int = 2, seed: int = 3) -> Model:
    network = UNet3D(structures.classes, width)
    initialise(network, seed)
    description = ModelDescription(
        name="tiny",
        version="1",
        label_set=structures,
        preparation=Preparation.isotropic(1.0, CT_WINDOW),
        network=unet_valid_spec(width=width, classes=structures.classes),
        modality="CT",
        summary="",
        license="Apache-2.0",
        training_data="none",
        citation="none",
        metrics={},
        provenance=Provenance("test", seed, "0", "2026-01-31"),
    )
    return Model(description, network.state_dict(), Path("tiny"))


class World:
    """What the tests of this folder are made of."""

    float32 = FLOAT32
    quick = QUICK
    label_set = staticmethod(label_set)
    ball_case = staticmethod(ball_case)
    make_parent = staticmethod(make_parent)


@pytest.fixture(scope="session")
def world() -> type[World]:
    return World
