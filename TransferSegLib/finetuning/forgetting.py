"""What happened to each structure the parent knew: it must be seen, not hoped for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from TransferSegLib.datasets.prepared import PreparedCase
from TransferSegLib.evaluation.predict_and_score import predict_on_model_grid
from TransferSegLib.evaluation.scores import dice
from TransferSegLib.finetuning.held_out import CaseComparison
from TransferSegLib.finetuning.label_change import LabelChange
from TransferSegLib.inference.devices import Device
from TransferSegLib.networks.interface import Backbone
from TransferSegLib.progress import Task


@dataclass(frozen=True)
class StructureChange:
    """What became of structures of the parent (``parent``) that are structures of the new model (``new``).

    ``fate``: kept, renamed, merged, split or dropped. Over the cases looked at: ``reviewed_cases`` had it annotated,
    with mean Dice ``dice_before`` (the parent's prediction against the label) and ``dice_after``; in
    ``unreviewed_cases`` nobody drew it, and ``agreement`` is the mean Dice between the new and the parent's
    prediction. None where there is nothing to measure. On training cases the first two say how well the corrections
    were learned, not how good the model is elsewhere.
    """

    parent: tuple[str, ...]
    new: tuple[str, ...]
    fate: str
    reviewed_cases: int
    dice_before: float | None
    dice_after: float | None
    unreviewed_cases: int
    agreement: float | None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return self.__dict__ | {"parent": list(self.parent), "new": list(self.new)}


def measure_forgetting(
    parent: tuple[nn.Module, Backbone],
    adapted: tuple[nn.Module, Backbone],
    cases: Sequence[PreparedCase],
    change: LabelChange,
    device: Device,
    task: Task | None = None,
    single_part: Sequence[str] = (),
) -> tuple[StructureChange, ...]:
    """Predict whole cases with both networks and return what became of each structure, or group of them.

    A network comes with its backbone. Only the annotated region counts. ``single_part`` names the parent's structures
    of which the largest component is kept. Raises Cancelled, also within a prediction.
    """
    groups = change.groups()[1:]
    if not groups:  # no structure of the parent is left
        cases = ()
    before: list[list[float]] = [[] for _ in groups]
    after: list[list[float]] = [[] for _ in groups]
    agreement: list[list[float]] = [[] for _ in groups]
    task = (task or Task()).named("Looking for what was forgotten", "forgetting")
    for case, part in task.each(cases, lambda case: case.id):
        by_old, by_adapted, comparing = part.split(5, 5, 1)
        old, new = (
            predict_on_model_grid(*network, case, label_set, single_part, device, task=predicting)
            for network, label_set, predicting in (
                (parent, change.parent, by_old),
                (adapted, change.label_set, by_adapted),
            )
        )
        region = np.ones(old.shape, bool) if case.region is None else case.region
        for number, group in enumerate(groups):
            comparing.at(number / len(groups))
            by_parent = np.isin(old, group.parent)
            by_new = np.isin(new, group.new)
            flags = case.annotated[list(group.new)]
            if flags.all():
                drawn = np.isin(case.labels, group.new) & region
                before[number].append(dice(by_parent & region, drawn))
                after[number].append(dice(by_new & region, drawn))
            elif not flags.any():
                agreement[number].append(dice(by_new, by_parent))
    return _summarised(change, before, after, agreement)


def forgetting_of(comparisons: Sequence[CaseComparison], change: LabelChange) -> tuple[StructureChange, ...]:
    """Return what became of each structure from comparisons of the new model with its parent, such as those of folds.

    Of structures that were split nothing is measured.
    """
    before, after, agreement = [], [], []
    for group in change.groups()[1:]:
        name = change.label_set.names[group.new[0] - 1]
        both = [one for one in comparisons if name in one.parent and name in one.candidate]
        before.append([one.parent[name].dice for one in both])
        after.append([one.candidate[name].dice for one in both])
        agreement.append([one.agreement[name] for one in comparisons if name in one.agreement])
    return _summarised(change, before, after, agreement)


def _summarised(
    change: LabelChange,
    before: Sequence[list[float]],
    after: Sequence[list[float]],
    agreement: Sequence[list[float]],
) -> tuple[StructureChange, ...]:
    """Return the means of what was measured of each group of channels but the background's."""
    changes = [
        StructureChange(
            tuple(change.parent.names[channel - 1] for channel in group.parent),
            tuple(change.label_set.names[channel - 1] for channel in group.new),
            change.fates[group.new[0] - 1],
            len(before[number]),
            _mean(before[number]),
            _mean(after[number]),
            len(agreement[number]),
            _mean(agreement[number]),
        )
        for number, group in enumerate(change.groups()[1:])
    ]
    dropped = [StructureChange((name,), (), "dropped", 0, None, None, 0, None) for name in change.dropped]
    return (*changes, *dropped)


def _mean(values: list[float]) -> float | None:
    """Return the mean of the numbers among the values, None when there are none (nothing there, nothing found)."""
    numbers = [value for value in values if not np.isnan(value)]
    return float(np.mean(numbers)) if numbers else None
