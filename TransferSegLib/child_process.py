"""Modules of this library in a child process, so that a file which crashes its reader ends the child only.

The child takes no module from the current folder, gets no Ctrl-C of its own, and is ended when its caller asks for it.
What it may take of memory and computing time is bound by the size of what it reads (``process_limits``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import TransferSegLib
from TransferSegLib.errors import TransferSegError
from TransferSegLib.process_limits import LimitedChild, Limits
from TransferSegLib.process_tree import end_process_tree
from TransferSegLib.progress import CancelToken, Task

#: What the child writes into the folder that is its first argument.
RESULT_FILE = "result.json"
_POLL_S = 0.1
#: How long a child takes, roughly; only progress is made of it.
_USUAL_S = 5.0
#: Signals by which a process is ended; a launcher (PythonSlicer) gives 128 plus the number as its exit code.
_SIGKILL, _ASKED_TO_END = 9, (1, 2, 15)
#: Out of computing time (RLIMIT_CPU): the same number on Linux and macOS.
_SIGXCPU = 24


@dataclass(frozen=True)
class ProcessResult:
    """How a child ended, and its output; ``over_memory`` when it was ended for taking more memory than allowed."""

    exit_code: int
    output: bytes
    messages: bytes
    over_memory: bool = False

    @property
    def end_signal(self) -> int | None:
        """The signal that ended the child or what a launcher started for it, None for an end of its own."""
        if self.exit_code < 0:
            return -self.exit_code
        return self.exit_code - 128 if 128 < self.exit_code < 160 else None


@dataclass(frozen=True)
class IsolatedRead:
    """A file that a module of this library reads in a child, and what its error messages say.

    The module is run with a folder for its results, the file and ``args``; it writes ``RESULT_FILE``, which has an
    entry "error" when something is wrong. ``advice`` says what to do about a damaged file, ``without_python`` about a
    missing interpreter. ``with_folder``: the files beside it are read with it, so that limits are set for all.
    """

    module: str
    path: Path
    error: type[TransferSegError]
    advice: str
    longest_s: float
    args: tuple[str, ...] = ()
    without_python: str = ""
    with_folder: bool = False


@contextmanager
def read_in_child(
    reading: IsolatedRead,
    interpreter: Path | None = None,
    cancel: CancelToken | None = None,
    task: Task | None = None,
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Give the folder of a child's results, which is removed afterwards, and the content of its ``RESULT_FILE``.

    ``interpreter`` None: find one. Raises the reading's error for whatever the child reports, and when it crashes or
    hangs; Cancelled from the token, or from the task that the reading is.
    """
    path, error = reading.path, reading.error
    python = interpreter or find_interpreter()
    if python is None:
        advice = f" {reading.without_python}" if reading.without_python else ""
        raise error(f"{path} can only be read with a Python interpreter, and none was found.{advice}")
    try:
        temporary = tempfile.TemporaryDirectory(prefix="transferseg-", ignore_cleanup_errors=True)
    except OSError as problem:
        raise error(f"{path} cannot be read: there is no place for temporary files ({problem}).") from problem
    with temporary as folder:
        try:
            args = [folder, str(path.absolute()), *reading.args]
            limits = Limits.for_input(path, reading.with_folder)
            end = run_module(python, reading.module, args, reading.longest_s, cancel, limits, task)
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise error(f"{path} cannot be read: {problem}.") from problem
        result_path = Path(folder) / RESULT_FILE
        if end.exit_code != 0 or not result_path.is_file():
            raise error(_bad_end(reading, end, limits))
        try:
            result = json.loads(result_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:  # the disk became full, or no file can be opened any more
            raise error(f"{path} cannot be read: what was read could not be handed on ({problem}).") from problem
        if "error" in result:
            raise error(str(result["error"]))
        yield Path(folder), result


def _bad_end(reading: IsolatedRead, end: ProcessResult, limits: Limits) -> str:
    """Return the error message for a child that left no result."""
    if end.over_memory:
        return limits.memory_text(reading.path)
    if end.end_signal == _SIGXCPU:
        return limits.time_text(reading.path)
    if end.end_signal == _SIGKILL:
        return (
            f"The system ended the reading of {reading.path}, most likely because there was not enough memory: close "
            "other programs and try again."
        )
    if end.end_signal in _ASKED_TO_END:
        return f"The reading of {reading.path} was ended from outside: try again."
    last = end.messages.decode("utf-8", "replace").strip().splitlines()[-1:]
    detail = f" ({last[0][:200]})" if last and end.exit_code > 0 else ""
    if limits.scarce:
        return f"{reading.path} crashes its reader{detail}: it is damaged, or there is not enough memory for it."
    return f"{reading.path} crashes its reader{detail}: it is damaged. {reading.advice}"


def run_module(
    python: Path,
    module: str,
    args: Sequence[str],
    longest_s: float,
    cancel: CancelToken | None = None,
    limits: Limits | None = None,
    task: Task | None = None,
) -> ProcessResult:
    """Run a module with an interpreter and return how it ended; whatever happens here, it is not left running.

    ``limits`` are for a module that sets them itself. Raises OSError when it cannot be started,
    subprocess.TimeoutExpired after ``longest_s`` seconds, Cancelled.
    """
    task = task or Task("", None, cancel)
    started = time.monotonic()
    # -P: a file called like a module, in the current folder, is not taken for it.
    command = [str(python), "-P", "-m", module, *args]
    deadline = time.monotonic() + longest_s
    process = subprocess.Popen(  # noqa: S603 - the command is this library's own
        command,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(_module_folders()),
            **(limits.environment() if limits is not None else {}),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # In a group of its own: a Ctrl-C in the terminal is for the caller, who ends the child in good order.
        start_new_session=os.name != "nt",
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    over_memory = False
    try:
        watched = None if limits is None else LimitedChild(limits, process)
        while True:
            task.waited(time.monotonic() - started, _USUAL_S)
            with suppress(subprocess.TimeoutExpired):
                output, messages = process.communicate(timeout=_POLL_S)
                return ProcessResult(process.returncode, output, messages, over_memory)
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(command, longest_s)
            if watched is not None and not over_memory and watched.takes_too_much():
                over_memory = True
                end_process_tree(process.pid)
    finally:
        if process.returncode is None:
            end_process_tree(process.pid)
            process.communicate()


def _module_folders() -> list[str]:
    """Return the folders where a child finds its modules: those of this process without the current folder.

    ``python -m`` puts the current folder, which may be full of downloads, first. This library's folder comes last, so
    that nothing beside the library stands before Python's own modules either.
    """
    library = Path(TransferSegLib.__file__).resolve().parents[1]
    left_out = [library]
    with suppress(OSError):  # the current folder may be gone
        left_out.append(Path.cwd().resolve())
    given = [Path(entry) for entry in sys.path if entry and Path(entry).is_absolute()]
    return [*(str(entry) for entry in given if entry.resolve() not in left_out), str(library)]


def find_interpreter() -> Path | None:
    """Return a Python interpreter for child processes: this one, or PythonSlicer inside 3D Slicer."""
    own = Path(sys.executable) if sys.executable else None
    if own is not None and "python" in own.name.lower():
        return own
    suffix = ".exe" if os.name == "nt" else ""
    if own is not None:
        for folder in (own.parent, own.parent / "bin"):
            if (folder / f"PythonSlicer{suffix}").is_file():
                return folder / f"PythonSlicer{suffix}"
    found = shutil.which("PythonSlicer") or shutil.which("python3")
    return Path(found) if found else None
