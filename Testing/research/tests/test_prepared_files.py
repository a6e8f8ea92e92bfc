"""Prepared cases on disk are what preparing gives, and never out of date."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.research.study import prepared_files
from Testing.research.study.prepared_files import prepared_case
from TransferSegLib.datasets.dataset import Case
from TransferSegLib.images.intensity import CT_WINDOW
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.structures import LabelSet, Structure
from TransferSegLib.training.cases import prepare_case

LABELS = LabelSet((Structure("liver", 3, (1, 2, 3)), Structure("spleen", 5, (1, 2, 3))))
MODEL = LabelSet((Structure("spleen", 1, (1, 2, 3)), Structure("liver", 2, (1, 2, 3))))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Return an oblique scan with both structures and a mask of judged voxels."""
    random = np.random.default_rng(1)
    labels = np.zeros((9, 12, 15), np.uint8)
    labels[2:5, 3:8, 4:9], labels[6:8, 2:9, 1:12] = 3, 5
    judged = np.ones_like(labels)
    judged[:2] = 0
    cos, sin = np.cos(0.2), np.sin(0.2)
    files = {}
    for name, array in (
        ("image", random.normal(0, 200, labels.shape).astype(np.int16)),
        ("labels", labels),
        ("judged", judged),
    ):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing((1.0, 1.5, 2.0))
        volume.SetDirection((cos, -sin, 0, sin, cos, 0, 0, 0, -1))
        files[name] = tmp_path / f"{name}.nii.gz"
        sitk.WriteImage(volume, str(files[name]))
    return Case("c", files["image"], files["labels"], ("liver", "spleen"), files["judged"])


def test_the_second_time_is_like_the_first(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = prepare_case(case, LABELS, MODEL, Preparation.isotropic(1.2, CT_WINDOW))
    made = prepared_case(tmp_path / "prepared", case, LABELS, MODEL, Preparation.isotropic(1.2, CT_WINDOW))
    monkeypatch.setattr(prepared_files, "prepare_case", lambda *words: pytest.fail("it was there"))
    read = prepared_case(tmp_path / "prepared", case, LABELS, MODEL, Preparation.isotropic(1.2, CT_WINDOW))
    for found in (made, read):
        assert (found.id, found.outside) == (wanted.id, wanted.outside)
        for name in ("intensities", "labels", "judged", "annotated"):
            array = getattr(found, name)
            assert array.dtype == getattr(wanted, name).dtype
            np.testing.assert_array_equal(array, getattr(wanted, name))
        assert found.voxels.keys() == wanted.voxels.keys() == {1, 2}
        for channel, indices in wanted.voxels.items():
            np.testing.assert_array_equal(found.voxels[channel], indices)
        for name, value in vars(wanted.grid).items():
            np.testing.assert_array_equal(getattr(found.grid, name), value)
        assert found.grid.order == wanted.grid.order


def test_other_files_knobs_and_annotations_are_prepared_anew(case: Case, tmp_path: Path) -> None:
    def prepared(spacing_mm: float = 1.2, case: Case = case) -> np.ndarray:
        return prepared_case(
            tmp_path / "prepared", case, LABELS, MODEL, Preparation.isotropic(spacing_mm, CT_WINDOW)
        ).labels

    first = prepared()
    assert prepared(2.0).shape != first.shape
    sparse = Case(case.id, case.image, case.labels, ("liver",), case.judged)
    assert set(np.unique(prepared(case=sparse))) == {0, 2}
    labels = sitk.ReadImage(str(case.labels)) * 0
    sitk.WriteImage(labels, str(case.labels))
    os.utime(case.labels, ns=(1, 1))
    assert not prepared().any()


def test_a_damaged_file_is_made_again(case: Case, tmp_path: Path) -> None:
    first = prepared_case(tmp_path / "prepared", case, LABELS, MODEL, Preparation.isotropic(1.2, CT_WINDOW))
    (file,) = (tmp_path / "prepared").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], b"\x80\x04K\x01."):
        file.write_bytes(damaged)
        again = prepared_case(tmp_path / "prepared", case, LABELS, MODEL, Preparation.isotropic(1.2, CT_WINDOW))
        np.testing.assert_array_equal(again.labels, first.labels)
    assert [path.name for path in (tmp_path / "prepared").iterdir()] == [file.name]
