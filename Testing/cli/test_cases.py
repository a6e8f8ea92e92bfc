"""The command ``cases``: a corrected case from the first to the last verb, as a person and as a program use it."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.cli.main import main
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.evaluation.effort import drawing_effort

DATA = Path(__file__).resolve().parents[1] / "Data"
CT = DATA / "head_neck_ct"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return the folder of a project with one case."""
    assert main(add(tmp_path / "project", "pt_14", "--reviewed", "brainstem", "larynx")) == 0
    return tmp_path / "project"


def add(project: Path, id: str, *words: str) -> list[str]:
    files = [str(CT / folder / f"{id}.nii.gz") for folder in ("images", "labels")]
    return ["cases", "add", *files, "--project", str(project), "--structures", str(CT / "dataset.json"), *words]


def test_a_case_through_all_verbs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on_it = ["--project", str(project)]
    prediction = str(CT / "labels" / "pt_14.nii.gz")
    words = ["--judged-slices", "z:2-9", "--prediction", prediction, "--model", str(DATA / "model_format_1" / "model")]
    assert (
        main(add(project, "pt_14", "--reviewed", "all", *words, "--notes", "second look", "--patient", "Nobody")) == 0
    )
    assert "revision 1 is kept" in capsys.readouterr().out
    assert main(["cases", "list", *on_it]) == 0
    listed = capsys.readouterr().out
    model = json.loads((DATA / "model_format_1" / "model" / "model.json").read_text())
    assert f"{model['name']} {model['version']}" in listed and "spinal cord" in listed
    assert "in use: 1, of 1 patients" in listed
    assert main(["cases", "show", "case-0001", *on_it]) == 0
    shown = capsys.readouterr().out
    for text in (
        "revision 2",
        "revision 1",
        "second look",
        "reviewed: brainstem, larynx",
        "every voxel",
        "judged.nrrd",
    ):
        assert text in shown
    assert main(["cases", "remove", "case-0001", *on_it]) == 0
    assert len(read_dataset(project)) == 0
    # What it says to get the case back is a whole command.
    said = capsys.readouterr().out.split("comes back with: transferseg ")[1]
    assert main(shlex.split(said)) == 0 and len(read_dataset(project)) == 1
    assert main(["cases", "remove", "case-0001", *on_it]) == 0
    assert main(["cases", "list", *on_it]) == 0
    assert "removed 2" in capsys.readouterr().out
    assert main(["cases", "restore", "case-0001", *on_it]) == 0
    assert main(["cases", "restore", "case-0001", "--revision", "1", *on_it]) == 0
    assert "revision 3, which is revision 1 again" in capsys.readouterr().out
    assert read_dataset(project).cases[0].annotated == ("brainstem", "larynx")
    assert main(["cases", "check", *on_it, "--pictures", str(project.parent / "pictures")]) == 0
    assert (project.parent / "pictures" / "contact-sheet-01.png").is_file()
    assert "0 errors" in capsys.readouterr().out


def test_json_for_programs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["cases", "list", "--json", "--project", str(project)]) == 0
    listed = json.loads(capsys.readouterr().out)
    (case,) = listed["cases"]
    assert (case["id"], case["revision"], case["state"]) == ("case-0001", 1, "in use")
    assert case["reviewed"] == ["brainstem", "larynx"] and len(case["content_hash"]) == 64
    assert case["model"] is None and Path(case["image"]).is_file() and Path(case["labels"]).is_file()
    assert [one["name"] for one in listed["structures"]][:2] == ["brainstem", "spinal cord"]
    assert main(["cases", "show", "case-0001", "--json", "--project", str(project)]) == 0
    assert json.loads(capsys.readouterr().out) == {"case": "case-0001", "revisions": [case]}


def test_effort(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cases", "effort", "--project", str(project)]
    capsys.readouterr()
    assert main(words) == 0
    assert "No case was added with the prediction" in capsys.readouterr().out
    # The second scan starts from its own label map, the third from the one of another patient (labels far away).
    labels = [str(CT / "labels" / f"{id}.nii.gz") for id in ("pt_22", "pt_70")]
    model = ["--model", "elsewhere", "--model-version", "7"]
    assert main(add(project, "pt_22", "--reviewed", "brainstem", "--prediction", labels[0], *model)) == 0
    assert "0 m of contour were drawn" in capsys.readouterr().out
    empty = tmp_path / "empty.nii.gz"
    nothing = sitk.ReadImage(labels[1]) * 0
    sitk.WriteImage(nothing, str(empty))
    assert main(add(project, "pt_70", "--reviewed", "brainstem", "--prediction", str(empty), *model)) == 0
    capsys.readouterr()
    picture, csv_file = tmp_path / "curve.png", tmp_path / "effort.csv"
    assert main([*words, "--picture", str(picture), "--csv", str(csv_file)]) == 0
    printed = capsys.readouterr().out
    mask = sitk.GetArrayFromImage(sitk.ReadImage(labels[1])) == 1
    x_mm, y_mm, z_mm = nothing.GetSpacing()
    path_mm = drawing_effort(np.zeros_like(mask), mask, (z_mm, y_mm, x_mm)).path_mm
    rows = printed.splitlines()
    assert rows[2].split()[:2] == ["1", "case-0001"] and rows[2].split()[-4:] == ["-"] * 4
    assert rows[3].split()[-5:] == ["0.00", "0", "%", "0", "1.000"]
    assert rows[4].split()[-5:-2] == [f"{path_mm / 1000:.2f}", "100", "%"] and "elsewhere 7" in rows[4]
    assert rows[5].split()[:3] == ["all", "2", "cases"]
    assert f"Scan 2 needed 0 m of contour, scan 3 needed {path_mm / 1000:.1f} m." in printed
    assert sitk.ReadImage(str(picture)).GetWidth() > 100
    lines = list(csv.DictReader(io.StringIO(csv_file.read_text(encoding="utf-8"))))
    assert [(line["scan"], line["case"], line["structure"]) for line in lines] == [
        ("2", "case-0002", "brainstem"), ("3", "case-0003", "brainstem")
    ]  # fmt: skip
    assert float(lines[1]["added_path_mm"]) == pytest.approx(path_mm, abs=0.01)
    assert main([*words, "--json"]) == 0
    cases = json.loads(capsys.readouterr().out)["cases"]
    assert [case["effort"] is None for case in cases] == [True, False, False]
    assert cases[2]["effort"]["structures"]["brainstem"]["slices_touched"] == cases[2]["effort"]["slices_touched"] > 0
    for wrong, message in (
        (["--picture", str(tmp_path / "curve.jpg")], "ends in .png"),
        (["--csv", str(tmp_path / "nowhere" / "x.csv")], "there is no folder"),
    ):
        assert main([*words, *wrong]) == 2
        assert message in capsys.readouterr().err


def test_structures(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cases", "structures", "--project", str(project)]
    assert main([*words, "--rename", "larynx", "voice box"]) == 0
    assert main([*words, "--merge", "cord", "brainstem", "spinal cord"]) == 0
    assert "case-0001 has a new revision 2" in capsys.readouterr().out
    assert main([*words, "--drop", "voice box"]) == 0
    table = capsys.readouterr().out
    assert "(voice box)" in table and "(brainstem)" in table and "dropped" in table
    assert "cord" in read_dataset(project).label_set.names


def test_errors_are_one_line(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = [
        (["cases", "list", "--project", str(tmp_path / "nowhere")], "There is no project"),
        (["cases", "show", "x", "--project", str(project)], "no case 'x'"),
        (["cases", "restore", "case-0001", "--project", str(project)], "is not removed"),
        (["cases", "check", "--repair", "--project", str(project)], "is not damaged"),
        (add(project, "pt_22", "--reviewed", "lung"), "'lung' was reviewed"),
        (add(project, "pt_22", "--reviewed", "all", "--judged-slices", "a-b"), "does not name slices"),
        (add(project, "pt_22", "--reviewed", "all", "--model", "no such model"), "no such model"),
        (add(project, "pt_22", "--reviewed", "all", "--model-version", "1"), "without --model"),
        (add(project, "pt_22", "--reviewed", "all", "--id", "Fall ü"), "letters (a to z)"),
    ]
    for words, message in wrong:
        capsys.readouterr()
        assert main(words) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
    assert main(add(project, "pt_22", "--reviewed", "all", "--model", "elsewhere", "--model-version", "7")) == 0


def test_the_version_that_is_recorded_is_the_number_in_the_library(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(DATA / "model_versions_1" / "clinic", tmp_path / "models" / "clinic")
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(tmp_path / "models"))
    for name, version in (("clinic@0", "0"), ("clinic@1", "1"), ("head-neck-ct", "3")):
        capsys.readouterr()
        assert main([*add(project, "pt_22", "--reviewed", "all", "--model", name), "--progress", "json"]) == 0
        result = json.loads(capsys.readouterr().out.splitlines()[-1])["result"]
        assert result["model"]["version"] == version


def test_repair(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "dataset.json").write_text("{")
    assert main(["cases", "list", "--project", str(project)]) == 2
    assert "cases check --repair" in capsys.readouterr().err
    assert main(["cases", "check", "--repair", "--project", str(project)]) == 0
    assert "the damaged one is" in capsys.readouterr().out
    read_dataset(project).case("case-0001").labels.unlink()
    assert main(["cases", "check", "--project", str(project)]) == 2
    (project / "dataset.json").write_text("{")
    (project / "dataset.json.bak").unlink()
    capsys.readouterr()
    assert main(["cases", "check", "--repair", "--project", str(project)]) == 2
    error = capsys.readouterr().err
    assert "no earlier state" in error and "dataset make" not in error


def test_a_program_adds_a_case_by_json_and_tells_the_patient_on_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = []
    for id in ("pt_14", "pt_22"):
        monkeypatch.setattr("sys.stdin", io.StringIO("MRN-4711\n"))
        words = ["--reviewed", "larynx", "--progress", "json", "--patient", "-"]
        assert main(add(tmp_path / "project", id, *words)) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert lines[0]["stage"] == "Adding a case" and lines[-2]["fraction"] == 1.0
        case = lines[-1]["result"]
        assert case["reviewed"] == ["larynx"] and case["revision"] == 1 and case["replaced"] is False
        assert any("not reviewed" in remark for remark in case["remarks"])
        groups.append(case["group"])
    assert groups[0] == groups[1] and "4711" not in groups[0], "the scans of one patient are one group"
    assert main(add(tmp_path / "project", "pt_14", "--reviewed", "spleen", "--progress", "json")) == 2
    (*_, last) = capsys.readouterr().out.splitlines()
    assert "'spleen' was reviewed" in json.loads(last)["error"]
