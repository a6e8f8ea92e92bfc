"""A model as a zip file: the way there and back, and archives that a stranger made to do harm."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from TransferSegLib.errors import ModelError
from TransferSegLib.fit.profile import FitProfile
from TransferSegLib.fit.shapes import FoundStructure, Part, ScanShapes
from TransferSegLib.models import archive
from TransferSegLib.models.archive import export_model
from TransferSegLib.models.store import load_description, load_model, set_profile


@pytest.fixture
def zipped(saved: Path) -> Path:
    """Return the tiny model as a zip file."""
    return export_model(saved, saved.with_name("tiny.zip"))


def rewritten(zipped: Path, *more: tuple[str | zipfile.ZipInfo, bytes], without: str = "") -> Path:
    """Return a copy of an archive with more entries, or without one."""
    target = zipped.with_name("rewritten.zip")
    with zipfile.ZipFile(zipped) as source, zipfile.ZipFile(target, "w") as archive_written:
        for info in source.infolist():
            if info.filename != without:
                archive_written.writestr(info, source.read(info))
        for name, content in more:
            archive_written.writestr(name, content)
    return target


def refused(path: Path, words: str) -> None:
    """Check that a model is refused by both ways of reading it."""
    for load in (load_description, load_model):
        with pytest.raises(ModelError, match=words):
            load(path)


def test_exported_model_is_the_same(saved: Path, zipped: Path) -> None:
    folder, archived = load_model(saved), load_model(zipped)
    assert archived.description == folder.description == load_description(zipped)
    assert all(torch.equal(values, folder.state_dict[name]) for name, values in archived.state_dict.items())
    assert archived.path == zipped
    assert sorted(entry.name for entry in saved.parent.iterdir()) == ["tiny", "tiny.zip"]


def test_the_profile_goes_along(saved: Path) -> None:
    here = FoundStructure(3.0, (1.0, 2.0, 3.0), False, (Part(0.5, 12.0),))
    scan = ScanShapes(dict.fromkeys(load_description(saved).label_set.names, here), (0.0,) * 3, (9.0,) * 3)
    profile = FitProfile.of([scan])
    weights = (saved / "weights.pt").read_bytes()
    set_profile(saved, profile)
    assert (saved / "weights.pt").read_bytes() == weights
    exported = load_description(export_model(saved, saved.with_name("profiled.zip"))).fit
    assert exported is not None and exported.to_json() == profile.to_json()
    assert {one.apart_mm for one in exported.structures.values()} == {12.0}


def test_export_is_deterministic(saved: Path, zipped: Path) -> None:
    copy = saved.with_name("copy")
    shutil.copytree(saved, copy)
    assert export_model(copy, saved.with_name("other.zip")).read_bytes() == zipped.read_bytes()


def test_card_and_pictures_go_along_and_nothing_else(saved: Path) -> None:
    for name in ("README.md", "curve.png", "notes.docx", "checkpoint.pt"):
        (saved / name).write_bytes(b"content of " + name.encode())
    (saved / "log.png").mkdir()
    path = export_model(saved, saved.with_name("card.zip"))
    with zipfile.ZipFile(path) as archive_read:
        assert archive_read.namelist() == ["model.json", "weights.pt", "README.md", "curve.png"]
        assert archive_read.read("README.md") == b"content of README.md"
    assert load_model(path).description.name == "tiny"


def test_export_does_not_overwrite_unasked(saved: Path, zipped: Path) -> None:
    before = zipped.read_bytes()
    (saved / "README.md").write_text("a card")
    with pytest.raises(ModelError, match=r"exists already.*--replace"):
        export_model(saved, zipped)
    assert zipped.read_bytes() == before
    export_model(saved, zipped, overwrite=True)
    assert zipped.read_bytes() != before


def test_damaged_model_is_not_exported(saved: Path) -> None:
    weights = (saved / "weights.pt").read_bytes()
    (saved / "weights.pt").write_bytes(weights[:-1] + b"x")
    with pytest.raises(ModelError, match="SHA-256"):
        export_model(saved, saved.with_name("bad.zip"))
    with pytest.raises(ModelError, match="no model at"):
        export_model(saved / "nowhere", saved.with_name("bad.zip"))
    assert not saved.with_name("bad.zip").exists()


def test_only_zip_files_are_exported(saved: Path) -> None:
    for name in ("tiny", "tiny.tar", "tiny.zip.gz", "folder.zip/"):
        target = saved.parent / "out" / name
        target.parent.mkdir(exist_ok=True)
        if name.endswith("/"):
            target.mkdir()
        with pytest.raises(ModelError, match="exists already" if name.endswith("/") else r"ends in \.zip instead of"):
            export_model(saved, target)
    assert export_model(saved, saved.parent / "out" / "TINY.ZIP").is_file()


def test_zip_file_is_exported_as_it_is(saved: Path, zipped: Path) -> None:
    (saved / "README.md").write_text("a card")
    first = export_model(saved, saved.with_name("card.zip"))
    assert export_model(first, saved.with_name("again.zip")).read_bytes() == first.read_bytes()
    with pytest.raises(ModelError, match=r"no file 'weights\.PT'"):
        export_model(rewritten(zipped, ("weights.PT", b"x")), saved.with_name("bad.zip"))
    assert not saved.with_name("bad.zip").exists()


def test_export_that_is_interrupted_keeps_the_old_archive(
    saved: Path, zipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = zipped.read_bytes()

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zipfile.ZipFile, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_model(saved, zipped, overwrite=True)
    monkeypatch.undo()
    assert zipped.read_bytes() == before
    assert sorted(entry.name for entry in saved.parent.iterdir()) == ["tiny", "tiny.zip"]


def test_export_to_a_missing_folder(saved: Path) -> None:
    with pytest.raises(ModelError, match=r"folder\.zip cannot be written: there is no folder .*no\.$"):
        export_model(saved, saved / "no" / "folder.zip")


@pytest.mark.parametrize("name", ["x.h5", "x.HDF5", "x.keras"])
def test_keras_files_are_to_be_imported(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ModelError, match="is a Keras file: import it first with: transferseg models import"):
        load_model(tmp_path / name)


def test_folder_compressed_by_hand_is_read(saved: Path) -> None:
    path = Path(shutil.make_archive(str(saved.with_name("by-hand")), "zip", saved.parent, "tiny"))
    with zipfile.ZipFile(path) as archive_read:
        assert "tiny/" in archive_read.namelist()
    assert load_model(path).description.name == "tiny"


@pytest.mark.parametrize(
    "name", ["../evil.png", "/evil.png", "C:/evil.png", "a/../../evil.png", "..\\evil.png", "tiny/../../model.json"]
)
def test_names_that_lead_out_are_refused(zipped: Path, name: str) -> None:
    refused(rewritten(zipped, (name, b"x")), "leads out of its folder")


@pytest.mark.parametrize(
    "name", ["run.py", "model.pkl", "sub/model.json", "__init__.py", "sub/", "weights.pt.bak", "README"]
)
def test_unexpected_entries_are_refused(zipped: Path, name: str) -> None:
    refused(rewritten(zipped, (name, b"")), f"a model has no file '{name}'")


def test_links_and_devices_are_refused(zipped: Path) -> None:
    for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR):
        link = zipfile.ZipInfo("card.png")
        link.create_system = 3
        link.external_attr = (kind | 0o777) << 16
        refused(rewritten(zipped, (link, b"/etc/passwd")), "a link or a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["model.json", "weights.pt"])
def test_doubled_entries_are_refused(zipped: Path, name: str) -> None:
    refused(rewritten(zipped, (name, b"{}")), "twice")


def test_entries_that_differ_by_case_are_refused(zipped: Path) -> None:
    refused(rewritten(zipped, ("a.png", b"1"), ("A.PNG", b"2")), "twice")


def test_other_packing_is_refused(zipped: Path) -> None:
    packed = zipfile.ZipInfo("a.png")
    packed.compress_type = zipfile.ZIP_BZIP2
    refused(rewritten(zipped, (packed, b"1")), "packed in a way")


def test_encrypted_archive_is_refused(zipped: Path) -> None:
    content = bytearray(zipped.read_bytes())
    content[content.rfind(b"PK\x01\x02") + 8] |= 1  # the flags of the last entry of the directory
    zipped.write_bytes(bytes(content))
    refused(zipped, "encrypted")


def test_too_many_entries_are_refused(zipped: Path) -> None:
    refused(rewritten(zipped, *((f"{number}.png", b"") for number in range(200))), "202 entries")


def test_bomb_is_refused_by_its_declared_size(zipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = zipfile.ZipInfo("bomb.png")
    bomb.compress_type = zipfile.ZIP_DEFLATED
    path = rewritten(zipped, (bomb, bytes(2 * 10**6)))
    assert path.stat().st_size < zipped.stat().st_size + 10_000
    monkeypatch.setattr(archive, "LARGEST_CARD_FILE", 10**6)
    refused(path, "'bomb.png' in it would unpack to 2,000,000 bytes")  # a thousandfold: no picture
    refused(rewritten(zipped, ("large.png", os.urandom(1_200_000))), "'large.png' would unpack to 1,200,000 bytes")
    monkeypatch.undo()
    monkeypatch.setattr(archive, "LARGEST_CARDS", 10**6)
    many = [(f"{number}.png", os.urandom(300_000)) for number in range(4)]
    refused(rewritten(zipped, *many), "texts and pictures would unpack to 1,200,000 bytes")


def test_bomb_that_lies_about_its_size_is_refused(zipped: Path) -> None:
    """An entry that declares 10 bytes and holds 5 million never gets more than its declaration into memory."""
    bomb = zipfile.ZipInfo("model.json")
    bomb.compress_type = zipfile.ZIP_DEFLATED
    path = rewritten(zipped, (bomb, b" " * 5_000_000), without="model.json")
    content = path.read_bytes()
    declared = struct.pack("<I", 5_000_000)
    assert content.count(declared) == 2
    path.write_bytes(content.replace(declared, struct.pack("<I", 10)))
    refused(path, "not a zip file or is damaged")


def test_too_large_files_of_a_folder_are_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGEST_MODEL_FILE", 100)
    refused(saved, "more than the 100")


def test_other_archives_and_files_are_refused(saved: Path, zipped: Path) -> None:
    refused(rewritten(zipped, without="model.json"), "there is no model.json in it")
    with pytest.raises(ModelError, match=r"there is no weights.pt in it"):
        load_model(rewritten(zipped, without="weights.pt"))
    refused(saved / "weights.pt", "is refused")
    refused(saved / "model.json", "not a zip file")
    empty = saved.with_name("empty.zip")
    zipfile.ZipFile(empty, "w").close()
    refused(empty, "there is no model.json in it")


def test_truncated_archive_is_refused_at_any_length(zipped: Path) -> None:
    content = zipped.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        zipped.write_bytes(content[:length])
        refused(zipped, "not a zip file")


def test_changed_bytes_in_the_archive_are_noticed(zipped: Path) -> None:
    content = bytearray(zipped.read_bytes())
    content[len(content) // 2] ^= 1
    zipped.write_bytes(bytes(content))
    with pytest.raises(ModelError, match="damaged"):
        load_model(zipped)
