"""Ranking the scans of a folder in the background: a job looks at them with a model, and keeps the order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from TransferSegGui.attached_job import AttachedJob
from TransferSegLib.errors import TransferSegError
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.suggest_job import SuggestParameters
from TransferSegLib.models.locate import find_model


class RankProcess(AttachedJob):
    """One ranking; use each object once.

    >>> run = RankProcess(folder, scanFiles(folder), project, "head-neck-ct")
    >>> run.onEnd = lambda run: print(run.error or run.result["ranked"][0]["scan"])
    >>> run.start()

    At the end ``corrections.kept_order`` knows the order. What was seen until it was cancelled is kept, too.
    """

    def __init__(
        self, folder: Path, scans: Sequence[Path], project: Path | None, model: str, device: str = "auto"
    ) -> None:
        """Describe the run: ``scans`` are files of the folder, ``model`` is a name or path."""
        super().__init__()
        self.scans = tuple(scans)
        self._folder, self._project, self._model, self._device = folder, project, model, device

    def start(self) -> None:
        """Start the job; raises RuntimeError when it cannot be."""
        try:
            parameters = SuggestParameters(
                str(self._folder.absolute()),
                tuple(str(scan.absolute()) for scan in self.scans),
                None if self._project is None else str(self._project.absolute()),
                str(find_model(self._model)),
            )
            self.begin(JobRequest("suggest", parameters.to_json(), self._device))
        except (TransferSegError, RuntimeError) as error:
            self.removeFiles()
            raise RuntimeError(str(error)) from error
