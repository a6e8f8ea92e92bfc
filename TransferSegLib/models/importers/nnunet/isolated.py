"""Reading a checkpoint of nnU-Net in a child process, so that a file made to do harm ends the child only.

A checkpoint is a pickle and may come from a stranger. Nothing in it can run (``checkpoint.py``), and what it may take
of memory and time is bound by its size. The child writes plain numbers to a .npy file for each array.

Run as ``python -m TransferSegLib.models.importers.nnunet.isolated FOLDER PATH [NAME_IN_ZIP]``.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from TransferSegLib.child_process import RESULT_FILE, IsolatedRead, read_in_child
from TransferSegLib.errors import ModelError
from TransferSegLib.models.importers.nnunet.source import NnUNetSource
from TransferSegLib.process_limits import is_out_of_memory, limit_this_process, own_limits
from TransferSegLib.progress import Task

if TYPE_CHECKING:
    from TransferSegLib.models.importers.nnunet.checkpoint import NnUNetCheckpoint

#: A file that takes longer than this, in seconds, hangs.
_LONGEST_S = 900
_MODULE = "TransferSegLib.models.importers.nnunet.isolated"


@dataclass(frozen=True)
class ReadCheckpoint:
    """A checkpoint, and the SHA-256 and the size in bytes of its file."""

    content: NnUNetCheckpoint
    sha256: str
    size: int


def read_checkpoint_isolated(source: NnUNetSource, fold: str, task: Task | None = None) -> ReadCheckpoint:
    """Return the checkpoint of a fold, read in a child process.

    Raises ModelError for whatever is wrong with the file, and when reading it crashes or hangs; Cancelled.
    """
    name = source.folds[fold]
    path, args = (source.path / name, ()) if source.path.is_dir() else (source.path, (name,))
    reading = IsolatedRead(_MODULE, path, ModelError, "Get the model again.", _LONGEST_S, args)
    with read_in_child(reading, task=task) as (folder, result):
        return _result(folder, result, path)


def _result(folder: Path, result: dict[str, Any], path: Path) -> ReadCheckpoint:
    """Return what a child found."""
    import torch

    from TransferSegLib.models.importers.nnunet.checkpoint import NnUNetCheckpoint

    try:
        arrays = [torch.from_numpy(np.load(folder / f"{n}.npy", allow_pickle=False)) for n in range(result["arrays"])]
    except (OSError, ValueError) as problem:  # not every full disk is noticed when it is written
        raise ModelError(
            f"{path} cannot be read: the disk with the folder for temporary files, {folder.parent}, is full."
        ) from problem
    weights = {str(name): arrays[number] for name, number in result["layers"].items()}
    content = NnUNetCheckpoint(
        str(result["configuration"]), str(result["trainer"]), tuple(result["mirror_axes_zyx"]), weights
    )
    return ReadCheckpoint(content, str(result["sha256"]), int(result["size"]))


def _main(folder: Path, path: Path, name: str | None) -> None:
    """Read one checkpoint and leave the result in the folder (the child's side)."""
    from TransferSegLib.models.importers.nnunet.checkpoint import read_checkpoint

    limits = own_limits()
    limit_this_process(limits)
    source = NnUNetSource(path if name else path.parent, "", "", {"": name or path.name})
    where = f"{path}: {name}" if name else str(path)
    result: dict[str, Any]
    try:
        content = source.checkpoint("")
        found = read_checkpoint(io.BytesIO(content), where)
        result = {
            "configuration": found.configuration,
            "trainer": found.trainer,
            "mirror_axes_zyx": found.mirror_axes_zyx,
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
            **_write(folder, found),
        }
    except ModelError as error:
        result = {"error": str(error)}
    except (OSError, MemoryError, RuntimeError) as error:
        if limits is not None and is_out_of_memory(error):
            result = {"error": limits.memory_text(path)}
        else:
            result = {"error": f"{where} cannot be read: {str(error) or 'there is not enough memory'}."}
    (folder / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")


def _write(folder: Path, found: NnUNetCheckpoint) -> dict[str, Any]:
    """Write each array once, under the first of its names; return which array each name has."""
    from TransferSegLib.models.importers.nnunet.checkpoint import different_arrays, place_of

    numbers = {}
    for number, (place, values) in enumerate(different_arrays(found.weights).items()):
        np.save(folder / f"{number}.npy", values.float().contiguous().numpy(), allow_pickle=False)
        numbers[place] = number
    return {
        "arrays": len(numbers),
        "layers": {name: numbers[place_of(values)] for name, values in found.weights.items()},
    }


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
