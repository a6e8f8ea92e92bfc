"""``transferseg cases add`` with folders and tables: one bad pair stops no other, and a second time changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from TransferSegLib.cli.main import main
from TransferSegLib.corrections.project import Project
from TransferSegLib.errors import Cancelled

CT = Path(__file__).resolve().parents[1] / "Data" / "head_neck_ct"
NAMES = ("pt_14", "pt_22")
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a folder with scans and label maps side by side, its name with a space and an umlaut."""
    folder = tmp_path / "für später"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(CT / "images" / f"{name}.nii.gz", folder / f"{name}_ct.nii.gz")
        shutil.copy(CT / "labels" / f"{name}.nii.gz", folder / f"{name}_seg.nii.gz")
    return folder


def add(tmp_path: Path, *words: str | Path) -> int:
    structures = ["--structures", str(CT / "dataset.json")]
    return main(["cases", "add", *map(str, words), "--project", str(tmp_path / "project"), *structures])


def test_a_folder_twice(source: Path, tmp_path: Path, capsys: Captured) -> None:
    (source / "pt_0_ct.nii.gz").write_bytes(b"this is no scan")
    shutil.copy(source / "pt_14_seg.nii.gz", source / "pt_0_seg.nii.gz")
    shutil.copy(source / "pt_14_ct.nii.gz", source / "pt_1_ct.nii.gz")  # has no label map
    shutil.copy(source / "pt_14_seg.nii.gz", source / "pt_2_seg.nii.gz")  # has no image
    assert add(tmp_path, source, "--reviewed", "brainstem") == 2
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    assert [row[0] for row in rows if row[1:2] == ["failed"]] == ["pt_1_ct.nii.gz", "-", "pt_0_ct.nii.gz"]
    assert "pt_2_seg.nii.gz has no image named like it" in printed and "2 of 5 are in" in printed
    state = Project(tmp_path / "project").state()
    assert [revision.case.annotated for revision in state.current] == [("brainstem",)] * 2
    before = (tmp_path / "project" / "dataset.json").read_bytes()
    files = sorted((tmp_path / "project").rglob("*"))
    assert add(tmp_path, source, "--reviewed", "brainstem") == 2
    assert capsys.readouterr().out.count("unchanged") == 2
    assert (tmp_path / "project" / "dataset.json").read_bytes() == before
    assert sorted((tmp_path / "project").rglob("*")) == files
    # Other reviewed structures are another revision.
    assert add(tmp_path, source, "--reviewed", "brainstem", "larynx") == 2
    assert [revision.number for revision in Project(tmp_path / "project").state().current] == [2, 2]


def test_two_folders(tmp_path: Path, capsys: Captured) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for name in NAMES:
            shutil.copy(CT / folder / f"{name}.nii.gz", tmp_path / folder)
    words = (tmp_path / "images", tmp_path / "labels", "--reviewed", "all", "--progress", "json")
    assert add(tmp_path, *words) == 0
    results = [json.loads(line).get("result") for line in capsys.readouterr().out.splitlines()]
    assert [result["id"] for result in results if result] == ["case-0001", "case-0002"]


def test_what_ends_the_command_is_a_line_for_a_program_too(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise Cancelled("stopped while adding")

    (tmp_path / "empty").mkdir()
    one = (CT / "images" / "pt_14.nii.gz", CT / "labels" / "pt_14.nii.gz")
    both = (CT / "images", CT / "labels", "--reviewed", "all")
    monkeypatch.setattr(Project, "add", stopped)
    for words, code in (((tmp_path / "empty",), 2), (one, 2), ((*both, "--id", "x"), 2), (both, 130)):
        assert add(tmp_path, *words, "--progress", "json") == code
        out, err = capsys.readouterr()
        errors = [entry["error"] for line in out.splitlines() if "error" in (entry := json.loads(line))]
        assert len(errors) == 1 and errors[0] in err


def test_a_table(source: Path, tmp_path: Path, capsys: Captured) -> None:
    table = source / "cases.csv"
    rows = [
        "image,labels,case,reviewed,group,notes",
        "pt_14_ct.nii.gz,pt_14_seg.nii.gz,first,brainstem; larynx,A,from the table",
        "missing.nii.gz,pt_22_seg.nii.gz,,,,",
        "pt_22_ct.nii.gz,pt_22_seg.nii.gz,,,B,",
        "pt_22_ct.nii.gz,,,,,",
    ]
    table.write_text("\n".join(rows), encoding="utf-8")
    assert add(tmp_path, table, "--reviewed", "larynx") == 2
    printed = capsys.readouterr().out
    assert "line 5" in printed and "missing.nii.gz does not exist" in printed
    first, second = Project(tmp_path / "project").state().current
    assert (first.case.id, first.case.group, first.notes) == ("first", "A", "from the table")
    assert first.case.annotated == ("brainstem", "larynx")
    assert (second.case.id, second.case.group, second.case.annotated) == ("case-0001", "B", ("larynx",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,case\na,b", "has no column 'labels'"),
        ("image,labels,revewed\na,b,c", "Did you mean 'reviewed'?"),
        ("image,labels\n", "lists no cases"),
    ],
)
def test_wrong_tables(content: str, message: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "t.csv").write_text(content, encoding="utf-8")
    assert add(tmp_path, tmp_path / "t.csv", "--reviewed", "all") == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_what_is_missing_is_said(source: Path, tmp_path: Path, capsys: Captured) -> None:
    scan, labels = source / "pt_14_ct.nii.gz", source / "pt_14_seg.nii.gz"
    for words, message in (
        ((scan, "--reviewed", "all"), "Which label map belongs to"),
        ((scan, labels), "Say with --reviewed"),
        ((source,), "Say with --reviewed which structures"),
        ((source, "--reviewed", "all", "--id", "x"), "--id is for one case"),
        ((tmp_path, "--reviewed", "all"), "Say how the files are named"),
    ):
        assert add(tmp_path, *words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "project").exists()


def test_files_of_a_shell_pattern(source: Path, tmp_path: Path, capsys: Captured) -> None:
    """The shell expands *.nii.gz to scans and label maps in any order; which is which is in their names."""
    files = sorted(source.glob("*.nii.gz"))
    assert len(files) == 4 and add(tmp_path, *files, "--reviewed", "brainstem") == 0
    assert "2 of 2 are in" in capsys.readouterr().out
    # Quoted, as where the shell expands nothing: one pattern, and two of them, add the same again.
    for patterns in (["*.nii.gz"], ["*_ct.nii.gz", "*_s?g.nii.gz"], ["*_ct.nii.gz", "."]):
        words = [source / pattern for pattern in patterns]
        assert add(tmp_path, *words, "--reviewed", "brainstem") == 0, patterns
        assert capsys.readouterr().out.count("unchanged") == 2, patterns


def test_files_without_telling_names(tmp_path: Path, capsys: Captured) -> None:
    """Files named alike in two folders: those of the second folder are the label maps."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder, kind in ((images, "images"), (labels, "labels")):
        folder.mkdir()
        for name in NAMES:
            shutil.copy(CT / kind / f"{name}.nii.gz", folder)
    assert add(tmp_path, *images.iterdir(), *labels.iterdir(), "--reviewed", "all") == 0
    assert "2 of 2 are in" in capsys.readouterr().out
    assert add(tmp_path, *images.iterdir(), labels / "pt_14.nii.gz", "--reviewed", "all") == 2
    assert "no label map is named like it" in capsys.readouterr().out
    shutil.copy(images / "pt_14.nii.gz", images / "pt_1.nii.gz")
    assert add(tmp_path, *images.iterdir(), "--reviewed", "all") == 2
    assert "Which of these 3 files are label maps?" in capsys.readouterr().err
    assert add(tmp_path, images / "*.mha", labels / "*.nii.gz", "--reviewed", "all") == 2
    assert "No file is named like" in capsys.readouterr().err
