"""Validation on whole volumes: predict as a user would, compare on the canonical grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from TransferSegLib.evaluation.overlap import dice
from TransferSegLib.inference.predict import label_volume
from TransferSegLib.networks.unet_valid.unet import UNet3D
from TransferSegLib.progress import CancelToken
from TransferSegLib.structures import LabelSet
from TransferSegLib.training.cases import PreparedCase


def validate(
    network: UNet3D,
    cases: Sequence[PreparedCase],
    label_set: LabelSet,
    dtype: torch.dtype,
    cancel: CancelToken | None = None,
) -> dict[str, float]:
    """Return the mean Dice per structure over the cases in which it is annotated; structures without one are left out.

    Only judged voxels count. Raises Cancelled from the token, also within a case.
    """
    found: dict[str, list[float]] = {name: [] for name in label_set.names}
    for case in cases:
        if cancel is not None:
            cancel.check()
        labels = label_volume(network, case.intensities.astype(np.float32), case.outside, dtype=dtype, cancel=cancel)
        for name, value in case_dice(labels, case, label_set).items():
            found[name].append(value)
    return {name: float(np.mean(values)) for name, values in found.items() if values}


def case_dice(labels: np.ndarray, case: PreparedCase, label_set: LabelSet) -> dict[str, float]:
    """Return the Dice of every annotated structure of a case that is there or claimed; labels are channels (zyx)."""
    judged = np.ones(labels.shape, bool) if case.judged is None else case.judged
    scores = {}
    for channel, name in enumerate(label_set.names, start=1):
        if case.annotated[channel]:
            value = dice((labels == channel) & judged, (case.labels == channel) & judged)
            if not np.isnan(value):
                scores[name] = value
    return scores
