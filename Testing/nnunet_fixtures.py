"""Models of nnU-Net v2 with the real package's predictions, from ``Testing/Data/nnunet``."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

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
