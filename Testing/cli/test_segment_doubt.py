"""``transferseg segment --doubt``: a volume on the scan's grid, and where to look first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.cli.main import main
from TransferSegLib.cli.output_files import stem
from TransferSegLib.doubt.calibration import DoubtCalibration
from TransferSegLib.models.store import load_model, save_model, set_doubt

DATA = Path(__file__).resolve().parents[1] / "Data"
MODEL = str(DATA / "model_format_1" / "model")
SCANS = sorted((DATA / "head_neck_ct" / "images").glob("*.nii.gz"))[:2]
Captured = pytest.CaptureFixture[str]


def segment(*words: str | Path, model: str | Path = MODEL) -> int:
    return main(["segment", *map(str, words), "--model", str(model), "--device", "cpu"])


def test_a_volume_on_the_scans_grid(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "new folder" / "doubt.nii.gz"
    assert segment(SCANS[0], "--output", tmp_path / "out.nii.gz", "--doubt", file) == 0
    doubt, scan = sitk.ReadImage(str(file)), sitk.ReadImage(str(SCANS[0]))
    assert doubt.GetSize() == scan.GetSize() and doubt.GetPixelID() == sitk.sitkFloat32
    for mine, its in ((doubt.GetSpacing(), scan.GetSpacing()), (doubt.GetOrigin(), scan.GetOrigin())):
        assert np.allclose(mine, its, atol=1e-3)
    assert np.allclose(doubt.GetDirection(), scan.GetDirection(), atol=1e-5)
    values = sitk.GetArrayFromImage(doubt)
    assert values.min() >= 0 and 0.3 < values.max() <= 1
    assert "Doubt is not calibrated for this model" in capsys.readouterr().out
    # The label map is the same as without it.
    assert segment(SCANS[0], "--output", tmp_path / "plain.nii.gz") == 0
    assert "oubt" not in capsys.readouterr().out
    both = [sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name))) for name in ("out.nii.gz", "plain.nii.gz")]
    assert np.array_equal(*both)


def test_a_calibrated_model_says_what_doubt_means(tmp_path: Path, capsys: Captured) -> None:
    model = load_model(MODEL)
    save_model(tmp_path / "model", model.description, model.state_dict)
    set_doubt(tmp_path / "model", DoubtCalibration(7, (0.0, 8.0), (0.5, 0.0)))
    words = (SCANS[0], "--output", tmp_path / "out.nii.gz", "--doubt", tmp_path / "doubt.nrrd")
    assert segment(*words, model=tmp_path / "model") == 0
    printed = capsys.readouterr().out
    assert "Doubt is the expected share of wrong voxels." in printed and "look first at" in printed
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "doubt.nrrd"))).max() <= 0.5


def test_several_scans_go_into_a_folder_and_a_missing_file_is_made_anew(tmp_path: Path, capsys: Captured) -> None:
    out, doubts = tmp_path / "out", tmp_path / "doubts"
    assert segment(*SCANS, "--output", out, "--doubt", doubts) == 0
    files = sorted(doubts.iterdir())
    assert [file.name for file in files] == [f"{stem(scan)}_doubt.nii.gz" for scan in SCANS]
    files[0].unlink()
    assert segment(*SCANS, "--output", out, "--doubt", doubts) == 0
    assert files[0].exists() and "1 of them before" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["doubt.png", "doubt.seg.nrrd"])
def test_a_name_that_is_none_is_refused_before_any_work(tmp_path: Path, name: str, capsys: Captured) -> None:
    assert segment(SCANS[0], "--output", tmp_path / "out.nii.gz", "--doubt", tmp_path / name) == 2
    assert name in capsys.readouterr().err and not (tmp_path / "out.nii.gz").exists()
