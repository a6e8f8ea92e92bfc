"""A tiny model (width 1, two structures, random weights) for the tests of this folder, and libraries to put it into.

Helpers that are no fixtures lie in files beside this one, which the tests import by name: this file sees to that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from fetching import CONTENT, download  # noqa: E402
from misbehaving_server import HDF5_SIGNATURE, Server  # noqa: E402
from nnunet_fixtures import read_here  # noqa: E402
from version_lines import CASES, Add, Weights, evidence  # noqa: E402

from TransferSegLib.images.intensity import MR_PERCENTILES  # noqa: E402
from TransferSegLib.images.preparation import Preparation  # noqa: E402
from TransferSegLib.models import locate  # noqa: E402
from TransferSegLib.models.archive import export_model  # noqa: E402
from TransferSegLib.models.description import ModelDescription, Provenance  # noqa: E402
from TransferSegLib.models.fetch import Part  # noqa: E402
from TransferSegLib.models.importers.nnunet import convert  # noqa: E402
from TransferSegLib.models.locate import find_model  # noqa: E402
from TransferSegLib.models.store import save_model  # noqa: E402
from TransferSegLib.models.versions.history import Version  # noqa: E402
from TransferSegLib.models.versions.record import BETTER, ModelReference, VersionRecord  # noqa: E402
from TransferSegLib.models.versions.versions import add_version  # noqa: E402
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec  # noqa: E402
from TransferSegLib.networks.unet_valid.unet import UNet3D, initialise  # noqa: E402
from TransferSegLib.structures import LabelSet, Structure  # noqa: E402


@pytest.fixture(autouse=True)
def checkpoints_read_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read nnU-Net's checkpoints in this process; test_nnunet_checkpoint.py tests the child, which takes seconds."""
    monkeypatch.setattr(convert, "read_checkpoint_isolated", read_here)


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
        preparation=Preparation.isotropic(1.5, MR_PERCENTILES),
        network=unet_valid_spec(width=1, classes=3),
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a library folder that does not exist yet."""
    return tmp_path / "my library"


@pytest.fixture
def zipped(saved: Path) -> Path:
    """Return the tiny model as a zip file with a card."""
    (saved / "README.md").write_text("card of tiny")
    return export_model(saved, saved.with_name("tiny.zip"))


@pytest.fixture
def other(tmp_path: Path, description: ModelDescription, state_dict: Weights) -> Path:
    """Return the folder of a model of the same name with other weights and a picture."""
    changed = {name: values + 1 for name, values in state_dict.items()}
    path = save_model(tmp_path / "other", replace(description, version="3"), changed)
    (path / "curve.png").write_bytes(b"picture")
    return path


@pytest.fixture
def resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the bundled models by an empty folder, and return it."""
    models = tmp_path / "Resources" / "Models"
    models.mkdir(parents=True)
    monkeypatch.setattr(locate, "resource_folders", lambda: [models.parent])
    return models


@pytest.fixture
def keras_file(tmp_path: Path) -> Path:
    """Return a file that looks like weights of Keras from the outside."""
    file = tmp_path / "unet weights.h5"
    file.write_bytes(HDF5_SIGNATURE + bytes(500))
    return file


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's library, which does not exist yet; the only bundled model is called 'bundled'."""
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(tmp_path / "library"))
    monkeypatch.setattr(locate, "resource_folders", lambda: [tmp_path / "Resources"])
    return tmp_path / "library"


@pytest.fixture
def bundled(tmp_path: Path, library: Path, description: ModelDescription, state_dict: Weights) -> Path:
    """Return the bundled model."""
    parent = replace(description, name="bundled", version="1", license="CC0-1.0", citation="cite the parent")
    return save_model(tmp_path / "Resources" / "Models" / "bundled", parent, state_dict)


@pytest.fixture
def add(library: Path, bundled: Path, description: ModelDescription, state_dict: Weights) -> Add:
    """Return a function that adds a candidate made from a model to the line 'ours'; each has other weights."""
    made = 0

    def run(parent: str | Path = "bundled", verdict: str = BETTER, name: str = "ours", **options: Any) -> Version:
        nonlocal made
        made += 1
        path = find_model(parent, library)
        knobs = {"strategy": "finetune", "steps": made, "augmentation": {"noise": 0.1}}
        candidate = replace(description, provenance=replace(description.provenance, configuration=knobs))
        fates = ({"parent": ["left kidney"], "new": ["left kidney"], "fate": "kept", "dice_before": 0.5},)
        record = VersionRecord(ModelReference.of(path), CASES, evidence(verdict) if verdict else {}, fates)
        weights = {layer: values + made for layer, values in state_dict.items()}
        return add_version(library, name, candidate, weights, record, **options)

    return run


@pytest.fixture
def server() -> Iterator[Server]:
    """Serve a file of 300,000 bytes."""
    running = Server(CONTENT)
    yield running
    running.close()


@pytest.fixture
def part(tmp_path: Path) -> Part:
    """Return the place of the file that is fetched, in a folder of its own."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    return Part(folder, download())
