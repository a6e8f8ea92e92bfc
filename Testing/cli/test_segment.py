"""``transferseg segment`` as a user types it, with a tiny model on small real scans."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.cli.main import main
from TransferSegLib.cli.output_files import stem

DATA = Path(__file__).resolve().parents[1] / "Data"
MODEL = str(DATA / "model_format_1" / "model")
SCANS = sorted((DATA / "head_neck_ct" / "images").glob("*.nii.gz"))[:2]


def segment(*words: str | Path) -> int:
    return main(["segment", *map(str, words), "--model", MODEL, "--device", "cpu"])


def test_one_scan_to_one_file_on_its_own_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, picture = tmp_path / "new folder" / "out.seg.nrrd", tmp_path / "out.png"
    assert segment(SCANS[0], "--output", output, "--preview", picture) == 0
    scan, result = sitk.ReadImage(str(SCANS[0])), sitk.ReadImage(str(output))
    assert result.GetSize() == scan.GetSize()
    assert np.allclose(result.GetSpacing(), scan.GetSpacing(), atol=1e-5)
    assert np.allclose(result.GetOrigin(), scan.GetOrigin(), atol=1e-3)
    assert result.GetMetaData("Segment0_Name")
    assert sitk.ReadImage(str(picture)).GetNumberOfComponentsPerPixel() == 3
    assert "ml" in capsys.readouterr().out


def test_many_scans_one_of_them_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"this is no scan")
    assert segment(SCANS[0], broken, SCANS[1], "--output", tmp_path / "out", "--format", ".nrrd") == 2
    captured = capsys.readouterr()
    assert "broken.nii.gz" in captured.err and "Traceback" not in captured.err
    assert "2 of 3 scans segmented" in captured.out
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {f"{stem(scan)}_segmentation.nrrd" for scan in SCANS} | {"segmented.jsonl"}


def test_only_some_structures(tmp_path: Path) -> None:
    from TransferSegLib.models.store import load_description

    names = load_description(Path(MODEL)).label_set.names
    assert segment(SCANS[0], "--output", tmp_path / "all.nii.gz") == 0
    assert segment(SCANS[0], "--output", tmp_path / "one.nii.gz", "--structures", names[0]) == 0
    every = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "all.nii.gz")))
    one = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "one.nii.gz")))
    value = load_description(Path(MODEL)).label_set.structures[0].label
    assert np.array_equal(one, np.where(every == value, value, 0))
    assert segment(SCANS[0], "--output", tmp_path / "group.nii.gz", "--structures", "brain") == 0
    group = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "group.nii.gz")))
    assert names[0] == "brainstem" and np.array_equal(group, one)


def test_a_scan_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    strict, output = tmp_path / "strict.nii.gz", tmp_path / "marked.nii.gz"
    # The model is for CT. It is an old one without a profile, and says what it could not check.
    assert segment(SCANS[0], "--output", strict, "--modality", "MR", "--strict") == 2
    error = capsys.readouterr().err
    assert "The scan is an MR, and the model was made for CT." in error and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
    assert segment(SCANS[0], "--output", output, "--modality", "MR") == 0
    captured = capsys.readouterr()
    assert "The scan is an MR, and the model was made for CT." in captured.out + captured.err and output.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.nii.gz", "--output", "out.nii.gz"], "missing.nii.gz"),
        ([SCANS[0], "--output", "out.jpg"], "extension '.jpg' is not known"),
        ([SCANS[0], SCANS[1], "--output", "out.nii.gz"], "give a folder"),
        ([SCANS[0], SCANS[0], "--output", "out"], "Several scans would be written"),
        ([SCANS[0], "--output", "out.nii.gz", "--structures", "tail"], "no structure 'tail'"),
        ([SCANS[0], "--output", "out.nii.gz", "--preview", "out.gif"], ".png"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    words: list, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert segment(*words) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_an_output_below_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = tmp_path / "notes.txt"
    notes.touch()
    assert segment(SCANS[0], "--output", notes / "new" / "out.nii.gz") == 2
    assert f"{notes} is a file, not a folder. Name another folder." in capsys.readouterr().err


@pytest.mark.parametrize("memory", ["0", "-1", "nan"])
def test_memory_that_makes_no_sense(memory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert segment(SCANS[0], "--output", tmp_path / "out.nii.gz", "--memory", memory) == 2
    assert "--memory" in capsys.readouterr().err


def test_a_scan_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "scan.nii.gz"
    shutil.copy(SCANS[0], mine)
    before = mine.read_bytes()
    assert segment(mine, "--output", mine) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert mine.read_bytes() == before


def test_hostile_files_never_crash_and_never_stop_the_others(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = sorted((shared_data / "odd_volumes" / "hostile").iterdir())
    assert segment(*hostile, SCANS[0], "--output", tmp_path) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    refused = [line for line in captured.err.splitlines() if line.startswith("transferseg: ")]
    names = " ".join(refused)
    for name in ("5D_small.nii", "complex.nii.gz", "not-nifti.nii", "shear.nii.gz"):
        assert name in names
    assert (tmp_path / f"{stem(SCANS[0])}_segmentation.nii.gz").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("head.nii.gz", "head"),
        ("HEAD.NII.GZ", "HEAD"),
        ("a.b.seg.nrrd", "a.b"),
        ("scan.mhd", "scan"),
        ("1.2.840.1", "1.2.840.1"),
        ("plain", "plain"),
    ],
)
def test_stem(name: str, expected: str) -> None:
    assert stem(Path(name)) == expected
