"""Which cases a task tests on, which it may learn from, and which are left for the base: fixed by rule and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from TransferSegLib.datasets.dataset import Case, Dataset
from TransferSegLib.errors import DatasetError, StudyError
from TransferSegLib.images.read import read_label_map
from TransferSegLib.structures import LabelSet, structure_key


@dataclass(frozen=True)
class SelectionRule:
    """How the cases of a task are chosen from a collection.

    ``required`` structures must be annotated in a case, each with at least ``smallest_share`` of its median number of
    voxels (fewer: it was cut off or only begun). Of those ``reserved`` cases (0: all) are taken, first the ones with
    the fewest annotated structures, because a base learns least from them. ``test`` of these test; by group, so that
    no patient does both.
    """

    required: tuple[str, ...]
    test: int
    reserved: int = 0
    smallest_share: float = 0.0
    seed: int = 1


@dataclass(frozen=True)
class Selection:
    """Case ids: tested on, and learned from (in the order in which training sets grow)."""

    test: tuple[str, ...]
    pool: tuple[str, ...]


def select_cases(dataset: Dataset, rule: SelectionRule) -> Selection:
    """Choose the cases of a task; the same rule and dataset give the same choice, whatever the order of the cases.

    Raises StudyError when there are not enough cases, DatasetError when a label map cannot be read.
    """
    names = {structure_key(name) for name in rule.required}
    random = np.random.default_rng(rule.seed)
    cases = sorted(dataset.cases, key=lambda case: case.id)
    cases = [cases[number] for number in random.permutation(len(cases))]
    usable = [case for case in cases if names <= {structure_key(name) for name in case.annotated}]
    if rule.smallest_share > 0:
        usable = _large_enough(usable, dataset.label_set, rule)
    usable.sort(key=lambda case: len(case.annotated))  # stable: cases with as many stay shuffled
    reserved = usable[: rule.reserved or None]
    groups = sorted({case.group for case in reserved})
    groups = [groups[number] for number in random.permutation(len(groups))]
    test: list[str] = []
    pool: list[str] = []
    for group in groups:
        side = test if len(test) < rule.test else pool
        side.extend(case.id for case in reserved if case.group == group)
    if len(test) < rule.test or not pool:
        raise StudyError(
            f"The collection '{dataset.name}' has {len(usable)} cases with {', '.join(rule.required)}: too few for "
            f"{rule.test} test cases and one to learn from."
        )
    return Selection(tuple(test), tuple(pool))


def _large_enough(cases: Sequence[Case], label_set: LabelSet, rule: SelectionRule) -> list[Case]:
    """Return the cases in which every required structure has its share of the median number of voxels."""
    labels = [label_set.find(name) for name in rule.required]
    counts = np.array([[_voxels(case, structure.label) for structure in labels if structure] for case in cases])
    enough = (counts >= rule.smallest_share * np.median(counts, axis=0)).all(axis=1)
    return [case for case, holds in zip(cases, enough, strict=True) if holds]


def _voxels(case: Case, label: int) -> int:
    """Return how many voxels of a case carry a label."""
    import SimpleITK as sitk

    label_map = read_label_map(case.labels)  # named, because the view of its voxels does not keep it alive
    return int(np.count_nonzero(sitk.GetArrayViewFromImage(label_map) == label))


def training_set(dataset: Dataset, selection: Selection, size: int, seed: int) -> tuple[str, ...]:
    """Return the ids of ``size`` training cases of a seed, 0 for all; a larger set of a seed holds the smaller ones.

    Raises StudyError when the pool is smaller. The first case of every patient comes before any second one, so that
    small sets hold as many patients as they can.
    """
    if size > len(selection.pool):
        raise StudyError(f"A training set of {size} cases was asked for, but there are {len(selection.pool)}.")
    order = np.random.default_rng([seed, 7]).permutation(len(selection.pool))
    seen: dict[str, int] = {}
    ranked = []
    for number in order:
        case = dataset.case(selection.pool[number])
        seen[case.group] = seen.get(case.group, 0) + 1
        ranked.append((seen[case.group], case.id))
    ranked.sort(key=lambda pair: pair[0])  # stable: the first case of every patient, then the second of every patient
    return tuple(id for _, id in ranked[: size or None])


def only_structures(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Return the dataset as if only these structures had ever been drawn; cases with none of them are left out.

    Raises DatasetError for names the dataset does not have.
    """
    wanted = {structure_key(name) for name in names}
    kept = tuple(structure for structure in dataset.label_set if structure.key in wanted)
    if len(kept) < len(wanted):
        raise DatasetError(
            f"The dataset '{dataset.name}' has no {', '.join(sorted(wanted - {s.key for s in kept}))}. "
            f"It has {', '.join(dataset.label_set.names)}."
        )
    gone = [{"name": s.name, "label": s.label} for s in dataset.label_set if s.key not in wanted]
    retired = [*dataset.extra.get("retired_structures", []), *gone]
    cases = []
    for case in dataset.cases:
        annotated = tuple(name for name in case.annotated if structure_key(name) in wanted)
        if annotated:
            cases.append(replace(case, annotated=annotated))
    return replace(
        dataset,
        label_set=LabelSet(kept),
        cases=tuple(cases),
        extra=dataset.extra | ({"retired_structures": retired} if retired else {}),
    )
