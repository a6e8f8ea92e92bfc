"""Placing a corrected case in a project: which case it is, which label values its structures have, what is noted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import SimpleITK as sitk

from TransferSegLib.anatomy import readable_name
from TransferSegLib.corrections.case_id import check_case_id
from TransferSegLib.corrections.case_notes import notes_on_case, notes_on_orientation, notes_on_structures
from TransferSegLib.corrections.content_hash import hash_content, hash_volume, reviewed_values
from TransferSegLib.corrections.inputs import (
    ImageSource,
    JudgedSlices,
    NamedLabels,
    Structures,
    names_itself,
    patient_id_of,
    read_image,
    read_judged,
    read_named_labels,
    reviewed_structures,
)
from TransferSegLib.corrections.patients import has_group
from TransferSegLib.corrections.project_files import IMAGE, JUDGED, LABELS, PREDICTION, Incoming, has_case_folder
from TransferSegLib.corrections.revisions import ModelReference, ProjectState, RetiredStructure, Revision, now_utc
from TransferSegLib.datasets.dataset import Case, Dataset
from TransferSegLib.errors import DatasetError
from TransferSegLib.evaluation.case_effort import CaseEffort, measure_case_effort
from TransferSegLib.images.notices import notices_of
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet, Structure


@dataclass(frozen=True)
class AddedCase:
    """What adding a case did; ``notes`` are lines for a person. ``replaced`` tells that the scan was there already.

    ``unchanged`` tells that nothing was done, because the case is in the project as it is (see ``unless_same``).
    """

    revision: Revision
    replaced: bool
    notes: tuple[str, ...] = ()
    unchanged: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what a program is told of it."""
        unchanged = {"unchanged": True} if self.unchanged else {}
        return self.revision.to_json() | {"replaced": self.replaced, "remarks": list(self.notes)} | unchanged


@dataclass(frozen=True)
class CorrectedCase:
    """A corrected case as it is handed in.

    ``reviewed`` names the structures that are right in the whole scan or annotated region, or is 'all'
    for those of the label map; one without voxels is absent. ``structures`` says what the label values mean (default:
    the names in a .seg.nrrd, else the project's values), ``prediction_structures`` the same for the prediction
    (default: the names in a .seg.nrrd, else ``structures``). ``judged`` is the annotated region, a mask or
    slices (None: the whole scan). ``series`` chooses among several in a DICOM folder.

    ``patient`` is hashed like a DICOM PatientID to make the case's group, ``group`` is kept as it is. Without both a
    case that is in the project keeps its group; a new one gets that of the DICOM patient (``dicom_patient`` where the
    image does not say it), else its id.

    ``modality`` is the scan's (default: its DICOM header's word, else as it looks); one that is not the project's is
    refused unless ``any_modality``. ``overlap_priority`` names the segments that win where segments of a file overlap,
    the first before the others (default: the later one in the file).
    """

    image: ImageSource
    label_map: ImageSource
    reviewed: Iterable[str] | Literal["all"]
    structures: Structures | None = None
    judged: ImageSource | JudgedSlices | None = None
    prediction: ImageSource | None = None
    prediction_structures: Structures | None = None
    model: ModelReference | None = None
    case_id: str | None = None
    group: str | None = None
    patient: str = ""
    series: str | None = None
    notes: str = ""
    modality: str = ""
    any_modality: bool = False
    overlap_priority: tuple[str, ...] = ()
    #: No new revision where the latest one has the same scan, labels, annotated region and reviewed structures.
    unless_same: bool = False
    dicom_patient: str = ""

    @property
    def names_patient(self) -> bool:
        """Whether someone said whose the scan is, which counts more than what was said before."""
        return bool(self.group or self.patient)

    def patient_id(self) -> str:
        """Return the patient's id where it decides the group, else ''."""
        return "" if self.group else self.patient or self.dicom_patient or patient_id_of(self.image, self.series)

    def read(self, task: Task, known: LabelSet | None) -> Submission:
        """Read and check all files; ``known`` are the structures of the project.

        Raises ScanError for files that cannot be read, DatasetError for what does not fit.
        """
        if self.case_id is not None:
            check_case_id(self.case_id)
        reading_image, reading_labels = task.split(1, 1)
        reading, hashing = reading_image.split(2, 1)
        scan = read_image(self.image, self.series, reading)
        image_hash = hash_volume(scan, hashing)
        reading_image.done("read the image")
        first = self.overlap_priority
        reading, reading_predicted, reading_judged = reading_labels.split(4, 4, 1)
        labels = reading.wait(
            lambda: read_named_labels(self.label_map, "the label map", scan, self.structures, known, first)
        )
        _check_priority(first, labels.label_set)
        predicted = None
        if self.prediction is not None:
            names = self.prediction_structures
            if names is None and not names_itself(self.prediction):
                names = self.structures
            predicted = reading_predicted.wait(
                partial(read_named_labels, self.prediction, "the prediction", scan, names, known, first)
            )
        judged = reading_judged.wait(partial(read_judged, self.judged, scan))
        reviewed = reviewed_structures(self.reviewed, labels.label_set, known)
        reading_labels.done("read the label map")
        return Submission(self, scan, image_hash, labels, predicted, judged, reviewed)


@dataclass(frozen=True)
class Submission:
    """A corrected case, read and checked, that has no place in a project yet; all images share one grid."""

    asked: CorrectedCase
    scan: sitk.Image
    image_hash: str
    labels: NamedLabels
    prediction: NamedLabels | None
    judged: sitk.Image | None
    reviewed: tuple[Structure, ...]

    def repeats(self, before: Revision, content_hash: str, group: str) -> bool:
        """Tell whether a revision in use teaches the same of the same patient, and no new one is wanted then."""
        same = before.content_hash == content_hash and (not self.asked.names_patient or before.case.group == group)
        return self.asked.unless_same and not before.removed and same

    @property
    def notices(self) -> list[str]:
        """Lines for a person about how the image and its label map were read."""
        return list(dict.fromkeys([*notices_of(self.scan), *notices_of(self.labels.image)]))

    def effort(self, task: Task) -> CaseEffort | None:
        """Return what it took to correct the prediction, by the names of ``reviewed``; None without one."""
        if self.prediction is None:
            return None
        region = None if self.judged is None else sitk.GetArrayViewFromImage(self.judged) != 0
        width_mm, depth_mm, height_mm = self.scan.GetSpacing()
        return measure_case_effort(
            sitk.GetArrayViewFromImage(self.prediction.image),
            self.prediction.label_set,
            sitk.GetArrayViewFromImage(self.labels.image),
            self.labels.label_set,
            [structure.name for structure in self.reviewed],
            (height_mm, depth_mm, width_mm),
            region,
            task=task,
        )

    def structures(self) -> list[Structure]:
        """Return the structures the project must have for this case: reviewed ones and those with voxels.

        Those of the label map come first, in its order.
        """
        reviewed = {structure.key for structure in self.reviewed}
        own = [one for one in self.labels.label_set if one.label in self.labels.present or one.key in reviewed]
        predicted = [] if self.prediction is None else list(self.prediction.label_set)
        others = [one for one in predicted if self.prediction is not None and one.label in self.prediction.present]
        needed: dict[str, Structure] = {}
        for structure in (*own, *self.reviewed, *others):
            needed.setdefault(structure.key, structure)
        return list(needed.values())


def _check_priority(names: Iterable[str], label_set: LabelSet) -> None:
    """Raise DatasetError for a name that is to win overlaps and that no structure has."""
    for name in names:
        if label_set.find(name) is None and label_set.find(readable_name(name)) is None:
            raise DatasetError(
                f"'{name}' is to win where segments overlap, but the label map has no such structure. It has: "
                f"{', '.join(label_set.names)}."
            )


def place_case(
    state: ProjectState | None,
    folder: Path,
    submission: Submission,
    group: str,
    incoming: Incoming,
    modality: str = "",
    effort: CaseEffort | None = None,
    task: Task | None = None,
) -> tuple[AddedCase, ProjectState]:
    """Write a case's label maps, move its files to their place, and return the state that names them.

    The project in ``folder`` is locked; ``state`` is what it holds now, None when it is new. ``group`` is '' for the
    group the case has already, or its own id; it counts for a case that has one only where the submission says it.
    ``modality`` is the project's where it names none yet, ``effort`` the
    submission's. Raises DatasetError when the id is taken by another scan, ScanError and OSError when the files cannot
    be written, Cancelled from the task.
    """
    turning, writing, writing_predicted, writing_judged = (task or Task()).split(2, 2, 2, 1)
    case_id, before = _identify(state, folder, submission)
    after, notes = _with_structures(state, folder, submission)
    after = replace(after, dataset=replace(after.dataset, modality=after.dataset.modality or modality))
    turned = turning.wait(partial(notes_on_orientation, state, submission, before))
    label_set = after.label_set.select(structure.name for structure in submission.structures())
    labels = submission.labels.renumbered(label_set)
    labels_hash = incoming.write_labels(labels, LABELS, label_set, writing)
    if submission.prediction is not None:
        predicted = submission.prediction.renumbered(label_set)
        incoming.write_labels(predicted, PREDICTION, label_set, writing_predicted)
    judged_hash = ""
    if submission.judged is not None:
        judged_hash = incoming.write_labels(submission.judged, JUDGED, None, writing_judged)
    names = tuple(s.name for one in submission.reviewed if (s := label_set.find(one.name)) is not None)
    content_hash = hash_content(submission.image_hash, labels_hash, judged_hash, reviewed_values(names, label_set))
    if state is not None and before is not None and submission.repeats(before, content_hash, group):
        return AddedCase(before, replaced=True, unchanged=True), state
    if before is not None:
        (incoming.folder / IMAGE).unlink(missing_ok=True)
    elif not (incoming.folder / IMAGE).is_file():
        raise DatasetError(f"The project in {folder} was exchanged while the case was added. Add it again.")
    number = 1 if before is None else before.number + 1
    place = incoming.move_to(case_id, number)
    case = Case(
        id=case_id,
        image=place / IMAGE if before is None else before.case.image,
        labels=place / LABELS,
        annotated=tuple(name for name in after.label_set.names if name in names),
        judged=None if submission.judged is None else place / JUDGED,
        group=_group_of(submission, before, group),
    )
    revision = Revision(
        case=case,
        number=number,
        created=now_utc(),
        image_hash=submission.image_hash,
        content_hash=content_hash,
        corrected_from=submission.asked.model,
        prediction=None if submission.prediction is None else place / PREDICTION,
        notes=submission.asked.notes.strip(),
        effort=None if effort is None else _named_as_in(label_set, effort),
    )
    notes = [
        *turned,
        *submission.notices,
        *notes_on_case(revision, before),
        *notes,
        *notes_on_structures(submission, names),
    ]
    return AddedCase(revision, before is not None, tuple(notes)), _counted(after.with_revision(revision), case_id)


def _group_of(submission: Submission, before: Revision | None, group: str) -> str:
    """Return the group of a case: what was said now, else what was said before, else what DICOM says."""
    keeps = before is not None and has_group(before) and not submission.asked.names_patient
    return before.case.group if before is not None and (keeps or not group) else group


def _named_as_in(label_set: LabelSet, effort: CaseEffort) -> CaseEffort:
    """Return an effort with the names that the project has for its structures."""
    for name in tuple(effort.structures):
        if (structure := label_set.find(name)) is not None:
            effort = effort.renamed(name, structure.name)
    return effort


def _identify(state: ProjectState | None, folder: Path, submission: Submission) -> tuple[str, Revision | None]:
    """Return the id of a case, and its latest revision when its scan is in the project already."""
    revisions = () if state is None else state.every_revision
    ids = {revision.case.id.casefold(): revision.case.id for revision in revisions}
    same = None if state is None else state.latest_of_scan(submission.image_hash)
    wanted = submission.asked.case_id
    if same is not None:
        if wanted is not None and wanted.casefold() != same.case.id.casefold():
            raise DatasetError(
                f"This scan is the case '{same.case.id}' of the project already: leave the id out to add a new "
                "revision of it."
            )
        return same.case.id, same
    if wanted is not None:
        if wanted.casefold() in ids:
            raise DatasetError(
                f"The case '{ids[wanted.casefold()]}' has another scan: choose another id, or leave it out."
            )
        return wanted, None
    number = 1 if state is None else state.next_case
    while (id := f"case-{number:04d}") in ids or has_case_folder(folder, id):
        number += 1
    return id, None


def _with_structures(
    state: ProjectState | None, folder: Path, submission: Submission
) -> tuple[ProjectState, list[str]]:
    """Return the state that has every structure of a case and counts it, and lines on what is new."""
    needed = submission.structures()
    label_set, retired = join_structures(
        None if state is None else state.label_set, () if state is None else state.retired, needed
    )
    if state is None:
        return ProjectState(Dataset(folder, "Corrected cases", "", "", "", label_set, ())), []
    notes = []
    for structure in label_set:
        if state.label_set.find(structure.name) is None:
            again = any(old.structure.key == structure.key for old in state.retired)
            what = "is a structure of the project again" if again else "is new in the project"
            notes.append(f"'{structure.name}' {what}: its label value is {structure.label}.")
    return replace(state, dataset=replace(state.dataset, label_set=label_set), retired=retired), notes


def _counted(state: ProjectState, case_id: str) -> ProjectState:
    """Return the state in which the number of a made-up id is not used again."""
    number = re.fullmatch(r"case-(\d{4,9})", case_id)
    return state if number is None else replace(state, next_case=max(state.next_case, int(number.group(1)) + 1))


def join_structures(
    current: LabelSet | None, retired: tuple[RetiredStructure, ...], needed: Iterable[Structure]
) -> tuple[LabelSet, tuple[RetiredStructure, ...]]:
    """Return the project's structures with the needed ones among them, and what is still retired.

    Structures are the same when their names are. Values that were given once stay: one that is retired comes back with
    its own, and a new one gets the value it brings along when nothing ever had it, else the next above all.
    """
    joined = [] if current is None else list(current)
    known = {structure.key for structure in joined}
    resting = {one.structure.key: one for one in retired}
    taken = {structure.label for structure in joined} | {one.structure.label for one in retired}
    for structure in needed:
        if structure.key in known:
            continue
        known.add(structure.key)
        if structure.key in resting:
            joined.append(resting.pop(structure.key).structure)
            continue
        label = structure.label if structure.label not in taken else max(taken) + 1
        taken.add(label)
        joined.append(replace(structure, label=label))
    return LabelSet(tuple(joined)), tuple(resting.values())
