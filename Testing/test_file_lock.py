"""The lock between processes: one holder at a time, freed by death, a clear line when it stays taken."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from TransferSegLib.errors import Cancelled, DatasetError, TransferSegError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.progress import CancelToken

HOLD = """
import sys, time
from TransferSegLib.file_lock import FileLock
with FileLock(sys.argv[1], 30, 'busy'):
    print('held', flush=True)
    time.sleep(60)
"""
COUNT = """
import sys
from pathlib import Path
from TransferSegLib.file_lock import FileLock
counter = Path(sys.argv[2])
for _ in range(100):
    with FileLock(sys.argv[1], 60, 'busy'):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


def start(code: str, *words: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_lock_is_taken_and_given_back(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock", 0, "busy")
    assert not lock.held
    for _ in range(2):
        with lock as entered:
            assert entered is lock and lock.held
        assert not lock.held
    lock.release()
    assert (tmp_path / "lock").read_bytes() == b""


def test_another_object_of_this_process_waits_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FileLock(path, 0, "busy"):
        with (
            pytest.raises(DatasetError, match=r"^the project is in use$"),
            FileLock(path, 0.05, "the project is in use", DatasetError),
        ):
            pass
        with pytest.raises(RuntimeError, match="already"):
            lock = FileLock(tmp_path / "other", 0, "busy")
            with lock, lock:
                pass
    with FileLock(path, 0, "busy"):
        pass


def test_lock_is_free_after_an_error_inside(tmp_path: Path) -> None:
    with pytest.raises(ValueError), FileLock(tmp_path / "lock", 0, "busy"):
        raise ValueError
    with FileLock(tmp_path / "lock", 0, "busy"):
        pass


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with start(HOLD, path) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(TransferSegError, match="busy"), FileLock(path, 0.1, "busy"):
            pass
        holder.kill()
        holder.wait(30)
    with FileLock(path, 10, "busy"):
        pass


def test_processes_take_turns(tmp_path: Path) -> None:
    """Without the lock, two processes that read, add one and write lose counts."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    children = [start(COUNT, tmp_path / "lock", counter) for _ in range(3)]
    for child in children:
        child.communicate(timeout=120)
        assert child.returncode == 0
    assert counter.read_text() == "300"


def test_waiting_can_be_cancelled(tmp_path: Path) -> None:
    token = CancelToken()
    timer = threading.Timer(0.1, token.cancel)
    with FileLock(tmp_path / "lock", 0, "busy"):
        timer.start()
        with pytest.raises(Cancelled), FileLock(tmp_path / "lock", 60, "busy", cancel=token):
            pass
    timer.join()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(DatasetError, match=r"lock cannot be locked: .*Check the folder"),
        FileLock(tmp_path / "nowhere" / "lock", 0, "busy", DatasetError),
    ):
        pass


def test_caller_says_what_to_do_about_a_file_that_cannot_be_locked(tmp_path: Path):
    with (
        pytest.raises(TransferSegError, match=r"cannot be locked: .*\. Choose another folder\.$"),
        FileLock(tmp_path / "nowhere" / "lock", 0, "busy", hint="Choose another folder."),
    ):
        pass
