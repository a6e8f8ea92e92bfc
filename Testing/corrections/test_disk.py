"""Disks that fill up, folders that vanish, files that are damaged: one line for a person, and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk

from TransferSegLib import durable_writing
from TransferSegLib.corrections.checking import check_project
from TransferSegLib.corrections.project import Project
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import DatasetError, ScanError, TransferSegError

LIMITED = """
import resource, sys
from TransferSegLib.corrections.project import Project
from TransferSegLib.errors import TransferSegError
for limit in map(int, sys.argv[4:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        Project(sys.argv[1]).add_case(sys.argv[2], sys.argv[3], ["liver"], structures={1: "liver"})
    except TransferSegError as error:
        print(type(error).__name__, error)
"""


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(os.name == "nt", reason="the size of files is limited with setrlimit")
def test_full_disk(make, tmp_path: Path) -> None:
    """Every write beyond some size fails: of the image, of the label map, of dataset.json."""
    for number in range(3):
        make.add(number, 1)
    sitk.WriteImage(make.scan(9), str(tmp_path / "scan.nii"))
    sitk.WriteImage(make.labels(1), str(tmp_path / "labels.nii"))
    before = files(make.project.folder)
    words = [str(make.project.folder), str(tmp_path / "scan.nii"), str(tmp_path / "labels.nii"), "100", "900", "1500"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *words], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["ScanError", "ScanError", "DatasetError"]
    for line, file in zip(lines, ("image.nrrd", "labels.seg.nrrd", "File too large"), strict=True):
        assert file in line and "disk" in line
    assert files(make.project.folder) == before
    assert make.add(9, 1).revision.case.id == "case-0004"
    assert not [problem for problem in check_project(make.project) if problem.severity == "error"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("operation", ["fsync", "rename", "replace", "mkdir"])
def test_every_operation_may_fail(make, monkeypatch: pytest.MonkeyPatch, operation: str, number: int) -> None:
    make.add(0, 1)
    before = files(make.project.folder)
    failing = True
    original = getattr(os, operation)

    def fails(*words: object, **more: object) -> object:
        if failing:
            raise OSError(number, os.strerror(number))
        return original(*words, **more)

    monkeypatch.setattr(os, operation, fails)
    changes = [lambda: make.add(1, 1), lambda: make.add(0, 2)]
    if operation in ("fsync", "replace"):
        changes += [lambda: make.project.remove_case("case-0001")]
    for change in changes:
        with pytest.raises((DatasetError, ScanError), match=os.strerror(number)):
            change()
    failing = False
    make.project.clear_leftovers()
    assert files(make.project.folder) == before
    assert make.add(0, 2).revision.number == 2


def test_windows_may_refuse_to_rename_what_a_virus_scanner_reads(make, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a moment, that is: a case is not given up for it. Without Windows its refusal is played."""
    refused: list[str] = []

    class Windows:
        name = "nt"

        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

    def busy(original):
        def rename(path: Path, target: Path) -> Path:
            key = path.suffix or path.parent.name  # label maps and texts, and the folder of the new revision
            if refused.count(key) < 2:
                refused.append(key)
                raise PermissionError(errno.EACCES, "Access is denied")
            return original(path, target)

        return rename

    monkeypatch.setattr(durable_writing, "os", Windows())
    for operation in ("rename", "replace"):
        monkeypatch.setattr(Path, operation, busy(getattr(Path, operation)))
    assert make.add(0, 1).revision.case.id == "case-0001"
    assert sorted(refused) == [".incoming", ".incoming", ".nrrd", ".nrrd", ".tmp", ".tmp"]


def test_a_folder_that_cannot_be_written(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make.add(0, 1)
    original = os.open

    def denied(path: object, flags: int, *words: object, **more: object) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied")
        return original(path, flags, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(DatasetError, match=r"\.lock cannot be locked: Permission denied\. Check the folder"):
        make.add(1, 1)
    assert len(make.project.state().current) == 1, "reading needs no lock"
    problems = check_project(make.project)
    assert "leftovers were not looked for" in problems[0].what and problems[0].severity == "warning"
    (tmp_path / "a file").write_text("x")
    with pytest.raises(DatasetError, match=r"is a file, not a folder\. Name another folder"):
        Project(tmp_path / "a file", create=True).add_case(make.scan(), make.labels(1), "all", structures=make.organs)


def test_a_folder_that_vanishes(make, monkeypatch: pytest.MonkeyPatch) -> None:
    make.add(0, 1)
    project = Project(make.project.folder)

    def vanish(report: object) -> None:
        shutil.rmtree(project.folder, ignore_errors=True)

    with pytest.raises(TransferSegError, match=r"no project|cannot be"):
        project.add_case(make.scan(1), make.labels(1), "all", structures=make.organs, progress=vanish)
    assert not project.folder.exists()
    with pytest.raises(DatasetError, match="the folder is not there"):
        project.remove_case("case-0001")


def test_damaged_dataset_json(make) -> None:
    make.add(0, 1)
    make.add(1, 1)
    file = make.project.folder / "dataset.json"
    good = file.read_text()
    with pytest.raises(DatasetError, match="is not damaged"):
        make.project.repair()
    for damage in (b"", good.encode()[:300], b"\0" * 4096, b"[]", None):
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage)
        for use in (make.project.state, lambda: make.add(2, 1), lambda: make.project.remove_case("case-0001")):
            with pytest.raises(DatasetError, match=r"last good state, with 2 cases, .*\n?.*cases check --repair"):
                use()
        kept = make.project.repair()
        assert file.read_text() == good
        assert (kept is None) if damage is None else (kept is not None and kept.read_bytes() == damage)
    file.write_text("{")
    (make.project.folder / "dataset.json.bak").write_text("{")
    with pytest.raises(DatasetError, match="not valid JSON"):
        make.project.repair()


def test_an_older_dataset_json_put_back_loses_no_files(make) -> None:
    make.add(0, 1)
    file = make.project.folder / "dataset.json"
    older = file.read_text()
    make.add(0, 2)
    make.add(1, 2)
    newer = make.project.state()
    write_text_durably(file, older)
    problems = [problem.what for problem in check_project(make.project)]
    left = [str(Path("cases", "case-0001", "revision-2")), str(Path("cases", "case-0002", "revision-1"))]
    for folder in left:
        assert f"{folder} belongs to no revision: it was left alone" in problems
    assert make.add(0, 5).revision.case.labels.parent.name == "revision-2-again"
    assert make.add(2, 1).revision.case.id == "case-0003"
    for revision in newer.every_revision:
        assert all(path.is_file() for path in revision.files())


def test_changed_and_missing_files_are_found(make) -> None:
    make.add(0, 1, prediction=make.labels(2))
    make.add(0, 2)
    make.add(1, 1)
    make.add(2, 1)
    make.project.remove_case("case-0003")
    assert not [problem for problem in check_project(make.project) if problem.severity == "error"]
    old, _ = make.project.revisions("case-0001")
    sitk.WriteImage(make.labels(2, 2), str(old.case.labels))
    sitk.WriteImage(make.scan(7), str(make.project.revisions("case-0002")[0].case.image))
    make.project.revisions("case-0003")[0].case.image.unlink()
    errors = {problem.case: problem.what for problem in check_project(make.project) if problem.severity == "error"}
    assert "revision 1: its label map, annotated region or reviewed structures are not those" in errors["case-0001"]
    assert "revision 1: its image is not the one that was saved" in errors["case-0002"]
    assert "does not exist" in errors["case-0003"]
    assert len(errors) == 3


def test_entries_that_make_no_sense(make) -> None:
    make.add(0, 1)
    file = make.project.folder / "dataset.json"
    good = json.loads(file.read_text())
    (make.project.folder / "dataset.json.bak").unlink()
    for key, value in (("revision", 0), ("revision", "x"), ("image_hash", None), ("corrected_from", 3), ("notes", [])):
        content = json.loads(json.dumps(good))
        content["cases"][0][key] = value
        file.write_text(json.dumps(content))
        with pytest.raises(DatasetError, match=r"Case case-0001 of .* is no revision of a corrected case"):
            make.project.state()
    for key in ("earlier_revisions", "removed_cases", "retired_structures"):
        file.write_text(json.dumps(good | {key: [3]}))
        with pytest.raises(DatasetError, match="is not a project this version can use"):
            make.project.state()
