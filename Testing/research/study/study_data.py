"""The datasets of a study: its collections, what a task sees of one, and what is left of it for a base."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from Testing.research.study.case_selection import Selection, SelectionRule, only_structures, select_cases
from Testing.research.study.configuration import Collection, Study
from TransferSegLib.datasets.dataset import Dataset, write_dataset
from TransferSegLib.datasets.make import DatasetFacts, FolderSource, dataset_from_folders
from TransferSegLib.errors import DatasetError, StudyError
from TransferSegLib.progress import CancelToken, ProgressCallback, Task
from TransferSegLib.structures import structure_key


@dataclass(frozen=True)
class StudyData:
    """The datasets by name of their collection, and the cases chosen by name of their task.

    ``selections`` are whole: what a base must not see. ``splits`` are what runs test on and learn from, the same
    unless validation cases take the place of the test cases.
    """

    datasets: Mapping[str, Dataset]
    selections: Mapping[str, Selection]
    splits: Mapping[str, Selection]


def prepare_data(
    study: Study,
    data: Path,
    folder: Path,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> StudyData:
    """Write a ``dataset.json`` for every collection into ``folder`` and choose every task's cases.

    The datasets point at the files in ``data``. Raises StudyError naming the collection or task that cannot be used.
    """
    if not data.is_dir():
        raise StudyError(f"There is no data folder {data}: name it with --data.")
    datasets = {}
    for name, collection in study.collections.items():
        try:
            made = dataset_from_folders(
                _source(collection, data),
                folder / name,
                DatasetFacts(name, collection.description, collection.license, collection.modality),
                replace=True,
                task=Task("", progress, cancel),
            )
        except DatasetError as error:
            raise StudyError(f"The collection '{name}' cannot be used: {error}") from error
        datasets[name] = _by_patient(made.dataset, name, collection)
        if datasets[name] is not made.dataset:
            write_dataset(datasets[name], folder / name)
    chosen: dict[tuple[str, SelectionRule], Selection] = {}
    selections, splits = {}, {}
    for name, task in study.tasks.items():
        dataset = datasets[task.collection]
        _check_structures(dataset, (*task.structures, *task.selection.required), f"task '{name}'")
        key = (task.collection, task.selection)
        if key not in chosen:
            chosen[key] = select_cases(dataset, task.selection)
        selections[name] = chosen[key]
        splits[name] = chosen[key] if not task.validation else validation_split(dataset, chosen[key], task.validation)
        most = max(task.sizes, default=0)
        if most > len(splits[name].pool):
            raise StudyError(
                f"Task '{name}' asks for {most} training cases; its selection leaves {len(splits[name].pool)}."
            )
    return StudyData(datasets, selections, splits)


def _by_patient(dataset: Dataset, name: str, collection: Collection) -> Dataset:
    """Return the dataset with the cases grouped by the numbers of their names, where the collection says so."""
    if collection.cases_per_patient == 1:
        return dataset
    cases = []
    for case in dataset.cases:
        number = re.search(r"(\d+)$", case.id)
        if number is None or int(number[1]) == 0:
            raise StudyError(
                f"The collection '{name}' has {collection.cases_per_patient} cases of each patient, numbered from 1, "
                f"but the case '{case.id}' has no such number."
            )
        patient = (int(number[1]) - 1) // collection.cases_per_patient + 1
        cases.append(replace(case, group=f"patient-{patient:03d}"))
    return replace(dataset, cases=tuple(cases))


def validation_split(dataset: Dataset, selection: Selection, count: int) -> Selection:
    """Return a selection that tests on about ``count`` cases from the end of the pool, whole patients, not on the test.

    Raises StudyError when that leaves nothing to learn from.
    """
    validation: list[str] = []
    patients: set[str] = set()
    for id in reversed(selection.pool):
        group = dataset.case(id).group
        if group in patients:
            continue
        if len(validation) >= count:
            break
        patients.add(group)
        validation += [other for other in selection.pool if dataset.case(other).group == group]
    pool = tuple(id for id in selection.pool if id not in validation)
    if not pool:
        raise StudyError(f"{count} validation cases of '{dataset.name}' leave none to learn from.")
    return Selection(tuple(validation), pool)


def _source(collection: Collection, data: Path) -> FolderSource:
    """Return where a collection's files lie."""
    structures: Path | dict[int, str] | None = None
    if isinstance(collection.structures, str):
        structures = data / collection.structures
    elif collection.structures is not None:
        structures = {int(value): name for value, name in collection.structures.items()}
    annotated: Literal["present", "all"] | Path
    if collection.annotated == "present" or collection.annotated == "all":
        annotated = "present" if collection.annotated == "present" else "all"
    else:
        annotated = data / collection.annotated
    return FolderSource(
        data / collection.images,
        data / collection.labels,
        structures,
        annotated,
        collection.image_pattern,
        collection.label_pattern,
        collection.group_pattern,
    )


def task_dataset(study: Study, data: StudyData, task: str) -> Dataset:
    """Return the cases of a task, test and pool, as if only its structures had ever been drawn."""
    selection = data.selections[task]
    dataset = data.datasets[study.tasks[task].collection].select((*selection.test, *selection.pool))
    return only_structures(dataset, study.tasks[task].structures)


def base_dataset(study: Study, data: StudyData, name: str) -> Dataset:
    """Return what a base is trained on: no patient of the tasks it leaves out, and not their structures.

    Raises StudyError when nothing is left.
    """
    base = study.bases[name]
    dataset = data.datasets[base.collection]
    _check_structures(dataset, base.without_structures, f"base '{name}'")
    chosen = {id for task in base.without_cases_of for id in (*data.selections[task].test, *data.selections[task].pool)}
    patients = {case.group for case in dataset.cases if case.id in chosen}
    left_out = {structure_key(structure) for structure in base.without_structures}
    names = [structure for structure in dataset.label_set.names if structure_key(structure) not in left_out]
    if not names:
        raise StudyError(f"The base '{name}' has no structure left to learn.")
    dataset = dataset.select([case.id for case in dataset.cases if case.group not in patients])
    dataset = only_structures(dataset, names)
    if base.only_fully_annotated:
        dataset = dataset.select([case.id for case in dataset.cases if len(set(case.annotated)) == len(names)])
    if len({case.group for case in dataset.cases}) < 2:
        raise StudyError(f"The base '{name}' has {len(dataset)} cases left to learn from: too few.")
    return dataset


def _check_structures(dataset: Dataset, names: tuple[str, ...], where: str) -> None:
    """Raise StudyError for structures that a collection does not have."""
    unknown = [name for name in names if dataset.label_set.find(name) is None]
    if unknown:
        known = ", ".join(dataset.label_set.names)
        raise StudyError(f"The {where} names {', '.join(unknown)}; the collection '{dataset.name}' has {known}.")
