"""A project: a folder of corrected cases that can be added to, corrected again, and gone back on.

>>> project = Project(folder, create=True)
>>> added = project.add_case("scan.nii.gz", "corrected.seg.nrrd", reviewed=["mandible"])
>>> project.dataset()  # to train on

Every change is one renaming of ``dataset.json`` under a lock: it is there completely or not at all, whenever the
process dies and whoever else works on the project. ``docs/corrections.md`` describes the folder.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import SimpleITK as sitk

from TransferSegLib.corrections.adding import AddedCase, CorrectedCase, Submission, place_case
from TransferSegLib.corrections.case_modality import check_modality, project_modality, scan_modality
from TransferSegLib.corrections.inputs import ImageSource
from TransferSegLib.corrections.patients import PatientGroup, group_of_patient, has_group
from TransferSegLib.corrections.project_files import (
    BACKUP_NAME,
    clear_leftovers,
    incoming_folder,
    project_lock,
    save_project_text,
)
from TransferSegLib.corrections.revisions import ProjectState, Revision, now_utc, read_state
from TransferSegLib.datasets.dataset import FILE_NAME, Dataset, dataset_text
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import DatasetError
from TransferSegLib.output_checks import file_in_the_way, why_no_folder
from TransferSegLib.own_files import make_private_folder
from TransferSegLib.paths import as_path
from TransferSegLib.progress import CancelToken, ProgressCallback, Task
from TransferSegLib.wording import counted, local_time

#: Seconds to wait for the lock when only leftovers are to be cleared: the next change does it too.
_TIDY_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Change:
    """A project that is locked for a change: what it holds (None: it is new), and which leftovers were cleared."""

    folder: Path
    new_or_known: ProjectState | None
    cleared: tuple[str, ...]

    @property
    def state(self) -> ProjectState:
        """What the project holds; raises DatasetError when there is none."""
        if self.new_or_known is None:
            raise _no_project(self.folder)
        return self.new_or_known

    def save(self, state: ProjectState) -> None:
        """Make this the project's state; when it returns the disk has it. Raises DatasetError and OSError."""
        save_project_text(self.folder, dataset_text(state.to_dataset(), self.folder))


class Project:
    """A folder of corrected cases; the object holds no state, so that several and other processes can use one."""

    def __init__(self, folder: Path | str, create: bool = False, timeout_s: float = 60.0) -> None:
        """Name a project; with ``create`` the folder is made by the first case (its parent must be there).

        ``timeout_s`` is how long a change waits for one that another program is making.
        """
        try:
            self.folder = as_path(folder, "The folder of a project", DatasetError).resolve()
        except (OSError, RuntimeError, ValueError) as error:
            raise DatasetError(
                f"The project in {folder!s} cannot be used: {getattr(error, 'strerror', None) or error}. Name another "
                "folder."
            ) from error
        self._create = create
        self.timeout_s = timeout_s

    def state(self) -> ProjectState:
        """Return what the project holds now; raises DatasetError when there is none, or it is damaged."""
        state = self._read()
        if state is None:
            raise _no_project(self.folder)
        return state

    def dataset(self) -> Dataset:
        """Return the current cases as a dataset; raises DatasetError as ``state`` does."""
        return self.state().to_dataset()

    def revisions(self, case_id: str) -> tuple[Revision, ...]:
        """Return the revisions of a case, removed or not, the latest last; raises DatasetError when there is none."""
        return self.state().of_case(case_id)

    def add_case(
        self,
        image: ImageSource,
        label_map: ImageSource,
        reviewed: Iterable[str] | Literal["all"],
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
        **more: Any,
    ) -> AddedCase:
        """Add a corrected case; ``more`` are the other fields of ``CorrectedCase``. See ``add``."""
        return self.add(CorrectedCase(image, label_map, reviewed, **more), Task("", progress, cancel))

    def add(self, case: CorrectedCase, task: Task | None = None) -> AddedCase:
        """Add a corrected case, or a new revision of the case that has the same scan; when it returns the disk has it.

        Raises ScanError for files that cannot be read, DatasetError for what does not fit or cannot be saved, and
        Cancelled.
        """
        task = (task or Task()).named("Adding a case")
        reading, looking, copying, placing = task.split(2, 0, 1, 1)  # only old projects are looked at
        measuring, copying = copying.split(1, 1)
        known = self._read()
        if known is None:
            self._check_place()
        submission = case.read(reading, None if known is None else known.label_set)
        lines, modality = self._modality(known, submission, looking)
        patient = self._patient(case, known, submission.image_hash)
        effort = submission.effort(measuring)
        try:
            with self._saving(), incoming_folder(self._made(), self.timeout_s, task.cancel) as incoming:
                if known is None or known.latest_of_scan(submission.image_hash) is None:
                    incoming.write_image(submission.scan, submission.image_hash, copying)
                copying.done("copied the image")
                with self.changing(task.cancel) as change:
                    state = change.new_or_known if known is None else change.state
                    added, state = place_case(
                        state, self.folder, submission, patient.group, incoming, modality, effort, placing
                    )
                    if not added.unchanged:
                        change.save(patient.recorded_in(state))
        finally:
            self.tidy()
        placing.done(added.revision.case.id, look=False)
        return replace(added, notes=(*lines, *patient.notes, *added.notes))

    @staticmethod
    def _modality(known: ProjectState | None, submission: Submission, task: Task) -> tuple[tuple[str, ...], str]:
        """Return lines on a new scan's modality and that of the project; raises AnotherModality and Cancelled."""
        asked, modality = submission.asked, project_modality(known, task)
        if known is not None and known.latest_of_scan(submission.image_hash) is not None:
            return (), modality
        name = "the scan" if isinstance(asked.image, sitk.Image) else str(asked.image)
        lines = check_modality(submission.scan, asked.modality, modality, asked.any_modality, name)
        return lines, modality or scan_modality(submission.scan, asked.modality)

    def remove_case(self, case_id: str) -> Revision:
        """Put a case in the project's bin, from which ``restore_case`` brings it back; returns its latest revision.

        Raises DatasetError when there is no such case, or it is in the bin already.
        """
        return self.remove_cases([case_id])[0]

    def remove_cases(self, case_ids: Iterable[str]) -> tuple[Revision, ...]:
        """Put all of these cases in the bin, or none: as ``remove_case`` for each, in one step."""
        binned = []
        with self.changing() as change:
            for case_id in dict.fromkeys(case_ids):
                latest = change.state.latest(case_id)
                if latest.removed:
                    raise DatasetError(f"The case '{case_id}' was removed already, {local_time(latest.removed)}.")
                binned.append(replace(latest, removed=now_utc()))
            gone = {revision.case.id for revision in binned}
            current = tuple(revision for revision in change.state.current if revision.case.id not in gone)
            change.save(replace(change.state, current=current, removed=(*change.state.removed, *binned)))
        return tuple(binned)

    def restore_case(self, case_id: str) -> Revision:
        """Bring a removed case back as it was, with its structures; raises DatasetError when it is not in the bin."""
        with self.changing() as change:
            latest = change.state.latest(case_id)
            if not latest.removed:
                raise DatasetError(f"The case '{case_id}' is not removed, so there is nothing to bring back.")
            latest = replace(latest, removed="")
            removed = tuple(revision for revision in change.state.removed if revision.case.id != case_id)
            state = change.state.with_structures_of(latest.case.annotated)
            change.save(replace(state, current=(*state.current, latest), removed=removed))
        return latest

    def restore_revision(self, case_id: str, number: int) -> Revision:
        """Make an earlier revision of a case the current one again, as a new revision; returns that.

        Structures that were dropped or merged since, and were reviewed in it, are structures of the project again.
        The case's patient stays that of the latest revision.
        Raises DatasetError when there is no such revision.
        """
        with self.changing() as change:
            found = {revision.number: revision for revision in change.state.of_case(case_id)}
            if number not in found:
                numbers = ", ".join(str(known) for known in found)
                raise DatasetError(f"The case '{case_id}' has no revision {number}. It has: {numbers}.")
            old = found[number]
            if number == max(found) and not old.removed:
                raise DatasetError(f"Revision {number} of the case '{case_id}' is the current one.")
            # The patient is a fact about the scan, and stays what was said of it last.
            case = replace(old.case, group=found[max(found)].case.group)
            again = replace(old, case=case, restored_from=number)
            revision = replace(again, number=max(found) + 1, created=now_utc(), removed="")
            change.save(change.state.with_structures_of(old.case.annotated).with_revision(revision))
        return revision

    def clear_leftovers(self) -> tuple[str, ...]:
        """Remove what killed writers left; returns a line for each thing. Raises DatasetError as ``state`` does."""
        with self.changing() as change:
            return change.cleared

    def repair(self) -> Path | None:
        """Put the last good ``dataset.json`` back; returns where the damaged one was put, None if it was missing.

        Raises DatasetError when it is not damaged, or there is no good backup.
        """
        file, backup = self.folder / FILE_NAME, self.folder / BACKUP_NAME
        with self._saving(), project_lock(self.folder, self.timeout_s):
            if _state_or_none(file) is not None:
                raise DatasetError(f"{file} is not damaged: there is nothing to repair.")
            if not backup.is_file():
                raise DatasetError(
                    f"There is no earlier state of {file} to put back: {backup.name} is missing too. Take dataset.json "
                    "from a copy of the project, or add the cases again to a new one."
                )
            read_state(backup)
            kept = None
            if file.exists():
                kept = file.with_name(f"{FILE_NAME}.damaged-{secrets.token_hex(4)}")
                file.rename(kept)
            write_text_durably(file, backup.read_text(encoding="utf-8"))
        return kept

    @contextmanager
    def changing(self, cancel: CancelToken | None = None, timeout_s: float | None = None) -> Iterator[Change]:
        """Lock the project for a change and clear leftovers away; nothing is changed but by ``Change.save``.

        Raises DatasetError when another program keeps it locked, it is damaged, or it cannot be written.
        """
        if not self.folder.is_dir():
            raise _no_project(self.folder)
        timeout_s = self.timeout_s if timeout_s is None else timeout_s
        with self._saving(), project_lock(self.folder, timeout_s, cancel):
            state = self._read()
            named = [] if state is None else [file for one in state.every_revision for file in one.files()]
            text = None if state is None else (self.folder / FILE_NAME).read_text(encoding="utf-8-sig")
            yield Change(self.folder, state, tuple(clear_leftovers(self.folder, text, named)))

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """Turn errors of the disk into DatasetError."""
        try:
            yield
        except OSError as error:
            raise DatasetError(
                f"The project in {self.folder} cannot be changed: {why_no_folder(self.folder, error)}. What was saved "
                "before is still there. Check the folder, its permissions and the disk."
            ) from error

    def tidy(self) -> None:
        """Clear leftovers if that is possible now."""
        with suppress(DatasetError), self.changing(timeout_s=_TIDY_TIMEOUT_S):
            pass

    def _check_place(self) -> None:
        """Raise DatasetError when the folder of a new project cannot be made, before any work."""
        if file_in_the_way(self.folder) is not None:
            raise DatasetError(
                f"The project in {self.folder} cannot be made: {why_no_folder(self.folder)}. Name another folder."
            )
        if not self.folder.parent.is_dir():
            raise DatasetError(
                f"The project in {self.folder} cannot be made: there is no folder {self.folder.parent}. Make it first, "
                "or name another folder."
            )

    def _made(self) -> Path:
        """Return the project's folder, made if this may be a new project; raises DatasetError and OSError."""
        if self._create:
            make_private_folder(self.folder, exist_ok=True)
        if not self.folder.is_dir():
            raise _no_project(self.folder)
        return self.folder

    def _read(self) -> ProjectState | None:
        """Return the state, None when the project is still to be made; raises DatasetError with a way out."""
        file, backup = self.folder / FILE_NAME, self.folder / BACKUP_NAME
        try:
            is_there = file.exists() or backup.exists()
        except OSError as error:  # a name too long, a folder that may not be looked into
            raise DatasetError(
                f"The project in {self.folder} cannot be read: {error.strerror or error}. Check the folder's name and "
                "permissions."
            ) from error
        if not is_there:
            if not self._create:
                raise _no_project(self.folder)
            return None
        try:
            return read_state(file)
        except DatasetError as error:
            good = _state_or_none(backup)
            if good is None:
                raise
            raise DatasetError(
                f"{error}\nThe last good state, with {counted(len(good.current), 'case')}, is in {backup.name}. To put "
                f"it back (the damaged file is kept): transferseg cases check --repair --project '{self.folder}'"
            ) from error

    def _patient(self, case: CorrectedCase, known: ProjectState | None, image_hash: str) -> PatientGroup:
        """Return the group that a case is handed in with, '' where nothing says one or the case keeps its own."""
        before = None if known is None else known.latest_of_scan(image_hash)
        if not case.names_patient and before is not None and has_group(before):
            return PatientGroup()
        patient_id = case.patient_id()
        if not patient_id:
            return PatientGroup(case.group or "")
        with self._saving():
            self._made()
        with self._saving(), project_lock(self.folder, self.timeout_s):
            here = Change(self.folder, self._read(), ())
            return group_of_patient(self.folder, patient_id, here.new_or_known, here.save)


def _no_project(folder: Path) -> DatasetError:
    why = f"it has no {FILE_NAME}" if folder.is_dir() else "the folder is not there"
    if file_in_the_way(folder) is not None:
        return DatasetError(f"There is no project in {folder}: {why_no_folder(folder)}. Name the folder of a project.")
    return DatasetError(
        f"There is no project of corrected cases in {folder}: {why}. Check the folder, or make a project by adding a "
        "case (transferseg cases add)."
    )


def _state_or_none(file: Path) -> ProjectState | None:
    """Return the state in a file, None when it cannot be read."""
    try:
        return read_state(file)
    except DatasetError:
        return None
