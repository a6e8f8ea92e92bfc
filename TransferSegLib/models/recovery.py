"""What changes of a library leave behind when their process is killed: finished or undone at the next look at it.

Replacing a model takes two renames. Between them the old model lies in ``.work`` (``import --replace``), or hidden
beside its place (``save_model``), and nothing has its name; whoever looks for models then puts it back first.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from TransferSegLib.durable_writing import move
from TransferSegLib.errors import ModelError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.models.archive import MODEL_FILE, is_model_file
from TransferSegLib.models.part_names import abandoned_in
from TransferSegLib.own_files import is_link, refuse_links

LOCK_FILE = ".lock"
WORK_FOLDER = ".work"
# What a folder of WORK_FOLDER can hold; see tidy.
NEW, REPLACED, REMOVED = "new", "replaced", "removed"
#: The ending of the hidden name that ``save_model`` gives a model that is being replaced.
RETIRED = "old"
#: How long a look waits for a change under way; one that replaces is between its two renames for milliseconds.
_PATIENCE_S = 2.0


def recover(library: Path) -> list[Path]:
    """Give models their places back that a killed process was replacing; return those for which that is refused.

    They are models all the same and can be read where they lie (a library on a disk that is only read).
    """
    hidden = [] if is_link(library / WORK_FOLDER) else _hidden_by_import(library)
    if hidden:
        with suppress(ModelError, OSError):
            refuse_links_in(library)
            with FileLock(library / LOCK_FILE, _PATIENCE_S, "in use", ModelError):
                tidy(library)
        hidden = _hidden_by_import(library)
    return hidden + recover_saved(library)


def recover_saved(folder: Path) -> list[Path]:
    """Put back what killed calls of ``save_model`` were replacing in a folder; return those for which it is refused."""
    refused = []
    for old, place in abandoned_in(folder, RETIRED):
        if not os.path.lexists(place) and (old / MODEL_FILE).is_file() and not is_link(old):
            try:
                move(old, place)
            except OSError:
                refused.append(old)
    return refused


def _hidden_by_import(library: Path) -> list[Path]:
    """Return the models that were being replaced, and whose place is empty."""
    try:
        replaced = [leftover / REPLACED for leftover in sorted((library / WORK_FOLDER).iterdir())]
        olds = [
            old for folder in replaced if folder.is_dir() and not is_link(folder) for old in sorted(folder.iterdir())
        ]
    except OSError:
        return []
    return [old for old in olds if not os.path.lexists(library / old.name)]


def refuse_links_in(library: Path) -> None:
    """Raise ModelError when a place in which changes are made, and undone, is a link."""
    work = library / WORK_FOLDER
    own = [library / LOCK_FILE, work]
    with suppress(OSError):
        for leftover in [] if is_link(work) else sorted(work.iterdir()):
            own += [leftover, *(leftover / name for name in (NEW, REPLACED, REMOVED))]
    refuse_links(library, *own, error_type=ModelError)


def tidy(library: Path) -> None:
    """Finish or undo what changes left, also those whose process was killed; the caller holds the lock.

    A model that was to be replaced comes back when nothing took its place; when something did, the files in its folder
    that are not the old model's go there. The rest was never, or is no longer, part of the library.
    """
    leftovers = library / WORK_FOLDER
    for leftover in sorted(leftovers.iterdir()) if leftovers.is_dir() else []:
        replaced = leftover / REPLACED
        for old in sorted(replaced.iterdir()) if replaced.is_dir() else []:
            new = library / old.name
            if not os.path.lexists(new):
                move(old, new)
            elif old.is_dir() and not is_link(old) and not is_link(new):
                for file in sorted(old.iterdir()):
                    if not is_model_file(file.name) and not os.path.lexists(new / file.name):
                        move(file, new / file.name)
        shutil.rmtree(leftover, ignore_errors=True)
    with suppress(OSError):
        leftovers.rmdir()
