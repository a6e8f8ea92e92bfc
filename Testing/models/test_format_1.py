"""The contract: a model written by format version 1 is read, and computes what it computed then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from TransferSegLib.images.intensity import IntensityRule
from TransferSegLib.models.description import Provenance
from TransferSegLib.models.store import Model, load_model
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec

DATA = Path(__file__).resolve().parents[1] / "Data" / "model_format_1"


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(DATA / "model")


def scan_zyx() -> np.ndarray:
    """Return the fixed input, 108 voxels a side, different along every axis."""
    z, y, x = np.meshgrid(*(np.arange(108),) * 3, indexing="ij")
    return (np.cos(0.11 * z + 0.07 * y * (x % 5)) * (((x * 7 + y * 3 + z * 5) % 11) / 10)).astype(np.float32)


def test_description(model: Model) -> None:
    described = model.description
    assert (described.name, described.version, described.modality) == ("format-one", "1.0", "CT")
    assert (described.preparation.spacing_mm, described.spacing_inferred) == (2.5, True)
    assert described.preparation.channels[0] == IntensityRule("window", -500.0, 400.0, (-1.0, 1.0))
    assert described.preparation.axes == "LPS"
    assert described.network == unet_valid_spec(width=2, classes=4)
    assert described.label_set.names == ("brainstem", "right parotid gland", "left parotid gland")
    assert described.label_set.label_values == (0, 1, 3, 4)
    left = described.label_set.structures[2]
    assert (left.color, left.terminology, left.modifier) == (
        (60, 60, 200),
        ("45289007", "Parotid gland"),
        ("7771000", "Left"),
    )
    assert described.metrics == {"validation": {"cases": 2, "dice": {"brainstem": 0.25}}}
    assert described.provenance == Provenance("written once by hand", 1, "0.1.0", "2026-11-23", None, {"steps": 0})


def test_logits(model: Model) -> None:
    expected = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
    with torch.no_grad():
        logits = model.network()(torch.from_numpy(scan_zyx())[None, None])[0].double().numpy()
    assert logits.shape == (4, 20, 20, 20)
    np.testing.assert_allclose(logits.mean(axis=(1, 2, 3)), expected["mean_zyx"], atol=1e-4)
    np.testing.assert_allclose(logits.std(axis=(1, 2, 3), ddof=1), expected["std_zyx"], atol=1e-4)
    for (z, y, x), values in zip(expected["voxels_zyx"], expected["logits"], strict=True):
        np.testing.assert_allclose(logits[:, z, y, x], values, atol=1e-4)
    labels = np.bincount(logits.argmax(axis=0).ravel(), minlength=4)
    np.testing.assert_allclose(labels, expected["labels"], atol=2)
