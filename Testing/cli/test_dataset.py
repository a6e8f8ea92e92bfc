"""``transferseg dataset``: making, checking and showing from the command line."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest

from TransferSegLib.cli import dataset as verb
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.errors import DatasetError, TransferSegError

SAMPLE = Path(__file__).parents[1] / "Data" / "head_neck_ct"
TINY = Path(__file__).parents[1] / "Data" / "dataset_format_1"


def transferseg_dataset(*words: object) -> int:
    """Run the verb as the command line does."""
    parser = argparse.ArgumentParser()
    verb.add_parser(parser.add_subparsers(dest="command"))
    arguments = parser.parse_args(["dataset", *map(str, words)])
    return arguments.run(arguments)


def test_make_from_folders(tmp_path: Path, capsys: pytest.CaptureFixture):
    images = shutil.copytree(TINY / "images", tmp_path / "images")
    labels = shutil.copytree(TINY / "labels", tmp_path / "labels", ignore=shutil.ignore_patterns("judged*"))
    (labels / "labels.json").write_text('{"2": "right kidney", "4": "left kidney", "9": "lesion"}')
    words = ("make", "--images", images, "--labels", labels, "--output", tmp_path / "set", "--name", "Kidneys")
    assert transferseg_dataset(*words, "--group", "^scan", "--license", "CC0-1.0") == 0
    made = read_dataset(tmp_path / "set")
    assert made.name == "Kidneys" and made.ids == ("scan 1", "scan 2", "scan 3")
    assert [case.group for case in made.cases] == ["scan", "scan", "scan"]
    assert [len(case.annotated) for case in made.cases] == [2, 1, 3]
    printed = capsys.readouterr().out
    assert "3 cases of 1 patients" in printed and "transferseg dataset check" in printed
    with pytest.raises(DatasetError, match="already holds"):
        transferseg_dataset(*words)


def test_make_with_a_table_and_patterns_in_one_folder(tmp_path: Path):
    for path in sorted((TINY / "images").iterdir()):
        shutil.copy(path, tmp_path / f"{path.stem}-venous.nrrd")
        shutil.copy(TINY / "labels" / path.name, tmp_path / f"{path.stem}-organs.nrrd")
    (tmp_path / "names.json").write_text('{"right kidney": 2, "left kidney": 4, "lesion": 9}')
    (tmp_path / "table.csv").write_text(
        "case,lesion,left kidney,right kidney\nscan 1,0,1,1\nscan 2,0,1,0\nscan 3,1,0,0\n"
    )
    words = ("--image-pattern", "{case}-venous", "--label-pattern", "{case}-organs", "--copy")
    names = ("--structures", tmp_path / "names.json", "--annotated", tmp_path / "table.csv")
    assert transferseg_dataset("make", "--images", tmp_path, "--output", tmp_path / "set", *words, *names) == 0
    made = read_dataset(tmp_path / "set")
    assert [case.annotated for case in made.cases] == [("right kidney", "left kidney"), ("left kidney",), ("lesion",)]
    assert made.case("scan 1").image == tmp_path / "set" / "images" / "scan 1.nrrd"


def test_make_head_neck(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert transferseg_dataset("make-head-neck", shared_data / "head_neck_ct", "--output", tmp_path) == 0
    assert len(read_dataset(tmp_path)) == 170
    assert "oesophagus" in capsys.readouterr().out


def test_check_says_when_all_is_well(capsys: pytest.CaptureFixture):
    assert transferseg_dataset("check", SAMPLE) == 0
    assert capsys.readouterr().out == "No problems found.\n"


def test_check_prints_the_whole_report_and_returns_2(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = shutil.copytree(TINY, tmp_path / "set")
    (folder / "images" / "scan 1.nrrd").unlink()
    (folder / "labels" / "scan 2.nrrd").write_bytes(b"nothing")
    assert transferseg_dataset("check", folder) == 2
    printed = capsys.readouterr().out
    assert printed.startswith("2 errors, 0 warnings") and "case scan 1" in printed and "case scan 2" in printed


def test_check_with_warnings_only_returns_0(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = shutil.copytree(TINY, tmp_path / "set")
    text = (folder / "dataset.json").read_text(encoding="utf-8")
    (folder / "dataset.json").write_text(text.replace('["LEFT_kidney"]', "[]"), encoding="utf-8")
    assert transferseg_dataset("check", folder) == 0
    assert "nothing is annotated" in capsys.readouterr().out


def test_show_prints_how_often_each_structure_is_annotated(capsys: pytest.CaptureFixture):
    assert transferseg_dataset("show", SAMPLE) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Head and neck CT, six cases" and "6 cases of 6 patients" in lines
    row = next(line for line in lines if line.startswith("oesophagus"))
    assert row.split() == ["oesophagus", "5", "2", "32849002"]


def test_a_missing_dataset_is_an_error_for_main_to_print(tmp_path: Path):
    with pytest.raises(DatasetError, match="no dataset"):
        transferseg_dataset("show", tmp_path)


def test_a_verb_is_needed(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stopped:
        transferseg_dataset()
    assert stopped.value.code == 2
    assert "required: COMMAND" in capsys.readouterr().err


def test_pictures_of_a_check(tmp_path: Path, capsys: pytest.CaptureFixture):
    folder = shutil.copytree(SAMPLE, tmp_path / "set")
    (folder / "labels" / "pt_14.nii.gz").write_bytes(b"this is no label map")
    pictures = tmp_path / "new" / "pictures"
    assert transferseg_dataset("check", folder, "--pictures", pictures) == 2
    printed = capsys.readouterr().out
    assert "case pt_14\n  error:" in printed and printed.endswith(f"6 pictures and 1 contact sheet are in {pictures}\n")
    assert {path.stem for path in (pictures / "cases").iterdir()} == set(read_dataset(folder).ids)
    assert (pictures / "contact-sheet-01.png").stat().st_size > 100_000
    (tmp_path / "file").touch()
    with pytest.raises(TransferSegError, match="is a file, not a folder"):
        transferseg_dataset("check", folder, "--pictures", tmp_path / "file" / "x")
