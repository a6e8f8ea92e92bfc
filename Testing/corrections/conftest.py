"""Small scans and label maps, and a project to put them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.corrections.adding import AddedCase
from TransferSegLib.corrections.project import Project
from TransferSegLib.structures import LabelSet, Structure


class Maker:
    """Makes scans and label maps of 4 x 5 x 6 voxels (z, y, x) and adds them to a project."""

    organs = LabelSet(
        (
            Structure("liver", 1, (220, 130, 100)),
            Structure("spleen", 2, (157, 108, 162)),
            Structure("tumour", 5, (0, 200, 0)),
        )
    )

    def __init__(self, project: Project) -> None:
        self.project = project

    def on_grid(self, voxels_zyx: np.ndarray) -> sitk.Image:
        """Return an array as an image on an oblique grid of odd numbers."""
        image = sitk.GetImageFromArray(voxels_zyx)
        image.SetSpacing((0.9765625, 1.1, 2.5))
        image.SetOrigin((-123.456, 7.25, 1000.1))
        image.SetDirection((0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0))
        return image

    def scan(self, seed: int = 0) -> sitk.Image:
        """Return a scan that differs with the seed."""
        return self.on_grid(np.random.default_rng(seed).integers(-1000, 2000, (4, 5, 6)).astype(np.int16))

    def labels(self, *values: int) -> sitk.Image:
        """Return a label map in which the n-th given value fills the plane x = n - 1."""
        voxels_zyx = np.zeros((4, 5, 6), np.uint8)
        for x, value in enumerate(values):
            voxels_zyx[:, :, x] = value
        return self.on_grid(voxels_zyx)

    def add(self, seed: int, *values: int, reviewed: Any = ("liver", "spleen"), **more: Any) -> AddedCase:
        """Add a scan and a label map of organs with these values."""
        more.setdefault("structures", self.organs)
        return self.project.add_case(self.scan(seed), self.labels(*values), reviewed, **more)

    @staticmethod
    def values(path: Path | None) -> list[int]:
        """Return the value that each plane of a file along x has."""
        assert path is not None
        voxels_zyx = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        planes = [np.unique(voxels_zyx[:, :, x]) for x in range(voxels_zyx.shape[2])]
        assert all(len(plane) == 1 for plane in planes)
        return [int(plane[0]) for plane in planes]


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Return what makes scans, with a project that the first case will make."""
    return Maker(Project(tmp_path / "project", create=True, timeout_s=20))


@pytest.fixture
def project(make: Maker) -> Project:
    """Return the project of ``make``."""
    return make.project
