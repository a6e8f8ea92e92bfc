"""Why a worker ended without a final event: what its log, the computer and the disk show afterwards."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from TransferSegLib.errors import JobError
from TransferSegLib.jobs.files import LOG, WORKER_FACTS, read_json, write_json
from TransferSegLib.jobs.request import now_text

#: Linux changes this with every start of the computer.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: Where Linux counts the processes that it ended because memory had run out.
_KERNEL_COUNTERS = Path("/proc/vmstat")
#: How Python's fault handler announces a crash of compiled code in the log.
_CRASH = "Fatal Python error: "
_WINDOWS_CRASH = "Windows fatal exception: "
#: A disk with less than this is full for every purpose here.
_FULL_BYTES = 1_000_000
_TAIL_BYTES = 65536


def write_worker_facts(folder: Path) -> None:
    """Write down what the worker of this process knows of itself, for ``why_interrupted``."""
    log = folder / LOG
    facts = {
        "pid": os.getpid(),
        "host": platform.node(),
        "python": sys.executable,
        "started": now_text(),
        "boot_id": _boot_id(),
        "out_of_memory_kills": _out_of_memory_kills(),
        "log_offset": log.stat().st_size if log.exists() else 0,
    }
    write_json(folder / WORKER_FACTS, facts)


def why_interrupted(folder: Path, has_started: bool) -> str:
    """Return the likely reason why a job has no worker although it has not ended, for a person.

    ``has_started``: its worker has written an event.
    """
    try:
        facts: dict[str, Any] = read_json(folder / WORKER_FACTS)
    except JobError:
        facts = {}
    if not has_started:
        return f"the worker did not start{_reason_in_log(folder, 0)}"
    offset = facts.get("log_offset")
    crash = _crash_in_log(folder, offset if isinstance(offset, int) else 0)
    if crash is not None:
        return f"the worker crashed ({crash}); see {LOG}"
    elsewhere = facts.get("host")
    if elsewhere not in (None, platform.node()):
        return f"the worker, on the computer {elsewhere}, ended unexpectedly"
    if facts.get("boot_id") not in (None, _boot_id()):
        return "the computer was restarted or lost power"
    before, now = facts.get("out_of_memory_kills"), _out_of_memory_kills()
    if isinstance(before, int) and now is not None and now > before:
        return (
            "memory ran out and the system ended the worker, most likely: close other programs, or give it less to do"
        )
    if _disk_is_full(folder):
        return f"the disk of {folder} is full: free some space"
    return "the worker was ended from outside, or memory ran out"


def log_tail(folder: Path, lines: int = 15, offset: int = 0) -> list[str]:
    """Return the last lines of a job's log, from a byte offset on, without empty ones; none when there is no log."""
    try:
        if not (folder / LOG).is_file():
            return []
        with (folder / LOG).open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(min(offset, size), size - _TAIL_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def _crash_in_log(folder: Path, offset: int) -> str | None:
    """Return how compiled code crashed ('Segmentation fault'), None when the log does not show it."""
    for line in reversed(log_tail(folder, 10_000, offset)):
        for mark in (_CRASH, _WINDOWS_CRASH):
            if line.startswith(mark):
                return line.removeprefix(mark)
    return None


def _reason_in_log(folder: Path, offset: int) -> str:
    """Return the log's last line, which is the error of an interpreter that cannot start."""
    tail = log_tail(folder, 1, offset)
    return f" ({tail[0].strip()[:200]}); see {LOG}" if tail else ""


def _boot_id() -> str | None:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _out_of_memory_kills() -> int | None:
    """Return how often Linux has ended a process for lack of memory since the computer started, None elsewhere."""
    try:
        lines = _KERNEL_COUNTERS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def _disk_is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _FULL_BYTES
    except OSError:
        return False
