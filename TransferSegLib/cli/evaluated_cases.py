"""Which cases ``transferseg evaluate`` measures a model on, and which of them the model has learned from.

A version knows the content of the cases that it was made from. A base model knows only the ids of its validation cases.
"""

from __future__ import annotations

from pathlib import Path

from TransferSegLib.corrections.content_hash import hash_case
from TransferSegLib.corrections.revisions import earlier_hashes
from TransferSegLib.datasets.dataset import Dataset
from TransferSegLib.errors import DatasetError, naming_case
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.versions.learned import learned_hashes
from TransferSegLib.models.versions.record import ModelReference
from TransferSegLib.progress import Task


def validation_cases(description: ModelDescription, dataset: Dataset) -> tuple[Dataset, str]:
    """Return the cases of a dataset on which a model was validated, and a sentence on how many these are.

    They are known by their ids, which other datasets have, too. So the dataset must also have the model's modality and
    structures. Raises DatasetError where it has not, or has none of the cases.
    """
    ids, where = _validation_ids(description), dataset.folder
    if not ids:
        raise DatasetError(
            f"The model '{description.name}' names no validation cases: name cases that it has not learned from with "
            "--cases."
        )
    found = [id for id in dataset.ids if id in ids]
    if not found:
        raise DatasetError(f"None of the model's validation cases is in {where}: name some with --cases.")
    if not _may_be_of(description, dataset):
        raise DatasetError(
            f"{where} has cases with ids of the model's validation cases ({', '.join(found[:3])}), but not the model's "
            "structures and modality: these are other cases. Give the dataset that the model was trained with, or name "
            "cases with --cases."
        )
    told = f"The model's validation cases, known by their ids: {len(found)} of {len(ids)} in this dataset."
    if len(found) < len(ids):
        told += " Another dataset can have the same ids: is this the one that the model was trained with?"
    return dataset.select(found), told


def learned_note(path: Path, description: ModelDescription, dataset: Dataset, task: Task | None = None) -> str:
    """Return a sentence on the cases that the model in ``path`` has learned from, '' where none is known.

    Cases whose hash is not recorded are read, but only for a model that records what it has learned from.
    """
    known = learned_hashes(path, ModelReference.of(path).sha256)
    if not known:
        return _base_note(description, dataset)
    before, count = earlier_hashes(dataset), 0
    for case, part in (task or Task()).each(dataset.cases, lambda case: case.id):
        recorded = case.extra.get("content_hash")
        with naming_case(case.id):
            now = recorded if isinstance(recorded, str) else hash_case(case, dataset.label_set, part)
        count += not known.isdisjoint({now, *before.get(case.id, ())})
    if not count:
        return ""
    return f"The model has learned from {_share(count, len(dataset))}: its scores are too high there."


def _base_note(description: ModelDescription, dataset: Dataset) -> str:
    """Return a sentence for a base model, on a dataset that may be the one that it was trained with."""
    unseen = len(_validation_ids(description).intersection(dataset.ids))
    others = len(dataset) - unseen
    if not unseen or not others or not _may_be_of(description, dataset):
        return ""
    return (
        f"Of these {len(dataset)} cases, {unseen} {'has the id of a' if unseen == 1 else 'have ids of'} validation "
        f"{'case' if unseen == 1 else 'cases'} of the model. If this is the dataset that it was trained with, it has "
        "learned from the others, and its scores are too high there: --validation leaves them out."
    )


def _validation_ids(description: ModelDescription) -> frozenset[str]:
    validation = description.metrics.get("validation")
    ids = validation.get("ids") if isinstance(validation, dict) else None
    return frozenset(id for id in ids if isinstance(id, str)) if isinstance(ids, list) else frozenset()


def _may_be_of(description: ModelDescription, dataset: Dataset) -> bool:
    """Tell whether a base model can have been trained with a dataset: it takes over its modality and structures."""
    has_structures = all(dataset.label_set.find(name) is not None for name in description.label_set.names)
    return has_structures and description.modality == dataset.modality


def _share(count: int, of: int) -> str:
    if count < of:
        return f"{count} of these {of} cases"
    return "this case" if of == 1 else "both cases" if of == 2 else f"all {of} cases"
