"""Dividing the cases of a dataset for training and validation: by patient, with every structure on both sides.

The method is iterative stratification (Sechidis et al., "On the stratification of multi-label data", 2011): the rarest
structure is dealt out first, to whoever lacks it most. Whole groups are dealt, so one patient is never on both sides.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np

from TransferSegLib.datasets.dataset import Dataset
from TransferSegLib.errors import DatasetError
from TransferSegLib.wording import counted


class Split(NamedTuple):
    """Case ids to train on and case ids to validate on, both in the dataset's order."""

    training: tuple[str, ...]
    validation: tuple[str, ...]


class _Group(NamedTuple):
    """The cases of one patient: how many, and in how many of them each structure is annotated."""

    name: str
    size: int
    annotated: Counter[str]


class _Part(NamedTuple):
    """What one side of a split should get, counted in cases; used up as groups are dealt out."""

    room: list[float]
    wanted: dict[str, float]
    names: list[str]


def split_groups(dataset: Dataset, fraction: float, seed: int, few: int = 3) -> Split:
    """Set about ``fraction`` (above 0, below 1) of the cases aside for validation, never separating a group.

    Every structure is wanted in at least ``few`` validation cases, or half of its cases when it has fewer. The same
    dataset and seed give the same split, whatever the order of the cases. Raises DatasetError for fewer than 2 groups.
    """
    if not 0 < fraction < 1:
        raise DatasetError(f"The fraction of cases for validation must lie between 0 and 1, not be {fraction:g}.")
    groups = _groups(dataset, at_least=2)
    cases = len(dataset)
    aside = min(max(round(fraction * cases), 1), cases - 1)
    validation = _Part([aside], {}, [])
    training = _Part([cases - aside], {}, [])
    for name, count in dataset.annotated_counts().items():
        validation.wanted[name] = max(count * aside / cases, min(few, count // 2))
        training.wanted[name] = count - validation.wanted[name]
    _deal(groups, [training, validation], np.random.default_rng(seed))
    return _split(dataset, set(validation.names))


def folds(dataset: Dataset, count: int, seed: int) -> tuple[Split, ...]:
    """Return ``count`` splits whose validation cases together are all cases, each once, never separating a group.

    The same dataset and seed give the same folds. Raises DatasetError when there are fewer groups than folds.
    """
    if count < 2:
        raise DatasetError(f"Cross-validation needs at least 2 folds, not {count}.")
    groups = _groups(dataset, at_least=count)
    counts = dataset.annotated_counts()
    parts = [
        _Part([len(dataset) / count], {name: number / count for name, number in counts.items()}, [])
        for _ in range(count)
    ]
    _deal(groups, parts, np.random.default_rng(seed))
    return tuple(_split(dataset, set(part.names)) for part in parts)


def _groups(dataset: Dataset, at_least: int) -> list[_Group]:
    """Return the groups by name; raises DatasetError when there are too few of them."""
    members = defaultdict(list)
    for case in dataset.cases:
        members[case.group].append(case)
    if len(members) < at_least:
        raise DatasetError(
            f"The dataset '{dataset.name}' in {dataset.folder} has cases of {counted(len(members), 'patient')}; "
            f"{at_least} are needed to divide it without having one patient on both sides."
        )
    return [
        _Group(name, len(cases), Counter(structure for case in cases for structure in set(case.annotated)))
        for name, cases in sorted(members.items())
    ]


def _deal(groups: list[_Group], parts: list[_Part], random: np.random.Generator) -> None:
    """Deal the groups out to the parts, the groups with the rarest structure left first."""
    left = [groups[index] for index in random.permutation(len(groups))]
    while left:
        counts = Counter(name for group in left for name in group.annotated)
        # Sorted, so that ties do not depend on the order of the cases.
        rarest = min(sorted(counts), key=lambda name: counts[name]) if counts else None
        chosen = [group for group in left if rarest is None or rarest in group.annotated]
        left = [group for group in left if rarest is not None and rarest not in group.annotated]
        for group in sorted(chosen, key=lambda group: -group.size):
            _give(group, rarest, parts, random)
    _fill_empty(groups, parts)


def _give(group: _Group, structure: str | None, parts: list[_Part], random: np.random.Generator) -> None:
    """Give a group to the part that has room for it and lacks the structure most."""
    luck = random.permutation(len(parts))

    def need(index: int) -> tuple[bool, float, float, int]:
        part = parts[index]
        room = part.room[0]
        fits = room >= group.size - 1e-9
        lacks = part.wanted[structure] if fits and structure is not None else 0.0
        return fits, lacks, room, int(luck[index])

    part = parts[max(range(len(parts)), key=need)]
    part.names.append(group.name)
    part.room[0] -= group.size
    for name, number in group.annotated.items():
        part.wanted[name] -= number


def _fill_empty(groups: list[_Group], parts: list[_Part]) -> None:
    """Let no part go without: one that got nothing receives the smallest group of the part with most groups."""
    sizes = {group.name: group.size for group in groups}
    for part in parts:
        if not part.names:
            donor = max(parts, key=lambda other: len(other.names))
            given = min(donor.names, key=lambda name: (sizes[name], name))
            donor.names.remove(given)
            part.names.append(given)


def _split(dataset: Dataset, validation_groups: set[str]) -> Split:
    return Split(
        tuple(case.id for case in dataset.cases if case.group not in validation_groups),
        tuple(case.id for case in dataset.cases if case.group in validation_groups),
    )
