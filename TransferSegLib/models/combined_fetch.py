"""Fetching a combination: its parts one by one, then the file that joins them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from TransferSegLib.durable_writing import flush_folder, move, write_text_durably
from TransferSegLib.errors import ModelError
from TransferSegLib.json_fields import json_bytes
from TransferSegLib.models.catalogue import CatalogueEntry
from TransferSegLib.models.combination import COMBINATION_FILE, Combination, is_combination, load_combination
from TransferSegLib.models.library import Added, changing, fetch_model
from TransferSegLib.models.locate import catalogue, find_library_model
from TransferSegLib.models.recovery import NEW, REPLACED
from TransferSegLib.progress import CancelToken, ProgressCallback, Task

if TYPE_CHECKING:
    import requests


@dataclass(frozen=True)
class FetchedCombination:
    """A combination in the library: its folder, what it says, and its parts as they were fetched or found."""

    path: Path
    combination: Combination
    parts: tuple[Added, ...]

    @property
    def was_there(self) -> bool:
        """Whether every part was in the library already."""
        return all(part.was_there for part in self.parts)


def combination_entry(name: str) -> CatalogueEntry | None:
    """Return the catalogue's entry of that name if it is a combination."""
    entry = catalogue().find(name)
    return entry if entry is not None and entry.parts else None


def fetch_combination(
    entry: CatalogueEntry,
    library: Path,
    replace: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    session: requests.Session | None = None,
) -> FetchedCombination:
    """Fetch those parts of a combination that are not in the library, and add the combination.

    What was fetched of the parts before an error or Cancelled stays. Raises as ``fetch_model`` does.
    """
    combination = Combination.of(entry)
    _check_free(entry.name, library)
    task, parts = Task("", progress, cancel), []
    for number, name in enumerate(entry.parts):
        here = task.share(number, len(entry.parts)).named(f"Model {number + 1} of {len(entry.parts)}")
        parts.append(fetch_model(name, library, replace, session=session, task=here))
    return FetchedCombination(_add(combination, library, task), combination, tuple(parts))


def _check_free(name: str, library: Path) -> Path | None:
    """Return the combination of that name in a library, or None; raises ModelError for a model of that name."""
    existing = find_library_model(name, library)
    if existing is not None and not is_combination(existing):
        raise ModelError(f"There is a model '{name}' in the library already ({existing}): remove it first.")
    return existing


def _add(combination: Combination, library: Path, task: Task) -> Path:
    """Write a combination's folder; one that is there and says the same stays."""
    with changing(library, task.cancel) as work:
        existing = _check_free(combination.name, library)
        if existing is not None and load_combination(existing) == combination:
            return existing
        target = existing or library / combination.name
        if existing is None and target.exists():
            raise ModelError(f"{target} exists already, and is no model: move it away first.")
        written = work / NEW / combination.name
        written.mkdir(parents=True)
        write_text_durably(written / COMBINATION_FILE, json_bytes(combination.to_json()).decode("utf-8"))
        if existing is not None:
            (work / REPLACED).mkdir()
            move(existing, work / REPLACED / existing.name)
        move(written, target)
        flush_folder(library, required=False)
    return target
