"""The job that ranks the scans of a folder, as ``transferseg cases suggest`` does, and keeps the order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from TransferSegLib.errors import JobError
from TransferSegLib.jobs.kinds import Kind
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.json_fields import damage_as
from TransferSegLib.progress import CancelToken, ProgressCallback, Task


@dataclass(frozen=True)
class SuggestParameters:
    """What is ranked; the job's request carries ``to_json()`` as its parameters. All paths are absolute.

    ``scans`` are files of ``folder``, ``project`` is the folder of the cases (None: none), which need not exist yet,
    ``model`` a name or path (None: the bundled one).
    """

    folder: str
    scans: tuple[str, ...]
    project: str | None = None
    model: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self) | {"scans": list(self.scans)}

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> SuggestParameters:
        """Read what ``to_json`` wrote; raises JobError for anything else."""
        with damage_as(JobError, "The parameters of the job are"):
            return SuggestParameters(**{**entry, "scans": tuple(map(str, entry["scans"]))})


def run_suggest(request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken) -> dict[str, Any]:
    """Rank the scans and keep the order; the result is that of ``cases suggest --json``."""
    from TransferSegLib.corrections.kept_order import keep_order, mark
    from TransferSegLib.corrections.project import Project
    from TransferSegLib.corrections.suggestion import suggest
    from TransferSegLib.datasets.dataset import FILE_NAME
    from TransferSegLib.models.locate import find_model

    asked = SuggestParameters.from_json(request.parameters)
    model, project = find_model(asked.model), Path(asked.project) if asked.project else None
    state = Project(project).state() if project is not None and (project / FILE_NAME).exists() else None
    scans = [Path(scan) for scan in asked.scans]
    seen = {scan: mark(scan) for scan in scans}
    found = suggest(scans, model, state, device=request.device, task=Task("", progress, cancel))
    if not found.ranked and not found.corrected:
        scan, why = found.unreadable[0] if found.unreadable else (Path(asked.folder), "there is no scan in it")
        why = why.replace(str(scan), scan.name)
        raise JobError(f"None of the scans can be used. {why if scan.name in why else f'{scan.name}: {why}'}")
    keep_order(found, Path(asked.folder), model, project, seen)
    return {"folder": asked.folder, "model": str(model), **found.to_json()}


#: Being killed costs the scan that it was at; what was seen of the others is in the user's cache.
SUGGEST = Kind(run_suggest, grace_s=4.0)
