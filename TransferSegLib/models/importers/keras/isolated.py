"""Reading a Keras file in a child process, so that a file which crashes the HDF5 library ends the child only.

The HDF5 library reads damaged structures without checking all of them, and a file may come from a stranger. The child
writes the checked arrays to a temporary .npz file, and what it found, or the error, to a JSON file beside it.

Run as ``python -m TransferSegLib.models.importers.keras.isolated FOLDER FILE``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from TransferSegLib.child_process import RESULT_FILE, IsolatedRead, read_in_child
from TransferSegLib.errors import ModelError
from TransferSegLib.models.importers.keras.network import KerasArrays, read_arrays
from TransferSegLib.networks.interface import NetworkSpec
from TransferSegLib.process_limits import is_out_of_memory, limit_this_process, own_limits
from TransferSegLib.progress import Task

#: A file that takes longer than this, in seconds, hangs.
_LONGEST = 900
_ARRAYS = "arrays.npz"


def read_arrays_isolated(path: Path, interpreter: Path | None = None, task: Task | None = None) -> KerasArrays:
    """Return a file's checked arrays, read in a child process by ``interpreter`` (None: find one).

    Raises ModelError for whatever is wrong with the file, and when reading it crashes or hangs; Cancelled.
    """
    reading = IsolatedRead(
        "TransferSegLib.models.importers.keras.isolated", path, ModelError, "Get it again.", _LONGEST
    )
    with read_in_child(reading, interpreter, task=task) as (folder, result):
        return _result(folder, result)


def _result(folder: Path, result: dict[str, Any]) -> KerasArrays:
    try:
        with np.load(folder / _ARRAYS, allow_pickle=False) as stored:
            arrays = tuple(stored[f"arr_{number}"] for number in range(len(stored.files)))
    except (OSError, ValueError, KeyError, BadZipFile) as problem:  # not every full disk is noticed when it is written
        raise ModelError(
            f"The file cannot be read: the disk with the folder for temporary files, {folder.parent}, is full."
        ) from problem
    return KerasArrays(
        NetworkSpec(**result["network"]),
        arrays,
        keras_version=str(result["keras_version"]),
        backend=str(result["backend"]),
        layers_checked=bool(result["layers_checked"]),
    )


def _main(folder: Path, path: Path) -> None:
    """Read one file and leave the result in the folder (the child's side)."""
    result: dict[str, object]
    limits = own_limits()
    limit_this_process(limits)
    try:
        found = read_arrays(path)
        np.savez(folder / _ARRAYS, *found.arrays)
        result = {
            "network": asdict(found.network),
            "keras_version": found.keras_version,
            "backend": found.backend,
            "layers_checked": found.layers_checked,
        }
    except ModelError as error:
        result = {"error": str(error)}
    except (OSError, MemoryError) as error:
        if limits is not None and is_out_of_memory(error):
            result = {"error": limits.memory_text(path)}
        else:
            result = {"error": f"{path} cannot be read: {str(error) or 'there is not enough memory'}."}
    (folder / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
