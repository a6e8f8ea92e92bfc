"""Fetching on disks that fill up, and by several processes of which some are killed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import misbehaving_server as server_module
import pytest
from fetching import CONTENT, begun, download, failure, fetched, left
from misbehaving_server import Server

from TransferSegLib.errors import Cancelled, ModelError
from TransferSegLib.models import fetch
from TransferSegLib.models.fetch import Part, alone
from TransferSegLib.progress import CancelToken, Task

TESTING = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_disk_that_fills_up(server: Server, part: Part, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fetch.os, "fsync", full)
    message = failure(server, part)
    assert ("The disk is full" if number != errno.EIO else "cannot be written to") in message
    assert "are kept" in message and str(part.path.parent) in message
    monkeypatch.undo()
    assert fetched(server, part) == CONTENT


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from misbehaving_server import session_to
from TransferSegLib.errors import ModelError
from TransferSegLib.models.download import Download
from TransferSegLib.models.fetch import Part, fetch_file
download = Download("keras", "https://models.example/a.h5", sys.argv[4], 290000)
resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000))
try:
    fetch_file(download, Part(Path(sys.argv[3]), download), "weights", session=session_to(int(sys.argv[2])))
except ModelError as error:
    print(error)
"""


@pytest.mark.skipif(os.name == "nt", reason="the limit on a file's size is a POSIX one")
def test_write_that_the_system_refuses(server: Server, part: Part) -> None:
    """The kernel itself refuses the bytes after the 200,000th."""
    words = [TESTING, server.port, part.path.parent, download().git_blob]
    done = subprocess.run([sys.executable, "-c", LIMITED, *map(str, words)], capture_output=True, text=True, timeout=60)
    assert "cannot be written to" in done.stdout and "0.2 MB of 0.3 MB are kept" in done.stdout, done.stderr
    assert left(part)[".part"] == 200_000 and part.path.read_bytes() == CONTENT[:200_000]
    assert fetched(server, part) == CONTENT
    assert server.ranges()[-1] == "bytes=200000-"


def test_too_little_room_is_said_before(server: Server, part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(part, 100_000)
    usage = type(shutil.disk_usage(part.path.parent))
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 489_999, 489_999))
    assert "weights needs 0.5 MB" in failure(server, part)
    assert left(part)[".part"] == 100_000
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda folder: usage(10**9, 10**9 - 490_000, 490_000))
    assert fetched(server, part) == CONTENT


FETCH = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from misbehaving_server import session_to
from TransferSegLib.models.download import Download
from TransferSegLib.models.fetch import Part, alone, fetch_file
from TransferSegLib.progress import Task
download = Download("keras", "https://models.example/a.h5", sys.argv[4], 290000)
part = Part(Path(sys.argv[3]), download)
with alone(part, "weights", Task("", lambda report: print(report.message, flush=True))):
    file = fetch_file(download, part, "weights", session=session_to(int(sys.argv[2])))
    print(file.stat().st_size)
"""


def start(server: Server, part: Part) -> subprocess.Popen[str]:
    words = [TESTING, server.port, part.path.parent, download().git_blob]
    return subprocess.Popen([sys.executable, "-c", FETCH, *map(str, words)], stdout=subprocess.PIPE, text=True)


def test_killed_process_leaves_a_part_to_go_on_with(server: Server, part: Part) -> None:
    server.behaviours = [server_module.slowly(20_000, 0.05)]
    with start(server, part) as process:
        deadline = time.monotonic() + 60
        while part.size < 60_000:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.wait(30)
    size = part.size
    assert set(left(part)) == {".part", ".lock"} and 60_000 <= size < 300_000
    assert part.path.read_bytes() == CONTENT[:size]
    with alone(part, "weights"):
        assert fetched(server, part) == CONTENT
    assert server.ranges() == [None, f"bytes={size}-"]


def test_second_process_waits_and_finds_the_file(server: Server, part: Part) -> None:
    server.behaviours = [server_module.pauses_after(100_000)]
    first = start(server, part)
    deadline = time.monotonic() + 60
    while part.size == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    second = start(server, part)
    assert second.stdout is not None
    assert second.stdout.readline() == "another program is fetching weights\n"
    server.released.set()
    assert [process.communicate(timeout=60)[0] for process in (first, second)] == ["300000\n", "300000\n"]
    assert len(server.requests) == 1


def test_waiting_for_another_process_can_be_cancelled(part: Part) -> None:
    token = CancelToken()
    threading.Timer(0.2, token.cancel).start()
    with alone(part, "weights"), pytest.raises(Cancelled), alone(part, "weights", Task("", None, token)):
        pass


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ModelError, match=r"cannot be made.*Choose another library folder"),
        alone(Part(tmp_path / "file" / "downloads", download()), "weights"),
    ):
        pass
