"""Reading a Keras file in a child process, so that a file which crashes the HDF5 library ends the child only.

The HDF5 library reads damaged structures without checking all of them, and a file may come from a stranger. The child
writes the checked arrays to a temporary .npz file, and what it found, or the error, to a JSON file beside it.

Run as ``python -m TransferSegLib.models.keras_isolated FOLDER FILE``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from TransferSegLib.errors import ModelError
from TransferSegLib.models.description import NetworkDescription
from TransferSegLib.models.keras_network import KerasArrays, read_arrays

#: A file that takes longer than this, in seconds, hangs.
_LONGEST = 900
_RESULT, _ARRAYS = "result.json", "arrays.npz"


def read_arrays_isolated(path: Path, interpreter: Path | None = None) -> KerasArrays:
    """Return a file's checked arrays, read in a child process by ``interpreter`` (None: find one).

    Raises ModelError for whatever is wrong with the file, and when reading it crashes or hangs.
    """
    # SimpleITK comes with it, which nothing else in this room needs.
    from TransferSegLib.scans.isolated_reading import find_interpreter

    python = interpreter or find_interpreter()
    if python is None:
        raise ModelError(f"{path} can only be read with a Python interpreter, and none was found.")
    with tempfile.TemporaryDirectory(prefix="transferseg-") as folder:
        command = [str(python), "-P", "-m", "TransferSegLib.models.keras_isolated", folder, str(path.absolute())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        try:
            done = subprocess.run(  # noqa: S603 - the command is this library's own
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_LONGEST,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ModelError(f"{path} cannot be read: {error}.") from error
        result_path = Path(folder) / _RESULT
        if done.returncode != 0 or not result_path.is_file():
            reason = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            detail = f" ({reason[0][:200]})" if reason and done.returncode > 0 else ""
            raise ModelError(f"{path} crashes its reader{detail}: it is damaged. Get it again.")
        return _result(Path(folder), json.loads(result_path.read_text(encoding="utf-8")))


def _result(folder: Path, result: dict[str, object]) -> KerasArrays:
    """Return what the child left in the folder; raises the ModelError that it reports."""
    if "error" in result:
        raise ModelError(str(result["error"]))
    with np.load(folder / _ARRAYS, allow_pickle=False) as stored:
        arrays = tuple(stored[f"arr_{number}"] for number in range(len(stored.files)))
    return KerasArrays(
        NetworkDescription.from_json(result["network"]),
        arrays,
        keras_version=str(result["keras_version"]),
        backend=str(result["backend"]),
        layers_checked=bool(result["layers_checked"]),
    )


def _main(folder: Path, path: Path) -> None:
    """Read one file and leave the result in the folder (the child's side)."""
    result: dict[str, object]
    try:
        found = read_arrays(path)
        np.savez(folder / _ARRAYS, *found.arrays)
        result = {
            "network": found.network.to_json(),
            "keras_version": found.keras_version,
            "backend": found.backend,
            "layers_checked": found.layers_checked,
        }
    except ModelError as error:
        result = {"error": str(error)}
    except (OSError, MemoryError) as error:
        result = {"error": f"{path} cannot be read: {str(error) or 'there is not enough memory'}."}
    (folder / _RESULT).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
