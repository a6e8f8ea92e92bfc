"""What is drawn in every case, how large and where, told from its label map before anything takes long.

A structure can be reviewed in a case and have no voxel there: it is known to be absent. Nothing learns from that alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from TransferSegLib.datasets.dataset import Case, Dataset
from TransferSegLib.errors import DatasetError, ScanError
from TransferSegLib.fit.shapes import ScanShapes, shapes_of
from TransferSegLib.images.read import read_label_map
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.progress import CancelToken, Task
from TransferSegLib.structures import LabelSet


@dataclass(frozen=True)
class CaseSurvey:
    """The reviewed structures that have a voxel in a case, and the size of its scan in mm³.

    ``drawn`` names them in the dataset's order, ``shapes`` holds their sizes and places.
    """

    drawn: tuple[str, ...]
    volume_mm3: float
    shapes: ScanShapes


#: By the id of the case.
Survey = Mapping[str, CaseSurvey]


def survey_cases(dataset: Dataset, cancel: CancelToken | None = None) -> dict[str, CaseSurvey]:
    """Read every label map once; raises DatasetError naming a case that cannot be read, and Cancelled."""
    found = {}
    for case in dataset.cases:
        found[case.id] = _survey_case(case, dataset.label_set, Task("", None, cancel))
    return found


def _survey_case(case: Case, label_set: LabelSet, task: Task) -> CaseSurvey:
    try:
        labels = read_label_map(case.labels, task=task)
    except ScanError as error:
        raise DatasetError(f"Case {case.id}: {error}") from error
    annotated = {one.name for one in map(label_set.find, case.annotated) if one is not None}
    shapes = task.wait(lambda: shapes_of(labels, label_set))
    shapes = replace(shapes, found={name: one for name, one in shapes.found.items() if name in annotated})
    volume_mm3 = float(np.prod(labels.GetSpacing()) * np.prod(labels.GetSize(), dtype=float))
    return CaseSurvey(tuple(shapes.found), volume_mm3, shapes)


def patients_with(names: Iterable[str], dataset: Dataset, survey: Survey) -> set[str]:
    """Return the patients in whom one of these structures has a voxel."""
    wanted = set(names)
    return {case.group for case in dataset.cases if wanted & set(survey[case.id].drawn)}


def learnable_part(
    dataset: Dataset, survey: Survey, parent: ModelDescription, renewed: Collection[str] = ()
) -> tuple[Dataset, tuple[str, ...]]:
    """Return what of a dataset can be learned, and notes on what was left out; ``renewed`` names structures to keep.

    Structures that the parent does not know and that have no voxel anywhere go. Where all voxels are of one patient,
    the others' cases go: there would be nothing to learn from while that patient is held out. Raises DatasetError when
    no structure has a voxel in any case.
    """
    names = dataset.label_set.names
    drawn = {name for name in names if patients_with([name], dataset, survey)}
    if not drawn:
        raise DatasetError(_nothing_is_drawn(dataset))
    notes = []
    gone = [name for name in names if name not in {*drawn, *renewed} and parent.label_set.find(name) is None]
    if gone:
        verb = "was" if len(gone) == 1 else "were"
        notes.append(
            f"{', '.join(gone)} {verb} reviewed, but no voxel is drawn in any case: the new version will not find it."
        )
        kept = dataset.label_set.select(name for name in names if name not in gone)
        cases = [
            replace(case, annotated=tuple(name for name in case.annotated if kept.find(name) is not None))
            for case in dataset.cases
        ]
        dataset = replace(dataset, cases=tuple(case for case in cases if case.annotated), label_set=kept)
    patients = {case.group for case in dataset.cases}
    having = patients_with(drawn, dataset, survey)
    if len(having) == 1 and len(patients) > 1:
        cases = [case for case in dataset.cases if case.group in having]
        left_out = len(dataset.cases) - len(cases)
        notes.append(
            f"Only one patient has anything drawn, so {_cases(left_out)} of others {'is' if left_out == 1 else 'are'} "
            "not used. Draw the structures in a second patient to have the result compared on a patient who was "
            "held out."
        )
        reviewed = {
            one.name for case in cases for one in map(dataset.label_set.find, case.annotated) if one is not None
        }
        kept = dataset.label_set.select(name for name in dataset.label_set.names if name in reviewed)
        dataset = replace(dataset, cases=tuple(cases), label_set=kept)
    return dataset, tuple(notes)


def _nothing_is_drawn(dataset: Dataset) -> str:
    names = ", ".join(dataset.label_set.names)
    count = len(dataset.cases)
    where = "The only case has" if count == 1 else f"None of the {count} cases has"
    voxel = "no voxel" if count == 1 else "a voxel"
    return (
        f"{where} {voxel} of what was reviewed ({names}), so there is nothing to learn: draw it in at least one case, "
        "better in three patients, and save that case again (transferseg cases add, or Save in the module)."
    )


def _cases(count: int) -> str:
    return "1 case" if count == 1 else f"{count} cases"
