"""How much memory this computer has, and how much of it is free."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

#: Where Linux says how much memory a container may take: control groups of version 2 and 1.
_CONTAINER_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_MEMINFO = Path("/proc/meminfo")


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


def available_memory_bytes() -> int | None:
    """Return the bytes that a program can take now; None: unknown.

    Linux says what is free, swap included. Elsewhere the whole memory counts, because the system makes room.
    """
    physical = physical_memory_bytes()
    try:
        entries = dict(line.split(":", 1) for line in _MEMINFO.read_text(encoding="ascii").splitlines())
        free = 1024 * sum(int(entries[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    except (OSError, ValueError, KeyError, IndexError):
        return physical
    return free if physical is None else min(free, physical)


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
