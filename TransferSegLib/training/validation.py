"""Validation on whole volumes: predict as a user would, compare on the model's grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from TransferSegLib.datasets.prepared import PreparedCase
from TransferSegLib.evaluation.predict_and_score import predict_on_model_grid, reference_on_model_grid
from TransferSegLib.networks.interface import Backbone
from TransferSegLib.progress import CancelToken, Task
from TransferSegLib.structures import LabelSet


def validate(
    network: nn.Module,
    backbone: Backbone,
    cases: Sequence[PreparedCase],
    label_set: LabelSet,
    dtype: torch.dtype,
    cancel: CancelToken | None = None,
    single_part: Sequence[str] = (),
) -> dict[str, float]:
    """Return the mean Dice per structure over the cases in which it is annotated; structures without one are left out.

    Only the annotated region counts. ``single_part`` names the structures of which the largest component is kept.
    Raises Cancelled from the token, also within a case.
    """
    found: dict[str, list[float]] = {name: [] for name in label_set.names}
    for case in cases:
        task = Task("", None, cancel)
        task.check()
        labels = predict_on_model_grid(network, backbone, case, label_set, single_part, dtype=dtype, task=task)
        reference = reference_on_model_grid(case, label_set)
        for name, score in reference.scores(labels, reference.label_set).items():
            found[name].append(score.dice)
    return {name: float(np.mean(values)) for name, values in found.items() if values}
