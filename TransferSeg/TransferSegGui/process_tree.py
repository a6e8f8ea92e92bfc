"""Ending a process with everything it started: killing PythonSlicer alone would only end its launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def endProcessTree(processId: int) -> None:
    """End a process and all its descendants at once; those that are gone already are no error."""
    if processId <= 0:
        return
    if sys.platform == "win32":
        command = [_systemTool("taskkill.exe"), "/F", "/T", "/PID", str(processId)]
        hidden = subprocess.CREATE_NO_WINDOW
        subprocess.run(command, capture_output=True, check=False, creationflags=hidden)  # noqa: S603 - fixed words
        return
    for each in [*descendants(processId), processId]:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def descendants(processId: int) -> list[int]:
    """Return the processes started by a process, and those started by them (Linux and macOS)."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents().items():
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    waiting = [processId]
    while waiting:
        started = children.get(waiting.pop(), [])
        found += started
        waiting += started
    return found


def _parents() -> dict[int, int]:
    """Return the parent of every process."""
    if sys.platform == "linux":
        return _parentsFromProc()
    listing = subprocess.run(["/bin/ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False)
    pairs = (line.split() for line in listing.stdout.splitlines())
    return {int(child): int(parent) for child, parent in pairs}


def _parentsFromProc() -> dict[int, int]:
    """Return the parent of every process as Linux lists them; no program is needed for it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process ended while we looked
            # pid (name) state parent ...: the name may hold spaces and parentheses
            parents[int(stat.parent.name)] = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
    return parents


def _systemTool(name: str) -> str:
    """Return the full path of a tool of Windows, so that no other program of that name is started."""
    return str(Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / name)
