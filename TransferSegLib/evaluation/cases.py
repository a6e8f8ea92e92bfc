"""Segment the cases of a dataset and compare each annotated structure, on the scan's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from TransferSegLib.datasets.dataset import Case, Dataset
from TransferSegLib.errors import DatasetError, ScanError
from TransferSegLib.evaluation.overlap import dice
from TransferSegLib.progress import CancelToken, ProgressCallback, Stage
from TransferSegLib.scans.read import read_label_map, read_scan, same_geometry
from TransferSegLib.segmenting.segment import Segmenter
from TransferSegLib.structures import LabelSet


@dataclass(frozen=True)
class Summary:
    """The Dice of one structure over several cases."""

    cases: int
    mean: float
    median: float
    smallest: float


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> dict[str, dict[str, float]]:
    """Return the Dice by case id and structure name, for the structures annotated there that the model knows.

    Raises DatasetError naming the case when a file cannot be used.
    """
    stage = Stage("evaluating", len(dataset.cases), progress, cancel)
    results = {}
    for case in dataset.cases:
        stage.check()
        try:
            image, reference = read_scan(case.image), read_label_map(case.labels)
            difference = same_geometry(image, reference)
            if difference is not None:
                raise ScanError(f"{case.labels} does not lie on its scan's grid: {difference}")
            segmentation = segmenter.segment(image, None, None, cancel)
            results[case.id] = dice_by_structure(
                segmentation.label_map, segmentation.label_set, reference, dataset.label_set, case
            )
        except ScanError as error:
            raise DatasetError(f"Case {case.id}: {error}") from error
        stage.step(case.id)
    return results


def dice_by_structure(
    label_map: sitk.Image, label_set: LabelSet, reference: sitk.Image, reference_set: LabelSet, case: Case
) -> dict[str, float]:
    """Return the Dice of each annotated structure, matched by name; both maps lie on the same grid.

    Only judged voxels count. A structure that is neither there nor claimed has no score.
    """
    found, expected = sitk.GetArrayViewFromImage(label_map), sitk.GetArrayViewFromImage(reference)
    judged = np.ones(expected.shape, bool)
    if case.judged is not None:
        judged = sitk.GetArrayFromImage(read_label_map(case.judged)) != 0
    scores = {}
    for name in case.annotated:
        mine, theirs = label_set.find(name), reference_set.find(name)
        if mine is None or theirs is None:
            continue
        value = dice((found == mine.label) & judged, (expected == theirs.label) & judged)
        if not np.isnan(value):
            scores[mine.name] = value
    return scores


def summarise(results: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> dict[str, Summary]:
    """Return a summary per structure that has a score, in the order of ``names``, then 'mean of structures'."""
    summaries = {}
    for name in names:
        values = [scores[name] for scores in results.values() if name in scores]
        if values:
            summaries[name] = Summary(
                len(values), float(np.mean(values)), float(np.median(values)), float(np.min(values))
            )
    if summaries:
        rows = list(summaries.values())
        summaries["mean of structures"] = Summary(
            len(results),
            float(np.mean([row.mean for row in rows])),
            float(np.mean([row.median for row in rows])),
            float(np.min([row.smallest for row in rows])),
        )
    return summaries
