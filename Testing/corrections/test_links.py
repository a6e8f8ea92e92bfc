"""A project in which a link was planted: nothing behind it is written, moved or deleted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from TransferSegLib.corrections.checking import check_project
from TransferSegLib.corrections.project import Project
from TransferSegLib.errors import DatasetError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="making links needs a right on Windows that tests lack")

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Return somebody's folder that looks like the folder of a case."""
    folder = tmp_path / "documents"
    (folder / "thesis" / "revision-1").mkdir(parents=True)
    (folder / "thesis" / "revision-1" / "chapter.txt").write_text("years of work")
    return folder


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def plant_target(project: Path, text: str) -> None:
    """Leave what a killed writer would: a folder that was to go to this place."""
    (project / ".incoming").mkdir(exist_ok=True)
    (project / ".incoming" / f"{TOKEN}.target").write_text(text)


def test_linked_cases_are_refused(make, documents: Path, tmp_path: Path) -> None:
    """The planted target would have the folder behind the link deleted."""
    make.add(0, 1)
    folder = make.project.folder
    (folder / "cases").rename(tmp_path / "moved")
    (folder / "cases").symlink_to(documents, target_is_directory=True)
    plant_target(folder, "cases/thesis/revision-1")
    before = everything(documents)
    for change in (lambda: check_project(make.project), lambda: make.add(1, 1), make.project.clear_leftovers):
        with pytest.raises(DatasetError, match=r"is a link to .*documents"):
            change()
    assert everything(documents) == before


@pytest.mark.parametrize("place", [".incoming", "cases/case-0001", f".incoming/{TOKEN}", ".lock"])
def test_other_linked_places_are_refused(make, documents: Path, tmp_path: Path, place: str) -> None:
    make.add(0, 1)
    path = make.project.folder / place
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        path.rename(tmp_path / "moved")
    path.symlink_to(documents / "new file" if place == ".lock" else documents)
    before = everything(documents)
    with pytest.raises(DatasetError, match="is a link"):
        make.add(0, 1)
    assert everything(documents) == before


@pytest.mark.parametrize(
    "text",
    [
        "cases/../revision-1",
        "cases/thesis/notes",
        "/etc/x/revision-1",
        "cases/a/revision-1/..",
        "cases/a\\b/revision-1",
    ],
)
def test_targets_that_no_writer_names_are_ignored(make, text: str) -> None:
    make.add(0, 1)
    (make.project.folder / "cases" / "thesis" / "notes").mkdir(parents=True)
    plant_target(make.project.folder, text)
    make.project.clear_leftovers()
    assert (make.project.folder / "cases" / "thesis" / "notes").is_dir()
    assert not (make.project.folder / ".incoming" / f"{TOKEN}.target").exists()


def test_a_project_reached_by_a_link_works(make, tmp_path: Path) -> None:
    """A home folder on another disk is a link, too."""
    (tmp_path / "other disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "other disk", target_is_directory=True)
    project = Project(tmp_path / "home" / "project", create=True)
    project.add_case(make.scan(), make.labels(1), ["liver"], structures=make.organs)
    assert check_project(project) == []
    assert (tmp_path / "other disk" / "project" / "dataset.json").is_file()


def test_only_the_owner_can_read_a_new_project(make) -> None:
    make.add(0, 1)
    folders = [make.project.folder, *(path for path in make.project.folder.rglob("*") if path.is_dir())]
    assert len(folders) >= 4
    assert [path for path in folders if path.stat().st_mode & 0o077] == []
    make.project.folder.chmod(0o755)
    assert sum("other users" in problem.what for problem in check_project(make.project)) == 1
