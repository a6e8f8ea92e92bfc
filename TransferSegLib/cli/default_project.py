"""The project that commands use when none is named: that of an environment variable, or one that was remembered."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import TransferSegError
from TransferSegLib.output_checks import file_in_the_way, why_no_folder
from TransferSegLib.user_folders import data_folder

#: This environment variable names the project; it counts before the one that is remembered.
PROJECT_VARIABLE = "TRANSFERSEG_PROJECT"
#: This environment variable names the folder of what is remembered, if it is not to be in its usual place.
SETTINGS_VARIABLE = "TRANSFERSEG_SETTINGS"
_FILE = "project.txt"


def add_project_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the project."""
    parser.add_argument(
        "--project",
        type=_folder,
        metavar="FOLDER",
        help=f"folder of the project (default: {PROJECT_VARIABLE}, else the one of transferseg cases use)",
    )


def on_project(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return what runs a command on the project that is named, or on the default one, which is shown."""

    def run_on_project(arguments: argparse.Namespace) -> int:
        if arguments.project is None:
            arguments.project, why = default_project()
            print(f"project: {arguments.project} ({why})", file=sys.stderr)
        return run(arguments)

    return run_on_project


def default_project() -> tuple[Path, str]:
    """Return the project to use when none is named, and where that is said; raises TransferSegError for none."""
    named = os.environ.get(PROJECT_VARIABLE, "").strip()
    if named:
        return Path(named).expanduser(), PROJECT_VARIABLE
    file = _remembered()
    try:
        text = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeError) as error:
        raise TransferSegError(f"{file} cannot be read ({error}): name the project with --project FOLDER.") from error
    if not text:
        raise TransferSegError(
            "Which project? Name it with --project FOLDER, or remember it with: transferseg cases use FOLDER"
        )
    return Path(text), "remembered by transferseg cases use"


def remember_project(folder: Path) -> Path:
    """Remember a project, which may be made later by its first case, and return its whole path."""
    folder = folder.expanduser().resolve()
    if folder.exists() and not folder.is_dir():
        raise TransferSegError(f"{folder} is a file, not a folder. Name the folder of a project.")
    if file_in_the_way(folder) is not None:
        raise TransferSegError(f"{folder} cannot be a project: {why_no_folder(folder)}. Name another folder.")
    if not folder.parent.is_dir():
        raise TransferSegError(f"There is no folder {folder.parent}: make it first, or name another folder.")
    file = _remembered()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text_durably(file, f"{folder}\n")
    except OSError as error:
        raise TransferSegError(f"{file} cannot be written: {why_no_folder(file.parent, error)}.") from error
    return folder


def forget_project() -> None:
    """Remember no project any more."""
    _remembered().unlink(missing_ok=True)


def _remembered() -> Path:
    try:
        return data_folder("Settings", SETTINGS_VARIABLE) / _FILE
    except RuntimeError as error:
        raise TransferSegError(f"There is no home folder for settings: set {SETTINGS_VARIABLE} to a folder.") from error


def _folder(text: str) -> Path:
    """Return a folder's path; an empty one is a mistake, not the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name of the folder is empty")
    return Path(text)
