"""What a newcomer sees first: the bundled model on the bundled sample, through ``transferseg demo``."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.cli.main import main
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.evaluation.scores import dice
from TransferSegLib.images.read import read_scan
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.locate import bundled_models, bundled_sample, find_model
from TransferSegLib.models.store import load_model


def test_demo_segments_the_sample_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--output", str(tmp_path / "demo"), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    scores = {}
    for line in printed.splitlines():
        found = re.fullmatch(r"(\D+?)\s+([\d.]+)\s+(0\.\d{3})", line)
        if found:
            scores[found.group(1)] = float(found.group(3))
    case = read_dataset(bundled_sample()).cases[0]
    assert set(scores) == set(case.annotated)
    assert np.mean(list(scores.values())) > 0.7 and min(scores.values()) > 0.4
    result = sitk.ReadImage(str(tmp_path / "demo" / "sample.seg.nrrd"))
    assert result.GetSize() == read_scan(case.image).GetSize()
    assert (tmp_path / "demo" / "sample.png").stat().st_size > 10_000


def test_the_sample_was_not_trained_on() -> None:
    description = load_model(find_model(None)).description
    assert read_dataset(bundled_sample()).cases[0].id in description.metrics["validation"]["ids"]


def test_the_bundled_model_is_small_and_complete() -> None:
    folder = find_model(None)
    assert folder in bundled_models()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 10_000_000
    assert "Dice" in (folder / "README.md").read_text(encoding="utf-8")
    assert len(load_model(folder).description.label_set) == 7


def test_a_permuted_copy_gives_the_same_and_a_rotated_copy_nearly_the_same() -> None:
    image = read_scan(read_dataset(bundled_sample()).cases[0].image)[20:86]  # without the shoulders
    segmenter = Segmenter(load_model(find_model(None)), "cpu")
    original = sitk.GetArrayFromImage(segmenter.segment(image).label_map)

    permuted = sitk.Flip(sitk.PermuteAxes(image, [2, 0, 1]), [True, False, True])
    result = segmenter.segment(permuted).label_map
    back = sitk.Resample(result, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    assert np.array_equal(sitk.GetArrayFromImage(back), original)

    array = np.rot90(sitk.GetArrayFromImage(image), axes=(1, 2))
    turned = sitk.GetImageFromArray(np.ascontiguousarray(array))
    direction = np.array(image.GetDirection()).reshape(3, 3)
    # rot90 of (y, x): the new x axis runs along the old y axis, the new y axis against the old x axis.
    turned.SetDirection(np.column_stack([direction[:, 1], -direction[:, 0], direction[:, 2]]).ravel().tolist())
    spacing = image.GetSpacing()
    turned.SetSpacing((spacing[1], spacing[0], spacing[2]))
    turned.SetOrigin(image.TransformIndexToPhysicalPoint((image.GetWidth() - 1, 0, 0)))
    result = segmenter.segment(turned).label_map
    back = sitk.GetArrayFromImage(sitk.Resample(result, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0))
    assert min(dice(back == s.label, original == s.label) for s in segmenter.model.description.label_set) > 0.98
