"""Labels equal those of the real TotalSegmentator, on every voxel, with models of its format and random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from totalsegmentator_fixtures import CAVITIES, FAST, TotalSegmentatorFixture, scan

from TransferSegLib.images.intensity import IntensityRule
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.inference.devices import choose_device
from TransferSegLib.inference.options import PredictionOptions
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.exporters.nnunet.plans import nnunet_files, notes
from TransferSegLib.models.library import import_model
from TransferSegLib.models.locate import catalogue
from TransferSegLib.models.published_nnunet import as_published
from TransferSegLib.models.store import Model, load_model


def imported(fixture: TotalSegmentatorFixture, library: Path) -> Model:
    (file,) = fixture.models
    return load_model(import_model(file, library).path)


def labels(model: Model, exact: bool) -> np.ndarray:
    device = choose_device("cpu", torch.float32)
    segmenter = Segmenter(model, device, options=PredictionOptions(exact=exact))
    return sitk.GetArrayFromImage(segmenter.segment(scan()).label_map)


@pytest.mark.parametrize(("name", "model_name"), [(FAST, "total-3mm"), (CAVITIES, "trunk-cavities")])
def test_labels_are_totalsegmentators(name: str, model_name: str, tmp_path: Path) -> None:
    fixture = TotalSegmentatorFixture(name)
    model = imported(fixture, tmp_path / "library")
    assert model.description.name == f"totalsegmentator-{model_name}"
    found = labels(model, exact=True)
    assert len(np.unique(found)) > 3 and 0.2 < (found > 0).mean() < 0.8
    assert np.array_equal(found, fixture.labels)


def test_float32_sums_differ_little(tmp_path: Path) -> None:
    """Sums in float32 are truer than those in float16; random weights make neighbouring classes nearly equal."""
    fixture = TotalSegmentatorFixture(FAST)
    found = labels(imported(fixture, tmp_path / "library"), exact=False)
    assert 0 < (found != fixture.labels).mean() < 0.003


def test_structures_have_clinical_names(tmp_path: Path) -> None:
    label_set = imported(TotalSegmentatorFixture(FAST), tmp_path / "library").description.label_set
    assert len(label_set) == 117 and label_set.structures[1].name == "right kidney"
    assert [structure.label for structure in label_set] == list(range(1, 118))


def test_axes_that_plans_transpose_stay_transposed(tmp_path: Path) -> None:
    description = imported(TotalSegmentatorFixture(CAVITIES), tmp_path / "library").description
    entry = catalogue().find("totalsegmentator-liver-segments-mr")
    assert entry is not None and entry.spacing_mm == pytest.approx((1.125, 1.1875, 3.0), abs=1e-4)
    entry = replace(entry, structures=description.label_set.names)
    rule = IntensityRule("zscore", output=None)
    # x, y, z of the network are the scan's third, first and second axis.
    turned = replace(description, preparation=Preparation((1.2, 1.1, 3.0), (rule,), "kij", "nnunet"))
    preparation = as_published(turned, entry, "file").preparation
    assert preparation.axes == "SRA" and preparation.resampling == "totalsegmentator"
    x, y, z = entry.spacing_mm  # type: ignore[misc]
    assert preparation.spacing_zyx_mm == (y, x, z)
    already = replace(description, preparation=Preparation((1.2, 1.1, 3.0), (rule,), "SRA", "nnunet"))
    assert as_published(already, entry, "file").preparation.axes == "SRA"


def test_export_for_nnunet_says_what_nnunet_does_otherwise(tmp_path: Path) -> None:
    description = imported(TotalSegmentatorFixture(FAST), tmp_path / "library").description
    files = nnunet_files(description, "Dataset900_total")
    assert files.plans["image_reader_writer"] == "NibabelIOWithReorient"
    first, second, *_ = sorted(notes(description, files))
    assert first.startswith("nnU-Net resamples scans by splines") and "3 mm" in first
    assert second == "predict with -step_size 0.8, as TransferSeg does"
