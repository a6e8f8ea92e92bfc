"""What a fine-tuning keeps on the disk while it runs, so that it can be killed at any moment and resumed.

The folder's name is a hash of everything that decides the result (cases by content, parent, settings). The same request
made again resumes the run; another one begins a folder of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from TransferSegLib import safe_json
from TransferSegLib.datasets.dataset import Dataset, read_dataset, write_dataset
from TransferSegLib.durable_writing import move, replace_file, write_text_durably
from TransferSegLib.errors import DatasetError, ModelError, TrainingError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.models.archive import MODEL_FILE, parse_model_file, read_model_entry, read_model_files
from TransferSegLib.models.store import write_files
from TransferSegLib.output_checks import why_no_folder
from TransferSegLib.own_files import is_link, make_private, make_private_folder, new_file, refuse_links
from TransferSegLib.progress import Parts, Task
from TransferSegLib.training.checkpoint import read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    from TransferSegLib.finetuning.all_layers import Leader
    from TransferSegLib.finetuning.plan import FineTuningPlan
    from TransferSegLib.finetuning.request import FineTuneRequest
    from TransferSegLib.finetuning.side_by_side import FoldWorkers
    from TransferSegLib.inference.devices import Device

#: In a project's folder: runs that were begun there and have not ended.
RUNS_NAME = ".fine-tuning"
_LOCK, _SPENT = "in-use.lock", "spent.json"
#: What was decided before the first candidate; a resumed run keeps to it.
PLAN = "plan.json"
#: A folder with the cases of the run.
_CASES = "cases"
#: A run that was not resumed for so long is removed.
_FORGOTTEN_S = 14 * 24 * 3600.0


class RunFolder:
    """The folder of one run; use it in a ``with`` statement, which locks other processes out of the same run."""

    def __init__(self, runs: Path, identity: dict[str, Any]) -> None:
        """Name the folder of a run among others; entering makes it."""
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode("utf-8")).hexdigest()
        self.folder = runs / f"run-{digest[:16]}"
        self._lock: FileLock | None = None

    def __enter__(self) -> RunFolder:
        """Make and lock the folder; raises TrainingError when it cannot be written or another process has it."""
        runs = self.folder.parent
        refuse_links(runs.parent, self.folder, self.folder / "parent", error_type=TrainingError)
        try:
            make_private_folder(runs, parents=True, exist_ok=True)
            make_private_folder(self.folder, exist_ok=True)
            make_private(self.folder)
        except OSError as error:
            raise TrainingError(f"{self.folder} cannot be made: {why_no_folder(self.folder, error)}.") from error
        message = (
            f"This very fine-tuning is running already (in {self.folder}), so nothing was started. Wait for its "
            "result, or stop it and give the command again: it goes on where it was."
        )
        lock = FileLock(self.folder / _LOCK, 1.0, message, TrainingError)
        lock.acquire()
        self._lock = lock
        _forget_old(self.folder.parent, self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Unlock the folder; its files stay."""
        if self._lock is not None:
            self._lock.release()

    def remove(self) -> None:
        """Remove the folder of a run whose result is safe elsewhere."""
        if self._lock is not None:
            self._lock.release()
        _remove(self.folder)
        with suppress(OSError):  # not empty: there are other runs
            self.folder.parent.rmdir()

    def pin(self, model: Path, sha256: str) -> Path:
        """Return a copy of a model whose weights have this checksum.

        The original may be replaced or removed during the run. Raises ModelError when the model cannot be read, and
        TrainingError when it was replaced since its checksum was taken, or its copy cannot be written.
        """
        copy, part = self.folder / "parent", self.folder / "parent.part"
        if _checksum(copy) == sha256:
            return copy
        files = read_model_files(model)
        if parse_model_file(files[MODEL_FILE], str(model))[1].sha256 != sha256:
            raise TrainingError(f"The model {model} was replaced while this fine-tuning began: give the command again.")
        try:
            for folder in (part, copy):
                shutil.rmtree(folder, ignore_errors=True)
            make_private_folder(part)
            write_files(part, files)
            move(part, copy)
        except OSError as error:
            raise self._unwritable(copy.name, error) from error
        return copy

    def keep_cases(self, dataset: Dataset) -> None:
        """Keep which cases the run has, with the files of the revisions that it began with, for its workers."""
        try:
            write_dataset(dataset, self.folder / _CASES)
        except DatasetError as error:
            raise TrainingError(str(error)) from error

    def kept_cases(self) -> Dataset:
        """Return what ``keep_cases`` has kept; raises DatasetError."""
        return read_dataset(self.folder / _CASES)

    def has(self, name: str) -> bool:
        """Tell whether an entry is there, also where another computer has written it.

        The folder is listed: asked for a single file that was not there, a network file system may remember that.
        """
        try:
            return any(one.name == name for one in self.folder.iterdir())
        except OSError:
            return False

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return an entry that was written, None when there is none or it is damaged: then it is made again."""
        try:
            content = safe_json.read(self.folder / name)
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write an entry, whole or not at all; raises TrainingError."""
        self._touch()
        try:
            write_text_durably(self.folder / name, json.dumps(content, allow_nan=False) + "\n")
        except OSError as error:
            raise self._unwritable(name, error) from error

    @property
    def spent_s(self) -> float:
        """Seconds that earlier processes have spent on this run, 0 when it was not begun."""
        seconds = (self.read_json(_SPENT) or {}).get("seconds")
        return float(seconds) if isinstance(seconds, (int, float)) and seconds > 0 else 0.0

    @property
    def reached(self) -> float:
        """How much of the run (0 to 1) earlier processes have done, 0 when it was not begun."""
        fraction = (self.read_json(_SPENT) or {}).get("fraction")
        return float(fraction) if isinstance(fraction, (int, float)) and 0 < fraction < 1 else 0.0

    def write_spent(self, seconds: float, fraction: float = 0.0) -> None:
        """Keep what was spent, all processes together, and how much is done; raises TrainingError."""
        self.write_json(_SPENT, {"seconds": seconds, "fraction": fraction})

    def read_array(self, name: str) -> np.ndarray | None:
        """Return an array that was written, None when there is none or it is damaged."""
        try:
            with np.load(self.folder / name, allow_pickle=False) as content:
                return np.asarray(content["values"])
        except Exception:  # numpy raises many kinds of error for a damaged file
            return None

    def write_array(self, name: str, values: np.ndarray) -> None:
        """Write an array, whole or not at all; raises TrainingError."""
        part = self.folder / (name + ".part")
        try:
            with new_file(part) as stream:
                np.savez_compressed(stream, values=values)
                stream.flush()
                os.fsync(stream.fileno())
            replace_file(part, self.folder / name)
        except OSError as error:
            raise self._unwritable(name, error) from error

    def read_state(self, name: str) -> dict[str, Any] | None:
        """Return a training's state, None when there is none or it is damaged: then that part is trained again."""
        try:
            return read_checkpoint(self.folder / name) if (self.folder / name).exists() else None
        except TrainingError:
            return None

    def write_state(self, name: str, state: dict[str, Any]) -> None:
        """Write a training's state; raises TrainingError when it cannot be written."""
        self._touch()
        write_checkpoint(self.folder / name, state)

    def forget(self, name: str) -> None:
        """Remove what is not needed any more."""
        with suppress(OSError):
            (self.folder / name).unlink()

    def _touch(self) -> None:
        """Mark the run as in use; raises TrainingError when its folder is gone."""
        try:
            os.utime(self.folder)
        except OSError as error:
            raise TrainingError(f"The folder {self.folder} is gone or cannot be reached: {error.strerror}.") from error

    def _unwritable(self, name: str, error: OSError) -> TrainingError:
        return TrainingError(
            f"{self.folder / name} cannot be written ({error.strerror or error}). What was done before is kept: free "
            "some disk space and give the same command again."
        )


class Run:
    """What the parts of one fine-tuning share: plan, folder, device, progress, and the time spent by all its processes.

    ``plan`` changes on the way: a strategy is chosen, and what there is no time for is left out.
    """

    def __init__(
        self,
        plan: FineTuningPlan,
        folder: RunFolder,
        task: Task,
        clock: Callable[[], float],
        started: float,
        leader: Leader,
        workers: FoldWorkers | None = None,
    ) -> None:
        """Begin or resume a run in a process that started at a moment of the clock."""
        self.plan, self.folder, self.clock = plan, folder, clock
        #: Of the processes that train all layers together.
        self.leader = leader
        #: Those that train the candidates of the folds; None: this process does.
        self.workers = workers
        if workers is not None:
            folder.keep_cases(plan.dataset)
        self.parent_copy = folder.pin(plan.parent_path, plan.reference.sha256)
        self.device = self._device(leader.processes.device(plan.request.device))
        self.limit_s = 60.0 * plan.request.minutes
        self._started = started
        #: What the processes before have spent.
        self.earlier_s = folder.spent_s
        self.cancel = task.cancel
        self._task = task
        task.begin_at(folder.reached)
        self.parts = Parts(task, clock, self.earlier_s)
        self.parts.limit_s = self.limit_s or None
        #: Lines for the version's log.
        self.log: list[str] = []

    @property
    def spent_s(self) -> float:
        """Seconds spent so far."""
        return self.earlier_s + self.clock() - self._started

    @property
    def left_s(self) -> float:
        """Seconds left; below 0 when more were spent than given."""
        return self.limit_s - self.spent_s

    def save_time(self) -> None:
        """Keep what is spent, and how much is done."""
        self.folder.write_spent(self.spent_s, self._task.reached)

    def _device(self, wanted: str) -> Device:
        """Return the device, in the precision in which a resumed run was begun."""
        import torch

        from TransferSegLib.inference.devices import choose_device

        decided = self.folder.read_json(PLAN)
        return choose_device(wanted, None if decided is None else getattr(torch, str(decided["precision"])))


def _checksum(model: Path) -> str | None:
    """Return the checksum of a model's weights as its description has it, None where there is none."""
    try:
        return parse_model_file(read_model_entry(model, MODEL_FILE), str(model))[1].sha256
    except ModelError:
        return None


def runs_of(request: FineTuneRequest) -> Path:
    """Return the folder in which an interrupted run is kept."""
    return request.project / RUNS_NAME if request.runs is None else request.runs


def running(runs: Path) -> list[Path]:
    """Return the folders of the runs that some process is at."""
    found = []
    for folder in sorted(runs.glob("run-*")):
        try:
            if (folder / _LOCK).is_file() and not is_link(folder):
                with FileLock(folder / _LOCK, 0.0, "in use", TrainingError):
                    pass
        except TrainingError as error:
            if error.__cause__ is None:  # else it cannot be locked at all
                found.append(folder)
    return found


def _forget_old(runs: Path, current: Path) -> None:
    """Remove runs that were not resumed for two weeks and are not in use."""
    for folder in runs.glob("run-*"):
        with suppress(OSError, TrainingError):
            if folder != current and not is_link(folder) and time.time() - folder.stat().st_mtime > _FORGOTTEN_S:
                with FileLock(folder / _LOCK, 0.0, "in use", TrainingError):
                    pass
                _remove(folder)


def _remove(folder: Path) -> None:
    """Rename a folder away, then remove it, so that half of one is never taken for a run."""
    with suppress(OSError):
        folder = folder.rename(folder.with_name(f".removed-{folder.name}-{os.getpid()}"))
    shutil.rmtree(folder, ignore_errors=True)
