"""Versions when processes are killed at any step, and when several change one model at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from TransferSegLib.errors import ModelError
from TransferSegLib.models.archive import read_model_files
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.library import import_model
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_model, model_files
from TransferSegLib.models.versions.history import history
from TransferSegLib.models.versions.record import ModelReference, VersionRecord
from TransferSegLib.models.versions.versions import add_version, promote

#: Begins the programs below: adding a candidate whose weights were written beforehand. What is written is verified
#: without torch, whose import takes seconds in each process.
ADDING = """
import os, shutil, signal, sys
from pathlib import Path
from TransferSegLib.models import store
from TransferSegLib.models.versions import versions
from TransferSegLib.models.archive import WeightsRecord, parse_model_file, read_model_files
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_description
from TransferSegLib.models.versions.versions import add_version, promote, remove_version, rollback
from TransferSegLib.models.versions.record import ModelReference, VersionRecord
os.fsync = lambda descriptor: None  # what a kill leaves is in the system's memory: no need to wait for the disk
versions.load_model = lambda path: parse_model_file(read_model_files(path)["model.json"], "")
versions.model_files = lambda description, weights, half: {
    "model.json": store._model_file(description, WeightsRecord.of(weights)), "weights.pt": weights}
candidates = Path(sys.argv[2])
def add(library, name, parent, plus, **options):
    path = find_model(parent, library)
    record = VersionRecord(ModelReference.of(path), evidence={"verdict": "better"})
    weights = (candidates / f"{plus}.pt").read_bytes()
    return add_version(library, name, load_description(path), weights, record, origin=path, **options)
"""
#: Does the same from the same beginning again and again, killed one step later every time, until it gets to the end.
KILLED = """
beginning, folder, parent = Path(sys.argv[1]), Path(sys.argv[3]), sys.argv[4]
ACTS = {
    "new line": lambda library: add(library, "new", parent, 5),
    "plain": lambda library: add(library, "plain", "plain", 5),
    "promote": lambda library: promote("line", library, 1),
    "rollback": lambda library: rollback("line", library),
    "remove": lambda library: remove_version("line", library, 2, force=True),
}
def killed_at(step):
    left = [step]
    def before(function):
        def stopping(*words, **options):
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return function(*words, **options)
        return stopping
    for place, name in ((Path, "rename"), (Path, "replace"), (Path, "rmdir"), (os, "fsync"), (shutil, "rmtree")):
        setattr(place, name, before(getattr(place, name)))
for what, act in ACTS.items():
    for step in range(500):
        library = folder / what / str(step)
        shutil.copytree(beginning, library)
        child = os.fork()
        if child == 0:
            killed_at(step)
            act(library)
            os._exit(0)
        if os.WIFEXITED(os.waitpid(child, 0)[1]):
            break
"""


def number_of(path: Path) -> float:
    """Return a weight of a model that tells the candidates of these tests apart."""
    return round(float(next(iter(load_model(path).state_dict.values())).flatten()[0]), 3)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def beginning(tmp_path: Path, saved: Path, description: ModelDescription, state_dict: dict[str, torch.Tensor]) -> Path:
    """Return a library with a plain model and a line, whose version 2 became current after 1."""
    library = tmp_path / "beginning"
    import_model(saved, library, name="plain")
    for number in (1, 2):
        weights = {layer: values + number for layer, values in state_dict.items()}
        record = VersionRecord(ModelReference.of(saved), evidence={"verdict": "better"})
        add_version(library, "line", description, weights, record, origin=saved)
        promote("line", library, number)
    return library


@pytest.fixture
def candidates(tmp_path: Path, description: ModelDescription, state_dict: dict[str, torch.Tensor]) -> Path:
    """Return a folder of weights files: the tiny model's weights plus the number in the name."""
    folder = tmp_path / "candidates"
    folder.mkdir()
    for plus in (5, 10, 11, 12, 20, 21, 22):
        weights = {layer: values + plus for layer, values in state_dict.items()}
        (folder / f"{plus}.pt").write_bytes(model_files(description, weights)["weights.pt"])
    return folder


@pytest.mark.skipif(os.name == "nt", reason="each step is killed in a child that is forked")
def test_killed_at_any_step(tmp_path: Path, saved: Path, beginning: Path, candidates: Path) -> None:
    words = [sys.executable, "-c", ADDING + KILLED, beginning, candidates, tmp_path / "killed", saved]
    subprocess.run(list(map(str, words)), timeout=300, check=True)
    for what, name, old, new in (
        ("new line", "new", None, 1),
        ("plain", "plain", 0, 1),
        ("promote", "line", 2, 1),
        ("rollback", "line", 2, 1),
        ("remove", "line", 2, 1),
    ):
        check_killed(tmp_path / "killed" / what, saved, name, old, new)


def check_killed(folder: Path, saved: Path, name: str, old: int | None, new: int) -> None:
    """Check that the current version is the old or the new one and whole, and that the next change tidies up."""
    steps = len(list(folder.iterdir()))
    assert steps >= 8, "the killing does not reach what is to be killed"
    seen = []
    for step in range(steps):
        library = folder / str(step)
        try:
            current: int | None = history(name, library).current
        except ModelError:
            current = None
        seen.append(current)
        if current is None:
            assert not (library / name).exists()
            import_model(saved, library, name="something else")
        else:
            found = history(name, library)
            assert found.damaged == () and found.state.problem == ""
            assert all(read_model_files(version.path) for version in found.versions)
            assert load_model(find_model(name, library)).state_dict.keys()
            if found.versions[0].path.name == "0":
                promote(name, library, 0)
                assert find_model(name, library).name == "0"
            else:  # still plain
                import_model(saved, library, name="something else")
        leftovers = [file.name for file in library.rglob("*") if file.name.startswith(".")]
        assert leftovers == [".lock"]
    switch = seen.index(new)
    assert switch > 0 and set(seen[:switch]) == {old} and set(seen[switch:]) == {new}


TURNS = """
library, number = Path(sys.argv[1]), int(sys.argv[3])
for turn in range(3):
    version = add(library, "line", "line@0", 10 * number + turn, promote="unless worse")
    promote("line", library, version.number)
    promote("line", library, 0)
    rollback("line", library)
"""


def test_processes_that_change_one_line_at_once(beginning: Path, candidates: Path) -> None:
    words = [sys.executable, "-c", ADDING + TURNS, str(beginning), str(candidates)]
    processes = [subprocess.Popen([*words, str(number)], stderr=subprocess.PIPE) for number in (1, 2)]
    looks = 0
    while any(process.poll() is None for process in processes):
        assert load_model(find_model("line", beginning)).description.name == "line"
        looks += 1
    errors = [process.communicate(timeout=60)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    found = history("line", beginning)
    assert [version.number for version in found.versions] == list(range(9)) and looks > 0
    base = number_of(find_model("line@0", beginning))
    added = {round(number_of(version.path) - base, 3) for version in found.versions[3:]}
    assert added == {10.0 * number + turn for number in (1, 2) for turn in range(3)}
    assert found.damaged == () and sorted(path.name for path in beginning.iterdir()) == [".lock", "line", "plain"]


def test_disk_that_is_full(
    beginning: Path,
    saved: Path,
    description: ModelDescription,
    state_dict: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever write fails, the library is as it was, but perhaps for a version that is not current."""
    from TransferSegLib.models import store

    record = VersionRecord(ModelReference.of(saved), evidence={"verdict": "better"})
    before = sorted(path.relative_to(beginning) for path in beginning.rglob("*"))
    write = store._write

    def refuse(path: Path, content: bytes, *more: object) -> None:
        if path.name == "record.json":
            raise OSError(28, os.strerror(28))
        write(path, content, *more)

    monkeypatch.setattr(store, "_write", refuse)
    with pytest.raises(ModelError, match="disk is full"):
        add_version(beginning, "line", replace(description), state_dict, record, origin=saved)
    assert sorted(path.relative_to(beginning) for path in beginning.rglob("*")) == before
    shutil.rmtree(beginning)
