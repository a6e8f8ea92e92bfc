"""The contract: a model written by format version 2 is read, and computes what it computed then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from TransferSegLib.images.intensity import IntensityRule
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.store import Model, load_model
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec

DATA = Path(__file__).resolve().parents[1] / "Data" / "model_format_2"


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(DATA / "model")


def test_description(model: Model) -> None:
    described = model.description
    assert (described.name, described.modality, described.single_part) == ("format-two", "MR", ("brainstem",))
    rule = IntensityRule("percentiles", 1.0, 99.0, (0.0, 1.0))
    assert described.preparation == Preparation((4.0, 1.5, 2.5), (rule,), "RAS") and described.spacing_inferred
    assert described.network == unet_valid_spec(width=2, classes=4)
    assert described.label_set.label_values == (0, 1, 3, 4)


def test_logits(model: Model) -> None:
    expected = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
    z, y, x = np.meshgrid(*(np.arange(108),) * 3, indexing="ij")
    scan = (np.cos(0.11 * z + 0.07 * y * (x % 5)) * (((x * 7 + y * 3 + z * 5) % 11) / 10)).astype(np.float32)
    with torch.no_grad():
        logits = model.network()(torch.from_numpy(scan)[None, None])[0].double().numpy()
    np.testing.assert_allclose(logits.mean(axis=(1, 2, 3)), expected["mean_zyx"], atol=1e-4)
    np.testing.assert_allclose(logits.std(axis=(1, 2, 3), ddof=1), expected["std_zyx"], atol=1e-4)
    for (z, y, x), values in zip(expected["voxels_zyx"], expected["logits"], strict=True):
        np.testing.assert_allclose(logits[:, z, y, x], values, atol=1e-4)


def test_the_orientation_of_a_scan_does_not_matter(model: Model) -> None:
    """A scan stored with other axes gets the same labels at the same places of the world."""
    noise = np.random.default_rng(5).normal(size=(10, 24, 20)).astype(np.float32)
    image = sitk.GetImageFromArray(noise)
    image.SetSpacing((2.5, 1.5, 4.0))
    segmenter = Segmenter(model, "cpu")
    labels = segmenter.segment(image).label_map
    turned = segmenter.segment(sitk.DICOMOrient(image, "AIL")).label_map
    back = sitk.GetArrayFromImage(sitk.DICOMOrient(turned, "LPS"))
    np.testing.assert_array_equal(back, sitk.GetArrayFromImage(labels))
    assert len(np.unique(back)) > 1
