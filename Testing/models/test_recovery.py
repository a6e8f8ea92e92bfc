"""A process that is killed while it replaces or exports a model: nothing is hidden, and its leftovers go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from libraries import contents

from TransferSegLib.errors import ModelError
from TransferSegLib.models.archive import export_model
from TransferSegLib.models.library import import_model
from TransferSegLib.models.locate import find_library_model, find_model, library_models
from TransferSegLib.models.part_names import abandoned, abandoned_in, part_of
from TransferSegLib.models.recovery import recover
from TransferSegLib.models.store import load_description, load_model, save_model


def ended_process() -> int:
    """Return the number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return child.pid


def left_by_another(path: Path, ending: str = "part") -> Path:
    """Return the name that a process gave which has ended since."""
    name = part_of(path, ending).name
    return path.with_name(name.replace(f"-{os.getpid()}-", f"-{ended_process()}-"))


def test_only_what_killed_processes_of_this_computer_left_is_abandoned(tmp_path: Path) -> None:
    target = tmp_path / "model.zip"
    mine, theirs = part_of(target), left_by_another(target)
    computer = theirs.name.split(".")[3].split("-")[0]
    elsewhere = theirs.with_name(theirs.name.replace(computer, "0" * 8))
    alike = tmp_path / ".model.zip.part", tmp_path / f"{theirs.name[1:]}", tmp_path / f"{theirs.name}.txt"
    for file in (mine, theirs, elsewhere, *alike):
        file.write_bytes(b"")
    assert abandoned(target) == [theirs] and abandoned_in(tmp_path) == [(theirs, target)]
    assert abandoned(tmp_path / "other.zip") == [] and abandoned(tmp_path / "nowhere" / "model.zip") == []


@pytest.mark.parametrize("look", ["list", "find", "path", "load", "describe"])
def test_saving_that_was_killed_between_its_renames_hides_no_model(saved: Path, look: str) -> None:
    before = contents(saved)
    saved.rename(left_by_another(saved, "old"))
    library = saved.parent
    if look == "list":
        assert library_models(library) == [saved]
    elif look == "find":
        assert find_library_model(saved.name, library) == saved
    elif look == "path":
        assert find_model(str(saved)) == saved
    else:
        assert (load_model(saved).description if look == "load" else load_description(saved)).name
    assert contents(saved) == before


def test_saving_again_keeps_the_users_files_and_removes_what_was_left(saved: Path) -> None:
    model = load_model(saved)
    part, old = left_by_another(saved), left_by_another(saved, "old")
    part.mkdir()
    (part / "model.json").write_text("half")
    old.mkdir()
    (old / "model.json").write_text("old")
    (old / "notes.txt").write_text("mine")
    save_model(saved, model.description, model.state_dict, overwrite=True)
    assert (saved / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in saved.parent.iterdir()) == [saved.name]


def test_import_that_was_killed_between_its_renames_hides_no_model(folder: Path, zipped: Path) -> None:
    place = import_model(zipped, folder).path
    before = contents(folder)
    (folder / ".work" / "x" / "replaced").mkdir(parents=True)
    place.rename(folder / ".work" / "x" / "replaced" / place.name)
    assert find_model(place.name, folder) == place
    assert contents(folder) == before and not (folder / ".work").exists()


def test_a_library_that_can_only_be_read_shows_the_model_where_it_lies(
    folder: Path, zipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = import_model(zipped, folder).path
    hidden = folder / ".work" / "x" / "replaced" / place.name
    hidden.parent.mkdir(parents=True)
    place.rename(hidden)

    def refuse(*_: object) -> None:
        raise ModelError("read-only")

    monkeypatch.setattr("TransferSegLib.file_lock.FileLock.acquire", refuse)
    assert recover(folder) == [hidden] == library_models(folder)
    assert load_model(find_model("tiny", folder)).path == hidden


def test_export_removes_what_a_killed_one_left(saved: Path) -> None:
    target = saved.with_name("tiny.zip")
    left, mine = left_by_another(target), target.with_name(".tiny.zip.mine.part")
    left.write_bytes(b"half")
    mine.write_bytes(b"the user's")
    export_model(saved, target)
    assert sorted(path.name for path in saved.parent.iterdir()) == [mine.name, saved.name, "tiny.zip"]


@pytest.mark.parametrize("name", ["leak@1", "tiny@0", "a@b@3"])
def test_a_name_that_means_a_version_is_refused(folder: Path, zipped: Path, name: str) -> None:
    with pytest.raises(ModelError, match="means a version of a model"):
        import_model(zipped, folder, name=name)


def test_a_version_is_not_shadowed_by_a_model_of_its_name(folder: Path, zipped: Path) -> None:
    """Put into the library by hand, or by an older version."""
    place = import_model(zipped, folder).path
    (folder / "tiny@0").mkdir()
    for file in place.iterdir():
        (folder / "tiny@0" / file.name).write_bytes(file.read_bytes())
    assert find_model("tiny@0", folder) == place
    place.rename(folder / "other")
    description = folder / "other" / "model.json"
    description.write_text(description.read_text(encoding="utf-8").replace('"tiny"', '"o"'), encoding="utf-8")
    assert find_model("tiny@0", folder) == folder / "tiny@0", "there is no 'tiny' that it could be a version of"
