"""The model library: what comes in, under which name, and what is removed."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from libraries import contents

from TransferSegLib.errors import Cancelled, ModelError
from TransferSegLib.models import library
from TransferSegLib.models.incoming import KerasOptions
from TransferSegLib.models.library import import_model, remove_model
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_description, load_model
from TransferSegLib.progress import CancelToken

TESTING = Path(__file__).resolve().parents[1]


def test_zip_and_folder_come_in_as_they_are(folder: Path, saved: Path, zipped: Path) -> None:
    (saved / "checkpoint.pt").write_bytes(b"not part of the model")
    added = import_model(zipped, folder)
    assert added.path == folder / "tiny" and added.entry is None and not added.was_there
    expected = {f"tiny/{name}": (saved / name).read_bytes() for name in ("model.json", "weights.pt", "README.md")}
    assert contents(folder) == expected
    assert added.description == load_description(added.path) == load_description(saved)
    shutil.rmtree(folder)
    for path in (saved, saved / "model.json"):
        import_model(path, folder, replace=True)
        assert contents(folder) == expected
    assert sorted(entry.name for entry in folder.iterdir()) == [".lock", "tiny"]


def test_another_name_goes_into_the_description(folder: Path, saved: Path, zipped: Path) -> None:
    entry = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    (saved / "model.json").write_text(json.dumps(entry | {"from the future": 1}), encoding="utf-8")
    added = import_model(saved, folder, name="Kidneys of our clinic")
    assert added.path == folder / "Kidneys of our clinic"
    assert find_model("kidneys of our clinic", folder) == added.path
    written = json.loads((added.path / "model.json").read_text(encoding="utf-8"))
    assert written == entry | {"from the future": 1, "name": "Kidneys of our clinic"}
    assert load_model(added.path).description == added.description
    with pytest.raises(ModelError, match="no model 'tiny'"):
        find_model("tiny", folder)


@pytest.mark.parametrize("name", ["", "../out", "a/b", "con", "NUL.txt", "aux ", ".hidden", "x" * 101, "a\nb", "C:x"])
def test_names_that_do_not_do_on_every_system(folder: Path, zipped: Path, name: str) -> None:
    with pytest.raises(ModelError, match="cannot be a model's name"):
        import_model(zipped, folder, name=name)
    assert not folder.exists()


@pytest.mark.parametrize("name", ["nul.png", " .png", "a?.png", "tab\t.png"])
def test_names_of_pictures_that_do_not_do_on_every_system(folder: Path, zipped: Path, name: str) -> None:
    with zipfile.ZipFile(zipped, "a") as archive:
        archive.writestr(name, b"picture")
    with pytest.raises(ModelError, match="does not do on every system"):
        import_model(zipped, folder)
    assert not folder.exists()


@pytest.mark.parametrize("evil", ["../evil.png", "/tmp/evil.png", "..\\evil.png", "sub/evil.png", "run.py"])
def test_archives_that_lead_elsewhere_write_nothing(tmp_path: Path, folder: Path, zipped: Path, evil: str) -> None:
    with zipfile.ZipFile(zipped, "a") as archive:
        archive.writestr(evil, b"evil")
    with pytest.raises(ModelError, match="is refused"):
        import_model(zipped, folder)
    assert not folder.exists() and not list(tmp_path.rglob("evil*")) and not Path("/tmp/evil.png").exists()


def test_files_that_are_no_model(tmp_path: Path, folder: Path, saved: Path) -> None:
    file = tmp_path / "notes.txt"
    for name, content, words in (
        ("notes.txt", b"hello", "is no model: give a .zip"),
        ("empty", b"", "is no model"),
        ("net.onnx", b"\x08\x07", "an ONNX file is not read"),
        ("cut.zip", b"PK\x03\x04 and no more", "not a zip file or is damaged"),
    ):
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(ModelError, match=words):
            import_model(file, folder)
    with pytest.raises(ModelError, match="There is no file"):
        import_model(tmp_path / "nowhere.zip", folder)
    with pytest.raises(ModelError, match=r"there is no model\.json in it"):
        import_model(TESTING, folder)
    weights = (saved / "weights.pt").read_bytes()
    (saved / "weights.pt").write_bytes(weights[:-1] + b"x")
    with pytest.raises(ModelError, match="SHA-256"):
        import_model(saved, folder)
    with pytest.raises(ModelError, match=r"describes itself: leave out .*--spacing-mm"):
        import_model(saved, folder, options=KerasOptions(spacing_mm=1.0))
    assert not folder.exists()


def test_weights_that_do_not_fit_leave_nothing(folder: Path, saved: Path) -> None:
    """The checksum is right and the content is not: only the reading of what was written finds out."""
    torch.save({"other": torch.zeros(1)}, saved / "weights.pt")
    content = (saved / "weights.pt").read_bytes()
    entry = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    entry["weights"] |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (saved / "model.json").write_text(json.dumps(entry), encoding="utf-8")
    with pytest.raises(ModelError, match="lack the layer"):
        import_model(saved, folder)
    assert [entry.name for entry in folder.iterdir()] == [".lock"]


def test_taken_names(folder: Path, resources: Path, zipped: Path, other: Path, saved: Path) -> None:
    import_model(zipped, folder)
    before = contents(folder)
    for words in ({}, {"name": "TINY"}):
        with pytest.raises(ModelError, match=r"There is a model '(tiny|TINY)' in the library already.*--replace"):
            import_model(other, folder, **words)
    shutil.copytree(saved, resources / "tiny")
    for name in (None, "Tiny"):
        with pytest.raises(ModelError, match="name of a model that comes with TransferSeg"):
            import_model(other, folder, name=name, replace=True)
    (folder / "here").mkdir()
    with pytest.raises(ModelError, match="is no model: move it away"):
        import_model(other, folder, name="here", replace=True)
    assert contents(folder) == before


def test_cancelled_import_leaves_nothing(folder: Path, zipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = CancelToken()
    monkeypatch.setattr(library, "load_model", lambda path: token.cancel())
    with pytest.raises(Cancelled):
        import_model(zipped, folder, cancel=token)
    assert contents(folder) == {}


def test_remove(folder: Path, resources: Path, saved: Path, zipped: Path) -> None:
    import_model(zipped, folder)
    shutil.copyfile(zipped, folder / "dropped.zip")
    (folder / "tiny" / "notes.txt").write_text("mine")
    assert remove_model("TINY", folder) == folder / "tiny"
    assert remove_model("dropped", folder) == folder / "dropped.zip"
    assert contents(folder) == {}
    with pytest.raises(ModelError, match=r"no model 'tiny' in the library .*my library"):
        remove_model("tiny", folder)
    with pytest.raises(ModelError, match="no model"):
        remove_model("..", folder)
    shutil.copytree(saved, resources / "tiny")
    with pytest.raises(ModelError, match="comes with TransferSeg and is not in your library"):
        remove_model("tiny", folder)
    assert (resources / "tiny" / "model.json").is_file()


def test_removing_a_link_leaves_what_it_leads_to(folder: Path, saved: Path, zipped: Path) -> None:
    folder.mkdir()
    try:
        (folder / "tiny").symlink_to(saved, target_is_directory=True)
    except OSError:
        pytest.skip("links cannot be made here")
    (saved / "notes.txt").write_text("mine")
    import_model(zipped, folder, replace=True)
    assert (saved / "notes.txt").is_file() and not (folder / "tiny").is_symlink()
    shutil.rmtree(folder / "tiny")
    (folder / "tiny").symlink_to(saved, target_is_directory=True)
    remove_model("tiny", folder)
    assert load_model(saved) and not (folder / "tiny").exists()
