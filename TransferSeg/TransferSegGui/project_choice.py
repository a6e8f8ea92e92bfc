"""Which project, the folder of corrected cases, the panel works on: its place in the parameter node and its default."""

from __future__ import annotations

from pathlib import Path

import slicer
from slicer.i18n import tr as _

from TransferSegLib.corrections.project import Project
from TransferSegLib.corrections.revisions import ProjectState
from TransferSegLib.datasets.dataset import FILE_NAME
from TransferSegLib.errors import DatasetError
from TransferSegLib.output_checks import file_in_the_way, why_no_folder
from TransferSegLib.user_folders import data_folder

#: The project's folder in the parameter node, and the last one used in Slicer's settings.
PROJECT, PROJECT_SETTING = "Project", "TransferSeg/LastProject"


def defaultProject() -> str:
    """Return the project that was used last on this computer, else one among the user's data."""
    used = slicer.app.userSettings().value(PROJECT_SETTING)
    return str(used) if used else str(data_folder("Projects", "TRANSFERSEG_PROJECTS") / "corrected-cases")


def projectFolder(parameterNode) -> Path | None:
    """Return the project's folder, which need not exist yet; None when none is chosen."""
    path = parameterNode.GetParameter(PROJECT).strip() if parameterNode is not None else ""
    try:
        return Path(path).expanduser() if path else None
    except RuntimeError:  # "~name" of an unknown user: readProject reports that the path is not absolute
        return Path(path)


def readProject(folder: Path | None) -> tuple[ProjectState | None, str]:
    """Return what a project holds (None: nothing yet) and why it cannot be read, empty when it can be."""
    if folder is None:
        return None, _("Choose a project folder.")
    if not folder.is_absolute():
        return None, _("Give the absolute path of the project folder, not '{path}'.").format(path=folder)
    if file_in_the_way(folder) is not None:
        text = _("{path} cannot be a project folder: {reason}. Choose another folder.")
        return None, text.format(path=folder, reason=why_no_folder(folder))
    try:
        if not (folder / FILE_NAME).exists():
            if folder.is_dir() and any(folder.glob("cases/*")):
                return None, _("{path} contains cases, but its {file} is missing.").format(path=folder, file=FILE_NAME)
            return None, ""
        return Project(folder).state(), ""
    except OSError as error:  # no right to look into a folder, or a path that is too long
        return None, _("{path} cannot be read: {reason}.").format(path=folder, reason=error.strerror or error)
    except DatasetError as error:
        return None, str(error)
