"""One real fine-tuning on corrected cases, and the scores of a model on patients that it never saw."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import SimpleITK as sitk

from Testing.research.common.cases import corrected_project
from TransferSegLib.datasets.dataset import Case
from TransferSegLib.evaluation.predict_and_score import score_label_maps
from TransferSegLib.evaluation.scores import Score
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.finetune import FineTuned, finetune
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.images.read import read_scan
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.store import Model
from TransferSegLib.structures import LabelSet

LabelsOf = Callable[[Case], sitk.Image]


@contextmanager
def fine_tuned(
    corrected: Sequence[Case],
    label_set: LabelSet,
    labels_of: LabelsOf,
    parent: Path,
    knobs: FineTuningConfiguration,
    most_folds: int | None,
    modality: str = "CT",
) -> Iterator[FineTuned]:
    """Fine-tune on a project of these cases, on the CPU and without a clock; the new version is there within."""
    with tempfile.TemporaryDirectory(prefix="verdict-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        request = FineTuneRequest(
            corrected_project(folder / "project", corrected, label_set, labels_of),
            model=str(parent),
            name="candidate",
            configuration=knobs,
            minutes=0.0,
            modality=modality,
            device="cpu",
            library=folder / "library",
            most_folds=most_folds,
        )
        yield finetune(request)


def test_scores(
    model: Model, tests: Sequence[Case], label_set: LabelSet, labels_of: LabelsOf, tolerance_mm: float | None = None
) -> dict[str, dict[str, Score]]:
    """Return a model's scores by test case and structure, on the scans' own grid."""
    segmenter = Segmenter(model, "cpu")
    names = model.description.label_set
    return {
        case.id: score_label_maps(
            segmenter.segment(read_scan(case.image)).label_map, names, labels_of(case), label_set, case, tolerance_mm
        )
        for case in tests
    }
