"""Small things to torture: scans, label maps and a model of width 1 with random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.images.intensity import CT_WINDOW
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.models.description import ModelDescription, Provenance
from TransferSegLib.models.store import save_model
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
from TransferSegLib.networks.unet_valid.unet import UNet3D, initialise
from TransferSegLib.structures import LabelSet, Structure

LABEL_SET = LabelSet((Structure("liver", 1, (200, 0, 0)), Structure("spleen", 2, (0, 200, 0))))


def volume(voxels_zyx: np.ndarray, spacing_mm: tuple[float, float, float] = (1.0, 1.5, 3.0)) -> sitk.Image:
    """Return an image with a spacing of its own."""
    image = sitk.GetImageFromArray(voxels_zyx)
    image.SetSpacing(spacing_mm)
    return image


def scan(seed: int, size_zyx: tuple[int, int, int] = (4, 5, 6)) -> sitk.Image:
    """Return a scan of noise in the range of a CT."""
    return volume(np.random.default_rng(seed).integers(-1000, 1000, size_zyx).astype(np.int16))


def label_map(value: int, size_zyx: tuple[int, int, int] = (4, 5, 6)) -> sitk.Image:
    """Return a label map of one value, the background in a corner."""
    voxels = np.full(size_zyx, value, np.uint8)
    voxels[0, 0, 0] = 0
    return volume(voxels)


def description(name: str = "tiny", version: str = "1") -> ModelDescription:
    """Return what the tiny model says of itself."""
    return ModelDescription(
        name=name,
        version=version,
        label_set=LABEL_SET,
        preparation=Preparation.isotropic(2.0, CT_WINDOW),
        network=unet_valid_spec(width=1, classes=3),
        modality="CT",
        summary="For torture.",
        license="CC0-1.0",
        training_data="none",
        citation="none",
        metrics={},
        provenance=Provenance("torture", 1, "0", "2026-01-01T00:00:00", "", {}),
    )


def write_model(folder: Path, seed: int = 1, name: str = "tiny") -> Path:
    """Write a tiny model; its version is the seed, so that both can be compared."""
    network = UNet3D(classes=3, width=1)
    initialise(network, seed=seed)
    described = replace(description(name), version=str(seed))
    return save_model(folder, described, network.state_dict(), overwrite=True)
