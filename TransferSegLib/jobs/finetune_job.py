"""The job that fine-tunes a model; an interrupted one continues from its folder when it is resumed.

Its parameters are those of ``FineTuneRequest``; its result is what ``FineTuned.to_json`` gives, and ``report``, the
same as a text for a person.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from TransferSegLib.jobs.kinds import Kind
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.progress import CancelToken, ProgressCallback

#: In the job's folder: what a resumed job continues from.
RUNS = "runs"


def run_finetune(request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken) -> dict[str, Any]:
    """Fine-tune, or continue; the result is described at the top."""
    started = time.monotonic()  # loading PyTorch takes some of the minutes
    from TransferSegLib.finetuning.finetune import finetune
    from TransferSegLib.finetuning.report import report_text
    from TransferSegLib.finetuning.request import FineTuneRequest

    wanted = FineTuneRequest.from_json(request.parameters, request.device, folder / RUNS)
    result = finetune(wanted, progress, cancel, tell=print, started=started).to_json()
    text = report_text(result)
    print(text)  # into the job's log
    return result | {"report": text}


#: The work looks several times a second whether to stop, and then writes a checkpoint. Being killed costs that
#: prediction, or the training steps since the last checkpoint.
FINETUNE = Kind(run_finetune, grace_s=4.0)
