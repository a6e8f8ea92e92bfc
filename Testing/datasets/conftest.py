"""Small volumes and datasets that the tests of this folder build and break."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.datasets.dataset import Case, Dataset
from TransferSegLib.structures import LabelSet, Structure

SPACING_MM = (1.0, 1.5, 3.0)


def write_volume(path: Path, voxels_zyx: np.ndarray, spacing_mm: tuple[float, float, float] = SPACING_MM) -> Path:
    """Write an array as an image with identity axes; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(voxels_zyx)
    image.SetSpacing(spacing_mm)
    sitk.WriteImage(image, str(path))
    return path


def scan_voxels(seed: int = 0) -> np.ndarray:
    """Return the voxels of a scan of 4 x 5 x 6 (z, y, x) that differs with the seed."""
    return np.random.default_rng(seed).integers(-100, 300, (4, 5, 6)).astype(np.int16)


def label_voxels(*labels: int) -> np.ndarray:
    """Return a label map of the same shape in which the n-th given label fills the plane x = n - 1."""
    voxels = np.zeros((4, 5, 6), np.uint8)
    for x, label in enumerate(labels):
        voxels[:, :, x] = label
    return voxels


KIDNEYS = LabelSet(
    (
        Structure("right kidney", 1, (200, 0, 0)),
        Structure("left kidney", 2, (0, 200, 0)),
        Structure("cyst", 5, (0, 0, 200)),
    )
)


@dataclass(frozen=True)
class Builder:
    """Writes cases below a folder and collects them."""

    folder: Path

    def case(self, id: str, *labels: int, annotated: tuple[str, ...] = ("right kidney", "left kidney"), **more) -> Case:
        """Return a case with files of its own: a scan seeded by the id, and planes of the labels."""
        image = write_volume(self.folder / "images" / f"{id}.nii.gz", scan_voxels(sum(id.encode())))
        written = write_volume(self.folder / "labels" / f"{id}.nii.gz", label_voxels(*labels))
        return Case(id, image, written, annotated, **more)

    def dataset(self, *cases: Case) -> Dataset:
        """Return a dataset of the cases."""
        return Dataset(self.folder, "Kidneys", "", "CC0", "CT", KIDNEYS, cases)


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    """Return a builder of cases in a temporary folder."""
    return Builder(tmp_path)


@pytest.fixture
def volume() -> Callable[..., Path]:
    """Return the function that writes an array as an image."""
    return write_volume
