"""The worker of a study's jobs: ``TransferSegLib.jobs.worker`` with two more kinds, run on the nodes of a cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from TransferSegLib.jobs.kinds import KINDS, Kind
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.worker import main
from TransferSegLib.progress import CancelToken, ProgressCallback

#: A run or a base is stopped by ending its process: the next attempt makes a run anew, and resumes a base.
_GRACE_S = 0.5


def _kind(module: str, function: str) -> Kind:
    """Return the kind of job that does what a worker process of this study does."""

    def run(request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken) -> dict[str, Any]:
        from importlib import import_module

        work: Callable[[dict[str, Any], Path], dict[str, Any]] = getattr(import_module(module), function)
        place = Path(request.parameters["place"])
        place.mkdir(parents=True, exist_ok=True)
        # As text: the result of a job is strict JSON, and a distance to a structure that was not found is infinite.
        return {"json": json.dumps(work(dict(request.parameters), place))}

    return Kind(run, _GRACE_S)


RUN = _kind("Testing.research.study.run_worker", "make_run")
BASE = _kind("Testing.research.study.base_worker", "make_base")
#: By the modules of the processes that do the same on one computer.
KIND_OF = {"run_worker": "study-run", "base_worker": "study-base"}

if __name__ == "__main__":
    here = "Testing.research.study.job_worker"
    sys.exit(main(kinds={**KINDS, "study-run": f"{here}:RUN", "study-base": f"{here}:BASE"}))
