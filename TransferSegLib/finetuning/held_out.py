"""How parent and candidate do on a case that the candidate has not seen, by the names of the new model's structures.

Whole scans are compared on their own grid, where a user gets the labels; on the model's grid where scans are so large
that this takes too long, and where only slabs of a scan are held out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import SimpleITK as sitk

from TransferSegLib.datasets.dataset import Dataset
from TransferSegLib.datasets.prepared import PreparedCase
from TransferSegLib.doubt.calibration import DoubtCalibration, DoubtCounts
from TransferSegLib.doubt.scan_doubt import DoubtCollector, ScanDoubt
from TransferSegLib.errors import naming_case
from TransferSegLib.evaluation.doubt_counts import count_doubt
from TransferSegLib.evaluation.predict_and_score import (
    Reference,
    predict_on_model_grid,
    read_reference,
    reference_on_model_grid,
)
from TransferSegLib.evaluation.scores import Score, dice
from TransferSegLib.finetuning.label_change import LabelChange
from TransferSegLib.images.read import read_scan
from TransferSegLib.inference.devices import Device
from TransferSegLib.inference.postprocessing import keep_largest_part
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.store import Model
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet

OWN_GRID, MODEL_GRID = "the scans' own grid", "the model's grid"
#: Beyond so many voxels in a scan, labels and surfaces on its own grid take longer than the network.
_MOST_VOXELS = 4e7
#: Roughly how long comparing a case takes beside predicting it.
_COMPARING_S = 10.0


def comparison_grid(patients: int, cases: Collection[PreparedCase]) -> str:
    """Return the grid to compare on: the scans' own where whole patients are held out and no scan is very large."""
    largest = max(float(np.prod(case.grid.scan_size_zyx)) for case in cases)
    return MODEL_GRID if patients < 2 or largest > _MOST_VOXELS else OWN_GRID


@dataclass(frozen=True)
class CaseComparison:
    """Scores by structure of both models in one held-out case, only of annotated structures.

    ``agreement``: for structures that are not annotated there and that both know, Dice between the two predictions.
    ``largest_part``: the candidate's scores for new structures if only their largest component were kept.
    ``doubt``: how often the candidate was wrong by its margin, None where that was not counted.
    """

    case: str
    parent: dict[str, Score]
    candidate: dict[str, Score]
    agreement: dict[str, float]
    largest_part: dict[str, Score] = field(default_factory=dict)
    doubt: DoubtCounts | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        scores = {
            key: {name: score.to_json() for name, score in getattr(self, key).items()}
            for key in ("parent", "candidate", "largest_part")
        }
        doubt = {} if self.doubt is None else {"doubt": self.doubt.to_json()}
        return {"case": self.case, "agreement": self.agreement} | scores | doubt

    @staticmethod
    def from_json(entry: dict[str, Any]) -> CaseComparison:
        """Read what ``to_json`` wrote; raises KeyError, ValueError and TransferSegError when it is something else."""
        parent, candidate, largest_part = (
            {name: Score.from_json(score) for name, score in entry[key].items()}
            for key in ("parent", "candidate", "largest_part")
        )
        doubt = None if entry.get("doubt") is None else DoubtCounts.from_json(entry["doubt"])
        return CaseComparison(entry["case"], parent, candidate, dict(entry["agreement"]), largest_part, doubt)


def calibration_of(comparisons: Iterable[CaseComparison]) -> DoubtCalibration | None:
    """Return how often a version is wrong by its margin: as often as its candidates on cases that they had not seen."""
    return DoubtCalibration.of(DoubtCounts.total(one.doubt for one in comparisons if one.doubt is not None))


class ParentLabels:
    """What a parent's label values mean in the new label set; split and dropped structures have no meaning there."""

    def __init__(self, change: LabelChange) -> None:
        self._value_of: dict[str, int] = {}
        names, known = set(change.known), []
        for structure, sources in zip(change.label_set, change.sources, strict=True):
            if structure.name in names:
                known.append(structure)
                self._value_of |= dict.fromkeys(sources, structure.label)
        #: The new model's structures that the parent knows, None when there are none.
        self.known = LabelSet(tuple(known)) if known else None

    def translated(self, values: np.ndarray, meaning: dict[str, int]) -> np.ndarray:
        """Return an array of the parent's values in the new label set's; ``meaning`` gives its value of each name."""
        largest = max(self._value_of.values(), default=0)
        table = np.zeros(int(values.max(initial=0)) + 1, np.min_scalar_type(largest))
        for name, new in self._value_of.items():
            if meaning[name] < len(table):
                table[meaning[name]] = new
        return table[values]


class HeldOutScorer:
    """Predicts and scores cases of one dataset on one grid."""

    def __init__(
        self, parent: Model, change: LabelChange, dataset: Dataset, device: Device, grid: str, tolerance_mm: float
    ) -> None:
        """Prepare for the cases of a dataset; the new label set's values must be its channels."""
        self._parent, self._change, self._dataset, self._device = parent, change, dataset, device
        self._grid, self._tolerance_mm = grid, tolerance_mm
        self._labels = ParentLabels(change)
        self._fresh = [change.label_set.names[channel - 1] for channel in change.fresh_channels]
        self._segmenters: tuple[Model, Segmenter] | None = None

    @property
    def parent_knows(self) -> bool:
        """Whether the parent knows any of the new model's structures."""
        return self._labels.known is not None

    def predict_by_parent(self, prepared: PreparedCase, case_id: str, task: Task | None = None) -> np.ndarray:
        """Return the parent's prediction of a case (zyx, on the chosen grid) in the new label values."""
        values, _doubt = self._predict(self._parent, prepared, case_id, task or Task())
        numbered = self._change.parent if self._grid == OWN_GRID else self._change.parent.with_labels_numbered()
        return self._labels.translated(values, {structure.name: structure.label for structure in numbered})

    def compare(
        self,
        candidate: Model,
        prepared: PreparedCase,
        case_id: str,
        by_parent: np.ndarray | None,
        task: Task | None = None,
        unlearned: Collection[str] = (),
    ) -> CaseComparison:
        """Return the scores of a case; ``by_parent`` is ``predict_by_parent``, None when the parent knows nothing.

        ``unlearned`` names structures that the candidate could not learn: they say nothing of its doubt. Raises
        DatasetError naming a case whose files cannot be used, and Cancelled.
        """
        predicting, comparing = (task or Task()).split(5, 1)
        by_candidate, doubt = self._predict(candidate, prepared, case_id, predicting)
        counts = count_doubt(doubt, prepared, self._change.label_set, unlearned)
        compared = self.compare_predictions(by_candidate, prepared, case_id, by_parent, comparing)
        return replace(compared, doubt=counts)

    def compare_predictions(
        self,
        by_candidate: np.ndarray,
        prepared: PreparedCase,
        case_id: str,
        by_parent: np.ndarray | None,
        task: Task | None = None,
    ) -> CaseComparison:
        """Return the scores of predictions, see ``compare``; ``by_candidate`` is changed."""
        reading, scoring = (task or Task()).split(1, 1)
        if self._grid == MODEL_GRID:
            reference = reference_on_model_grid(prepared, self._change.label_set)
        else:
            case = self._dataset.case(case_id)
            reading_scan, reading_reference = reading.split(1, 1)
            with naming_case(case_id):
                image = read_scan(case.image, task=reading_scan)
                reference = read_reference(image, self._dataset.label_set, case, reading_reference)
        return scoring.wait(lambda: self._scored(by_candidate, prepared, reference, by_parent), _COMPARING_S)

    def _scored(
        self, by_candidate: np.ndarray, prepared: PreparedCase, reference: Reference, by_parent: np.ndarray | None
    ) -> CaseComparison:
        new, known = self._change.label_set, self._labels.known
        names = [name for channel, name in enumerate(new.names, start=1) if prepared.annotated[channel]]
        agreement, parent_scores = {}, {}
        if by_parent is not None and known is not None:
            parent_scores = reference.scores(by_parent, known, self._tolerance_mm, names)
            for structure in known:
                if structure.name not in names:
                    value = dice(by_parent == structure.label, by_candidate == structure.label)
                    if not np.isnan(value):
                        agreement[structure.name] = float(value)
        by_all = reference.scores(by_candidate, new, self._tolerance_mm, names)
        fresh = [name for name in self._fresh if name in names]
        keep_largest_part(by_candidate, [new.channel(name) for name in fresh])
        by_largest = reference.scores(by_candidate, new, self._tolerance_mm, fresh)
        return CaseComparison(prepared.id, parent_scores, by_all, agreement, by_largest)

    def _predict(self, model: Model, prepared: PreparedCase, case_id: str, task: Task) -> tuple[np.ndarray, ScanDoubt]:
        """Return label values (own grid) or channels (model's grid) of a case, zyx, and the doubt on the model's."""
        description = model.description
        if self._grid == MODEL_GRID:
            network, backbone, rule = model.networks(), description.backbone, description.single_part
            known, device = description.label_set, self._device
            collector = DoubtCollector(prepared.grid.size_zyx, known.classes)
            found = predict_on_model_grid(
                network, backbone, prepared, known, rule, device, collector=collector, task=task
            )
            return found, collector.doubt(prepared.grid, known, None)
        if self._segmenters is None or self._segmenters[0] is not model:
            self._segmenters = (model, Segmenter(model, self._device))
        reading, segmenting = task.split(1, 10)
        with naming_case(case_id):
            image = read_scan(self._dataset.case(case_id).image, task=reading)
            segmentation = self._segmenters[1].segment_within(segmenting, image, doubt=True)
        (doubt,) = segmentation.doubts
        return sitk.GetArrayFromImage(segmentation.label_map), doubt
