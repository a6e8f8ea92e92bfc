"""Making and checking a dataset stop within a file, and leave no part of one behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.impatient import Impatient
from TransferSegLib.datasets import copying
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.datasets.make import FolderSource, dataset_from_folders
from TransferSegLib.datasets.validate import check_dataset
from TransferSegLib.errors import Cancelled
from TransferSegLib.progress import Progress, Task


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    """One case: a scan that must be converted (its voxels lie in a second file), and a label map that is copied."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    scan = np.random.default_rng(1).integers(-100, 100, (6, 20, 20)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(scan), str(tmp_path / "images" / "a.mhd"))
    labels = sitk.GetImageFromArray((scan > 0).astype(np.uint8))
    sitk.WriteImage(labels, str(tmp_path / "labels" / "a.nii.gz"))
    return FolderSource(tmp_path / "images", tmp_path / "labels", {1: "bright"})


def test_making_stops_within_a_file(source: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_COPIED_AT_ONCE", 100)
    token = Impatient()
    reports: list[Progress] = []
    dataset_from_folders(source, tmp_path / "whole", copy=True, task=Task("", reports.append, token))
    size = (tmp_path / "labels" / "a.nii.gz").stat().st_size
    assert token.looks > size // 100, "each block of the label map"
    assert list(dict.fromkeys(report.stage for report in reports)) == ["Reading label maps", "Copying"]
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    for at in range(1, token.looks, 4):
        output = tmp_path / f"stopped {at}"
        with pytest.raises(Cancelled):
            dataset_from_folders(source, output, copy=True, task=Task("", None, Impatient(at)))
        left = [path.name for path in output.rglob("*") if path.is_file()]
        assert set(left) <= {"a.nrrd"}, "a whole copy, no part of one, no dataset.json"


def test_checking_stops_within_a_case(source: FolderSource, tmp_path: Path) -> None:
    dataset = dataset_from_folders(source, tmp_path / "made").dataset
    token = Impatient()
    problems = check_dataset(dataset, Task("", None, token))
    assert token.looks > 6 + 8, "each plane of the scan, and its reading, and that of the label map"
    for at in range(1, token.looks + 1, 3):
        with pytest.raises(Cancelled):
            check_dataset(dataset, Task("", None, Impatient(at)))
    assert check_dataset(read_dataset(dataset.folder)) == problems
