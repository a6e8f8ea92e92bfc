"""Checking a dataset before hours are spent on it: every problem of every case in one report.

An error is something training cannot or must not use; a warning is something a person should look at.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk

from TransferSegLib.datasets.dataset import Case, Dataset, is_safe_id
from TransferSegLib.datasets.outliers import StructureMeasures, measure_structures, outliers
from TransferSegLib.errors import ScanError
from TransferSegLib.images.lattice import to_scan_lattice
from TransferSegLib.images.notices import notices_of
from TransferSegLib.images.read import read_label_map, read_scan
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet
from TransferSegLib.wording import counted

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """Something wrong with a case (its id; empty: with the dataset as a whole)."""

    case: str
    what: str
    severity: Severity


def check_dataset(dataset: Dataset, task: Task | None = None) -> list[Problem]:
    """Read every file of a dataset and return all problems, those of the whole dataset first.

    Raises only Cancelled. ``docs/dataset-format.md`` lists what is an error and what a warning.
    """
    problems = _check_listing(dataset)
    task = (task or Task()).named("Checking cases")
    first_with: dict[str, Case] = {}
    measured: dict[str, Mapping[str, StructureMeasures]] = {}
    for case, part in task.each(dataset.cases, lambda case: case.id):
        found, digest, measured[case.id] = _check_case(case, dataset.label_set, dataset.retired_labels, part)
        problems += found
        twin = first_with.setdefault(digest, case) if digest else case
        if twin.group != case.group and twin.image != case.image:
            problems.append(_warning(case, f"its image is voxel for voxel that of case {twin.id}, of another group"))
    is_ct = dataset.modality.upper() == "CT"
    problems += [Problem(one.case, f"look at it: {one.what}", "warning") for one in outliers(measured, is_ct)]
    return problems


def has_errors(problems: Iterable[Problem]) -> bool:
    """Tell whether any of the problems is an error."""
    return any(problem.severity == "error" for problem in problems)


def report(problems: Iterable[Problem]) -> str:
    """Return the problems as text: a summary, then the dataset's, then each case's, errors before warnings."""
    by_case: dict[str, list[Problem]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for problem in problems:
        by_case[problem.case].append(problem)
        counts[problem.severity] += 1
    if not counts:
        return "No problems found."
    lines = [f"{counted(counts['error'], 'error')}, {counted(counts['warning'], 'warning')}"]
    for case in sorted(by_case, key=bool):
        lines.append(f"case {case}" if case else "the dataset")
        lines += [f"  {problem.severity}: {problem.what}" for problem in sorted(by_case[case], key=_errors_first)]
    return "\n".join(lines)


def _errors_first(problem: Problem) -> bool:
    return problem.severity != "error"


def _error(case: Case, what: str) -> Problem:
    return Problem(case.id, what, "error")


def _warning(case: Case, what: str) -> Problem:
    return Problem(case.id, what, "warning")


def _check_listing(dataset: Dataset) -> list[Problem]:
    """Return the problems that show without reading an image."""
    problems = []
    if not dataset.cases:
        problems.append(Problem("", "it has no cases", "error"))
    for id, count in Counter(dataset.ids).items():
        if count > 1:
            problems.append(Problem(id, f"{count} cases have this id", "error"))
        if not is_safe_id(id):
            problems.append(Problem(id, "this id cannot be part of a file name", "error"))
    for name, count in dataset.annotated_counts().items():
        if count == 0 and dataset.cases:
            problems.append(Problem("", f"'{name}' is annotated in no case, so it cannot be learned", "warning"))
    users: dict[tuple[str, Path], list[Case]] = defaultdict(list)
    for case in dataset.cases:
        users["image", case.image.resolve()].append(case)
        users["label map", case.labels.resolve()].append(case)
    for (what, path), cases in users.items():
        others = ", ".join(case.id for case in cases[1:])
        if what == "image" and len({case.group for case in cases}) > 1:
            problems.append(_warning(cases[0], f"its image is also that of {others}, of another group: {path}"))
        elif what == "label map" and len({case.image.resolve() for case in cases}) > 1:
            problems.append(_warning(cases[0], f"its label map is also that of {others}, of another image: {path}"))
    return problems


def _check_case(
    case: Case, label_set: LabelSet, retired: frozenset[int], task: Task
) -> tuple[list[Problem], str, Mapping[str, StructureMeasures]]:
    """Return the problems of one case, a digest of its image ('' when it cannot be read), and what is compared."""
    unknown = [name for name in case.annotated if label_set.find(name) is None]
    problems = [_error(case, f"'{name}' is annotated but is not a structure of the dataset") for name in unknown]
    if not case.annotated:
        problems.append(_warning(case, "nothing is annotated, so nothing can be learned from it"))
    if case.image.resolve() == case.labels.resolve():
        return [*problems, _error(case, f"the image and the label map are the same file: {case.image}")], "", {}
    image = labels = None
    digest, measured = "", dict[str, StructureMeasures]()
    reading, hashing, reading_labels, checking, measuring, judging = task.split(4, 1, 3, 2, 2, 2)
    try:
        image = read_scan(case.image, task=reading)
        digest = _digest(image, hashing)
    except ScanError as error:
        problems.append(_error(case, f"image: {error}"))
    if image is not None:
        problems += [_warning(case, line) for line in notices_of(image)]
    try:
        labels = read_label_map(case.labels, task=reading_labels)
    except ScanError as error:
        problems.append(_error(case, f"label map: {error}"))
    if labels is not None:
        labels, misfits = _on_grid(case, "label map", image, labels)
        problems += [*misfits, *(_warning(case, line) for line in notices_of(labels))]
        problems += checking.wait(partial(_check_labels, case, labels, label_set, retired))
        if image is not None and not misfits:
            reviewed = [structure for name in case.annotated if (structure := label_set.find(name)) is not None]
            measured = measuring.wait(partial(measure_structures, image, labels, reviewed))
    if case.judged is not None:
        problems += _check_judged(case, image if image is not None else labels, judging)
    return problems, digest, measured


def _digest(image: sitk.Image, task: Task) -> str:
    digest = hashlib.blake2b()
    for plane_yx in task.over(list(sitk.GetArrayViewFromImage(image))):
        digest.update(np.ascontiguousarray(plane_yx).data)
    return digest.hexdigest()


def _on_grid(
    case: Case, what: str, reference: sitk.Image | None, image: sitk.Image, may_drop: bool = False
) -> tuple[sitk.Image, list[Problem]]:
    """Return a label map or mask on its scan's grid, or as it is with the problem of why that cannot be."""
    if reference is None:
        return image, []
    try:
        return to_scan_lattice(image, reference, f"the {what}", may_drop=may_drop), []
    except ScanError as error:
        return image, [_error(case, f"image and {what} do not fit: {error}")]


def _check_judged(case: Case, reference: sitk.Image | None, task: Task) -> list[Problem]:
    assert case.judged is not None
    try:
        judged = read_label_map(case.judged, task=task)
    except ScanError as error:
        return [_error(case, f"mask of the annotated region: {error}")]
    judged, problems = _on_grid(case, "mask of the annotated region", reference, judged, may_drop=True)
    if not sitk.GetArrayViewFromImage(judged).any():
        problems.append(_error(case, "the mask of the annotated region is empty: nothing can be learned"))
    return problems


def _check_labels(case: Case, labels: sitk.Image, label_set: LabelSet, retired: frozenset[int]) -> list[Problem]:
    """Return what is wrong with the label values of a case; ``retired`` ones belong to structures no longer there."""
    voxels_zyx = sitk.GetArrayViewFromImage(labels)
    where_zyx = np.nonzero(voxels_zyx)
    values, index, counts = np.unique(voxels_zyx[where_zyx], return_inverse=True, return_counts=True)
    voxels = dict(zip(values.tolist(), counts.tolist(), strict=True))
    problems = []
    for value in sorted(set(voxels) - set(label_set.label_values) - retired):
        problems.append(_error(case, f"label value {value} ({counted(voxels[value], 'voxel')}) is no structure's"))
    annotated = {structure.name for name in case.annotated if (structure := label_set.find(name)) is not None}
    for structure in label_set:
        count = voxels.get(structure.label, 0)
        if structure.name in annotated and count == 0:
            problems.append(_warning(case, f"'{structure.name}' is annotated but absent: no voxel has its label"))
        if structure.name not in annotated and count > 0:
            problems.append(
                _warning(case, f"'{structure.name}' has {counted(count, 'voxel')} but is not listed as annotated")
            )
    centres_xyz = np.stack([np.bincount(index, axis, len(values)) / counts for axis in where_zyx[::-1]], axis=-1)
    centres_x_mm = {
        value: labels.TransformContinuousIndexToPhysicalPoint(centre.tolist())[0]
        for value, centre in zip(values.tolist(), centres_xyz, strict=True)
    }
    problems += [
        _warning(
            case,
            f"'{left.name}' lies to the right of '{right.name}': the image may be flipped, or the names exchanged",
        )
        for left, right in label_set.exchanged_sides(lambda structure: centres_x_mm.get(structure.label))
    ]
    return problems
