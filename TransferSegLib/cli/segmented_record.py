"""What a run of many scans has done: a line for each scan in ``segmented.jsonl`` in the output folder.

It says of each result from which scan and with which model and settings it was made, so that a run that was stopped is
continued, and a result of another model is not taken for one of this model. A model is known by its weights, and a scan
by its name, size and time of change: both may be moved. A line is added when a scan is begun and
another one when it is done or has failed: what was begun and has not ended was in work when the program was ended.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from TransferSegLib.cli.segment_settings import RunSettings
from TransferSegLib.errors import ScanError
from TransferSegLib.inference.segment_file import ScanToSegment

RECORD = "segmented.jsonl"
#: The version of the lines, which the first one holds.
_FORMAT = 1


class SegmentedRecord:
    """What was done in a folder; ``settings`` are the model and all that decides about the labels.

    Of each scan only the place of its line in the file is in memory. ``run`` names this run (empty: a new one), so that
    what failed in it is told from what failed before.
    """

    def __init__(self, folder: Path, settings: RunSettings, run: str = "") -> None:
        """Read the record of a folder, which need not exist; damaged lines are left out."""
        self._folder, self._file = folder.absolute(), folder.absolute() / RECORD
        self._settings = settings
        #: What stands for the settings in the lines.
        self.settings = settings.digest
        self._run = run or f"{time.time_ns()}-{os.getpid()}"
        #: By what stands for settings: the line that says what they are.
        self._described: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._failed: dict[str, int] = {}
        #: Whether it is alone, and the scan's path.
        self._begun: dict[str, tuple[bool, str]] = {}
        for place, entry in self._lines():
            self._note(place, entry)

    def is_done(self, each: ScanToSegment) -> bool:
        """Tell whether a scan has its result; raises ScanError when a file of that name is something else."""
        if not each.output.exists():
            return False
        entry = self._entry(each)
        if entry is None:
            raise ScanError(
                f"{each.output} exists and was not made by such a run: choose another output folder, or give --replace "
                "to overwrite it."
            )
        differences = [words for words in (self._other_scan(each, entry), self._other_settings(entry)) if words]
        if differences:
            raise ScanError(
                f"{each.output} was made {' and '.join(differences)}: choose another output folder, or give --replace "
                "to overwrite it."
            )
        return True

    @staticmethod
    def _other_scan(each: ScanToSegment, entry: Mapping[str, Any]) -> str:
        """Return in words from which other scan a result was made, '' for this one."""
        before, now = entry.get("scan"), _state_of(each.scan)
        if _same_state(before, now):
            return ""
        if isinstance(before, list) and before and before[0] != now[0]:
            return f"from {before[0]}, which is not the same as {each.scan}"
        return f"from {each.scan} as it was before a change"

    def _other_settings(self, entry: Mapping[str, Any]) -> str:
        """Return in words with which other model or settings a result was made, '' for those of this run."""
        settings = str(entry.get("settings"))
        if settings == self.settings:
            return ""
        place = self._described.get(settings)
        said = (self._at(place) or {}) if place is not None else {}
        if isinstance(said.get("deciding"), dict):
            return self._settings.difference(str(said.get("model")), said["deciding"])
        if settings != self._settings.earlier:
            return (
                "with another model or other settings, or by an earlier version that did not note the model's checksum"
            )
        written = entry.get("written")
        since = written[-1] if isinstance(written, list) and written and isinstance(written[-1], int) else 0
        if since >= self._settings.weights_since_ns:
            return ""
        return (
            "by an earlier version, which did not note the model's checksum, and the weights' file of "
            f"{self._settings.model} is newer than it (because the model has changed, or was only copied or installed)"
        )

    def has_line(self, each: ScanToSegment) -> bool:
        """Tell whether any run has noted a result for a scan."""
        return self._key(each) in self._done

    def was_changed(self, each: ScanToSegment) -> bool:
        """Tell whether a result is not as it was written, because someone corrected it, for example."""
        entry = self._entry(each)
        return entry is None or not _same_state(entry.get("written"), _state_of(each.output))

    def rows(self, each: ScanToSegment) -> list[list[str]] | None:
        """Return what was measured in a result that is as it was written; None where nothing was."""
        entry = self._entry(each)
        rows = None if entry is None else entry.get("rows")
        return rows if isinstance(rows, list) and not self.was_changed(each) else None

    def describe(self) -> None:
        """Note once what the settings of this run are; raises OSError."""
        if self.settings not in self._described:
            what = {"model": self._settings.model, "deciding": dict(self._settings.deciding)}
            self._add({"described": self.settings, **what})

    def begin(self, each: ScanToSegment, alone: bool = False) -> None:
        """Note that a scan is begun, perhaps with no other beside it; raises OSError."""
        self._add({"begun": self._key(each), "path": str(each.scan), "alone": alone})

    def add(self, each: ScanToSegment, rows: list[list[str]] | None = None, settings: str = "") -> None:
        """Note that a scan was segmented, and what was measured; raises OSError.

        ``settings`` are those it was segmented with, if not this run's.
        """
        self.describe()
        states = {"scan": _state_of(each.scan), "written": _state_of(each.output)}
        self._add({"done": self._key(each), "settings": settings or self.settings, **states, "rows": rows})

    def fail(self, each: ScanToSegment, why: str) -> None:
        """Note why a scan was not segmented; raises OSError."""
        self._add({"failed": self._key(each), "path": str(each.scan), "why": why, "run": self._run})

    def failed_in_this_run(self, each: ScanToSegment) -> bool:
        """Tell whether a scan has failed in this run, before the program was started again."""
        place = self._failed.get(self._key(each))
        return place is not None and (self._at(place) or {}).get("run") == self._run

    def failures(self) -> Iterator[tuple[str, str]]:
        """Yield the scans that failed in this run, and why."""
        for place in sorted(self._failed.values()):
            entry = self._at(place) or {}
            if entry.get("run") == self._run:
                yield str(entry.get("path")), str(entry.get("why"))

    def in_work(self, each: ScanToSegment) -> bool:
        """Tell whether a scan was in work when a program was ended."""
        return self._key(each) in self._begun

    def alone_in_work(self) -> str | None:
        """Return the path of the scan that was alone in work when the program was ended; None: none was."""
        return next((path for alone, path in self._begun.values() if alone), None)

    @property
    def anything_in_work(self) -> bool:
        """Whether any scan was in work when the program was ended."""
        return bool(self._begun)

    def fail_alone(self, why: str) -> None:
        """Note that the scan that was alone in work has failed; raises OSError."""
        for key, (alone, path) in list(self._begun.items()):
            if alone:
                self._add({"failed": key, "path": path, "why": why, "run": self._run})

    def _key(self, each: ScanToSegment) -> str:
        """Return what a result is called: its path below the folder, or its whole one."""
        output = each.output.absolute()
        return output.relative_to(self._folder).as_posix() if output.is_relative_to(self._folder) else str(output)

    def _note(self, place: int, entry: Mapping[str, Any]) -> None:
        for what, known in (("done", self._done), ("failed", self._failed)):
            key = entry.get(what)
            if isinstance(key, str):
                self._begun.pop(key, None)
                known[key] = place
                if what == "done":
                    self._failed.pop(key, None)
        if isinstance(entry.get("described"), str):
            self._described[entry["described"]] = place
        if isinstance(entry.get("begun"), str):
            self._begun[entry["begun"]] = bool(entry.get("alone")), str(entry.get("path"))

    def _entry(self, each: ScanToSegment) -> dict[str, Any] | None:
        place = self._done.get(self._key(each))
        return None if place is None else self._at(place)

    def _at(self, place: int) -> dict[str, Any] | None:
        with self._file.open("rb") as stream:
            stream.seek(place)
            return _parsed(stream.readline())

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each line with its place."""
        with suppress(OSError), self._file.open("rb") as stream:
            place = 0
            for line in stream:
                entry = _parsed(line)
                if entry is not None:
                    yield place, entry
                place += len(line)

    def _add(self, entry: dict[str, Any]) -> None:
        """Write a line; when it returns the disk has it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._file.open("ab") as stream:
            place = stream.tell()
            if place == 0:
                place = stream.write(_line({"format": _FORMAT}))
            elif not self._ends_whole():  # a line that a crash cut off
                place += stream.write(b"\n")
            stream.write(_line(entry))
            stream.flush()
            os.fsync(stream.fileno())
        self._note(place, entry)

    def _ends_whole(self) -> bool:
        with self._file.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) == b"\n"


def _line(entry: Mapping[str, Any]) -> bytes:
    return (json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8")


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _same_state(before: Any, now: list[Any]) -> bool:
    """Tell whether a file or folder is the same, also where a folder above it has another name now."""
    if not isinstance(before, list) or len(before) != len(now):
        return False
    names = [re.split(r"[/\\]", str(state[0]))[-1] for state in (before, now)]
    return names[0] == names[1] and before[1:] == now[1:]


def _state_of(path: Path) -> list[Any]:
    """Return what tells files and folders apart: path (its name counts), number of files, bytes, latest change."""
    files = path.rglob("*") if path.is_dir() else [path]
    stats = []
    with suppress(OSError):  # gone, or not to be read: that is another state
        stats = [file.stat() for file in files if file.is_file()]
    return [
        str(path.resolve()),
        len(stats),
        sum(stat.st_size for stat in stats),
        max((stat.st_mtime_ns for stat in stats), default=0),
    ]
