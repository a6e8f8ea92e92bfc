"""The job that fetches a model of the catalogue into the library; a resumed one keeps what has arrived.

Its parameters: ``name`` of the model or combination, ``library`` (a folder, null: the user's), ``replace``,
``spacing_mm`` (null: the catalogue's). Its result: ``model``, the name; ``path``, where it lies; ``was_there``: nothing
had to be fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from TransferSegLib.errors import JobError
from TransferSegLib.jobs.kinds import Kind
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.json_fields import damage_as
from TransferSegLib.progress import CancelToken, ProgressCallback


@dataclass(frozen=True)
class FetchParameters:
    """What to fetch, as ``TransferSegLib.models.library.fetch_model`` takes it."""

    name: str
    library: Path | None = None
    replace: bool = False
    spacing_mm: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; the library's folder becomes absolute, because a job runs in another folder."""
        library = None if self.library is None else str(self.library.absolute())
        return {"name": self.name, "library": library, "replace": self.replace, "spacing_mm": self.spacing_mm}

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> FetchParameters:
        """Read what ``to_json`` wrote; raises JobError for anything else."""
        with damage_as(JobError, "The parameters of the job are"):
            library, spacing_mm = entry.get("library"), entry.get("spacing_mm")
            return FetchParameters(
                str(entry["name"]),
                None if library is None else Path(library),
                bool(entry.get("replace", False)),
                None if spacing_mm is None else float(spacing_mm),
            )


def run_fetch(request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken) -> dict[str, Any]:
    """Fetch, or continue; the result is described at the top."""
    from TransferSegLib.models.combined_fetch import combination_entry, fetch_combination
    from TransferSegLib.models.library import fetch_model
    from TransferSegLib.models.locate import library_folder

    wanted = FetchParameters.from_json(request.parameters)
    library = wanted.library or library_folder()
    entry = combination_entry(wanted.name)
    if entry is not None:
        fetched = fetch_combination(entry, library, wanted.replace, progress, cancel)
        return {"model": entry.name, "path": str(fetched.path), "was_there": fetched.was_there}
    added = fetch_model(wanted.name, library, wanted.replace, progress, cancel, spacing_mm=wanted.spacing_mm)
    return {"model": added.description.name, "path": str(added.path), "was_there": added.was_there}


#: It waits for the network, not for a device: it runs beside a training.
FETCH = Kind(run_fetch, grace_s=5.0, uses_device=False)
