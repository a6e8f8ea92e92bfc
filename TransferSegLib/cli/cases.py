"""``transferseg cases``: the corrected cases of a project: add, list, show, effort, remove, restore and so on."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib.cli.case_effort import add_options as add_effort_options
from TransferSegLib.cli.case_effort import run_effort
from TransferSegLib.cli.case_pictures import add_pictures_option, check_pictures_folder, draw_cases
from TransferSegLib.cli.case_suggestions import add_options as add_suggest_options
from TransferSegLib.cli.case_suggestions import run_suggest
from TransferSegLib.cli.cases_add_options import ADD_HELP
from TransferSegLib.cli.cases_add_options import add_options as add_add_options
from TransferSegLib.cli.default_project import (
    PROJECT_VARIABLE,
    add_project_option,
    default_project,
    forget_project,
    on_project,
    remember_project,
)
from TransferSegLib.cli.options import add_json_option, add_verb
from TransferSegLib.cli.reporting import task_shown
from TransferSegLib.errors import TransferSegError
from TransferSegLib.wording import local_time, table

if TYPE_CHECKING:
    from TransferSegLib.corrections.revisions import ProjectState, Revision


def add_parser(subparsers: Any) -> None:
    """Add the verb with its own verbs."""
    parser = subparsers.add_parser(
        "cases",
        help="collect corrected cases in a project folder",
        description="A project is a folder of corrected cases to fine-tune a model with: images, label maps, and which "
        "structures were reviewed in each. Earlier revisions and removed cases are kept.",
    )
    verbs = parser.add_subparsers(dest="cases_command", metavar="COMMAND", title="commands", required=True)
    add_add_options(_verb(verbs, "add", run_add, ADD_HELP))
    show_list = _verb(verbs, "list", run_list, "list the cases, removed ones too")
    add_json_option(show_list)
    show = _verb(verbs, "show", run_show, "show a case with all its revisions")
    show.add_argument("case", metavar="CASE", help="id of the case")
    add_json_option(show)
    add_effort_options(
        _verb(verbs, "effort", run_effort, "how much contour each case needed, in the order they were done")
    )
    add_suggest_options(_verb(verbs, "suggest", run_suggest, "which scan of a folder to correct next"))
    remove = _verb(verbs, "remove", run_remove, "put cases in the project's bin")
    remove.add_argument("cases", nargs="+", metavar="CASE", help="id of a case")
    restore = _verb(verbs, "restore", run_restore, "bring a removed case, or an earlier revision of a case, back")
    restore.add_argument("case", metavar="CASE", help="id of the case")
    restore.add_argument("--revision", type=int, metavar="N", help="make this revision the current one again")
    use = add_verb(verbs, "use", run_use, "remember the project that commands use without --project, or show it")
    use.add_argument("folder", nargs="?", metavar="FOLDER", help="folder of the project (default: show which it is)")
    use.add_argument("--forget", action="store_true", help="remember no project any more")
    check = _verb(verbs, "check", run_check, "clear leftovers of killed programs, read every file, report problems")
    check.add_argument(
        "--repair", action="store_true", help="put the last good dataset.json back in place of a bad one"
    )
    add_pictures_option(check)
    structures = _verb(verbs, "structures", run_structures, "show the structures, or rename, drop or merge some")
    change = structures.add_mutually_exclusive_group()
    change.add_argument("--rename", nargs=2, metavar=("OLD", "NEW"), help="give a structure another name")
    change.add_argument("--drop", metavar="NAME", help="take a structure out; its voxels count as unknown")
    change.add_argument("--merge", nargs="+", metavar="NAME", help="make structures one: INTO PART PART ...")


def _verb(verbs: Any, name: str, run: Any, help: str) -> argparse.ArgumentParser:
    """Add one verb with the option that names the project."""
    parser = add_verb(verbs, name, on_project(run), help)
    add_project_option(parser)
    return parser


def run_add(arguments: argparse.Namespace) -> int:
    """Add cases; what it takes is imported only now."""
    from TransferSegLib.cli import cases_adding

    return cases_adding.run_add(arguments)


def run_use(arguments: argparse.Namespace) -> int:
    """Remember a project, forget it, or show which is used."""
    if arguments.forget and arguments.folder:
        raise TransferSegError("Give a folder or --forget, not both.")
    if arguments.forget:
        forget_project()
        print("No project is remembered now.")
        return 0
    if arguments.folder:
        folder = remember_project(Path(arguments.folder))
        new = "" if folder.is_dir() else ", which its first case will make"
        print(f"Commands without --project use {folder}{new}")
    project, why = default_project()
    if not arguments.folder or why == PROJECT_VARIABLE:
        print(f"{project} ({why})")
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    """Print a line per case, the removed ones last."""
    state = _state(arguments)
    if arguments.json:
        cases = [revision.to_json() for revision in (*state.current, *state.removed)]
        print(json.dumps({"project": str(state.folder), "structures": state.label_set.to_json(), "cases": cases}))
        return 0
    rows = [
        (
            one.case.id,
            _status(one),
            str(one.number),
            local_time(one.created),
            _model_text(one),
            ", ".join(one.case.annotated) or "-",
        )
        for one in (*state.current, *state.removed)
    ]
    if not rows:
        print(f"The project in {state.folder} has no cases yet.")
        return 0
    print(table(("case", "state", "revision", "saved", "started from", "reviewed"), rows))
    groups = {revision.case.group for revision in state.current}
    print(f"\nin use: {len(state.current)}, of {len(groups)} patients or groups; removed: {len(state.removed)}")
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Print everything that is known of a case."""
    state = _state(arguments)
    revisions = state.of_case(arguments.case)
    if arguments.json:
        print(json.dumps({"case": arguments.case, "revisions": [one.to_json() for one in revisions]}))
        return 0
    latest = revisions[-1]
    print(f"{arguments.case}: {_status(latest)}, group {latest.case.group}\nimage: {latest.case.image}")
    for revision in reversed(revisions):
        print(f"\nrevision {revision.number}, {local_time(revision.created)}")
        from_before = None if revision.restored_from is None else f"revision {revision.restored_from}"
        for what, value in (
            ("reviewed", ", ".join(revision.case.annotated) or "nothing"),
            ("label map", revision.case.labels),
            ("judged", revision.case.judged or "every voxel"),
            ("prediction", revision.prediction),
            ("started from", revision.corrected_from),
            ("brought back from", from_before),
            ("notes", revision.notes),
            ("content hash", revision.content_hash),
        ):
            if value:
                print(f"  {what}: {value}")
    return 0


def run_remove(arguments: argparse.Namespace) -> int:
    """Put cases in the bin."""
    from TransferSegLib.corrections.project import Project

    for revision in Project(arguments.project).remove_cases(arguments.cases):
        case = revision.case.id
        back = shlex.join(["transferseg", "cases", "restore", case, "--project", str(arguments.project)])
        print(f"{case} is removed; it comes back with: {back}")
    return 0


def run_restore(arguments: argparse.Namespace) -> int:
    """Bring a case or an earlier revision back."""
    from TransferSegLib.corrections.project import Project

    project = Project(arguments.project)
    if arguments.revision is None:
        revision = project.restore_case(arguments.case)
        print(f"{arguments.case} is back, at revision {revision.number}")
    else:
        revision = project.restore_revision(arguments.case, arguments.revision)
        print(f"{arguments.case} is at revision {revision.number}, which is revision {arguments.revision} again")
    return 0


def run_check(arguments: argparse.Namespace) -> int:
    """Print every problem of a project; 2 when one of them is an error."""
    from TransferSegLib.corrections.checking import check_project
    from TransferSegLib.corrections.project import Project
    from TransferSegLib.datasets.validate import has_errors, report

    project = Project(arguments.project)
    if arguments.repair:
        kept = project.repair()
        print(f"The last good dataset.json is back{'' if kept is None else f'; the damaged one is {kept}'}.")
    check_pictures_folder(arguments.pictures)
    with task_shown() as task:
        checking, drawing = task.split(2, 0 if arguments.pictures is None else 1)
        problems = check_project(project, checking)
        drawn = ""
        if arguments.pictures is not None and project.state().current:
            drawn = draw_cases(project.dataset(), problems, arguments.pictures, drawing)
    print("\n".join([report(problems), *([drawn] if drawn else [])]))
    return 2 if has_errors(problems) else 0


def run_structures(arguments: argparse.Namespace) -> int:
    """Change the structures if asked to, and print them."""
    from TransferSegLib.corrections import structure_changes
    from TransferSegLib.corrections.project import Project

    project = Project(arguments.project)
    revisions: list[Revision] = []
    if arguments.rename:
        structure_changes.rename_structure(project, *arguments.rename)
    elif arguments.drop:
        with task_shown() as task:
            revisions = structure_changes.drop_structure(project, arguments.drop, task)
    elif arguments.merge:
        with task_shown() as task:
            into, *parts = arguments.merge
            revisions = structure_changes.merge_structures(project, parts, into, task)
    for revision in revisions:
        print(f"{revision.case.id} has a new revision {revision.number}")
    state = project.state()
    counts = state.to_dataset().annotated_counts()
    rows = [(one.name, str(one.label), str(counts[one.name])) for one in state.label_set]
    rows += [
        (f"({one.structure.name})", str(one.structure.label), one.merged_into or "dropped") for one in state.retired
    ]
    print(table(("structure", "label", "reviewed in"), rows))
    return 0


def _state(arguments: argparse.Namespace) -> ProjectState:
    from TransferSegLib.corrections.project import Project

    return Project(arguments.project).state()


def _status(revision: Revision) -> str:
    return f"removed {local_time(revision.removed)}" if revision.removed else "in use"


def _model_text(revision: Revision) -> str:
    return "-" if revision.corrected_from is None else str(revision.corrected_from)
