"""Cases of a dataset prepared for a model: on its grid, in memory.

A head-and-neck CT takes about 3 MB here; 170 of them half a gigabyte.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from TransferSegLib.datasets.dataset import Case, Dataset
from TransferSegLib.errors import DatasetError, ScanError
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.images.preprocess import judged_labels_on_grid, labels_on_grid, preprocess
from TransferSegLib.images.read import read_label_map_on, read_mask_on, read_scan
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet


@dataclass(frozen=True)
class PreparedCase:
    """One case on the model's grid.

    ``intensities`` float16 (channels, z, y, x) and ``padding_values``, their values beyond the scan; ``labels`` uint8
    channel numbers (zyx), 0 where nothing is annotated; ``region`` booleans (zyx), the annotated region, None for
    everywhere; ``annotated`` a boolean per channel of the model, the background's true. ``voxels`` holds, per channel,
    flat indices of (at most some thousand) voxels of the structure. Outside the region there are no labels.
    """

    id: str
    intensities: np.ndarray
    labels: np.ndarray
    region: np.ndarray | None
    annotated: np.ndarray
    padding_values: tuple[float, ...]
    grid: ModelGrid
    voxels: dict[int, np.ndarray]


def prepare_case(
    case: Case,
    dataset_labels: LabelSet,
    model_labels: LabelSet,
    preparation: Preparation,
    task: Task | None = None,
) -> PreparedCase:
    """Read one case and bring it to the model's grid; channels are those of ``model_labels``, by name.

    Raises DatasetError naming the case when a file cannot be read, image and labels do not share a grid, or nothing of
    the annotated region is left on the model's grid; Cancelled from the task.
    """
    reading, reading_labels, preparing, preparing_labels, regional = (task or Task()).split(3, 2, 2, 3, 1)
    try:
        image = read_scan(case.image, task=reading)
        label_map = read_label_map_on(image, case.labels, task=reading_labels)
        scan = preprocess(image, preparation, preparing)
        values = [_annotated_value(name, case, dataset_labels) for name in model_labels.names]
        if case.judged is None:
            labels, region = labels_on_grid(label_map, values, scan.grid, preparing_labels), None
        else:
            judged = read_mask_on(image, case.judged, regional)
            labels, region = judged_labels_on_grid(label_map, judged, values, scan.grid, preparing_labels)
            check_region(case, judged, region, preparation)
    except ScanError as error:
        raise DatasetError(f"Case {case.id}: {error}") from error
    annotated = np.array([True, *(value >= 0 for value in values)])
    return PreparedCase(
        case.id,
        scan.intensities_czyx.astype(np.float16),
        labels,
        region,
        annotated,
        scan.padding_values,
        scan.grid,
        _voxels(labels),
    )


def check_region(case: Case, judged: sitk.Image, region: np.ndarray, preparation: Preparation) -> None:
    """Raise DatasetError for an annotated region of which the model's grid shows nothing."""
    if not region.any() and sitk.GetArrayViewFromImage(judged).any():
        raise DatasetError(
            f"Case {case.id}: nothing of its annotated region is left at the model's {preparation.spacing_text}: check "
            "neighbouring slices as well and save the case again, or leave it out."
        )


def prepare_cases(
    dataset: Dataset,
    model_labels: LabelSet,
    preparation: Preparation,
    task: Task | None = None,
) -> list[PreparedCase]:
    """Prepare every case of a dataset; see ``prepare_case``."""
    task = (task or Task()).named("reading cases", "reading")
    return [
        prepare_case(case, dataset.label_set, model_labels, preparation, part)
        for case, part in task.each(dataset.cases, lambda case: case.id)
    ]


def _annotated_value(name: str, case: Case, dataset_labels: LabelSet) -> int:
    """Return the label value of a structure in a case's label map, -1 (no voxel has it) when it is not annotated."""
    structure = dataset_labels.find(name)
    annotated = {dataset_labels.select([annotated]).structures[0].name for annotated in case.annotated}
    return structure.label if structure is not None and structure.name in annotated else -1


def _voxels(labels: np.ndarray, most: int = 4000) -> dict[int, np.ndarray]:
    """Return up to ``most`` evenly spread flat voxel indices of every channel that occurs."""
    flat = labels.reshape(-1)
    foreground = np.flatnonzero(flat)
    found = {}
    for channel in np.unique(flat[foreground]):
        indices = foreground[flat[foreground] == channel]
        found[int(channel)] = indices[:: max(1, indices.size // most)]
    return found
