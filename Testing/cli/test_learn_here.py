"""``transferseg learn-here`` as a user types it, on the sample scan and with the bundled model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.cli.main import main

SAMPLE = Path(__file__).resolve().parents[2] / "Resources" / "SampleData" / "head-neck-ct"
SCAN = SAMPLE / "pt_95_ct.nii.gz"
LARYNX = 6


def run(*words: str | Path) -> int:
    return main([*map(str, words), "--device", "cpu"])


def array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_from_segmenting_to_the_redrawn_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predicted, features = tmp_path / "predicted.nii.gz", tmp_path / "scan.features"
    assert run("segment", SCAN, "--output", predicted, "--features", features) == 0
    assert features.stat().st_size < 60e6
    truth = array(SAMPLE / "pt_95_label.nii.gz") == LARYNX
    there = np.flatnonzero(truth.any(axis=(1, 2)))
    slices = sorted({int(number) for number in np.rint(np.linspace(there[0], there[-1], 4))})
    labels = array(predicted)
    for number in slices:
        labels[number][labels[number] == LARYNX] = 0
        labels[number][truth[number]] = LARYNX
    corrected = sitk.GetImageFromArray(labels)
    corrected.CopyInformation(sitk.ReadImage(str(predicted)))
    sitk.WriteImage(corrected, str(tmp_path / "corrected.nii.gz"))
    output = tmp_path / "new" / "redrawn.seg.nrrd"
    given = ("learn-here", SCAN, "--segmentation", tmp_path / "corrected.nii.gz")
    judged = ("--judged-slices", "z:" + ",".join(map(str, slices)))
    capsys.readouterr()
    wanted = ("--structures", "larynx", "--features", features)
    assert run(*given, *judged, "--output", output, *wanted) == 0
    printed = capsys.readouterr().out
    assert "larynx" in printed and "compute the features" not in printed
    result = array(output)
    assert np.array_equal(result[slices], labels[slices])
    rest = np.ones(len(labels), bool)
    rest[slices] = False

    def dice(each: np.ndarray) -> float:
        mine, own = each[rest] == LARYNX, truth[rest]
        return 2 * np.count_nonzero(mine & own) / (np.count_nonzero(mine) + np.count_nonzero(own))

    assert dice(result) > dice(labels) + 0.02
    mask = np.zeros(labels.shape, np.uint8)
    mask[slices] = 1
    mask_image = sitk.GetImageFromArray(mask)
    mask_image.CopyInformation(corrected)
    sitk.WriteImage(mask_image, str(tmp_path / "mask.nii.gz"))
    again = tmp_path / "again.nii.gz"
    assert run(*given, "--judged", tmp_path / "mask.nii.gz", "--output", again, *wanted, "--progress", "json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["result"]["structures"][0]["name"] == "larynx" and lines[-1]["result"]["features_kept"]
    assert np.array_equal(array(again), result)


def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = SAMPLE / "pt_95_label.nii.gz"
    given = ("learn-here", SCAN, "--segmentation", truth, "--judged-slices", "z:5")
    output = ("--output", tmp_path / "out.nii.gz")
    assert run(*given, "--output", tmp_path / "out.txt") == 2
    assert run(*given, "--output", SCAN) == 2
    assert run(*given, *output, "--features", SCAN) == 2
    assert run(*given[:-1], "z:900", *output) == 2
    assert run(*given[:-1], "the first ones", *output) == 2
    printed = capsys.readouterr().err
    assert printed.count("transferseg: ") == 5 and "Traceback" not in printed
    assert not (tmp_path / "out.nii.gz").exists()
    other = Path(__file__).resolve().parents[1] / "Data" / "head_neck_ct" / "images" / "pt_120.nii.gz"
    assert run("segment", SCAN, other, "--output", tmp_path, "--features", tmp_path / "a") == 2
    assert "--features is for one scan" in capsys.readouterr().err
