"""Writing files that survive a power cut: under another name, flushed to the disk, then renamed."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

#: On Windows a file that is being read cannot be replaced, nor its folder renamed: try again for so many seconds.
_PATIENCE_S = 3.0


def write_text_durably(path: Path, text: str) -> None:
    """Write a UTF-8 file that appears whole or not at all, and is on the disk when this returns; raises OSError.

    A killed writer leaves a file that ``unfinished_texts`` finds.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(text.encode("utf-8"))
            stream.flush()
            os.fsync(stream.fileno())
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


def unfinished_texts(path: Path) -> list[Path]:
    """Return what killed writers of this file left beside it."""
    return sorted(path.parent.glob(f".{path.name}.*.tmp"))


def replace_file(source: Path, target: Path) -> None:
    """Give a file the name of another one, which it replaces, in one step; raises OSError."""
    _patiently(lambda: source.replace(target))


def move(source: Path, target: Path) -> None:
    """Give a file or folder a name that nothing has yet, in one step; raises OSError."""
    _patiently(lambda: source.rename(target))


def _patiently(rename: Callable[[], object]) -> None:
    """Rename something; on Windows wait a little for whoever has it open, as a virus scanner has what is new."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            rename()
            return
        except PermissionError:
            if os.name != "nt" or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def flush_file(path: Path) -> None:
    """Wait until the content of a file written by other code is on the disk; raises OSError."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def flush_folder(path: Path, required: bool = True) -> None:
    """Wait until the names in a folder are on the disk; Windows does that by itself.

    Raises OSError where the system refuses, unless it is not ``required``: what was renamed is there all the same.
    """
    if os.name == "nt":
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        if required:
            raise
