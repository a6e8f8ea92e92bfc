"""Names of files and folders that are being written, from which it can be told whether their writer still lives.

``.model.zip.1a2b3c4d-4711-0123456789abcdef.part``: what it becomes, the computer, the process, a random number. What a
killed process left is found by the next one and removed; a file of a similar name is not.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
from pathlib import Path


def part_of(path: Path, ending: str = "part") -> Path:
    """Return a new hidden name beside a path, for what will become it (or, with another ending, was it)."""
    return path.with_name(f".{path.name}.{_computer()}-{os.getpid()}-{secrets.token_hex(8)}.{ending}")


def abandoned(path: Path, ending: str = "part") -> list[Path]:
    """Return what killed processes of this computer left of a path under names of ``part_of``."""
    return [part for part, of in abandoned_in(path.parent, ending) if of == path]


def abandoned_in(folder: Path, ending: str = "part") -> list[tuple[Path, Path]]:
    """Return what killed processes of this computer left in a folder, each with the path it was to become, or was."""
    pattern = re.compile(rf"\.(.+)\.{_computer()}-([0-9]{{1,10}})-[0-9a-f]{{16}}\.{re.escape(ending)}")
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []
    found = [(name, match) for name in names if (match := pattern.fullmatch(name))]
    return [(folder / name, folder / match[1]) for name, match in found if not _lives(int(match[2]))]


def _computer() -> str:
    """Return what tells this computer from others on a network drive."""
    return hashlib.sha256(platform.node().encode("utf-8")).hexdigest()[:8]


def _lives(process: int) -> bool:
    """Tell whether a process is there."""
    if process == os.getpid():
        return True
    if os.name == "nt":
        return _lives_on_windows(process)
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _lives_on_windows(process: int) -> bool:
    import ctypes

    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
    handle = kernel.OpenProcess(0x1000, False, process)  # PROCESS_QUERY_LIMITED_INFORMATION
    if not handle:
        return bool(kernel.GetLastError() == 5)  # access denied: it is there
    kernel.CloseHandle(handle)
    return True
