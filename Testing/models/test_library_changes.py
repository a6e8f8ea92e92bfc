"""Changes of the model library: whole or never, by several processes at once, on disks that refuse."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from libraries import WITHOUT_TORCH, contents

from TransferSegLib.errors import ModelError
from TransferSegLib.models import library, store
from TransferSegLib.models.library import import_model, remove_model
from TransferSegLib.models.locate import find_model, library_models
from TransferSegLib.models.store import load_description, load_model


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

    def refuse(path: Path, content: bytes, *more: object) -> None:
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
    with pytest.raises(
        ModelError, match=r"library cannot be a model library: .*file is a file, not a folder.*--library"
    ):
        import_model(zipped, tmp_path / "file" / "library")
