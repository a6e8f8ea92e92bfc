"""Folders and files that TransferSeg keeps for itself: never behind a link, and readable by their owner only.

Who can plant a link in a shared folder could otherwise let us delete, move or overwrite what lies elsewhere. A library
or project that is itself reached by a link (a home folder on another disk) is as good as any other: only what lies in
it counts. ``docs/safety.md`` describes what this is to keep out.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from TransferSegLib.errors import TransferSegError

#: Windows' other kind of link to a folder; the constant of the module ``stat`` exists there only.
_JUNCTION = 0xA0000003
_PRIVATE = 0o700


def linked_part(root: Path, path: Path) -> Path | None:
    """Return the first thing on the way from a folder (which itself may be a link) to a path in it that is a link.

    None when there is none, also where something on the way does not exist. Raises ValueError for a path that does not
    lie in the folder.
    """
    steps = path.relative_to(root).parts
    if ".." in steps:
        raise ValueError(f"{path} leads out of {root}")
    place = root
    for step in steps:
        place = place / step
        if is_link(place):
            return place
    return None


def is_link(path: Path) -> bool:
    """Tell whether something is a symbolic link or, on Windows, a junction; what cannot be reached is none."""
    try:
        status = path.lstat()
    except (OSError, ValueError):
        return False
    return stat.S_ISLNK(status.st_mode) or getattr(status, "st_reparse_tag", 0) == _JUNCTION


def refuse_links(root: Path, *paths: Path, error_type: type[TransferSegError] = TransferSegError) -> None:
    """Raise ``error_type`` when one of these paths in a folder lies behind a link, or is one."""
    for path in paths:
        link = linked_part(root, path)
        if link is not None:
            raise error_type(link_message(link))


def link_message(link: Path) -> str:
    """Return what a person is told of a link where one of our own folders or files should be."""
    try:
        leads = f" to {link.readlink()}"
    except OSError:
        leads = ""
    return (
        f"{link} is a link{leads}: nothing is written, moved or deleted behind it. Put a folder or file of its own in "
        "its place; to use another disk, move the whole folder it lies in there."
    )


def open_own(path: Path, flags: int) -> int:
    """Return a descriptor of a file of ours, made when missing, as ``os.open``; raises OSError, also for a link."""
    if is_link(path):  # Windows has no O_NOFOLLOW
        raise OSError(errno.ELOOP, "it is a link, behind which nothing is written", str(path))
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, flags | os.O_CREAT, 0o666)


def new_file(path: Path) -> BinaryIO:
    """Open a new file for writing in place of whatever has its name: a link goes, not what it leads to."""
    path.unlink(missing_ok=True)
    return path.open("xb")


def make_private_folder(path: Path, parents: bool = False, exist_ok: bool = False) -> None:
    """Make a folder that only its owner can look into; one that is there stays as it is. Raises OSError.

    On Windows a folder inherits the permissions of the one it lies in.
    """
    path.mkdir(mode=_PRIVATE, parents=parents, exist_ok=exist_ok)


def make_folder_like(root: Path, path: Path, exist_ok: bool = False) -> None:
    """Make a folder in another one: private if that is, else as any folder is, because its owner shares it."""
    if others_can_read(root):
        path.mkdir(exist_ok=exist_ok)
    else:
        make_private_folder(path, exist_ok=exist_ok)


def make_private(path: Path) -> None:
    """Take the permissions of others from a folder that is there, where it is ours."""
    if os.name != "nt" and others_can_read(path):
        with suppress(OSError):
            path.chmod(path.stat().st_mode & _PRIVATE)


def others_can_read(path: Path) -> bool:
    """Tell whether other users of this computer can look into a folder; False where that cannot be told (Windows)."""
    if os.name == "nt":
        return False
    try:
        return bool(path.stat().st_mode & 0o077)
    except OSError:
        return False
