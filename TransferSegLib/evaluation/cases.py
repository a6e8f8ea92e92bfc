"""Segment the cases of a dataset and compare each annotated structure, on the scan's own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import SimpleITK as sitk

from TransferSegLib.datasets.dataset import Case, Dataset
from TransferSegLib.errors import DatasetError, ScanError
from TransferSegLib.evaluation.scores import Score, score_case
from TransferSegLib.images.read import read_label_map_on, read_mask, read_scan
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.progress import CancelToken, ProgressCallback, Stage
from TransferSegLib.structures import LabelSet

#: The row of a summary that stands for all structures.
MEAN_OF_STRUCTURES = "mean of structures"


@dataclass(frozen=True)
class Summary:
    """The Dice of one structure over several cases; surfaces are nan where they were not measured.

    ``hd95_mm`` is the median: it stays a number when a structure was missed in a few cases (infinite distance).
    """

    cases: int
    mean: float
    median: float
    smallest: float
    mean_nsd: float = float("nan")
    median_hd95_mm: float = float("nan")


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> dict[str, dict[str, float]]:
    """Return the Dice by case id and structure name, for the structures annotated there that the model knows.

    Raises DatasetError naming the case when a file cannot be used.
    """
    return dice_of(evaluate_scores(segmenter, dataset, None, progress, cancel))


def evaluate_scores(
    segmenter: Segmenter,
    dataset: Dataset,
    tolerance_mm: float | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> dict[str, dict[str, Score]]:
    """Return the score by case id and structure name; surfaces are compared only when a tolerance is given.

    Raises DatasetError naming the case when a file cannot be used.
    """
    stage = Stage("evaluating", len(dataset.cases), progress, cancel)
    results = {}
    for case in dataset.cases:
        stage.check()
        try:
            reading, reading_labels, segmenting, scoring = stage.within(case.id).split(1, 1, 10, 4)
            image = read_scan(case.image, task=reading)
            reference = read_label_map_on(image, case.labels, task=reading_labels)
            segmentation = segmenter.segment_within(segmenting, image)
            results[case.id] = scoring.wait(
                partial(
                    score_label_maps,
                    segmentation.label_map,
                    segmentation.label_set,
                    reference,
                    dataset.label_set,
                    case,
                    tolerance_mm,
                ),
                10.0,
            )
        except ScanError as error:
            raise DatasetError(f"Case {case.id}: {error}") from error
        stage.step(case.id)
    return results


def score_label_maps(
    label_map: sitk.Image,
    label_set: LabelSet,
    reference: sitk.Image,
    reference_set: LabelSet,
    case: Case,
    tolerance_mm: float | None = None,
) -> dict[str, Score]:
    """Return the score of each structure annotated in the case; both maps lie on the same grid.

    Only judged voxels count. Raises ScanError when the mask of judged voxels cannot be read or does not fit.
    """
    judged = None if case.judged is None else read_mask(case.judged, reference)
    x, y, z = reference.GetSpacing()
    return score_case(
        sitk.GetArrayViewFromImage(label_map),
        label_set,
        sitk.GetArrayViewFromImage(reference),
        reference_set,
        case.annotated,
        (z, y, x),
        tolerance_mm,
        judged,
    )


def dice_by_structure(
    label_map: sitk.Image, label_set: LabelSet, reference: sitk.Image, reference_set: LabelSet, case: Case
) -> dict[str, float]:
    """Return the Dice of each annotated structure, matched by name; see ``score_label_maps``."""
    scores = score_label_maps(label_map, label_set, reference, reference_set, case)
    return {name: score.dice for name, score in scores.items()}


def dice_of(results: Mapping[str, Mapping[str, Score]]) -> dict[str, dict[str, float]]:
    """Return only the Dice of scores by case and structure."""
    return {case: {name: score.dice for name, score in scores.items()} for case, scores in results.items()}


def summarise(results: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> dict[str, Summary]:
    """Return a summary of Dice per structure that has one, in the order of ``names``, then of all structures."""
    unmeasured = float("nan")
    return summarise_scores(
        {
            case: {name: Score(value, unmeasured, unmeasured, unmeasured, unmeasured) for name, value in scores.items()}
            for case, scores in results.items()
        },
        names,
    )


def summarise_scores(results: Mapping[str, Mapping[str, Score]], names: Sequence[str]) -> dict[str, Summary]:
    """Return a summary per structure that has a score, in the order of ``names``, then 'mean of structures'."""
    summaries = {}
    for name in names:
        scores = [by_structure[name] for by_structure in results.values() if name in by_structure]
        if scores:
            values = [score.dice for score in scores]
            summaries[name] = Summary(
                len(values),
                float(np.mean(values)),
                float(np.median(values)),
                float(np.min(values)),
                float(np.mean(_measured([score.nsd for score in scores]))),
                float(np.median(_measured([score.hd95_mm for score in scores]))),
            )
    if summaries:
        rows = list(summaries.values())
        summaries[MEAN_OF_STRUCTURES] = Summary(
            len(results),
            float(np.mean([row.mean for row in rows])),
            float(np.mean([row.median for row in rows])),
            float(np.min([row.smallest for row in rows])),
            float(np.mean(_measured([row.mean_nsd for row in rows]))),
            float(np.mean(_measured([row.median_hd95_mm for row in rows]))),
        )
    return summaries


def _measured(values: list[float]) -> list[float]:
    """Return the values that are not nan, one nan where there is none."""
    return [value for value in values if not np.isnan(value)] or [float("nan")]
