"""Predict a case as a user gets it, and score it: validation, held-out comparisons and ``evaluate`` all use this.

>>> results = evaluate(Segmenter(model), dataset, tolerance_mm=3.0)
>>> print(summarise(results, model.description.label_set.names))

A case is scored on the scan's own grid, where a user gets the labels, or on the model's grid, which is faster. On both
only the annotated region counts, and the model's rule on largest components is applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk

from TransferSegLib.datasets.dataset import Case, Dataset
from TransferSegLib.errors import naming_case
from TransferSegLib.evaluation.scores import Score, score_case
from TransferSegLib.images.read import read_label_map_on, read_mask_on, read_scan
from TransferSegLib.inference.postprocessing import keep_largest_part
from TransferSegLib.inference.predict import label_volume
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet

if TYPE_CHECKING:
    import torch
    from torch import nn

    from TransferSegLib.datasets.prepared import PreparedCase
    from TransferSegLib.doubt.scan_doubt import DoubtCollector
    from TransferSegLib.inference.devices import Device
    from TransferSegLib.networks.interface import Backbone

#: The row of a summary for all structures together.
MEAN_OF_STRUCTURES = "mean of structures"
#: Roughly how long scoring a case takes.
_SCORING_S = 10.0


@dataclass(frozen=True, eq=False)
class Reference:
    """What is drawn in a case, on one grid: label values (zyx), what they mean, and the spacing.

    ``annotated`` names the structures that can be scored, ``region_zyx`` (booleans; None: everywhere) tells where.
    """

    labels_zyx: np.ndarray
    label_set: LabelSet
    annotated: tuple[str, ...]
    spacing_zyx_mm: tuple[float, float, float]
    region_zyx: np.ndarray | None = None

    def scores(
        self,
        found_zyx: np.ndarray,
        found_set: LabelSet,
        tolerance_mm: float | None = None,
        names: Sequence[str] | None = None,
    ) -> dict[str, Score]:
        """Return the score of every annotated structure (or of those named) in label values on the same grid.

        Surfaces are compared only when a tolerance is given; see ``score_case``.
        """
        wanted = self.annotated if names is None else names
        labels, spacing, region = self.labels_zyx, self.spacing_zyx_mm, self.region_zyx
        return score_case(found_zyx, found_set, labels, self.label_set, wanted, spacing, tolerance_mm, region)


def reference_on_scan(label_map: sitk.Image, label_set: LabelSet, case: Case, task: Task | None = None) -> Reference:
    """Return the reference of a case whose label map was read; raises ScanError for a region that does not fit it."""
    region = None if case.judged is None else sitk.GetArrayFromImage(read_mask_on(label_map, case.judged, task)) != 0
    x, y, z = label_map.GetSpacing()
    return Reference(sitk.GetArrayFromImage(label_map), label_set, case.annotated, (z, y, x), region)


def read_reference(image: sitk.Image, label_set: LabelSet, case: Case, task: Task | None = None) -> Reference:
    """Read the reference of a case on its scan's own grid; raises ScanError for files that cannot be used."""
    reading, reading_region = (task or Task()).split(2, 1)
    return reference_on_scan(read_label_map_on(image, case.labels, task=reading), label_set, case, reading_region)


def reference_on_model_grid(prepared: PreparedCase, label_set: LabelSet) -> Reference:
    """Return the reference of a prepared case; the label values are the channels of ``label_set``."""
    annotated = tuple(name for channel, name in enumerate(label_set.names, start=1) if prepared.annotated[channel])
    numbered = label_set.with_labels_numbered()
    return Reference(prepared.labels, numbered, annotated, prepared.grid.spacing_zyx_mm, prepared.region)


def predict_on_model_grid(
    network: nn.Module | Sequence[nn.Module],
    backbone: Backbone,
    prepared: PreparedCase,
    label_set: LabelSet,
    single_part: Sequence[str] = (),
    device: Device | None = None,
    dtype: torch.dtype | None = None,
    collector: DoubtCollector | None = None,
    task: Task | None = None,
) -> np.ndarray:
    """Return the channels (zyx) that a network, or the mean of several, finds in a prepared case.

    Of the structures in ``single_part`` only the largest component is kept. ``device`` and ``dtype`` default to those
    of the network's weights. A ``collector`` of the grid's size gets the doubt. Raises DeviceError for too little
    memory, and Cancelled.
    """
    predicting, keeping = (task or Task()).split(20, 1)
    scan, padding_values = prepared.intensities.astype(np.float32), prepared.padding_values
    found = label_volume(
        network, backbone, scan, padding_values, device=device, dtype=dtype, collector=collector, task=predicting
    )
    keep_largest_part(found, [label_set.channel(name) for name in single_part if label_set.find(name)], keeping)
    return found


def evaluate(
    segmenter: Segmenter, dataset: Dataset, tolerance_mm: float | None = None, task: Task | None = None
) -> dict[str, dict[str, Score]]:
    """Return the score by case id and structure name, for the annotated structures that the model knows.

    Surfaces are compared only when a tolerance is given. Raises DatasetError naming a case whose files cannot be used,
    and Cancelled.
    """
    segmenter.model.description.check_single_structures("Scoring")
    results = {}
    for case, part in (task or Task()).named("evaluating").each(dataset.cases, lambda case: case.id):
        reading, reading_reference, segmenting, scoring = part.split(1, 1, 10, 4)
        with naming_case(case.id):
            image = read_scan(case.image, task=reading)
            reference = read_reference(image, dataset.label_set, case, reading_reference)
            found = segmenter.segment_within(segmenting, image)
        labels = sitk.GetArrayViewFromImage(found.label_map)
        score = partial(reference.scores, labels, found.label_set, tolerance_mm)
        results[case.id] = scoring.wait(score, _SCORING_S)
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

    Raises ScanError when the annotated region cannot be read or does not fit.
    """
    labels = sitk.GetArrayViewFromImage(label_map)
    return reference_on_scan(reference, reference_set, case).scores(labels, label_set, tolerance_mm)


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


def summarise(results: Mapping[str, Mapping[str, Score]], names: Sequence[str]) -> dict[str, Summary]:
    """Return a summary per structure that has a score, in the order of ``names``, then 'mean of structures'."""
    summaries = {}
    for name in names:
        scores = [by_structure[name] for by_structure in results.values() if name in by_structure]
        if scores:
            dice = [score.dice for score in scores]
            nsd, hd95_mm = _measured(scores, "nsd"), _measured(scores, "hd95_mm")
            middle = float(np.median(dice)), float(np.min(dice)), float(np.mean(nsd)), float(np.median(hd95_mm))
            summaries[name] = Summary(len(scores), float(np.mean(dice)), *middle)
    if summaries:
        rows = list(summaries.values())
        means = [float(np.mean(_measured(rows, key))) for key in ("mean", "median", "mean_nsd", "median_hd95_mm")]
        smallest = min(row.smallest for row in rows)
        summaries[MEAN_OF_STRUCTURES] = Summary(len(results), means[0], means[1], smallest, means[2], means[3])
    return summaries


def _measured(rows: Sequence[object], key: str) -> list[float]:
    """Return the values of an attribute that are not nan, one nan where there is none."""
    values = [getattr(row, key) for row in rows]
    return [value for value in values if not np.isnan(value)] or [float("nan")]
