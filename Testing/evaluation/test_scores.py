"""Scores of a case: sparse annotation, annotated regions, volumes, JSON; and ``transferseg evaluate`` with surfaces."""

from __future__ import annotations

import csv
import errno
import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.cli.main import main
from TransferSegLib.datasets.dataset import Case
from TransferSegLib.errors import ScanError, TransferSegError
from TransferSegLib.evaluation.predict_and_score import MEAN_OF_STRUCTURES, score_label_maps, summarise
from TransferSegLib.evaluation.scores import Score, score_case, score_structure
from TransferSegLib.evaluation.surface_distance import surface_agreement
from TransferSegLib.structures import LabelSet, Structure

DATA = Path(__file__).resolve().parents[1] / "Data"
MODEL = str(DATA / "model_format_1" / "model")
SPACING = (2.5, 1.0, 2.0)
FOUND_SET = LabelSet((Structure("Heart", 1, (1, 2, 3)), Structure("liver", 2, (1, 2, 3))))
REFERENCE_SET = LabelSet(
    (Structure("liver", 7, (1, 2, 3)), Structure("heart", 9, (1, 2, 3)), Structure("spleen", 3, (1, 2, 3)))
)


def maps() -> tuple[np.ndarray, np.ndarray]:
    found, reference = np.zeros((10, 12, 14), np.uint8), np.zeros((10, 12, 14), np.int16)
    found[2:6, 2:6, 2:6], reference[2:6, 2:6, 2:8] = 1, 9
    found[6:9, 8:11, 8:14], reference[6:9, 8:11, 8:14] = 2, 7
    return found, reference


def test_numbers_of_a_structure() -> None:
    found, reference = maps()
    scores = score_case(found, FOUND_SET, reference, REFERENCE_SET, ["heart", "liver", "spleen"], SPACING, 1.0)
    assert list(scores) == ["Heart", "liver"]
    heart = scores["Heart"]
    assert heart.dice == pytest.approx(2 * 64 / (64 + 96))
    assert (heart.volume_ml, heart.reference_ml) == pytest.approx((64 * 0.005, 96 * 0.005))
    # Cropping to the structure changes nothing.
    whole = surface_agreement(found == 1, reference == 9, SPACING, 1.0)
    assert (heart.nsd, heart.hd95_mm) == (whole.nsd, whole.hd95_mm)
    assert scores["liver"] == Score(1.0, 1.0, 0.0, pytest.approx(54 * 0.005), pytest.approx(54 * 0.005))


def test_only_annotated_structures_count() -> None:
    found, reference = maps()
    assert list(score_case(found, FOUND_SET, reference, REFERENCE_SET, ["liver"], SPACING)) == ["liver"]
    assert score_case(found, FOUND_SET, reference, REFERENCE_SET, [], SPACING) == {}
    # Annotated, but neither there nor claimed: nothing to say. Claimed only: as bad as can be.
    nothing = np.zeros_like(reference)
    assert score_case(np.zeros_like(found), FOUND_SET, nothing, REFERENCE_SET, ["liver"], SPACING, 1.0) == {}
    claimed = score_case(found, FOUND_SET, nothing, REFERENCE_SET, ["liver"], SPACING, 1.0)["liver"]
    assert (claimed.dice, claimed.nsd, claimed.hd95_mm, claimed.reference_ml) == (0.0, 0.0, math.inf, 0.0)


def test_without_a_tolerance_surfaces_are_not_measured() -> None:
    found, reference = maps()
    score = score_case(found, FOUND_SET, reference, REFERENCE_SET, ["heart"], SPACING)["Heart"]
    assert math.isnan(score.nsd) and math.isnan(score.hd95_mm) and score.dice > 0


def test_only_the_annotated_region_counts() -> None:
    found, reference = maps()
    region = np.zeros(found.shape, bool)
    region[:, :, :6] = True
    score = score_case(found, FOUND_SET, reference, REFERENCE_SET, ["heart", "liver"], SPACING, 1.0, region)
    assert list(score) == ["Heart"]
    assert score["Heart"].dice == 1.0 and score["Heart"].reference_ml == pytest.approx(64 * 0.005)
    # Seen through the region both look alike, but for the face that the found one has at the mask's edge: none.
    assert score["Heart"].nsd == 1.0 and score["Heart"].hd95_mm == 0.0
    assert score_structure(found == 2, reference == 7, SPACING, 1.0, region) is None


def test_json_keeps_what_is_not_a_number() -> None:
    for score in (
        Score(0.5, 0.75, 2.5, 1.0, 2.0),
        Score(0.0, 0.0, math.inf, 0.0, 2.0),
        Score(0.5, math.nan, math.nan, 1.0, 2.0),
    ):
        text = json.dumps(score.to_json(), allow_nan=False)
        again = Score.from_json(json.loads(text))
        assert repr(again) == repr(score)
    with pytest.raises(TransferSegError, match="not the score"):
        Score.from_json({"dice": 1})


def test_label_maps_and_the_file_of_a_region(tmp_path: Path) -> None:
    found, reference = maps()
    images = [sitk.GetImageFromArray(array) for array in (found, reference)]
    for image in images:
        image.SetSpacing(SPACING[::-1])
    region = sitk.GetImageFromArray((np.indices(found.shape)[2] < 6).astype(np.uint8))
    region.SetSpacing(SPACING[::-1])
    sitk.WriteImage(region, str(tmp_path / "judged.nii.gz"))
    case = Case("a", tmp_path / "a", tmp_path / "b", ("heart", "liver"))
    scores = score_label_maps(images[0], FOUND_SET, images[1], REFERENCE_SET, case, 1.0)
    assert scores == score_case(found, FOUND_SET, reference, REFERENCE_SET, case.annotated, SPACING, 1.0)
    partly = Case("a", tmp_path / "a", tmp_path / "b", ("heart", "liver"), tmp_path / "judged.nii.gz")
    assert list(score_label_maps(images[0], FOUND_SET, images[1], REFERENCE_SET, partly, 1.0)) == ["Heart"]
    region.SetSpacing((1.0, 1.0, 1.0))
    sitk.WriteImage(region, str(tmp_path / "judged.nii.gz"))
    with pytest.raises(ScanError, match=r"judged\.nii\.gz does not lie on"):
        score_label_maps(images[0], FOUND_SET, images[1], REFERENCE_SET, partly)


def test_summary() -> None:
    results = {
        "a": {"x": Score(0.5, 0.6, 3.0, 1, 1), "y": Score(0.9, 1.0, 1.0, 1, 1)},
        "b": {"x": Score(0.0, 0.0, math.inf, 0, 1)},
        "c": {"x": Score(0.7, 0.9, 2.0, 1, 1)},
    }
    rows = summarise(results, ["y", "z", "x"])
    assert list(rows) == ["y", "x", MEAN_OF_STRUCTURES]
    assert (rows["x"].cases, rows["x"].mean, rows["x"].median, rows["x"].smallest) == pytest.approx((3, 0.4, 0.5, 0))
    # One missed structure does not make the table's distance infinite.
    assert (rows["x"].mean_nsd, rows["x"].median_hd95_mm) == pytest.approx((0.5, 3.0))
    assert rows[MEAN_OF_STRUCTURES].mean == pytest.approx(0.65)
    assert rows[MEAN_OF_STRUCTURES].median_hd95_mm == pytest.approx(2.0)


def test_command_line_writes_surfaces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--data", str(DATA / "head_neck_ct"), "--model", MODEL, "--device", "cpu"]
    words += ["--cases", "pt_103", "--csv", str(tmp_path / "all.csv")]
    assert main([*words, "--surface", "--json", str(tmp_path / "all.json")]) == 0
    assert "NSD at 3 mm" in capsys.readouterr().out
    scores = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["pt_103"]
    with (tmp_path / "all.csv").open(encoding="utf-8", newline="") as stream:
        rows = {row["structure"]: row for row in csv.DictReader(stream)}
    assert scores.keys() == rows.keys() and rows
    for name, entry in scores.items():
        score = Score.from_json(entry)
        assert 0 <= score.nsd <= 1 and score.hd95_mm >= 0 and score.reference_ml > 0
        assert float(rows[name]["nsd"]) == pytest.approx(score.nsd, abs=1e-5)
        assert float(rows[name]["hd95_mm"]) == pytest.approx(score.hd95_mm, rel=1e-5)
        assert float(rows[name]["tolerance_mm"]) == 3.0
    # Without surfaces their columns are empty, and the table has none.
    assert main(words) == 0
    assert "NSD" not in capsys.readouterr().out
    with (tmp_path / "all.csv").open(encoding="utf-8", newline="") as stream:
        assert {(row["nsd"], row["hd95_mm"]) for row in csv.DictReader(stream)} == {("", "")}


def test_command_line_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--data", str(DATA / "head_neck_ct"), "--model", MODEL]
    assert main([*words, "--csv", str(tmp_path / "nowhere" / "all.csv")]) == 2
    assert "no folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--tolerance-mm", "-1"])
    assert "from 0 up" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--tolerance-mm", "three"])
    assert "three is not a number of mm" in capsys.readouterr().err
    for option in ("--json", "--csv"):
        assert main([*words, option, str(tmp_path)]) == 2
        assert "is a folder: give the name of a file" in capsys.readouterr().err


def test_a_result_that_cannot_be_written_is_one_line_and_the_old_file_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    words = ["evaluate", "--data", str(DATA / "head_neck_ct"), "--model", MODEL, "--device", "cpu", "--cases", "pt_103"]
    for option in ("--json", "--csv"):
        old = tmp_path / f"old{option}"
        old.write_text("of last week", encoding="utf-8")
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", full)
            assert main([*words, option, str(old)]) == 2
        printed = capsys.readouterr()
        assert "mean of structures" in printed.out and "No space left" in printed.err.splitlines()[-1]
        assert old.read_text(encoding="utf-8") == "of last week" and [*tmp_path.glob(".*")] == []
