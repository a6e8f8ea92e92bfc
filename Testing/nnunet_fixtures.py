"""Models of nnU-Net v2 with the real package's predictions, from ``Testing/Data/nnunet``.

``imported`` reads them in this process: a child for each, which loads torch, would take the tests minutes.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import SimpleITK as sitk

from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.importers.nnunet import convert
from TransferSegLib.models.importers.nnunet.isolated import ReadCheckpoint
from TransferSegLib.models.importers.nnunet.source import NnUNetSource, find_source
from TransferSegLib.progress import Task

if TYPE_CHECKING:
    import torch

FOLDER = Path(__file__).parent / "Data" / "nnunet"
RESIDUAL, REGIONS, OLD, TRAINED = (
    "residual_anisotropic_2_folds",
    "regions_2_images",
    "old_plans_fold_all",
    "trained_hippocampus",
)
NAMES = (RESIDUAL, REGIONS, OLD, TRAINED)


@dataclass(frozen=True)
class NnUNetFixture:
    """One model: its zip file, the images of a scan, and what nnunetv2 made of them."""

    name: str

    @property
    def path(self) -> Path:
        return FOLDER / self.name

    @property
    def model(self) -> Path:
        """What ``nnUNetv2_export_model_to_zip`` writes."""
        return self.path / "model.zip"

    @property
    def images(self) -> list[Path]:
        return sorted(self.path.glob("case_*.nii.gz"))

    @cached_property
    def settings(self) -> dict[str, Any]:
        return json.loads((self.path / "reference.json").read_text(encoding="utf-8"))

    @property
    def step(self) -> float:
        """nnU-Net's tile_step_size: by which share of a window the next one begins later."""
        return float(self.settings["step"])

    @property
    def mirror(self) -> bool:
        return bool(self.settings["mirror"])

    @cached_property
    def labels(self) -> np.ndarray:
        """The label map of nnU-Net (zyx)."""
        return sitk.GetArrayFromImage(sitk.ReadImage(str(self.path / "segmentation.nii.gz")))

    @property
    def preprocessed_shape(self) -> tuple[int, ...]:
        return tuple(self.settings["preprocessed_shape"])

    @cached_property
    def preprocessed(self) -> np.ndarray:
        """Every second voxel (channels, z, y, x; float32, axes as the network's) of the preprocessed image."""
        return np.load(self.path / "reference.npz")["preprocessed"]

    @cached_property
    def logits(self) -> np.ndarray:
        """Every second voxel (classes, z, y, x; float16) of the logits on the model's grid, the mean of the folds."""
        return np.load(self.path / "reference.npz")["logits"]

    def unpacked(self, folder: Path) -> Path:
        """Extract the results folder (``TRAINER__PLANS__CONFIGURATION``) into a folder and return it."""
        with zipfile.ZipFile(self.model) as archive:
            archive.extractall(folder)
        return next(folder.rglob("plans.json")).parent


def every_second(array: np.ndarray) -> np.ndarray:
    """Return the voxels (..., z, y, x) that the references hold."""
    return array[..., ::2, ::2, ::2]


def read_here(source: NnUNetSource, fold: str, task: Task | None = None) -> ReadCheckpoint:
    """Read a checkpoint as the child process does, in this one."""
    from TransferSegLib.models.importers.nnunet.checkpoint import read_checkpoint

    content = source.checkpoint(fold)
    found = read_checkpoint(io.BytesIO(content), f"{source.path}: {source.folds[fold]}")
    return ReadCheckpoint(found, hashlib.sha256(content).hexdigest(), len(content))


def model_in(path: Path, fold: str | None = None) -> tuple[ModelDescription, dict[str, torch.Tensor]]:
    """Return the model of nnU-Net in a folder or zip file, read in this process."""
    source = find_source(path)
    assert source is not None
    with patch.object(convert, "read_checkpoint_isolated", read_here):
        return convert.model_from_nnunet(source, "model", fold)


@cache
def imported(name: str, fold: str | None = None) -> tuple[ModelDescription, dict[str, torch.Tensor]]:
    """Return the description and the weights of one of the models; who changes the weights copies them first."""
    return model_in(NnUNetFixture(name).model, fold)
