"""The corrected cases of a project: which are learned from, what is drawn in each, and their modality.

A structure can be reviewed in a case and have no voxel there: it is known to be absent. That alone teaches nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import SimpleITK as sitk

from TransferSegLib.corrections.project import Project
from TransferSegLib.datasets.dataset import Case, Dataset, read_dataset
from TransferSegLib.errors import DatasetError, TrainingError, naming_case
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.resolution_cap import ScanAxes, StructureMask, masks_of
from TransferSegLib.fit.shapes import ScanShapes, shapes_of
from TransferSegLib.images.label_values import count_values
from TransferSegLib.images.modality import guess_modality, modality_word
from TransferSegLib.images.read import read_label_map, read_mask_on, read_scan
from TransferSegLib.images.stored_axes import stored_axes
from TransferSegLib.inference.first_scan import first_axes, turns_scans
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet
from TransferSegLib.wording import counted

#: So many scans tell the modality of all where it is not named.
_LOOKED_AT = 3
#: The masks of a structure are kept of so many cases: they tell what a grid costs it.
_MASKS_KEPT = 5


@dataclass(frozen=True)
class CaseSurvey:
    """The reviewed structures that have a voxel in the annotated region of a case, and the size of its scan in mm³.

    ``drawn`` names them in the dataset's order, ``shapes`` holds their sizes and places. ``stored_axes`` are the
    directions of the scan's axes as they are stored, such as 'LPS', ``axes`` and ``size_xyz_mm`` its voxels and size.
    ``masks`` are those of the structures of which few cases before it had one.
    """

    drawn: tuple[str, ...]
    volume_mm3: float
    shapes: ScanShapes
    stored_axes: str
    axes: ScanAxes
    size_xyz_mm: tuple[float, float, float]
    masks: Mapping[str, StructureMask] = field(default_factory=dict)


#: By the id of the case.
Survey = Mapping[str, CaseSurvey]


def read_corrected_cases(folder: Path) -> Dataset:
    """Return the cases of a project, or of a plain dataset in the same format; raises DatasetError."""
    try:
        dataset = read_dataset(folder)
    except DatasetError:
        return Project(folder).dataset()  # which knows more about what is wrong, and about backups
    return Project(folder).dataset() if "corrections" in dataset.extra else dataset


def chosen_cases(dataset: Dataset, request: FineTuneRequest) -> tuple[Dataset, tuple[str, ...]]:
    """Return the cases in which a structure to learn was reviewed, with only those structures, and notes.

    Raises DatasetError when none is left, TrainingError for a structure that no case has.
    """
    place = request.project
    if not dataset.cases:
        raise DatasetError(f"There is no corrected case in {place} yet: add one with: transferseg cases add")
    dataset, notes = _with_cases_asked_for(dataset, request)
    wanted = dataset.label_set
    if request.structures is not None:
        unknown = [name for name in request.structures if wanted.find(name) is None]
        if unknown:
            raise TrainingError(
                f"The cases in {place} have no structure {', '.join(unknown)}. They have: {', '.join(wanted.names)}."
            )
        wanted = wanted.select(request.structures)
    cases = _cases_annotated_with(wanted, dataset)
    if not cases:
        what = "structure" if request.structures is None else f"of {', '.join(request.structures)}"
        raise DatasetError(
            f"In no case of {place} a {what} was reviewed, so there is nothing to learn: say which ones are right with "
            "transferseg cases add --reviewed."
        )
    reviewed = {name for case in cases for name in case.annotated}
    left_out = len(dataset.cases) - len(cases)
    if left_out:
        verb = "is" if left_out == 1 else "are"
        notes += (f"{counted(left_out, 'case')} {verb} not used: nothing that is to be learned was reviewed.",)
    label_set = wanted.select(name for name in wanted.names if name in reviewed)
    return replace(dataset, cases=cases, label_set=label_set), notes


def _with_cases_asked_for(dataset: Dataset, request: FineTuneRequest) -> tuple[Dataset, tuple[str, ...]]:
    """Return the dataset with the cases that were asked for, and a note when others are left out."""
    if request.cases is None:
        return dataset, ()
    place = request.project
    missing = [name for name in request.cases if name not in dataset.ids]
    if missing:
        raise DatasetError(f"There is no case {', '.join(missing)} in {place}. It has: {', '.join(dataset.ids)}.")
    wanted = tuple(case for case in dataset.cases if case.id in request.cases)
    if not wanted:
        raise DatasetError(f"No case of {place} is chosen, so there is nothing to learn: choose at least one.")
    all_of_them = len(wanted) == len(dataset.cases)
    notes = () if all_of_them else (f"{len(wanted)} of the {len(dataset.cases)} cases were chosen to learn from.",)
    return replace(dataset, cases=wanted), notes


def _cases_annotated_with(label_set: LabelSet, dataset: Dataset) -> tuple[Case, ...]:
    """Return the cases in which one of the structures is annotated, with only those."""
    cases = [
        replace(case, annotated=tuple(name for name in case.annotated if label_set.find(name) is not None))
        for case in dataset.cases
    ]
    return tuple(case for case in cases if case.annotated)


def with_modality(dataset: Dataset, request: FineTuneRequest, task: Task) -> Dataset:
    """Return the dataset with its modality: as asked for, as it names it itself, or as its first scans look.

    A project of corrected cases names none where its first case left it in doubt. Raises DatasetError for a scan that
    cannot be read.
    """
    modality = modality_word(request.modality or dataset.modality)
    if not modality:
        looks = set()
        for case in dataset.cases[:_LOOKED_AT]:
            task.check()
            with naming_case(case.id):
                scan = read_scan(case.image, cancel=task.cancel)  # named: the view of its voxels does not keep it alive
                looks.add(guess_modality(sitk.GetArrayViewFromImage(scan)))
        modality = looks.pop() if len(looks) == 1 else ""
    return replace(dataset, modality=modality)


def survey_cases(dataset: Dataset, task: Task | None = None) -> dict[str, CaseSurvey]:
    """Read every label map once; raises DatasetError naming a case that cannot be read, and Cancelled."""
    surveys: dict[str, CaseSurvey] = {}
    wanted = dict.fromkeys(dataset.label_set.names, _MASKS_KEPT)
    for case, part in (task or Task()).each(dataset.cases):
        with naming_case(case.id):
            masked = [name for name, left in wanted.items() if left > 0]
            surveys[case.id] = _survey_case(case, dataset.label_set, masked, part)
        for name in surveys[case.id].masks:
            wanted[name] -= 1
    return surveys


def _survey_case(case: Case, label_set: LabelSet, masked: Collection[str], task: Task) -> CaseSurvey:
    """Return the survey of a case, with the masks of the structures ``masked`` that are drawn in it."""
    reading, reading_region, measuring = task.split(3, 1, 2)
    labels = read_label_map(case.labels, task=reading)
    judged = None if case.judged is None else read_mask_on(labels, case.judged, reading_region)
    annotated = {one.name for one in map(label_set.find, case.annotated) if one is not None}
    shapes = measuring.wait(lambda: shapes_of(labels, label_set))
    if judged is not None:
        within = measuring.wait(lambda: count_values(sitk.Mask(labels, judged)))
        annotated &= {one.name for one in label_set if one.label in within}
    shapes = replace(shapes, found={name: one for name, one in shapes.found.items() if name in annotated})
    few = [one for one in label_set if one.name in masked and one.name in shapes.found]
    masks = measuring.wait(lambda: masks_of(labels, few)) if few else {}
    axes = ScanAxes.of(labels)
    x, y, z = (count * step for count, step in zip(labels.GetSize(), axes.spacing_xyz_mm, strict=True))
    return CaseSurvey(tuple(shapes.found), x * y * z, shapes, stored_axes(labels), axes, (x, y, z), masks)


def learnable_part(
    dataset: Dataset, survey: Survey, parent: ModelDescription, renewed: Collection[str] = ()
) -> tuple[Dataset, tuple[str, ...]]:
    """Return what of a dataset can be learned, and notes on what was left out; ``renewed`` names structures to keep.

    Structures that the parent does not know and that have no voxel anywhere are left out. Where all voxels are of one
    patient, so are the others' cases: while that patient is held out there would be nothing to learn from. Raises
    DatasetError when no structure has a voxel in any case.
    """
    names = dataset.label_set.names
    drawn = {name for name in names if _patients_with([name], dataset, survey)}
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
        dataset = replace(dataset, cases=_cases_annotated_with(kept, dataset), label_set=kept)
    having = _patients_with(drawn, dataset, survey)
    if len(having) == 1 and any(case.group not in having for case in dataset.cases):
        cases = tuple(case for case in dataset.cases if case.group in having)
        left_out = len(dataset.cases) - len(cases)
        verb = "is" if left_out == 1 else "are"
        notes.append(
            f"Only one patient has anything drawn, so {counted(left_out, 'case')} of others {verb} not used. Draw the "
            "structures in a second patient to have the result compared on a patient who was held out."
        )
        found = [dataset.label_set.find(name) for case in cases for name in case.annotated]
        reviewed = {structure.name for structure in found if structure is not None}
        kept = dataset.label_set.select(name for name in dataset.label_set.names if name in reviewed)
        dataset = replace(dataset, cases=cases, label_set=kept)
    return dataset, tuple(notes)


def axes_notes(survey: Survey, parent: ModelDescription) -> tuple[str, ...]:
    """Return a note where a parent that does not turn scans would learn from scans that are stored in several ways."""
    if turns_scans(parent):
        return ()
    cases_by_axes: dict[str, list[str]] = {}
    for id, case in survey.items():
        cases_by_axes.setdefault(case.stored_axes, []).append(id)
    first = first_axes(parent)
    if len({*cases_by_axes, first or next(iter(cases_by_axes))}) == 1:
        return ()
    stored = "; ".join(f"{axes}: {', '.join(ids)}" for axes, ids in cases_by_axes.items())
    of_first = f"; {first}: the first scan that it segmented here" if first and first not in cases_by_axes else ""
    return (
        f"'{parent.name}' does not turn scans, and the axes of these are stored in several ways ({stored}{of_first}). "
        "It learns little from scans that are stored otherwise than its training files: import it again with --axes.",
    )


def _patients_with(names: Iterable[str], dataset: Dataset, survey: Survey) -> set[str]:
    """Return the patients in whom one of these structures has a voxel."""
    wanted = set(names)
    return {case.group for case in dataset.cases if wanted & set(survey[case.id].drawn)}


def _nothing_is_drawn(dataset: Dataset) -> str:
    names = ", ".join(dataset.label_set.names)
    count = len(dataset.cases)
    where = "The only case has" if count == 1 else f"None of the {count} cases has"
    voxel = "no voxel" if count == 1 else "a voxel"
    return (
        f"{where} {voxel} of what was reviewed ({names}), so there is nothing to learn: draw it in at least one case, "
        "better in three patients, and save that case again (transferseg cases add, or Save in the module)."
    )
