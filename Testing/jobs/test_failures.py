"""Errors as they come from numpy, torch and the system, in a line for a person."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch

from TransferSegLib.errors import TrainingError
from TransferSegLib.jobs.failures import describe_failure


def test_memory_that_runs_out_on_the_host_and_on_a_gpu() -> None:
    errors: list[BaseException] = [torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")]
    for allocate in (np.empty, torch.empty):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            allocate(10**15)
        errors.append(caught.value)
    for error in errors:
        assert describe_failure(error).startswith("There is not enough memory"), error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TrainingError("Training went astray."), "Training went astray."),
        (OSError(errno.ENOSPC, "No space left", "model.part"), "The disk is full: model.part cannot be written."),
        (OSError(errno.ENOSPC, "No space left"), "The disk is full. Free some space"),
        (FileNotFoundError(errno.ENOENT, "No such file", "scan.nii"), "scan.nii is gone"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "PyTorch is not installed"),
        (ModuleNotFoundError("No module named 'h5py'", name="h5py"), "ModuleNotFoundError: No module named 'h5py'"),
        (RuntimeError("first line\nsecond line"), "An unexpected error: RuntimeError: first line; see log.txt."),
        (KeyError(), "An unexpected error: KeyError; see log.txt."),
    ],
)
def test_other_errors(error: BaseException, message: str) -> None:
    described = describe_failure(error)
    assert message in described and "\n" not in described
