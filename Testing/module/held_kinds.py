"""What the panel does in the background, each piece held until the test lets it go on; see ``held_jobs``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from TransferSegLib.jobs.kinds import Kind, KindFunction
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.segment_job import SEGMENT as _SEGMENT
from TransferSegLib.jobs.suggest_job import SUGGEST as _SUGGEST
from TransferSegLib.progress import CancelToken, ProgressCallback

#: The environment variable with the folder in which a job tells that it has begun, and looks whether it may go on.
PLACE = "TRANSFERSEG_HELD_JOBS"


def _held(run: KindFunction) -> KindFunction:
    """Return the work, which a job begins once it has got one of the test's permits."""

    def held(request: JobRequest, folder: Path, progress: ProgressCallback, cancel: CancelToken) -> dict[str, Any]:
        place = Path(os.environ[PLACE])
        (place / f"begun {os.getpid()}").touch()
        _wait_until(lambda: any(_take(permit) for permit in place.glob("permit *")), cancel)
        return run(request, folder, progress, cancel)

    return held


def _wait_until(condition: Callable[[], bool], cancel: CancelToken) -> None:
    while not condition():
        cancel.check()
        time.sleep(0.02)


def _take(permit: Path) -> bool:
    """Take a permit, unless another job was faster."""
    try:
        permit.unlink()
    except FileNotFoundError:
        return False
    return True


SEGMENT: Kind = replace(_SEGMENT, run=_held(_SEGMENT.run))
SUGGEST: Kind = replace(_SUGGEST, run=_held(_SUGGEST.run))
