"""A training run on disk: the state to go on from, written so that no moment leaves it half-written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from TransferSegLib.durable_writing import replace_file
from TransferSegLib.errors import TrainingError
from TransferSegLib.own_files import new_file

#: Raised when the content of a checkpoint changes in a way older ones cannot answer.
CHECKPOINT_VERSION = 1
#: In the output folder of a training of a base model: what it goes on from, and the best model so far.
CHECKPOINT, MODEL = "checkpoint.pt", "model"


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors, numbers, strings, lists and dictionaries; raises TrainingError if the disk refuses."""
    import torch

    part = path.with_name(path.name + ".part")
    try:
        with new_file(part) as stream:
            torch.save({"checkpoint_version": CHECKPOINT_VERSION, **state}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        replace_file(part, path)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise TrainingError(
            f"The checkpoint {path} could not be written ({error}). The one before is untouched; free some disk space."
        ) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a state written by ``write_checkpoint``; raises TrainingError when it is damaged or of another version."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a damaged file
        model = path.with_name(MODEL)
        first = f", and move the folder {model} away first: it holds the best model so far" if model.is_dir() else ""
        raise TrainingError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}). Delete it to start this training again"
            f"{first}."
        ) from error
    if not isinstance(state, dict) or state.get("checkpoint_version") != CHECKPOINT_VERSION:
        raise TrainingError(
            f"The checkpoint {path} was written by another version of TransferSeg and cannot be resumed."
        )
    return state
