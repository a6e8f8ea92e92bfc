"""A library in which a link was planted: nothing behind it is written, moved or deleted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from libraries import contents

from TransferSegLib.errors import ModelError
from TransferSegLib.models.library import import_model, remove_model
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.versions.versions import promote

pytestmark = pytest.mark.skipif(os.name == "nt", reason="making links needs a right on Windows that tests lack")


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Return a stranger's folder."""
    folder = tmp_path / "documents"
    (folder / "thesis").mkdir(parents=True)
    (folder / "thesis" / "chapter.txt").write_text("years of work")
    return folder


@pytest.mark.parametrize("place", [".work", ".work/x", ".work/x/replaced", ".work/x/new", ".work/x/removed", ".lock"])
def test_planted_links_are_refused(folder: Path, zipped: Path, documents: Path, place: str) -> None:
    link = folder / place
    link.parent.mkdir(parents=True)
    link.symlink_to(documents / "made.txt" if place == ".lock" else documents)
    before = contents(documents)
    with pytest.raises(ModelError, match=r"is a link"):
        import_model(zipped, folder)
    assert contents(documents) == before
    assert not (folder / "thesis").exists()


def test_what_was_replaced_does_not_come_back_through_a_link(folder: Path, zipped: Path, documents: Path) -> None:
    """Notes of a model that was replaced go to the model of that name, but not behind a link."""
    (folder / ".work" / "x" / "replaced" / "tiny").mkdir(parents=True)
    (folder / ".work" / "x" / "replaced" / "tiny" / "notes.txt").write_text("planted")
    (folder / "tiny").symlink_to(documents, target_is_directory=True)
    before = contents(documents)
    with pytest.raises(ModelError, match="exists already"):
        import_model(zipped, folder)
    assert contents(documents) == before


def test_removing_a_linked_model_removes_the_link(folder: Path, zipped: Path, tmp_path: Path) -> None:
    elsewhere = import_model(zipped, tmp_path / "elsewhere").path
    folder.mkdir()
    (folder / "tiny").symlink_to(elsewhere, target_is_directory=True)
    assert find_model("tiny", folder) == folder / "tiny"
    before = contents(elsewhere)
    remove_model("tiny", folder)
    assert not os.path.lexists(folder / "tiny")
    assert contents(elsewhere) == before


def test_linked_versions_are_read_and_not_changed(folder: Path, zipped: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    import_model(zipped, elsewhere)
    (elsewhere / "tiny" / "versions").mkdir()
    (elsewhere / "tiny" / "versions" / "0").mkdir()
    for name in ("model.json", "weights.pt"):
        (elsewhere / "tiny" / name).rename(elsewhere / "tiny" / "versions" / "0" / name)
    folder.mkdir()
    (folder / "tiny").symlink_to(elsewhere / "tiny", target_is_directory=True)
    assert find_model("tiny", folder).is_relative_to(folder)
    before = contents(elsewhere)
    with pytest.raises(ModelError, match="is a link"):
        promote("tiny", folder, 0)
    assert contents(elsewhere) == before


def test_a_library_reached_by_a_link_works(zipped: Path, tmp_path: Path) -> None:
    (tmp_path / "other disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "other disk", target_is_directory=True)
    library = tmp_path / "home" / "models"
    assert import_model(zipped, library).path == library / "tiny"
    (tmp_path / "models").symlink_to(library, target_is_directory=True)
    remove_model("tiny", tmp_path / "models")
    assert contents(tmp_path / "other disk" / "models") == {}
