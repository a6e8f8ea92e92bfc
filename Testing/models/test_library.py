"""The model library: what comes in, that a change is whole or was never, and several processes at once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

TESTING = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTING))
import misbehaving_server as server_module  # noqa: E402
from misbehaving_server import HDF5_SIGNATURE, Server  # noqa: E402

from TransferSegLib.errors import Cancelled, ModelError  # noqa: E402
from TransferSegLib.models import incoming, keras_import, library, locate, store  # noqa: E402
from TransferSegLib.models.archive import export_model  # noqa: E402
from TransferSegLib.models.catalogue import CatalogueEntry, Download  # noqa: E402
from TransferSegLib.models.description import ModelDescription, NetworkDescription  # noqa: E402
from TransferSegLib.models.incoming import KerasOptions  # noqa: E402
from TransferSegLib.models.keras_import import KerasImport  # noqa: E402
from TransferSegLib.models.library import fetch_model, import_model, remove_model  # noqa: E402
from TransferSegLib.models.locate import find_model, library_models  # noqa: E402
from TransferSegLib.models.store import load_description, load_model, save_model  # noqa: E402
from TransferSegLib.progress import CancelToken, Progress  # noqa: E402

Weights = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a library folder that does not exist yet."""
    return tmp_path / "my library"


@pytest.fixture
def zipped(saved: Path) -> Path:
    """Return the tiny model as a zip file with a card."""
    (saved / "README.md").write_text("card of tiny")
    return export_model(saved, saved.with_name("tiny.zip"))


@pytest.fixture
def other(tmp_path: Path, description: ModelDescription, state_dict: Weights) -> Path:
    """Return the folder of a model of the same name with other weights and a picture."""
    changed = {name: values + 1 for name, values in state_dict.items()}
    path = save_model(tmp_path / "other", replace(description, version="3"), changed)
    (path / "curve.png").write_bytes(b"picture")
    return path


@pytest.fixture
def resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the bundled models by an empty folder, and return it."""
    models = tmp_path / "Resources" / "Models"
    models.mkdir(parents=True)
    monkeypatch.setattr(locate, "resource_folders", lambda: [models.parent])
    return models


def blob_of(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def put_into_catalogue(resources: Path, content: bytes, kind: Any = "transferseg", **changes: Any) -> CatalogueEntry:
    """Write a catalogue with one model to fetch, whose file has this content."""
    download = Download(kind, "https://models.example/file", blob_of(content), len(content))
    plain: dict[str, Any] = {
        "name": "tiny",
        "summary": "As the catalogue says.",
        "modality": "CT",
        "structures": ("liver", "spleen"),
        "spacing_mm": 2.0,
        "spacing_inferred": True,
        "width": 1,
        "about_bytes": len(content),
        "license": "Apache-2.0",
        "citation": "cite me",
        "homepage": "https://models.example",
    }
    entry = CatalogueEntry(**{**plain, **changes}, download=download)
    text = json.dumps({"format": "transferseg-catalogue", "format_version": 1, "models": [entry.to_json()]})
    (resources / "catalogue.json").write_text(text)
    return entry


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a library but its empty locks, by path."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock" and file.name != ".lock")
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


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
    with pytest.raises(ModelError, match=r"model\.json is missing"):
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


def test_replacing_keeps_what_is_not_the_models(folder: Path, zipped: Path, other: Path) -> None:
    """The old card goes, the user's notes and a folder of versions stay."""
    import_model(zipped, folder)
    (folder / "tiny" / "versions").mkdir()
    (folder / "tiny" / "versions" / "2.pt").write_bytes(b"version 2")
    (folder / "tiny" / "notes.txt").write_text("mine")
    import_model(other, folder, replace=True)
    assert contents(folder) == {
        "tiny/model.json": (other / "model.json").read_bytes(),
        "tiny/weights.pt": (other / "weights.pt").read_bytes(),
        "tiny/curve.png": b"picture",
        "tiny/versions/2.pt": b"version 2",
        "tiny/notes.txt": b"mine",
    }
    assert not (folder / ".work").exists()


def test_replacing_a_model_that_lies_under_another_name_or_as_a_zip(folder: Path, zipped: Path, other: Path) -> None:
    folder.mkdir()
    shutil.copyfile(zipped, folder / "colleague.zip")
    assert import_model(other, folder, replace=True).path == folder / "tiny"
    assert [path.name for path in library_models(folder)] == ["tiny"]
    (folder / "tiny").rename(folder / "renamed by hand")
    assert import_model(zipped, folder, replace=True).path == folder / "renamed by hand"
    assert [path.name for path in library_models(folder)] == ["renamed by hand"]


class Stop(BaseException):
    """What no handler expects."""


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("error", [Stop(), OSError(errno.EIO, "Input/output error")], ids=["stop", "error"])
def test_replacing_that_fails_keeps_the_old_model(
    folder: Path, zipped: Path, other: Path, monkeypatch: pytest.MonkeyPatch, failing: int, error: BaseException
) -> None:
    import_model(zipped, folder)
    (folder / "tiny" / "notes.txt").write_text("mine")
    before = contents(folder)
    rename, calls = Path.rename, []

    def fail(path: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == failing:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(Stop if isinstance(error, Stop) else ModelError):
        import_model(other, folder, replace=True)
    assert len(calls) == failing + (failing - 1)  # where the old model was moved, it was moved back
    assert contents(folder) == before and not (folder / ".work").exists()


#: Begins the programs below: what was written is verified without torch, whose import takes seconds in each process.
WITHOUT_TORCH = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from TransferSegLib.errors import ModelError
from TransferSegLib.models import library, locate
from TransferSegLib.models.archive import parse_model_file, read_model_files
from TransferSegLib.models.library import fetch_model, import_model, remove_model
def load_model(path):
    return SimpleNamespace(description=parse_model_file(read_model_files(path)["model.json"], "")[0])
library.load_model = load_model
"""
KILLED = """
rename, calls = Path.rename, []
def stopped(path, target):
    if len(calls) == int(sys.argv[3]):
        print("here", flush=True)
        time.sleep(600)
    calls.append(target)
    return rename(path, target)
Path.rename = stopped
import_model(Path(sys.argv[1]), Path(sys.argv[2]), replace=True)
print("done", flush=True)
time.sleep(600)
"""


def test_process_that_is_killed_while_it_replaces(tmp_path: Path, zipped: Path, other: Path) -> None:
    """Killed before, between and after the renames: the next change finds the old model or the new one, and notes."""
    folders = [tmp_path / str(number) for number in range(3)]
    processes = []
    for number, folder in enumerate(folders):
        import_model(zipped, folder)
        (folder / "tiny" / "notes.txt").write_text("mine")
        words = [sys.executable, "-c", WITHOUT_TORCH + KILLED, str(other), str(folder), str(number)]
        processes.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() in ("here\n", "done\n")
        process.kill()
        process.communicate(timeout=30)
    assert [(folder / "tiny").is_dir() for folder in folders] == [True, False, True]
    for folder, survivor in zip(folders, (zipped, zipped, other), strict=True):
        import_model(zipped, folder, name="another")
        assert not (folder / ".work").exists()
        assert (folder / "tiny" / "notes.txt").read_text() == "mine"
        assert load_model(folder / "tiny").description == load_description(survivor)


TAKE_TURNS = """
one, two, library, number = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
try:
    import_model(one, library, name="first come")
    print("added")
except ModelError as error:
    print("already" if "already" in str(error) else error)
for turn in range(8):
    import_model((one, two)[turn % 2], library, name="shared", replace=True)
    try:
        assert load_model(library / "shared").description.version in ("2.1", "3")
    except ModelError as error:
        pass  # the other process was just exchanging it
    import_model(one, library, name=f"mine {number}")
    remove_model(f"mine {number}", library)
"""


def test_processes_that_change_one_library_at_once(folder: Path, zipped: Path, other: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WITHOUT_TORCH + TAKE_TURNS, str(zipped), str(other), str(folder), str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert sorted(out.strip() for out, _ in results) == ["added", "already"]
    assert sorted(entry.name for entry in folder.iterdir()) == [".lock", "first come", "shared"]
    assert all(load_model(path) for path in library_models(folder))


def test_library_in_use(folder: Path, zipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_model(zipped, folder)
    monkeypatch.setattr(library, "_LONGEST_WAIT_S", 0.05)
    with (
        library.FileLock(folder / ".lock", 0, "busy"),
        pytest.raises(ModelError, match="being changed by another program"),
    ):
        remove_model("tiny", folder)
    assert find_model("tiny", folder) == folder / "tiny"  # reading needs no lock


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_library_that_cannot_be_written(
    folder: Path, zipped: Path, other: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    import_model(zipped, folder)
    before = contents(folder)

    def refuse(path: Path, content: bytes) -> None:
        path.write_bytes(content[:100])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store, "_write", refuse)
    with pytest.raises(ModelError, match="disk is full" if number == errno.ENOSPC else "cannot be changed.*--library"):
        import_model(other, folder, replace=True)
    assert contents(folder) == before and not (folder / ".work").exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions bind neither Windows' folders nor root")
def test_read_only_library(folder: Path, zipped: Path, other: Path) -> None:
    import_model(zipped, folder)
    folder.chmod(0o500)
    (folder / ".lock").chmod(0o400)
    try:
        for change in (lambda: import_model(other, folder, replace=True), lambda: remove_model("tiny", folder)):
            with pytest.raises(ModelError, match=r"cannot be (locked|changed)"):
                change()
        assert load_model(find_model("tiny", folder))
    finally:
        folder.chmod(0o700)


def test_library_that_cannot_be_made(tmp_path: Path, zipped: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"The model library .*library cannot be changed.*--library"):
        import_model(zipped, tmp_path / "file" / "library")


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


@pytest.fixture
def keras_calls(monkeypatch: pytest.MonkeyPatch, description: ModelDescription, state_dict: Weights) -> list[Any]:
    """Replace the reading of Keras weights by the tiny network; what it is asked for is listed."""
    calls: list[Any] = []

    def stand_in(
        path: Path, options: KerasImport, source: str = "", cancel: CancelToken | None = None
    ) -> tuple[ModelDescription, Weights]:
        calls.append((options, source))
        names = options.structures or ("structure 1", "structure 2")
        structures = [
            replace(s, name=name, label=number)
            for number, (s, name) in enumerate(zip(description.label_set, names, strict=True), start=1)
        ]
        return replace(
            description,
            name=options.name,
            label_set=replace(description.label_set, structures=tuple(structures)),
            spacing_mm=options.spacing_mm,
            spacing_inferred=options.spacing_inferred,
            modality=options.modality,
            summary=options.summary or "",
            network=NetworkDescription(width=1, classes=3),
        ), state_dict

    monkeypatch.setattr(keras_import, "model_from_keras", stand_in)
    return calls


@pytest.fixture
def keras_file(tmp_path: Path) -> Path:
    file = tmp_path / "unet weights.h5"
    file.write_bytes(HDF5_SIGNATURE + bytes(500))
    return file


def test_file_of_the_catalogue_is_recognised(
    folder: Path, resources: Path, keras_file: Path, keras_calls: list[Any]
) -> None:
    entry = put_into_catalogue(resources, keras_file.read_bytes(), "keras")
    added = import_model(keras_file, folder)
    assert added.entry == entry and added.path == folder / "tiny"
    model = load_description(added.path)
    assert model.label_set.names == ("liver", "spleen") and model.summary == "As the catalogue says."
    assert (model.spacing_mm, model.spacing_inferred, model.modality) == (2.0, True, "CT")
    assert entry.download is not None
    assert keras_calls[0][1] == f"https://models.example/file (git blob {entry.download.git_blob})"
    added = import_model(keras_file, folder, "finer", KerasOptions(spacing_mm=1.5))
    assert (added.description.spacing_mm, added.description.spacing_inferred) == (1.5, True)
    with pytest.raises(ModelError, match=r"published file of 'tiny'.*leave out --structures, --modality\."):
        import_model(keras_file, folder, "x", KerasOptions(structures=("a", "b"), spacing_mm=1.0, modality="MR"))


def test_other_keras_file_is_imported_as_the_options_say(
    folder: Path, resources: Path, keras_file: Path, keras_calls: list[Any]
) -> None:
    put_into_catalogue(resources, b"something else", "keras")
    added = import_model(keras_file, folder)
    assert added.entry is None and added.path == folder / "unet weights"
    options = KerasOptions(structures=("liver", "spleen"), background="first", spacing_mm=1.5, modality="MR")
    added = import_model(keras_file, folder, "mine", options)
    assert keras_calls == [
        (KerasImport("unet weights"), ""),
        (KerasImport("mine", ("liver", "spleen"), "first", 1.5, False, "MR"), ""),
    ]
    assert load_model(added.path).description.label_set.names == ("liver", "spleen")
    odd = keras_file.rename(keras_file.with_name("_weights?.h5" if os.name != "nt" else "_weights.h5"))
    with pytest.raises(ModelError, match="Give another name"):
        import_model(odd, folder)


@pytest.mark.parametrize("name", ["weights_only.h5", "full_model.h5"])
def test_real_keras_files(folder: Path, resources: Path, shared_data: Path, name: str) -> None:
    file = shared_data / "keras_reference" / name
    names = tuple(f"part {number}" for number in range(1, 23))
    added = import_model(file, folder, options=KerasOptions(structures=names, spacing_mm=1.5))
    model = load_model(added.path)
    assert model.description.label_set.names == names and model.description.network.width == 4
    entry = put_into_catalogue(resources, file.read_bytes(), "keras", name="published", structures=names[::-1])
    with Server(file.read_bytes()) as server:
        added = fetch_model("published", folder, session=server.session())
    fetched = load_model(added.path)
    assert added.entry == entry and fetched.description.label_set.names == names[::-1]
    assert all(torch.equal(values, model.state_dict[layer]) for layer, values in fetched.state_dict.items())
    assert contents(folder).keys() == {
        f"{m}/{f}" for m in (file.stem, "published") for f in ("model.json", "weights.pt")
    }
    with pytest.raises(ModelError, match="in the library already"):
        fetch_model("published", folder, spacing_mm=1.5)
    with Server(file.read_bytes()) as server:
        added = fetch_model("published", folder, replace=True, session=server.session(), spacing_mm=1.5)
    assert added.description.spacing_mm == load_model(added.path).description.spacing_mm == 1.5


@pytest.mark.parametrize("name", ["published", "PUBLISHED"])
def test_another_file_cannot_borrow_a_name_of_the_catalogue(
    folder: Path, resources: Path, shared_data: Path, name: str
) -> None:
    file = shared_data / "keras_reference" / "weights_only.h5"
    put_into_catalogue(resources, b"the published file", "keras", name="published", structures=("a", "b"))
    with pytest.raises(ModelError, match="'published' is the catalogue's name of a model, and this file is not"):
        import_model(file, folder, name)
    assert not contents(folder)
    # Put there by hand, it is not taken for the published one.
    import_model(file, folder, "mine")
    (folder / "mine").rename(folder / "published")
    with pytest.raises(ModelError, match="is another one than the catalogue's"):
        fetch_model("published", folder)


def test_exported_model_keeps_a_name_of_the_catalogue_if_it_was_made_of_its_file(
    tmp_path: Path, folder: Path, resources: Path, shared_data: Path
) -> None:
    file = shared_data / "keras_reference" / "weights_only.h5"
    names = tuple(f"part {number}" for number in range(1, 23))
    entry = put_into_catalogue(resources, file.read_bytes(), "keras", name="published", structures=names, width=4)
    original = import_model(file, folder)
    assert (original.kind, original.entry, original.claimed) == ("keras", entry, None)
    carried = export_model(original.path, tmp_path / "carried.zip")
    added = import_model(carried, tmp_path / "other")
    assert (added.kind, added.entry, added.claimed) == ("transferseg", None, entry)
    assert added.description == original.description
    # Neither other structures nor weights that were trained further have the name.
    text = (original.path / "model.json").read_text(encoding="utf-8")
    for number, (old, new) in enumerate((("part 7", "part of another"), (entry.download.git_blob, "0" * 40))):
        changed = shutil.copytree(original.path, tmp_path / f"changed {number}")
        assert old in text
        (changed / "model.json").write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ModelError, match="'published' is the catalogue's name"):
            import_model(changed, tmp_path / "third")
        assert import_model(changed, tmp_path / "third", f"mine {number}").claimed is None


def test_fetched_models_that_describe_themselves_keep_their_spacing(folder: Path, server: Server) -> None:
    with pytest.raises(ModelError, match="leave out --spacing-mm"):
        fetch_model("tiny", folder, session=server.session(), spacing_mm=1.5)
    assert not server.requests


@pytest.fixture
def server(resources: Path, zipped: Path) -> Iterator[Server]:
    """Serve the tiny model, which is in the catalogue."""
    put_into_catalogue(resources, zipped.read_bytes())
    with Server(zipped.read_bytes()) as running:
        yield running


def test_fetched_model_is_in_the_library_and_nothing_else_is(folder: Path, zipped: Path, server: Server) -> None:
    reports: list[Progress] = []
    added = fetch_model("TINY", folder, progress=reports.append, session=server.session())
    assert added.path == folder / "tiny" and added.entry is not None and not added.was_there
    assert contents(folder).keys() == {"tiny/model.json", "tiny/weights.pt", "tiny/README.md"}
    assert load_model(added.path).description == load_description(zipped) == added.description
    assert list(dict.fromkeys(report.stage for report in reports)) == ["Fetching tiny", "Importing tiny"]
    assert reports[-1].fraction == 1.0
    again = fetch_model("tiny", folder, session=server.session())
    assert again.was_there and again.path == added.path and again.description == added.description
    assert len(server.requests) == 1


def test_damaged_model_is_fetched_again_when_asked_to(folder: Path, server: Server) -> None:
    added = fetch_model("tiny", folder, session=server.session())
    (added.path / "weights.pt").write_bytes(b"damaged")
    with pytest.raises(ModelError, match=r"incomplete.* To fetch it again: --replace\."):
        fetch_model("tiny", folder, session=server.session())
    fetch_model("tiny", folder, replace=True, session=server.session())
    assert load_model(added.path) and len(server.requests) == 2


def test_failed_fetch_leaves_a_part_and_no_model(folder: Path, server: Server) -> None:
    server.behaviours = [server_module.breaks_after(20_000), server_module.answers(404)]
    with pytest.raises(ModelError, match="404"):
        fetch_model("tiny", folder, session=server.session())
    kept = contents(folder)
    assert {Path(name).suffix for name in kept} == {".part", ".etag"} and library_models(folder) == []
    added = fetch_model("tiny", folder, session=server.session())
    assert load_model(added.path)
    assert server.ranges()[-1] == f"bytes={max(len(content) for content in kept.values())}-"


def test_import_that_fails_keeps_what_was_fetched(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "_write", full)
    with pytest.raises(ModelError, match="disk is full"):
        fetch_model("tiny", folder, session=server.session())
    assert {Path(name).suffix for name in contents(folder)} == {".zip", ".etag"} and library_models(folder) == []
    monkeypatch.undo()
    monkeypatch.setattr(locate, "resource_folders", lambda: [folder.parent / "Resources"])
    assert load_model(fetch_model("tiny", folder, session=server.session()).path)
    assert len(server.requests) == 1 and not [name for name in contents(folder) if "downloads" in name]


def test_what_cannot_be_fetched(
    folder: Path, resources: Path, saved: Path, keras_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"no model 'x' in the catalogue\. Nothing can be fetched\..*models import"):
        fetch_model("x", folder)
    put_into_catalogue(resources, keras_file.read_bytes(), "keras")
    with pytest.raises(ModelError, match=r"To fetch: tiny\."):
        fetch_model("x", folder)
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="needs the Python package h5py"):
        fetch_model("tiny", folder)
    monkeypatch.undo()
    with pytest.raises(ModelError, match="comes with TransferSeg: there is nothing to fetch"):
        fetch_model("head-neck-ct", folder)
    assert not folder.exists()


FETCH = """
sys.path.insert(0, sys.argv[1])
from misbehaving_server import session_to
locate.resource_folders = lambda: [Path(sys.argv[3])]
added = fetch_model("tiny", Path(sys.argv[4]), session=session_to(int(sys.argv[2])))
print(added.was_there)
"""


def test_two_processes_that_fetch_the_same_model(folder: Path, resources: Path, server: Server) -> None:
    server.behaviours = [server_module.slowly(20_000, 0.3)]
    words = [
        sys.executable,
        "-c",
        WITHOUT_TORCH + FETCH,
        str(TESTING),
        str(server.port),
        str(resources.parent),
        str(folder),
    ]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate(timeout=120)[0].strip() for process in processes) == ["False", "True"]
    assert len(server.requests) == 1
    assert contents(folder).keys() == {"tiny/model.json", "tiny/weights.pt", "tiny/README.md"}


def test_the_catalogues_published_model_is_what_the_keras_import_knows() -> None:
    entry = locate.catalogue().find(keras_import.PUBLISHED.name)
    assert entry is not None
    known = keras_import.PUBLISHED
    assert (entry.structures, entry.spacing_mm, entry.spacing_inferred, entry.modality) == (
        known.structures,
        known.spacing_mm,
        known.spacing_inferred,
        known.modality,
    )
    assert (entry.license, entry.citation) == (known.license, known.citation)


def test_options_that_say_something() -> None:
    assert KerasOptions().said == ()
    assert KerasOptions(structures=(), spacing_mm=0.0).said == ("structures", "spacing_mm")
    assert incoming.is_portable_name("con-trast") and not incoming.is_portable_name("CON.trast")
