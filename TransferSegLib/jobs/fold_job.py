"""The job that trains and compares the candidate of one fold, for a fine-tuning that another process leads.

Its parameters are those of ``FoldTraining``. What it makes it leaves in the folder of that run, where it also continues
from when it is begun again; its result names the candidate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from TransferSegLib.jobs.kinds import Kind
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.progress import CancelToken, ProgressCallback


def run_fold(request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken) -> dict[str, Any]:
    """Train and compare, or continue."""
    from TransferSegLib.finetuning.fold_worker import FoldTraining, train_fold

    said = train_fold(FoldTraining.from_json(request.parameters), request.device, progress, cancel)
    print(said)  # into the job's log
    return {"trained": said}


#: Less than the process that leads the run has to stop in.
FINETUNE_FOLD = Kind(run_fold, grace_s=3.0)
