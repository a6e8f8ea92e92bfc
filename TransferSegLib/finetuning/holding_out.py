"""Which cases a candidate is kept from seeing, so that it can be compared with its parent on them.

With several patients whole patients are held out. With one there is nothing but parts of the same scans: alternating
slabs, which share patient, scanner and neighbouring slices with what was learned from. That is weak evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from TransferSegLib.datasets.dataset import Dataset
from TransferSegLib.datasets.split import folds
from TransferSegLib.errors import TrainingError
from TransferSegLib.training.cases import PreparedCase

#: Slabs are a quarter of the shortest structure thick, so that every structure lies in slabs of both kinds; at most,
#: and where nothing is drawn, so many voxels.
_SLABS_OF_A_STRUCTURE = 4
_THINNEST_SLAB, _THICKEST_SLAB = 2, 16
WEAK_EVIDENCE = (
    "Weak evidence: there is one patient, so candidates learned from every other slab of the scan and were measured on "
    "the slabs in between."
)


@dataclass(frozen=True)
class Fold:
    """Ids of the cases that a candidate learns from, and of those it is measured on.

    ``slabs`` None: whole cases. Else both are the same cases, and the slabs with this parity (0 or 1) are held out.
    """

    training: tuple[str, ...]
    held_out: tuple[str, ...]
    slabs: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {"training": list(self.training), "held_out": list(self.held_out), "slabs": self.slabs}

    @staticmethod
    def from_json(entry: Any) -> Fold:
        """Read what ``to_json`` wrote; raises TrainingError when it is something else."""
        try:
            return Fold(tuple(entry["training"]), tuple(entry["held_out"]), entry["slabs"])
        except (KeyError, TypeError) as error:
            raise TrainingError(f"This is no fold of a cross-validation: {entry!r}.") from error


def plan_folds(dataset: Dataset, count: int, seed: int) -> tuple[Fold, ...]:
    """Return ``count`` folds by patient (as many as there are patients at most, 2 at least); slabs for one patient."""
    patients = len({case.group for case in dataset.cases})
    if patients < 2:
        return tuple(Fold(dataset.ids, dataset.ids, parity) for parity in (0, 1))
    splits = folds(dataset, max(2, min(count, patients)), seed)
    return tuple(Fold(split.training, split.validation) for split in splits)


def method_in_words(found: Sequence[Fold], patients: int) -> str:
    """Return how cases were held out, for a person."""
    if any(fold.slabs is not None for fold in found):
        return "alternating slabs of the training scans"
    if len(found) == patients:
        return f"leave one patient out, {patients} patients"
    return f"{len(found)}-fold cross-validation over {patients} patients"


def divide(cases: Mapping[str, PreparedCase], fold: Fold) -> tuple[list[PreparedCase], list[PreparedCase]]:
    """Return the training cases and the held-out cases of a fold.

    Training cases without an annotated voxel teach nothing and are left out. Raises TrainingError when none is left.
    """
    training, held_out = ([cases[id] for id in ids] for ids in (fold.training, fold.held_out))
    if fold.slabs is not None:
        masks = [held_out_slabs(case, fold.slabs) for case in training]
        held_out = [_judged_in(case, mask, fold.slabs) for case, mask in zip(training, masks, strict=True)]
        training = [_judged_in(case, ~mask, fold.slabs) for case, mask in zip(training, masks, strict=True)]
    training = [case for case in training if case.voxels]
    if not training:
        raise TrainingError(
            f"Without {', '.join(fold.held_out)} no corrected case has a voxel of a reviewed structure: correct more "
            "cases, or draw a structure in more of them."
        )
    return training, held_out


def held_out_slabs(case: PreparedCase, parity: int) -> np.ndarray:
    """Return which voxels (zyx, booleans) lie in the slabs across z of this parity (0 or 1)."""
    extents = []
    for indices in case.voxels.values():
        z = np.unravel_index(indices, case.labels.shape)[0]
        extents.append(int(z.max() - z.min()) + 1)
    thickness = min(extents, default=_SLABS_OF_A_STRUCTURE * _THICKEST_SLAB) // _SLABS_OF_A_STRUCTURE
    thickness = min(max(thickness, _THINNEST_SLAB), _THICKEST_SLAB)
    is_in = (np.arange(case.labels.shape[0]) // thickness) % 2 == parity
    return np.broadcast_to(is_in[:, None, None], case.labels.shape)


def learned_structures(training: Iterable[PreparedCase], names: Sequence[str]) -> set[str]:
    """Return the structures (named in channel order) that are drawn somewhere in these cases."""
    return {names[channel - 1] for case in training for channel in case.voxels}


def _judged_in(case: PreparedCase, mask: np.ndarray, parity: int) -> PreparedCase:
    """Return the case with only the voxels of a mask judged."""
    judged = mask.copy() if case.judged is None else case.judged & mask
    flat = judged.reshape(-1)
    voxels = {channel: indices[flat[indices]] for channel, indices in case.voxels.items()}
    voxels = {channel: indices for channel, indices in voxels.items() if indices.size}
    return replace(case, id=f"{case.id} part {parity + 1}", judged=judged, voxels=voxels)
