"""A tiny model (width 1, two structures, random weights) for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from TransferSegLib.models.description import ModelDescription, NetworkDescription, Provenance
from TransferSegLib.models.store import save_model
from TransferSegLib.network.unet import UNet3D, initialise
from TransferSegLib.scans.intensity import MR_PERCENTILES
from TransferSegLib.structures import LabelSet, Structure


@pytest.fixture
def description() -> ModelDescription:
    return ModelDescription(
        name="tiny",
        version="2.1",
        label_set=LabelSet(
            (
                Structure("left kidney", 7, (200, 10, 10), ("64033007", "Kidney"), ("7771000", "Left")),
                Structure("Rückenmark", 3, (10, 200, 10)),
            )
        ),
        spacing_mm=1.5,
        intensity=MR_PERCENTILES,
        network=NetworkDescription(width=1, classes=3),
        modality="MR",
        summary="A tiny model for tests.",
        license="Apache-2.0",
        training_data="none",
        citation="none",
        metrics={"validation": {"cases": 2, "dice": {"left kidney": 0.5}}},
        provenance=Provenance("transferseg train-base", 7, "0.1.0", "2026-01-31T10:00:00", "other 1.0", {"steps": 3}),
    )


@pytest.fixture
def state_dict() -> dict[str, torch.Tensor]:
    network = UNet3D(classes=3, width=1)
    initialise(network, seed=5)
    return network.state_dict()


@pytest.fixture
def saved(tmp_path: Path, description: ModelDescription, state_dict: dict[str, torch.Tensor]) -> Path:
    """Return the folder of the tiny model."""
    return save_model(tmp_path / "tiny", description, state_dict)
