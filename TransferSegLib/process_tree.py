"""Ending a process with everything it started: killing only a launcher like PythonSlicer leaves Python running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def end_process_tree(process_id: int) -> None:
    """End a process, all its descendants and, if it leads a process group, that group, at once.

    It may be this process, which then does not return. Processes that have ended already are no error.
    """
    if process_id <= 0:
        return
    if sys.platform == "win32":
        # By its full path, so that no other program of that name is started.
        tool = Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "taskkill.exe"
        command = [str(tool), "/F", "/T", "/PID", str(process_id)]
        hidden = subprocess.CREATE_NO_WINDOW
        with suppress(OSError):
            subprocess.run(command, capture_output=True, check=False, creationflags=hidden)  # noqa: S603 - our own
        return
    for each in descendants(process_id):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(each, signal.SIGKILL)
    with suppress(ProcessLookupError, PermissionError):
        if os.getpgid(process_id) == process_id:  # also those whose parent has ended
            os.killpg(process_id, signal.SIGKILL)
        os.kill(process_id, signal.SIGKILL)


def descendants(process_id: int) -> list[int]:
    """Return the processes started by a process, and those started by them (Linux and macOS)."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents().items():
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    waiting = [process_id]
    while waiting:
        started = children.get(waiting.pop(), [])
        found += started
        waiting += started
    return found


def _parents() -> dict[int, int]:
    """Return the parent of every process."""
    parents = {}
    if sys.platform == "linux":  # no program is needed for it
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # the process has just ended
                # pid (name) state parent ...: the name may hold spaces and parentheses
                parents[int(stat.parent.name)] = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
        return parents
    listing = subprocess.run(["/bin/ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False)
    return {int(child): int(parent) for child, parent in (line.split() for line in listing.stdout.splitlines())}
