"""How often a model is wrong by its margin, counted on prepared cases that it has not learned from."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from TransferSegLib.datasets.prepared import PreparedCase
from TransferSegLib.doubt.calibration import DoubtCalibration, DoubtCounts
from TransferSegLib.doubt.scan_doubt import DoubtCollector, ScanDoubt
from TransferSegLib.evaluation.predict_and_score import predict_on_model_grid
from TransferSegLib.inference.devices import Device
from TransferSegLib.models.store import Model
from TransferSegLib.progress import CancelToken, Task
from TransferSegLib.structures import LabelSet


def count_doubt(
    doubt: ScanDoubt, prepared: PreparedCase, label_set: LabelSet, unlearned: Collection[str] = ()
) -> DoubtCounts:
    """Return the counts of a case on the model's grid; its channels are those of ``label_set``.

    Structures that the model could not learn, ``unlearned``, count as not annotated.
    """
    annotated = [
        name
        for channel, name in enumerate(label_set.names, start=1)
        if prepared.annotated[channel] and name not in unlearned
    ]
    return doubt.counts(prepared.labels, annotated, prepared.region)


def calibrate(
    model: Model, cases: Iterable[PreparedCase], device: Device | None = None, cancel: CancelToken | None = None
) -> DoubtCalibration | None:
    """Return how often a model is wrong by its margin on cases prepared for it; None where they are too few.

    The model must not have learned from the cases. Raises Cancelled.
    """
    description, counts = model.description, []
    networks, label_set = model.networks(), description.label_set
    for prepared in cases:
        collector = DoubtCollector(prepared.grid.size_zyx, label_set.classes)
        task = Task("", None, cancel)
        predict_on_model_grid(
            networks, description.backbone, prepared, label_set, device=device, collector=collector, task=task
        )
        counts.append(count_doubt(collector.doubt(prepared.grid, label_set, None), prepared, label_set))
    return DoubtCalibration.of(DoubtCounts.total(counts))
