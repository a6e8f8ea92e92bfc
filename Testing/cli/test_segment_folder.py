"""``transferseg segment`` on folders: what is a scan, what is done already, files of structures, and the table."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.cli.main import main
from TransferSegLib.cli.scan_folders import scans_in

DATA = Path(__file__).resolve().parents[1] / "Data"
MODEL = str(DATA / "model_format_1" / "model")
SCANS = sorted((DATA / "head_neck_ct" / "images").glob("*.nii.gz"))[:2]
Captured = pytest.CaptureFixture[str]


def segment(*words: str | Path) -> int:
    return main(["segment", *map(str, words), "--model", MODEL, "--device", "cpu"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two scans and a file that is none, its name with a space and an umlaut."""
    made = tmp_path / "Köpfe und Hälse"
    made.mkdir()
    for scan in SCANS:
        shutil.copy(scan, made)
    (made / "broken.nii.gz").write_bytes(b"this is no scan")
    return made


def test_a_folder_is_segmented_once(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "out"
    assert segment(folder, "--output", out) == 2
    captured = capsys.readouterr()
    assert "2 of 3 scans segmented." in captured.out
    rows = captured.out[captured.out.index("not segmented") :].splitlines()
    assert rows[2].startswith("broken.nii.gz") and rows[3] == "2 of 3 scans segmented."
    results = sorted(out.glob("*_segmentation.nii.gz"))
    written = [file.stat().st_mtime_ns for file in results]
    assert len(results) == 2
    (folder / "broken.nii.gz").unlink()
    assert segment(folder, "--output", out) == 0
    assert "2 of 2 scans segmented, 2 of them before." in capsys.readouterr().out
    assert [file.stat().st_mtime_ns for file in results] == written
    # A result that is missing is made anew, one that was corrected is kept.
    results[0].unlink()
    corrected = sitk.ReadImage(str(results[1])) * 0
    sitk.WriteImage(corrected, str(results[1]))
    assert segment(folder, "--output", out) == 0
    assert "It was changed since, and is kept." in capsys.readouterr().out
    assert results[0].exists() and not sitk.GetArrayFromImage(sitk.ReadImage(str(results[1]))).any()
    # Other settings overwrite nothing unless asked to.
    assert segment(folder, "--output", out, "--structures", "brainstem") == 2
    assert "--replace" in capsys.readouterr().err
    assert segment(folder, "--output", out, "--structures", "brainstem", "--replace") == 0
    assert set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(results[1]))))) <= {0, 1}


def test_a_file_that_was_there_before_is_kept(tmp_path: Path, capsys: Captured) -> None:
    mine = tmp_path / f"{SCANS[0].name.removesuffix('.nii.gz')}_segmentation.nii.gz"
    mine.write_bytes(b"mine")
    assert segment(SCANS[0], SCANS[1], "--output", tmp_path) == 2
    assert "was not made by such a run" in capsys.readouterr().err
    assert mine.read_bytes() == b"mine"


def test_a_pattern_in_quotes(folder: Path, tmp_path: Path, capsys: Captured) -> None:
    assert segment(folder / "[p]t*.nii.gz", "--output", tmp_path / "out") == 0
    assert "2 of 2 scans segmented." in capsys.readouterr().out
    assert segment(folder / "*.mha", "--output", tmp_path / "out") == 2
    assert "No file is named like" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".nii.gz", ".seg.nrrd"])
def test_files_of_structures_and_the_table(suffix: str, folder: Path, tmp_path: Path) -> None:
    (folder / "broken.nii.gz").unlink()
    out, table = tmp_path / "out", tmp_path / "new" / "table.csv"
    words = [folder, "--output", out, "--format", suffix, "--each-structure", "--statistics", table]
    assert segment(*words) == 0
    first = table.read_text(encoding="utf-8")
    rows = list(csv.DictReader(first.splitlines()))
    assert {row["scan"] for row in rows} == {str(folder / scan.name) for scan in SCANS}
    found = 0
    for row in rows:
        name = Path(row["scan"]).name.removesuffix(".nii.gz")
        file = out / f"{name}_segmentation_structures" / f"{row['structure']}{suffix}"
        mask_image = sitk.ReadImage(str(file))
        mask = sitk.GetArrayFromImage(mask_image) != 0
        voxel_ml = float(np.prod(mask_image.GetSpacing())) / 1000
        assert float(row["volume_ml"]) == pytest.approx(mask.sum() * voxel_ml, abs=1e-3)
        if mask.any():
            found += 1
            scan = sitk.GetArrayFromImage(sitk.ReadImage(row["scan"])).astype(float)
            assert float(row["mean_intensity"]) == pytest.approx(scan[mask].mean(), abs=0.01)
    assert found
    # A second run computes nothing and writes the same table.
    assert segment(*words) == 0
    assert table.read_text(encoding="utf-8") == first


def test_what_a_folder_stands_for(tmp_path: Path) -> None:
    out = tmp_path / "out"
    dicom = tmp_path / "dicom"
    for name in ("p10", "p9"):
        (dicom / name).mkdir(parents=True)
        (dicom / name / "1.dcm").touch()
    assert scans_in(dicom, None, out) == [dicom / "p9", dicom / "p10"]
    assert scans_in(dicom, "1.2.3", out) == [dicom]
    assert scans_in(dicom / "p9", None, out) == [dicom / "p9"]
    for name in ("notes.txt", "Thumbs.db"):
        (dicom / name).write_bytes(b"no scan")
    assert scans_in(dicom, None, out) == [dicom / "p9", dicom / "p10"], "what is beside DICOM folders is no scan"
    (dicom / "IM1").write_bytes(bytes(128) + b"DICM")
    assert scans_in(dicom, None, out) == [dicom], "its own files are"
    (dicom / "IM1").unlink()
    (dicom / "DICOMDIR").touch()
    assert scans_in(dicom, None, out) == [dicom]
    assert scans_in(tmp_path / "missing.nii", None, out) == [tmp_path / "missing.nii"]
    # The results of an earlier run in the scans' own folder are no scans.
    for name in ("a.nii.gz", "a_segmentation.nii.gz", "b.mha"):
        (tmp_path / name).touch()
    assert [path.name for path in scans_in(tmp_path, None, tmp_path)] == ["a.nii.gz", "b.mha", "dicom"]


def test_mistakes(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "empty").mkdir()
    for words, message in (
        ([tmp_path / "empty", "--output", tmp_path / "out"], "There is no scan in"),
        ([SCANS[0], "--output", tmp_path / "out", "--statistics", "table.xlsx"], "ends in .csv"),
        ([SCANS[0], "--output", tmp_path / "out", "--background", "--replace"], "not for --background"),
    ):
        assert segment(*words) == 2
        error = capsys.readouterr().err.strip()
        assert message in error and error.count("\n") == 0
    assert not (tmp_path / "out").exists()
