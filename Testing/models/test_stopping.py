"""Importing, exporting and verifying what was fetched stop within a file; libraries and folders are as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
from libraries import contents

from Testing.impatient import Impatient
from TransferSegLib.errors import Cancelled
from TransferSegLib.models import archive, download
from TransferSegLib.models.archive import export_model
from TransferSegLib.models.download import git_blob_id
from TransferSegLib.models.library import import_model
from TransferSegLib.progress import Task


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_WRITTEN_AT_ONCE", 5000)
    monkeypatch.setattr(download, "_HASHED_AT_ONCE", 5000)


def test_an_import_that_was_stopped_leaves_the_library(saved: Path, tmp_path: Path) -> None:
    zipped = export_model(saved, tmp_path / "tiny.zip")
    library = tmp_path / "library"
    token = Impatient()
    import_model(zipped, library, name="first", cancel=token)
    before = contents(library)
    size = zipped.stat().st_size
    assert token.looks > 2 * (size // 5000), "each block that is hashed, each that is written"
    # The last look but two is the verification of what was written.
    for at in [*range(1, token.looks, 12), token.looks - 1]:
        for words in ({"name": "second"}, {"name": "first", "replace": True}):
            with pytest.raises(Cancelled):
                import_model(zipped, library, cancel=Impatient(at), **words)
            assert contents(library) == before, at


def test_an_export_that_was_stopped_leaves_the_file_before(saved: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "model.zip"
    target.parent.mkdir()
    token = Impatient()
    export_model(saved, target, cancel=token)
    whole = target.read_bytes()
    assert token.looks > len(whole) // 5000
    target.write_bytes(b"before")
    for at in [*range(1, token.looks, 5), token.looks]:
        with pytest.raises(Cancelled):
            export_model(saved, target, overwrite=True, cancel=Impatient(at))
        assert [(file.name, file.read_bytes()) for file in target.parent.iterdir()] == [("model.zip", b"before")]
    assert export_model(saved, target, overwrite=True).read_bytes() == whole


def test_hashing_looks_at_every_block(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(bytes(50_000))
    token = Impatient()
    digest = git_blob_id(file, Task("", None, token))
    assert token.looks == 10 and digest == git_blob_id(file)
    with pytest.raises(Cancelled):
        git_blob_id(file, Task("", None, Impatient(4)))
