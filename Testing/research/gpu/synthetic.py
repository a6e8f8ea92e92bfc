"""Corrected cases for the GPU measurements: real ones of a dataset, or synthetic bodies with three organs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from Testing.research.common.cases import corrected_project
from TransferSegLib.corrections.project import Project
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.structures import LabelSet, Structure

ORGANS = LabelSet(
    (
        Structure("bright organ", 1, (230, 60, 60)),
        Structure("dark organ", 2, (60, 60, 230)),
        Structure("rod", 3, (60, 200, 60)),
    )
)


def project_of(folder: Path, data: Path | None, cases: int, side: int) -> Path:
    """Make a project of so many cases in a folder, once, and return it.

    The cases are the first of a dataset, or synthetic ones of ``side`` voxels of 3 mm along each axis.
    """
    if (folder / "finished").exists():
        return folder / "project"
    folder.mkdir(parents=True, exist_ok=True)
    if data is not None:
        dataset = read_dataset(data)
        corrected_project(folder / "project", dataset.select(dataset.ids[:cases]).cases, dataset.label_set)
    else:
        project = Project(folder / "project", create=True)
        for number in range(cases):
            image, labels = synthetic_case(number, side)
            project.add_case(
                image, labels, "all", structures=ORGANS, group=f"patient {number}", case_id=f"case-{number}"
            )
    (folder / "finished").touch()
    return folder / "project"


def synthetic_case(number: int, side: int) -> tuple[sitk.Image, sitk.Image]:
    """Return a CT of a round body in air with noise, and its organs, which lie a little differently in each case."""
    random = np.random.default_rng(number)
    z, y, x = (np.linspace(-1, 1, side).reshape(shape) for shape in ((-1, 1, 1), (1, -1, 1), (1, 1, -1)))
    values = np.full((side, side, side), -1000.0)
    values[np.broadcast_to(x**2 + y**2 < 0.8, values.shape)] = 0.0
    values += 20 * random.standard_normal(values.shape)
    labels = np.zeros(values.shape, np.uint8)
    for label, (intensity, at, radius) in enumerate(((90, -0.35, 0.3), (-90, 0.35, 0.25)), start=1):
        moved = random.uniform(-0.1, 0.1, 3)
        is_organ = (z - moved[0]) ** 2 + (y - moved[1]) ** 2 + (x - at - moved[2]) ** 2 < radius**2
        labels[is_organ], values[is_organ] = label, values[is_organ] + intensity
    moved = random.uniform(-0.1, 0.1, 2)
    is_rod = np.broadcast_to((y - 0.55 - moved[0]) ** 2 + (x - moved[1]) ** 2 < 0.12**2, values.shape) & (labels == 0)
    labels[is_rod], values[is_rod] = 3, values[is_rod] + 400
    images = [sitk.GetImageFromArray(array) for array in (values.astype(np.int16), labels)]
    for image in images:
        image.SetSpacing((3.0, 3.0, 3.0))
    return images[0], images[1]
