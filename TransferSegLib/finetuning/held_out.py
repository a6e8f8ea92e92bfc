"""How parent and candidate do on a case that the candidate has not seen, in the words of the new structures.

Whole scans are predicted as a user would have them: on the scan's own grid, or, where scans are too large for that to
be worth its time or only slabs are judged, on the canonical grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import SimpleITK as sitk

from TransferSegLib.datasets.dataset import Case, Dataset
from TransferSegLib.errors import DatasetError, ScanError
from TransferSegLib.evaluation.overlap import dice
from TransferSegLib.evaluation.scores import Score, score_case
from TransferSegLib.finetuning.label_change import LabelChange
from TransferSegLib.images.read import read_label_map_on, read_mask, read_scan
from TransferSegLib.inference.devices import Device
from TransferSegLib.inference.postprocessing import keep_largest_part
from TransferSegLib.inference.predict import label_volume
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.store import Model
from TransferSegLib.progress import CancelToken, ProgressCallback, Task
from TransferSegLib.structures import LabelSet
from TransferSegLib.training.cases import PreparedCase

OWN_GRID, CANONICAL_GRID = "the scans' own grid", "the model's grid"
#: Beyond so many voxels in a scan, labels and surfaces on its own grid take longer than the network.
_MOST_VOXELS = 4e7
#: Their shares of the progress of a held-out case, roughly.
_PREDICTING_AND_COMPARING = 5, 1
#: Label values (zyx), what they mean, the spacing (zyx, mm), the judged voxels (None: all).
_Reference = tuple[np.ndarray, LabelSet, tuple[float, float, float], np.ndarray | None]


def affordable_grid(cases: Iterable[PreparedCase]) -> str:
    """Return the grid to compare on: the scans' own if no scan is very large."""
    largest = max(float(np.prod(case.grid.scan_size_zyx)) for case in cases)
    return OWN_GRID if largest <= _MOST_VOXELS else CANONICAL_GRID


@dataclass(frozen=True)
class CaseComparison:
    """Scores by structure of both models in one held-out case, only of annotated structures.

    ``agreement``: for structures that nobody annotated there and both know, Dice between the two predictions.
    ``largest_part``: the candidate's scores for new structures if only their largest connected part were kept.
    """

    case: str
    parent: dict[str, Score]
    candidate: dict[str, Score]
    agreement: dict[str, float]
    largest_part: dict[str, Score] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "case": self.case,
            "parent": {name: score.to_json() for name, score in self.parent.items()},
            "candidate": {name: score.to_json() for name, score in self.candidate.items()},
            "agreement": self.agreement,
            "largest_part": {name: score.to_json() for name, score in self.largest_part.items()},
        }

    @staticmethod
    def from_json(entry: dict[str, Any]) -> CaseComparison:
        """Read what ``to_json`` wrote; raises KeyError and TransferSegError when it is something else."""
        parent, candidate, largest_part = (
            {name: Score.from_json(score) for name, score in entry[key].items()}
            for key in ("parent", "candidate", "largest_part")
        )
        return CaseComparison(entry["case"], parent, candidate, dict(entry["agreement"]), largest_part)


class ParentWords:
    """What a parent's label values mean in the new label set; split and dropped structures have no meaning there."""

    def __init__(self, change: LabelChange) -> None:
        """Match the structures by the change."""
        names = set()
        self._value_of: dict[str, int] = {}
        pairs = zip(change.label_set, change.fates, change.sources, strict=True)
        for structure, fate, sources in pairs:
            if fate in ("kept", "renamed", "merged"):
                names.add(structure.name)
                self._value_of |= dict.fromkeys(sources, structure.label)
        #: The new structures of which the parent has an opinion.
        self.known = [structure for structure in change.label_set if structure.name in names]

    def label_set(self) -> LabelSet | None:
        """Return the structures that the parent knows, under their new names and values; None when there are none."""
        return LabelSet(tuple(self.known)) if self.known else None

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
        self,
        parent: Model,
        change: LabelChange,
        dataset: Dataset,
        device: Device,
        grid: str,
        tolerance_mm: float,
    ) -> None:
        """Prepare for the cases of a dataset; the new label set's values must be its channels."""
        self._change, self._dataset, self._device = change, dataset, device
        self._grid, self._tolerance_mm = grid, tolerance_mm
        self._words = ParentWords(change)
        self._parent = parent
        self._fresh = [change.label_set.names[channel - 1] for channel in change.fresh_channels]
        self._segmenters: tuple[Model, Segmenter] | None = None

    @property
    def parent_knows(self) -> bool:
        """Whether there is anything that the parent can be asked for."""
        return bool(self._words.known)

    def parent_answer(
        self, prepared: PreparedCase, case_id: str, progress: ProgressCallback | None, cancel: CancelToken | None
    ) -> np.ndarray:
        """Return the parent's prediction of a case (zyx, on the chosen grid) in the new label values."""
        values = self._predict(self._parent, prepared, case_id, Task("Segmenting", progress, cancel))
        names = self._change.parent.names
        if self._grid == OWN_GRID:
            meaning = {structure.name: structure.label for structure in self._change.parent}
        else:
            meaning = {name: channel for channel, name in enumerate(names, start=1)}
        return self._words.translated(values, meaning)

    def compare(
        self,
        candidate: Model,
        prepared: PreparedCase,
        case_id: str,
        by_parent: np.ndarray | None,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
    ) -> CaseComparison:
        """Return the scores of a case; ``by_parent`` is ``parent_answer``, None when the parent knows nothing of it.

        Raises DatasetError naming a case whose files cannot be used, and Cancelled.
        """
        predicting, comparing = Task("Segmenting", progress, cancel).split(*_PREDICTING_AND_COMPARING)
        by_candidate = self._predict(candidate, prepared, case_id, predicting)
        return self.compared(by_candidate, prepared, case_id, by_parent, comparing)

    def compared(
        self,
        by_candidate: np.ndarray,
        prepared: PreparedCase,
        case_id: str,
        by_parent: np.ndarray | None,
        task: Task | None = None,
    ) -> CaseComparison:
        """Return the scores of predictions, see ``compare``; ``by_candidate`` is changed."""
        reading, scoring = (task or Task()).split(1, 1)
        reference = self._reference(self._dataset.case(case_id), prepared, reading)
        return scoring.wait(lambda: self._scored(by_candidate, prepared, reference, by_parent), 10.0)

    def _scored(
        self, by_candidate: np.ndarray, prepared: PreparedCase, on_grid: _Reference, by_parent: np.ndarray | None
    ) -> CaseComparison:
        reference, label_set, spacing_zyx_mm, judged = on_grid
        new = self._change.label_set
        names = [name for channel, name in enumerate(new.names, start=1) if prepared.annotated[channel]]

        def scores(found: np.ndarray, found_set: LabelSet, wanted: list[str] = names) -> dict[str, Score]:
            tolerance_mm = self._tolerance_mm
            return score_case(found, found_set, reference, label_set, wanted, spacing_zyx_mm, tolerance_mm, judged)

        known = self._words.label_set()
        agreement, parent_scores = {}, {}
        if by_parent is not None and known is not None:
            parent_scores = scores(by_parent, known)
            for structure in known:
                if not prepared.annotated[new.channel(structure.name)]:
                    value = dice(by_parent == structure.label, by_candidate == structure.label)
                    if not np.isnan(value):
                        agreement[structure.name] = float(value)
        by_all = scores(by_candidate, new)
        fresh = [name for name in self._fresh if name in names]
        keep_largest_part(by_candidate, [new.channel(name) for name in fresh])
        by_largest = scores(by_candidate, new, fresh) if fresh else {}
        return CaseComparison(prepared.id, parent_scores, by_all, agreement, by_largest)

    def _predict(self, model: Model, prepared: PreparedCase, case_id: str, task: Task) -> np.ndarray:
        """Return label values (own grid) or channels (canonical grid) of a case, zyx."""
        if self._grid == CANONICAL_GRID:
            scan = prepared.intensities.astype(np.float32)
            return label_volume(
                model.network(), scan, prepared.outside, device=self._device, progress=task.progress, cancel=task.cancel
            )
        if self._segmenters is None or self._segmenters[0] is not model:
            self._segmenters = (model, Segmenter(model, self._device.torch_name))
        try:
            reading, segmenting = task.split(1, 10)
            image = read_scan(self._dataset.case(case_id).image, task=reading)
            segmentation = self._segmenters[1].segment_within(segmenting, image)
        except ScanError as error:
            raise DatasetError(f"Case {case_id}: {error}") from error
        return sitk.GetArrayFromImage(segmentation.label_map)

    def _reference(self, case: Case, prepared: PreparedCase, task: Task) -> _Reference:
        """Return the labels of a case, what they mean, the spacing (zyx, mm) and the judged voxels on the grid."""
        if self._grid == CANONICAL_GRID:
            spacing_mm = prepared.grid.spacing_mm
            numbered = self._change.label_set.with_labels_numbered()
            return prepared.labels, numbered, (spacing_mm, spacing_mm, spacing_mm), prepared.judged
        try:
            reading, reading_labels, reading_judged = task.split(3, 2, 1)
            scan = read_scan(case.image, task=reading)
            labels = read_label_map_on(scan, case.labels, task=reading_labels)
            judged = None if case.judged is None else read_mask(case.judged, labels, reading_judged)
        except ScanError as error:
            raise DatasetError(f"Case {case.id}: {error}") from error
        x, y, z = labels.GetSpacing()
        return sitk.GetArrayFromImage(labels), self._dataset.label_set, (z, y, x), judged
