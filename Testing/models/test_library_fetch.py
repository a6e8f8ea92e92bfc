"""Models fetched into the library, by two processes too."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import misbehaving_server as server_module
import pytest
from libraries import WITHOUT_TORCH, contents, put_into_catalogue
from misbehaving_server import Server

from TransferSegLib.errors import ModelError
from TransferSegLib.models import library, locate, store
from TransferSegLib.models.library import fetch_model
from TransferSegLib.models.locate import library_models
from TransferSegLib.models.store import load_description, load_model
from TransferSegLib.progress import Progress

TESTING = Path(__file__).resolve().parents[1]


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
    assert {Path(name).suffix for name in kept} == {".part"} and library_models(folder) == []
    added = fetch_model("tiny", folder, session=server.session())
    assert load_model(added.path)
    assert server.ranges()[-1] == f"bytes={max(len(content) for content in kept.values())}-"


def test_import_that_fails_keeps_what_was_fetched(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes, *more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "_write", full)
    with pytest.raises(ModelError, match="disk is full"):
        fetch_model("tiny", folder, session=server.session())
    assert {Path(name).suffix for name in contents(folder)} == {".zip"} and library_models(folder) == []
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
