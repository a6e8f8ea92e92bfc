"""Jobs that have not ended: one that is the same as a new one, and those on the same project."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from TransferSegLib.errors import JobError
from TransferSegLib.jobs.queue import AUTO
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.status import read_status
from TransferSegLib.jobs.store import list_jobs


@dataclass(frozen=True)
class Unfinished:
    """A job that runs or waits."""

    id: str
    state: str
    request: JobRequest

    def is_same(self, request: JobRequest) -> bool:
        """Tell whether it does what a request asks for, on the same device."""
        one, other = (
            json.dumps([each.kind, each.device, dict(each.parameters)], sort_keys=True)
            for each in (self.request, request)
        )
        return one == other

    def is_before(self, device: str) -> bool:
        """Tell whether a new job for a device waits until this one has ended."""
        return device in (self.request.device, AUTO) or self.request.device == AUTO


def unfinished_jobs(jobs: Path | None = None) -> Iterator[Unfinished]:
    """Yield the jobs that run or wait, the oldest first; one that cannot be read is left out."""
    for folder in list_jobs(jobs):
        try:
            status = read_status(folder)
        except (JobError, OSError):
            continue
        if not status.state.ended:
            yield Unfinished(folder.name, str(status.state), status.request)


def on_project(project: Path, jobs: Path | None = None) -> list[Unfinished]:
    """Return the unfinished fine-tunings of a project."""
    wanted = str(project.resolve())
    return [
        job
        for job in unfinished_jobs(jobs)
        if job.request.kind == "finetune" and _resolved(job.request.parameters.get("project")) == wanted
    ]


def _resolved(project: object) -> str:
    return str(Path(project).resolve()) if isinstance(project, str) else ""
