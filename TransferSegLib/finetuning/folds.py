"""Which cases are held out from each candidate, so that it can be compared with its parent on them.

With several patients whole patients are held out. With one patient only parts of the same scans can be: alternating
slabs, which share patient, scanner and neighbouring slices with what was learned from. That is weak evidence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from TransferSegLib.datasets.dataset import Dataset
from TransferSegLib.datasets.prepared import PreparedCase
from TransferSegLib.datasets.split import folds
from TransferSegLib.errors import TrainingError

#: Slabs are a quarter of the shortest structure thick, so that every structure lies in slabs of both kinds; at most,
#: and where nothing is drawn, so many voxels.
_SLABS_OF_A_STRUCTURE = 4
_THINNEST_SLAB, _THICKEST_SLAB = 2, 16
#: So many divisions are drawn at most to find one that keeps every structure in every training part.
_DRAWS = 50
#: The names of the structures that have a voxel, by the id of the case.
Drawn = Mapping[str, Collection[str]]
WEAK_EVIDENCE = (
    "Weak evidence: all cases are of one patient, so networks learned from every other slab of slices and were "
    "measured on the slabs in between."
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


def plan_folds(
    dataset: Dataset, count: int, seed: int, drawn: Drawn | None = None, fresh: Collection[str] = ()
) -> tuple[Fold, ...]:
    """Return ``count`` folds by patient (as many as there are patients at most, 2 at least); slabs for one patient.

    ``drawn`` (None: all that is annotated) are the structures with a voxel in each case, ``fresh`` the names of those
    that are new to the parent. Every one of them that two patients have is in the training cases of every fold, where
    there are such folds.
    """
    patients = len({case.group for case in dataset.cases})
    if patients < 2:
        return tuple(Fold(dataset.ids, dataset.ids, parity) for parity in (0, 1))
    return _best_folds(dataset, max(2, min(count, patients)), seed, drawn, fresh)[0]


def fewest_folds(dataset: Dataset, seed: int, drawn: Drawn | None = None, fresh: Collection[str] = ()) -> int:
    """Return the smallest number of folds in which every training part has all it can have; 2 where none has."""
    patients = len({case.group for case in dataset.cases})
    for count in range(2, patients + 1):
        if _best_folds(dataset, count, seed, drawn, fresh)[1][:2] == (0, 0):
            return count
    return 2


def unevaluated_structures(dataset: Dataset, drawn: Drawn, fresh: Collection[str]) -> tuple[str, ...]:
    """Return the new structures that one of several patients has drawn: without that patient they are not learned."""
    patients = {case.group for case in dataset.cases}
    having = {name: {case.group for case in dataset.cases if name in drawn[case.id]} for name in fresh}
    return tuple(name for name in fresh if len(patients) > 1 and len(having[name]) < 2)


def _best_folds(
    dataset: Dataset, count: int, seed: int, drawn: Drawn | None, fresh: Collection[str]
) -> tuple[tuple[Fold, ...], tuple[int, int, int]]:
    """Return the first folds without a fault, or those with the fewest, of some draws; and their faults."""
    drawn = {case.id: case.annotated for case in dataset.cases} if drawn is None else drawn
    by_voxels = replace(dataset, cases=tuple(replace(case, annotated=tuple(drawn[case.id])) for case in dataset.cases))
    groups = {case.id: case.group for case in dataset.cases}
    best: tuple[tuple[Fold, ...], tuple[int, int, int]] | None = None
    for draw in range(_DRAWS):
        found = tuple(Fold(split.training, split.validation) for split in folds(by_voxels, count, seed + draw))
        faults = _faults(found, drawn, groups, fresh)
        if best is None or faults < best[1]:
            best = found, faults
        if faults == (0, 0, 0):
            break
    assert best is not None
    return best


def _faults(
    found: Sequence[Fold], drawn: Drawn, groups: Mapping[str, str], fresh: Collection[str]
) -> tuple[int, int, int]:
    """Return how many training parts have no voxel at all; lack a new structure; lack another one.

    Only structures that two patients have can be in every training part.
    """
    having: dict[str, set[str]] = {}
    for case_id, names in drawn.items():
        for name in names:
            having.setdefault(name, set()).add(groups[case_id])
    shared = {name for name, patients in having.items() if len(patients) > 1}
    empty = lacking_fresh = lacking_known = 0
    for fold in found:
        trained = {name for case_id in fold.training for name in drawn[case_id]}
        empty += not trained
        lacking = shared - trained
        lacking_fresh += len(lacking & set(fresh))
        lacking_known += len(lacking - set(fresh))
    return empty, lacking_fresh, lacking_known


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
        held_out = [_annotated_in(case, mask, fold.slabs) for case, mask in zip(training, masks, strict=True)]
        training = [_annotated_in(case, ~mask, fold.slabs) for case, mask in zip(training, masks, strict=True)]
    training = [case for case in training if case.voxels]
    if not training and fold.slabs is not None:
        raise TrainingError(
            "What is drawn cannot be divided into a part to learn from and a part to compare on: draw a structure in "
            "more slices, or in a second patient."
        )
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
    is_in = _slab_parities(case, thickness) == parity
    return np.broadcast_to(is_in[:, None, None], case.labels.shape)


def _slab_parities(case: PreparedCase, thickness: int) -> np.ndarray:
    """Return the parity (0 or 1) of every plane across z, with slabs of about this thickness.

    Thickness and border are those that leave the most structures with voxels in slabs of both parities: a structure of
    two planes then lies on either side of a border, and so do checked slices at equal distances.
    """
    planes = np.arange(case.labels.shape[0])
    drawn = [np.unique(np.unravel_index(indices, case.labels.shape)[0]) for indices in case.voxels.values()]
    best, most = planes // thickness % 2, -1
    for thick in sorted(
        range(1, _THICKEST_SLAB + 1), key=lambda other: (other < _THINNEST_SLAB, abs(other - thickness))
    ):
        for shift in range(thick):
            parity = (planes + shift) // thick % 2
            divided = sum(len(np.unique(parity[z])) == 2 for z in drawn)
            if divided > most:
                best, most = parity, divided
        if most == len(drawn):
            break
    return best


def learned_structures(training: Iterable[PreparedCase], names: Sequence[str]) -> set[str]:
    """Return the structures (named in channel order) that are drawn somewhere in these cases."""
    return {names[channel - 1] for case in training for channel in case.voxels}


def _annotated_in(case: PreparedCase, mask: np.ndarray, parity: int) -> PreparedCase:
    """Return the case with its annotated region limited to a mask."""
    region = mask.copy() if case.region is None else case.region & mask
    flat = region.reshape(-1)
    voxels = {channel: indices[flat[indices]] for channel, indices in case.voxels.items()}
    voxels = {channel: indices for channel, indices in voxels.items() if indices.size}
    return replace(case, id=f"{case.id} part {parity + 1}", region=region, voxels=voxels)
