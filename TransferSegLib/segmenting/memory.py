"""How much memory segmenting may take when nobody says otherwise."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

#: More than this makes tiles hardly larger.
_MOST_GB = 6.0
#: The share of the computer's memory that is taken at most, and what is assumed where its size is not known.
_SHARE = 0.5
_UNKNOWN_GB = 8.0
#: Where Linux says how much memory a container may take: control groups of version 2 and 1.
_CONTAINER_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def default_memory_gb() -> float:
    """Return 6 GB, or half of the computer's memory where that is less."""
    physical = physical_memory_bytes()
    return min(_MOST_GB, _SHARE * (_UNKNOWN_GB if physical is None else physical / 1e9))


def physical_memory_bytes() -> int | None:
    """Return the bytes of memory of this computer, or of the container this process is held in; None: unknown."""
    if sys.platform == "win32":
        return _windows_memory()
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    limits = [limit for limit in map(_container_limit, _CONTAINER_FILES) if limit]
    return min([physical, *limits]) if physical > 0 else None


def _container_limit(path: Path) -> int | None:
    """Return the bytes in a control group's file, None when there is no such limit."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("physical", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 6),
    )


def _windows_memory() -> int | None:
    """Ask Windows for the physical memory."""
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]
    return int(status.physical) if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else None
