"""The kinds of work that jobs can do. A further kind is a function and a line in ``KINDS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from TransferSegLib.errors import JobError, TransferSegError
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.progress import CancelToken, ProgressCallback

#: ``(request, folder, progress, cancel)`` to a result of JSON values. It runs in the worker's main thread, continues
#: from what an earlier worker left in the job's folder, keeps there what a later one needs, and raises TransferSegError
#: for a person, Cancelled when asked to stop.
KindFunction = Callable[[JobRequest, Path, ProgressCallback, CancelToken], dict[str, Any]]


@dataclass(frozen=True)
class Kind:
    """A kind of work: its function, and how long it may take to stop by itself before its process is killed.

    One that does not compute (``uses_device`` False) waits for no other job, and no other waits for it.
    """

    run: KindFunction
    grace_s: float = 10.0
    uses_device: bool = True


#: By name, where each kind is found: ``module:attribute``, imported by the worker only.
KINDS: Mapping[str, str] = {
    "segment": "TransferSegLib.jobs.segment_job:SEGMENT",
    "learn-here": "TransferSegLib.jobs.learn_here_job:LEARN_HERE",
    "suggest": "TransferSegLib.jobs.suggest_job:SUGGEST",
    "save": "TransferSegLib.jobs.save_job:SAVE",
    "train-base": "TransferSegLib.jobs.train_base_job:TRAIN_BASE",
    "finetune": "TransferSegLib.jobs.finetune_job:FINETUNE",
    "finetune-fold": "TransferSegLib.jobs.fold_job:FINETUNE_FOLD",
    "fetch-model": "TransferSegLib.jobs.fetch_job:FETCH",
}


class PartlyDone(TransferSegError):
    """Raised by a kind that did part of its work: ``result`` is kept, the job counts as failed."""

    def __init__(self, message: str, result: dict[str, Any]) -> None:
        """Fail with a message for a person and the result of what was done."""
        super().__init__(message)
        self.result = result


def find_kind(name: str, kinds: Mapping[str, str] = KINDS) -> Kind:
    """Return a kind by its name; raises JobError, listing the known ones, when there is none."""
    if name not in kinds:
        raise JobError(f"This version of TransferSeg has no jobs of the kind '{name}'. It has: {', '.join(kinds)}.")
    module, _, attribute = kinds[name].partition(":")
    kind = getattr(import_module(module), attribute)
    assert isinstance(kind, Kind)
    return kind
