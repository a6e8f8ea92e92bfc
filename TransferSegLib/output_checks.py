"""Whether results can be written to a place, checked before long work.

Trying is the only sure way: permissions, read-only disks and other rules differ by system. What is tried is removed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from TransferSegLib.errors import TransferSegError


def check_output_file(
    path: Path, error: type[TransferSegError] = TransferSegError, makes_folders: bool = False
) -> None:
    """Raise an error unless a file of this path can be written, or written anew.

    ``makes_folders``: whoever writes it makes the folders that are missing.
    """
    try:
        if path.is_dir():
            raise error(f"{path} is a folder: give the name of a file in it.")
        folder = path.absolute().parent
        if not folder.exists() and not makes_folders and file_in_the_way(folder) is None:
            raise error(f"{path} cannot be written: there is no folder {folder}. Make it first.")
        if path.exists() and not os.access(path, os.W_OK):
            raise error(f"{path} exists and is write-protected: name another file.")
        check_output_folder(folder, error)
    except (OSError, ValueError) as reason:
        raise error(f"{path} cannot be written: {_words(reason)}.") from reason


def check_output_folder(folder: Path, error: type[TransferSegError] = TransferSegError) -> None:
    """Raise an error unless files can be written into a folder, which need not be there yet."""
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(folder)  # names that no system takes
        if file_in_the_way(folder) is not None:
            raise error(f"{folder} cannot be written: {why_no_folder(folder)}. Name another folder.")
        with tempfile.TemporaryDirectory(prefix=".transferseg-", dir=_nearest(folder.absolute())):
            pass
    except (OSError, ValueError) as reason:
        raise error(f"{folder} cannot be written: {why_no_folder(folder, reason)}. Name another folder.") from reason


def file_in_the_way(folder: Path) -> Path | None:
    """Return the file that lies where a folder, or one above it, should be; None when there is none.

    Also None where that cannot be told: making the folder tells.
    """
    try:
        place = _nearest(folder.absolute())
        return None if place.is_dir() or not place.exists() else place
    except (OSError, ValueError):
        return None


def why_no_folder(folder: Path, error: OSError | ValueError | None = None) -> str:
    """Return why a folder cannot be made, or why nothing can be written into it, as a clause without a full stop.

    Of a file in the way the system says "File exists" or "Not a directory", whichever step it stops at.
    """
    file = file_in_the_way(folder)
    if file is not None:
        return f"{file} is a file, not a folder"
    if isinstance(error, PermissionError):
        with suppress(OSError):
            place = _nearest(folder.absolute())
            if not os.access(place, os.W_OK):
                return f"you have no permission to write in {place}"
    return "it is no folder" if error is None else _words(error)


def check_space(folder: Path, needed_bytes: float, error: type[TransferSegError] = TransferSegError) -> None:
    """Raise an error when the disk of a folder (which need not be there) has less free space than is needed."""
    try:
        free = shutil.disk_usage(_nearest(folder.absolute())).free
    except OSError:
        return  # some network disks do not tell
    if free < needed_bytes:
        raise error(
            f"The disk of {folder} has {_size(free)} left, and about {_size(needed_bytes)} are needed: free some space."
        )


def _nearest(folder: Path) -> Path:
    """Return the folder, or the first above it that is there."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def _words(reason: OSError | ValueError) -> str:
    return getattr(reason, "strerror", None) or str(reason)


def _size(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
