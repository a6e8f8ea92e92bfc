"""Whose a case is: what was said stays, a change is told, and so is a lost key of the pseudonyms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from TransferSegLib.corrections.adding import AddedCase
from TransferSegLib.corrections.checking import check_project
from TransferSegLib.corrections.project import Project
from TransferSegLib.errors import DatasetError

SALT = "patient-salt.txt"


def dicom(make, seed: int, patient_id: str = "PAT7") -> sitk.Image:
    """Return a scan whose DICOM header names its patient."""
    scan = make.scan(seed)
    scan.SetMetaData("0010|0020", patient_id)
    return scan


def add(make, seed: int, *values: int, **more: Any) -> AddedCase:
    return make.project.add_case(dicom(make, seed), make.labels(*values), "all", structures=make.organs, **more)


def groups(project: Project) -> list[str]:
    return [revision.case.group for revision in project.state().current]


@pytest.mark.parametrize("said", [{"group": "patient A"}, {"patient": "X"}])
def test_a_new_revision_keeps_the_patient_that_was_said(make, project: Project, said: dict[str, str]) -> None:
    add(make, 1, 1, **said)
    add(make, 2, 1, **said)
    before = groups(project)
    added = add(make, 1, 2)
    assert groups(project) == before and before[0] == before[1]
    assert not any("patient" in note for note in added.notes)
    assert (project.folder / SALT).exists() == ("patient" in said), "no key is made that nothing needs"


def test_a_changed_patient_is_told(make, project: Project) -> None:
    add(make, 1, 1, group="A")
    added = add(make, 1, 2, group="B")
    assert groups(project) == ["B"]
    assert "The patient of the case has changed: it had the group 'A', and is in the group 'B' now." in added.notes


def test_a_case_without_a_patient_gets_that_of_dicom_later(make, project: Project) -> None:
    make.add(1, 1)
    assert groups(project) == ["case-0001"]
    added = add(make, 1, 2)
    assert groups(project)[0].startswith("patient-")
    assert any("counted as a patient of its own, and is in the group 'patient-" in note for note in added.notes)


def test_going_back_to_a_revision_keeps_the_patient(make, project: Project) -> None:
    add(make, 1, 1, group="A")
    add(make, 1, 2, group="B")
    assert project.restore_revision("case-0001", 1).case.group == "B"
    assert groups(project) == ["B"]


def test_the_same_case_with_another_group_is_a_change(make, project: Project) -> None:
    add(make, 1, 1)
    assert add(make, 1, 1, unless_same=True).unchanged
    added = add(make, 1, 1, unless_same=True, group="A")
    assert not added.unchanged and groups(project) == ["A"]
    assert add(make, 1, 1, unless_same=True, group="A").unchanged


def key_problem(project: Project) -> str:
    """Return what the check of a project says of the key."""
    return "".join(problem.what for problem in check_project(project) if SALT in problem.what)


def of_an_earlier_version(project: Project) -> None:
    """Take out of a project what earlier versions did not write."""
    for file in (project.folder / "dataset.json", project.folder / "dataset.json.bak"):
        content = json.loads(file.read_text())
        del content["corrections"]["patient_key_check"]
        file.write_text(json.dumps(content))


@pytest.mark.parametrize("earlier_version", [False, True])
def test_a_lost_key_is_told(make, project: Project, earlier_version: bool) -> None:
    add(make, 1, 1)
    if earlier_version:
        of_an_earlier_version(project)
    (project.folder / SALT).unlink()
    assert "is missing" in key_problem(project)
    added = add(make, 2, 1)
    assert len(set(groups(project))) == 2
    assert any(note.startswith("WARNING: patient-salt.txt was missing") for note in added.notes)
    assert not any("salt" in note for note in add(make, 3, 1).notes), "of this patient the new key knows"
    assert key_problem(project) == ""


@pytest.mark.parametrize("earlier_version", [False, True])
def test_a_lost_key_is_told_when_the_first_attempt_failed(make, project: Project, earlier_version: bool) -> None:
    add(make, 1, 1)
    if earlier_version:
        of_an_earlier_version(project)
    salt = (project.folder / SALT).read_text()
    (project.folder / SALT).unlink()
    for _ in range(2):
        with pytest.raises(DatasetError, match="case-0001"):
            add(make, 2, 1, case_id="case-0001")
        assert "is not the one of earlier cases" in key_problem(project)
    made = (project.folder / SALT).read_text()
    (project.folder / SALT).write_text(salt)
    assert key_problem(project) == "", "the earlier file was put back"
    (project.folder / SALT).write_text(made)
    assert any("is not the one of earlier cases" in note for note in add(make, 2, 1).notes)
    assert key_problem(project) == "" and len(set(groups(project))) == 2


def test_an_earlier_project_with_its_key_needs_no_word(make, project: Project) -> None:
    add(make, 1, 1)
    of_an_earlier_version(project)
    assert key_problem(project) == ""
    assert not any("salt" in note for note in add(make, 2, 1).notes) and len(set(groups(project))) == 1


def test_another_projects_key_is_told(make, project: Project) -> None:
    add(make, 1, 1)
    (project.folder / SALT).write_text("ab" * 32)
    assert "is not the one of earlier cases" in key_problem(project)
    assert any("is not the one of earlier cases" in note for note in add(make, 2, 1).notes)


def test_a_key_lost_before_the_first_pseudonym_matters_to_nobody(make, project: Project) -> None:
    add(make, 1, 1, group="A")
    assert not any("salt" in note for note in add(make, 2, 1).notes)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"abc\n"])
def test_a_damaged_key_is_refused(make, project: Project, content: bytes) -> None:
    add(make, 1, 1)
    (project.folder / SALT).write_bytes(content)
    with pytest.raises(DatasetError, match=r"patient-salt\.txt is damaged"):
        add(make, 2, 1)
    assert "is damaged" in key_problem(project)
    assert len(groups(project)) == 1
    add(make, 1, 2)  # keeps its group, which no key is needed for


def test_a_project_given_on_without_its_key(make, project: Project, tmp_path: Path) -> None:
    """The documented way: the file is left out; the receiver is told what a scan of a known patient becomes."""
    add(make, 1, 1)
    (project.folder / SALT).unlink()
    project.folder.rename(tmp_path / "received")
    received = Project(tmp_path / "received")
    added = received.add_case(dicom(make, 2, "OTHER"), make.labels(1), "all", structures=make.organs)
    assert any("or give all cases of this patient the same patient or group again" in note for note in added.notes)
