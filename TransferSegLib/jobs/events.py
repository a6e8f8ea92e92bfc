"""The stream of events of a job: one JSON object a line, only ever appended to, readable while it is written.

>>> events, offset = read_events(folder)
>>> newer, offset = read_events(folder, offset)

There is one writer at a time: whoever holds the folder's worker lock.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from TransferSegLib import safe_json
from TransferSegLib.errors import JobError
from TransferSegLib.jobs.files import EVENTS, RESERVE
from TransferSegLib.jobs.request import now_text
from TransferSegLib.own_files import new_file, open_own

#: What a system says when nothing more can be written: no space, or no quota.
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
#: How much of the stream's end is read for its last event; a line is a few hundred bytes.
_TAIL_BYTES = 32768
_RESERVE_BYTES = 16384
#: No number of an event is as large.
_LARGEST_NUMBER = 1e15


class JobState(StrEnum):
    """Where a job is. ``INTERRUPTED`` is never written: readers find it when a worker ended without a final event."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILED = "failed"
    DONE = "done"
    INTERRUPTED = "interrupted"

    @property
    def ended(self) -> bool:
        """Whether no worker is at the job, and none is about to be."""
        return self not in (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING)


@dataclass(frozen=True)
class Event:
    """One line: the job's state from ``time`` (ISO 8601) on, and whatever else is known (None: not).

    ``stage`` says what is done for people, ``key`` for programs. ``fraction`` (0 to 1) of it is done, ``step`` of
    ``steps`` where it counts; ``loss`` and ``dice`` come from training. ``place`` is the number of jobs that are before
    this one at its device. ``error`` is for a person.
    """

    state: JobState
    time: str = field(default_factory=now_text)
    stage: str | None = None
    key: str | None = None
    step: int | None = None
    steps: int | None = None
    fraction: float | None = None
    loss: float | None = None
    dice: float | None = None
    seconds_left: float | None = None
    device: str | None = None
    place: int | None = None
    message: str | None = None
    error: str | None = None

    def to_line(self) -> bytes:
        """Return the line, with its end; what is not known, or not a finite number, is left out."""
        known = {name: value for name, value in asdict(self).items() if value is not None and _is_finite(value)}
        return (json.dumps(known, allow_nan=False) + "\n").encode("ascii")

    @staticmethod
    def from_line(line: bytes) -> Event | None:
        """Return the event of a line, None for a line that is none (cut off by a crash, or from another version)."""
        try:
            entry = safe_json.parse(line, surrogates=True)
            state = JobState(entry["state"])
        except (ValueError, TypeError, KeyError):
            return None
        # An event without a time counts as older than any other: it never makes a job look busy.
        return Event(**{"time": "", **_known(entry), "state": state})

    def age_s(self) -> float:
        """Return the seconds since the event, by the clock of the computer; infinite when its time cannot be read."""
        try:
            return abs((datetime.fromisoformat(now_text()) - datetime.fromisoformat(self.time)).total_seconds())
        except (ValueError, TypeError, OverflowError):
            return math.inf


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _known(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries that this version knows and that are of their type."""
    kinds: dict[str, type | tuple[type, ...]] = dict.fromkeys(("step", "steps", "place"), int)
    kinds |= dict.fromkeys(("fraction", "loss", "dice", "seconds_left"), (int, float))
    texts = {each.name: str for each in fields(Event) if each.name not in kinds}
    known = {name: entry[name] for name, kind in (kinds | texts).items() if isinstance(entry.get(name), kind)}
    return {name: value for name, value in known.items() if not isinstance(value, bool) and _is_in_bounds(name, value)}


def _is_in_bounds(name: str, value: Any) -> bool:
    """Return whether a number of an event can be one: fractions are 0 to 1, and no number is absurdly large."""
    if name == "fraction":
        return 0 <= value <= 1
    return isinstance(value, str) or abs(value) < _LARGEST_NUMBER


class EventWriter:
    """Appends events to a job's stream, from any thread; each is one write, which the system has when it returns.

    The file is opened for each event: a folder that was removed is noticed, and not written into its ghost.
    """

    def __init__(self, folder: Path) -> None:
        """Prepare to write into a folder; nothing is touched."""
        self._path = folder / EVENTS
        self._reserve = folder / RESERVE
        self._lock = threading.Lock()

    def reserve(self) -> None:
        """Reserve the disk space that ``write_final`` will need if the disk is full by then."""
        with suppress(OSError), new_file(self._reserve) as stream:
            stream.write(os.urandom(_RESERVE_BYTES))

    def free_reserve(self) -> None:
        """Free the reserved space."""
        with suppress(OSError):
            self._reserve.unlink(missing_ok=True)

    def write(self, event: Event) -> None:
        """Append an event; raises JobError for a full disk, a folder that is gone, or any other refusal."""
        with self._lock:
            try:
                self._append(event)
            except OSError as error:
                raise JobError(self._refused(error)) from error

    def write_final(self, event: Event) -> None:
        """Append the event that ends the job, with the reserved space if the disk is full."""
        # A thread that hangs in a write (a network drive) must not block the final event of another.
        locked = self._lock.acquire(timeout=1.0)
        try:
            try:
                self._append(event)
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                self.free_reserve()
                self._append(event)
        except OSError as error:
            raise JobError(self._refused(error)) from error
        finally:
            if locked:
                self._lock.release()

    def _append(self, event: Event) -> None:
        line = event.to_line()
        descriptor = open_own(self._path, os.O_RDWR | os.O_APPEND)
        try:
            if not _ends_with_line(descriptor):
                line = b"\n" + line  # a line that a crash or a full disk cut off stays alone
            written = os.write(descriptor, line)
            if written < len(line):
                os.write(descriptor, line[written:])
            if event.state.ended:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _refused(self, error: OSError) -> str:
        if error.errno in DISK_FULL:
            return f"The disk is full: {self._path} cannot be written. Free some space."
        if not self._path.parent.is_dir():
            return f"The folder of the job is gone: {self._path.parent}."
        return f"{self._path} cannot be written: {error.strerror or error}."


def _ends_with_line(descriptor: int) -> bool:
    if os.lseek(descriptor, 0, os.SEEK_END) == 0:
        return True
    os.lseek(descriptor, -1, os.SEEK_END)
    return os.read(descriptor, 1) == b"\n"


def read_events(folder: Path, offset: int = 0, most_bytes: int | None = None) -> tuple[list[Event], int]:
    """Return the events from a byte offset on, and the offset to continue from.

    With ``most_bytes`` no more is read at once, so that a window that follows a long stream from its beginning is not
    kept from drawing; a line that is longer comes with a call without it.
    A last line without its end is being written, or was cut off: it is left for the next call. Lines that are no
    events are skipped. A stream that is shorter than the offset is read from its beginning. Raises JobError when the
    stream cannot be read; one that is not there has no events.
    """
    try:
        if not stat.S_ISREG((folder / EVENTS).stat().st_mode):
            raise JobError(f"{folder / EVENTS} is no file.")
        with (folder / EVENTS).open("rb") as stream:
            if stream.seek(0, os.SEEK_END) < offset:
                offset = 0
            stream.seek(offset)
            content = stream.read(-1 if most_bytes is None else most_bytes)
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise JobError(f"{folder / EVENTS} cannot be read: {error.strerror or error}.") from error
    whole = content.rfind(b"\n") + 1
    events = [Event.from_line(line) for line in content[:whole].splitlines() if line.strip()]
    return [event for event in events if event is not None], offset + whole


def last_event(folder: Path) -> Event | None:
    """Return the last event of a job, reading the end of its stream only; None when there is none."""
    try:
        size = (folder / EVENTS).stat().st_size
    except OSError:
        return None
    for offset in (max(0, size - _TAIL_BYTES), 0):
        events, _ = read_events(folder, offset)
        if events:
            return events[-1]
    return None
