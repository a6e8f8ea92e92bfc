"""Whose a case is: the group that keeps the cases of one patient together, and the key of patients' pseudonyms."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from TransferSegLib.corrections.dicom_patient import pseudonym
from TransferSegLib.corrections.project_files import SALT_NAME
from TransferSegLib.corrections.revisions import ProjectState, Revision
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import DatasetError

#: In what a project says of itself: a check value of the key, which the key cannot be found from.
_CHECK = "patient_key_check"
#: Before the check value of a key that earlier pseudonyms were not made with, where it is not known which they were.
_NOT = "not "
_SALT = re.compile("[0-9a-f]{64}")
_PSEUDONYM = re.compile("patient-[0-9a-f]{16}")
_MEANS = (
    "a new scan of a patient who has cases already counts as another patient's, and may then test a model that has "
    "learned from this patient."
)
_WAY_OUT = (
    "Put the earlier file back from a copy of the project, and add the case again with its patient; or give all cases "
    "of this patient the same patient or group again."
)


@dataclass(frozen=True)
class PatientGroup:
    """The group that a case is handed in with: '' when nothing says whose it is; ``notes`` are for a person.

    ``key_check`` stands for the key it was made with, '' for a group that is no pseudonym.
    """

    group: str = ""
    key_check: str = ""
    notes: tuple[str, ...] = ()

    def recorded_in(self, state: ProjectState) -> ProjectState:
        """Return the state that says with which key pseudonyms are made."""
        return replace(state, settings={**state.settings, _CHECK: self.key_check}) if self.key_check else state


def has_group(revision: Revision) -> bool:
    """Tell whether anything said whose a case is: without a group it counts as a patient of its own."""
    return revision.case.group != revision.case.id


def group_of_patient(
    folder: Path, patient_id: str, state: ProjectState | None, save: Callable[[ProjectState], None]
) -> PatientGroup:
    """Return the group of a patient; the project's key is made when it has none.

    The project in ``folder`` is locked; ``state`` is what it holds (None: it is new). If a key was lost, ``save`` notes
    that first: the warning must come again when this case is not added after all. Raises DatasetError for a damaged
    key, and OSError.
    """
    file = folder / SALT_NAME
    was_missing = not file.exists()
    if was_missing:
        made = secrets.token_hex(32)
        if state is not None and _pseudonyms(state) and not _known_check(state):
            save(replace(state, settings={**state.settings, _CHECK: _NOT + _check_of(made)}))
        write_text_durably(file, f"{made}\n")
        file.chmod(0o600)
    salt = _read_salt(file)
    check, group = _check_of(salt), pseudonym(patient_id, salt)
    if state is None or not _lost(state, check, was_missing) or group in _pseudonyms(state):
        return PatientGroup(group, check)
    what = "was missing, and a new one was made" if was_missing else "is not the one of earlier cases"
    return PatientGroup(group, check, (f"WARNING: {SALT_NAME} {what}: {_MEANS} {_WAY_OUT}",))


def key_problem(folder: Path, state: ProjectState) -> str:
    """Return what is wrong with the key of a project's pseudonyms, '' for nothing; raises OSError."""
    file = folder / SALT_NAME
    if not _pseudonyms(state):
        return ""
    if not file.exists():
        return f"{SALT_NAME} is missing: {_MEANS} {_WAY_OUT}"
    try:
        lost = _lost(state, _check_of(_read_salt(file)), False)
    except DatasetError as error:
        return str(error)
    return f"{SALT_NAME} is not the one of earlier cases: {_MEANS} {_WAY_OUT}" if lost else ""


def _lost(state: ProjectState, check: str, was_missing: bool) -> bool:
    """Tell whether a project has pseudonyms that were made with another key than the one with this check value."""
    if not _pseudonyms(state):
        return False
    known = _known_check(state)
    return known != check if known else was_missing or state.settings.get(_CHECK) == _NOT + check


def _known_check(state: ProjectState) -> str:
    """Return the check value of the key that a project's pseudonyms were made with, '' where it was not noted."""
    check = str(state.settings.get(_CHECK) or "")
    return "" if check.startswith(_NOT) else check


def _pseudonyms(state: ProjectState) -> set[str]:
    return {one.case.group for one in state.every_revision if _PSEUDONYM.fullmatch(one.case.group)}


def _check_of(salt: str) -> str:
    return sha256(f"check {salt}".encode()).hexdigest()[:16]


def _read_salt(file: Path) -> str:
    """Return the key of the pseudonyms; raises DatasetError for anything that was not written as one, and OSError."""
    try:
        salt = file.read_text(encoding="ascii").strip()
    except UnicodeError:
        salt = ""
    if not _SALT.fullmatch(salt):
        raise DatasetError(
            f"{file} is damaged: without it the patients of earlier cases are not recognised. Put the file back from a "
            "copy of the project. If there is none, delete it: a new one is made, and you are told what that means."
        )
    return salt
