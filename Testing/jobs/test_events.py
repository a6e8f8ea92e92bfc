"""The stream of events: whole lines only, whatever is cut off, full disks, folders that vanish, many threads."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from TransferSegLib.errors import JobError
from TransferSegLib.jobs.events import Event, EventWriter, JobState, last_event, read_events
from TransferSegLib.jobs.files import EVENTS, RESERVE

RUNNING = JobState.RUNNING
LINES = b"".join(
    Event(RUNNING, f"2026-01-01T00:00:0{n}.000+00:00", step=n, message="ä" * n).to_line() for n in range(5)
)


def test_lines_are_json_without_what_is_not_known() -> None:
    event = Event(RUNNING, "2026-01-01T00:00:00.000+00:00", loss=float("nan"), dice=0.5, message="Größe\n\ud800")
    line = event.to_line()
    assert line.count(b"\n") == 1 and b"loss" not in line and b"stage" not in line
    read = Event.from_line(line)
    assert read is not None and (read.loss, read.dice, read.message) == (None, 0.5, "Größe\n\ud800")


@pytest.mark.parametrize("line", [b"", b"{", b"[1]", b'{"state": "flying"}', b'{"time": "now"}', b"\xff\xfe", b"null"])
def test_what_is_no_event_is_none(line: bytes) -> None:
    assert Event.from_line(line) is None


def test_entries_of_another_type_or_version_are_ignored() -> None:
    read = Event.from_line(b'{"state": "running", "step": "three", "loss": 1, "colour": "red", "time": "now"}')
    assert read == Event(RUNNING, "now", loss=1)


@given(cut=st.integers(0, len(LINES)), again=st.integers(0, len(LINES)))
def test_reading_while_it_grows_gives_each_event_once(cut: int, again: int, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("job")
    offset, found = 0, []
    for end in [*sorted([cut, again]), len(LINES)]:
        (folder / EVENTS).write_bytes(LINES[:end])
        events, offset = read_events(folder, offset)
        found += events
    assert [event.step for event in found] == [0, 1, 2, 3, 4]
    assert offset == len(LINES)


@given(most=st.integers(1, len(LINES)))
def test_a_long_stream_can_be_read_in_parts(most: int, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("job")
    (folder / EVENTS).write_bytes(LINES)
    offset, found = 0, []
    while offset < len(LINES):
        events, after = read_events(folder, offset, most)
        if after == offset:  # less than a line
            assert not events and most < len(LINES) / 4
            events, after = read_events(folder, offset)
        found, offset = found + events, after
    assert [event.step for event in found] == [0, 1, 2, 3, 4]


def test_a_torn_line_stays_alone(tmp_path: Path) -> None:
    (tmp_path / EVENTS).write_bytes(LINES + b'{"state": "runn')
    assert last_event(tmp_path).step == 4
    EventWriter(tmp_path).write(Event(JobState.QUEUED))
    events, _ = read_events(tmp_path)
    assert [event.state for event in events] == [RUNNING] * 5 + [JobState.QUEUED]


def test_a_shorter_stream_is_read_from_its_beginning(tmp_path: Path) -> None:
    (tmp_path / EVENTS).write_bytes(LINES)
    assert len(read_events(tmp_path, 10**6)[0]) == 5
    assert read_events(tmp_path / "nowhere") == ([], 0)
    assert last_event(tmp_path / "nowhere") is None


def test_the_last_event_is_found_behind_a_long_line(tmp_path: Path) -> None:
    (tmp_path / EVENTS).write_bytes(LINES + b"x" * 100_000 + b"\n")
    assert last_event(tmp_path).step == 4
    EventWriter(tmp_path).write(Event(RUNNING, message="y" * 100_000))
    assert last_event(tmp_path).message == "y" * 100_000


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path)

    def write(number: int) -> None:
        for step in range(50):
            writer.write(Event(RUNNING, step=step, place=number, message="z" * 500))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events, _ = read_events(tmp_path)
    for number in range(4):
        assert [event.step for event in events if event.place == number] == list(range(50))


class SmallDisk:
    """Stands for ``os.write`` on a disk that has so many bytes left and counts those of the reserve."""

    def __init__(self, folder: Path, free: int) -> None:
        self.free = free
        self._reserve = folder / RESERVE
        self._write = os.write

    def write(self, descriptor: int, content: bytes) -> int:
        free = self.free + (0 if self._reserve.exists() else 16384)
        if free <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._write(descriptor, content[:free])
        self.free -= written
        return written


def test_a_full_disk_is_told_and_the_write_final_still_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = EventWriter(tmp_path)
    writer.reserve()
    assert (tmp_path / RESERVE).stat().st_size == 16384
    disk = SmallDisk(tmp_path, 150)
    monkeypatch.setattr(os, "write", disk.write)
    writer.write(Event(RUNNING, step=1))
    with pytest.raises(JobError, match="The disk is full"):
        writer.write(Event(RUNNING, step=2, message="the line that is cut off"))
    writer.write_final(Event(JobState.FAILED, error="The disk is full."))
    events, _ = read_events(tmp_path)
    assert [(event.state, event.step) for event in events] == [(RUNNING, 1), (JobState.FAILED, None)]
    assert not (tmp_path / RESERVE).exists()


def test_without_a_reserve_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(JobError, match="Free some space"):
        EventWriter(tmp_path).write_final(Event(JobState.FAILED))


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    writer = EventWriter(folder)
    writer.write(Event(RUNNING))
    shutil.rmtree(folder)
    with pytest.raises(JobError, match="is gone"):
        writer.write(Event(RUNNING))
    assert not folder.exists()
