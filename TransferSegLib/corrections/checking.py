"""Checking a project: leftovers of killed writers go, every file of every revision is read and compared."""

from __future__ import annotations

from TransferSegLib.corrections.content_hash import hash_case, hash_volume
from TransferSegLib.corrections.patients import key_problem
from TransferSegLib.corrections.project import Project
from TransferSegLib.corrections.project_files import refuse_links_in, unnamed_folders
from TransferSegLib.corrections.revisions import ProjectState, Revision
from TransferSegLib.datasets.validate import Problem, check_dataset
from TransferSegLib.errors import DatasetError, ScanError
from TransferSegLib.images.geometry_checks import same_geometry
from TransferSegLib.images.read import read_label_map, read_scan
from TransferSegLib.own_files import others_can_read
from TransferSegLib.progress import Task

_OPEN_TO_OTHERS = "other users of this computer can read the project; where they are not meant to:"


def check_project(project: Project, task: Task | None = None) -> list[Problem]:
    """Clear leftovers, read every file of every revision, and return all problems.

    A problem of the whole project has no case. What was cleared, or could not be, is a warning. Raises DatasetError
    when there is no project, its folders are links, or its ``dataset.json`` is damaged, and Cancelled.
    """
    state = project.state()
    refuse_links_in(project.folder)
    problems = []
    if others_can_read(project.folder):
        problems.append(Problem("", f"{_OPEN_TO_OTHERS} chmod -R go= '{project.folder}'", "warning"))
    try:
        problems += [Problem("", f"cleared: {line}", "warning") for line in project.clear_leftovers()]
    except DatasetError as error:
        problems.append(Problem("", f"leftovers were not looked for: {error}", "warning"))
    if key := key_problem(project.folder, state):
        problems.append(Problem("", key, "warning"))
    named = {file for revision in state.every_revision for file in revision.files()}
    problems += [
        Problem("", f"{folder.relative_to(state.folder)} belongs to no revision: it was left alone", "warning")
        for folder in unnamed_folders(state.folder, named)
    ]
    revisions, cases = (task or Task()).split(2, 1)
    revisions = revisions.named("Checking revisions")
    for revision, part in revisions.each(state.every_revision, lambda revision: revision.case.id):
        problems += _check_revision(revision, state, part)
    broken = {problem.case for problem in problems if problem.severity == "error"}
    if state.current:
        found = check_dataset(state.to_dataset(), cases)
        problems += [problem for problem in found if problem.case not in broken]
    return problems


def _check_revision(revision: Revision, state: ProjectState, task: Task) -> list[Problem]:
    case = revision.case
    what = f"revision {revision.number}"
    try:
        reading, hashing, whole, predicted = task.split(4, 2, 10, 3)
        scan = read_scan(case.image, task=reading)
        if hash_volume(scan, hashing) != revision.image_hash:
            return [Problem(case.id, f"{what}: its image is not the one that was saved: {case.image}", "error")]
        if hash_case(case, state.every_structure, whole) != revision.content_hash:
            return [
                Problem(
                    case.id,
                    f"{what}: its label map, annotated region or reviewed structures are not those that were saved: "
                    f"{case.labels}",
                    "error",
                )
            ]
        if revision.prediction is not None:
            difference = same_geometry(scan, read_label_map(revision.prediction, task=predicted))
            if difference is not None:
                return [Problem(case.id, f"{what}: image and prediction do not fit: {difference}", "error")]
    except ScanError as error:
        return [Problem(case.id, f"{what}: {error}", "error")]
    return []
