"""The order that a ranking of a folder's scans found, kept so that it can be used without looking at the scans again.

It is in the user's cache, by the folder and the project, and holds no names: a scan is known by a checksum of its
file's name, size and time of change.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from TransferSegLib import safe_json
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.models.archive import MODEL_FILE, read_model_entry
from TransferSegLib.user_folders import cache_folder

if TYPE_CHECKING:
    from TransferSegLib.corrections.suggestion import Suggestions

#: Of the files in the cache; others count as none.
_ORDER_VERSION = 1


@dataclass(frozen=True)
class KeptOrder:
    """An order of scans, which are known by their marks.

    ``model`` is the checksum of the model that looked at them. ``ranked`` is the order, ``last`` what the model could
    not look at: it may still be corrected by hand. ``done`` are scans of the project, and copies of others.
    """

    model: str
    ranked: tuple[str, ...]
    last: tuple[str, ...]
    done: frozenset[str]

    def unranked(self, scans: Iterable[Path]) -> int:
        """Return how many of some scans were not looked at, or have changed since."""
        known = {*self.ranked, *self.last, *self.done}
        return sum(mark(scan) not in known for scan in scans)

    def sorted(self, scans: Iterable[Path]) -> list[Path]:
        """Return scans in their order, at the end those that were done then; scans not looked at are left out.

        What was a case when the ranking was made may have been removed from the project since.
        """
        by_mark = {mark(scan): scan for scan in scans}
        done = [each for each in by_mark if each in self.done]
        return [by_mark[each] for each in (*self.ranked, *self.last, *done) if each in by_mark]


def keep_order(
    found: Suggestions, folder: Path, model: Path, project: Path | None, seen: Mapping[Path, str] | None = None
) -> None:
    """Keep an order of the scans in a folder for a project; what is not a file of the folder is left out.

    ``seen`` are the marks of the scans before they were looked at, which may be hours ago: one that has changed since
    is not ranked. Raises ModelError. Without a cache nothing is kept.
    """
    seen = seen or {}

    def marks(scans: Sequence[Path]) -> list[str]:
        here = os.path.realpath(folder)
        return [
            seen.get(scan) or mark(scan) for scan in scans if scan.is_file() and os.path.realpath(scan.parent) == here
        ]

    ranked = marks([one.scan for one in found.ranked])
    last, done = marks([path for path, _why in found.unreadable]), marks([*found.corrected, *found.twice])
    order = {"version": _ORDER_VERSION, "model": model_checksum(model), "ranked": ranked, "last": last, "done": done}
    file = _file(folder, project)
    if file is not None and (ranked or done):
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text_durably(file, json.dumps(order) + "\n")


def kept_order(folder: Path, project: Path | None) -> KeptOrder | None:
    """Return the order that was found last, None where there is none (or a damaged one)."""
    file = _file(folder, project)
    try:
        entry = None if file is None else safe_json.read(file)
        if entry is None or entry["version"] != _ORDER_VERSION:
            return None
        ranked, last, done = (tuple(map(str, entry[name])) for name in ("ranked", "last", "done"))
        return KeptOrder(str(entry["model"]), ranked, last, frozenset(done))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def model_checksum(model: Path) -> str:
    """Return a checksum of a model's description, which holds that of its weights; raises ModelError."""
    return hashlib.sha256(read_model_entry(model, MODEL_FILE)).hexdigest()


def mark(scan: Path) -> str:
    """Return what a file is known by, a checksum of its name, size and time of change; empty for one that is gone."""
    try:
        facts = scan.stat()
    except OSError:
        return ""
    known = f"{scan.name}\n{facts.st_size}\n{facts.st_mtime_ns}"
    return hashlib.sha256(known.encode(errors="surrogateescape")).hexdigest()[:32]


def _file(folder: Path, project: Path | None) -> Path | None:
    """Return the file of the cache, None where the user has no home folder."""
    places = f"{os.path.realpath(folder)}\n{'' if project is None else os.path.realpath(project)}"
    name = hashlib.sha256(places.encode(errors="surrogateescape")).hexdigest()[:40]
    try:
        return cache_folder() / "scan-orders" / f"{name}.json"
    except RuntimeError:
        return None
