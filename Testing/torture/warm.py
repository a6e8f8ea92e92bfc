"""Warm processes, forked from one that has imported the library: a new interpreter for each trial takes a second.

The process that forks has no threads: it does no work itself, and ITK is told to keep no pool. Children that the
library starts for its readers are forked as well; they set their limits as those of the library do.
"""

from __future__ import annotations

import io
import json
import os
import runpy
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from TransferSegLib import child_process
from TransferSegLib.child_process import ProcessResult
from TransferSegLib.corrections import dicom_patient
from TransferSegLib.progress import CancelToken


@dataclass(frozen=True)
class Ended:
    """How a warm process ended: what its function returned, or why it did not, and the most memory it took."""

    value: Any
    failure: str
    peak_bytes: int


class Warm:
    """A function in a forked process, in a session of its own; what it prints comes line by line."""

    def __init__(self, function: Callable[..., Any], *words: Any) -> None:
        """Fork; the function's value, as JSON, is the last line."""
        reading, writing = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _run(writing, function, words)
        os.close(writing)
        self._descriptor, self._rest, self._open = reading, b"", True
        self.lines: list[str] = []
        self.peak_bytes = 0
        self.heard = time.monotonic()
        self._ended = False

    def read(self, wait_s: float = 0.0) -> bool:
        """Take the lines that have come; returns whether more may come."""
        while self._open and select.select([self._descriptor], [], [], wait_s)[0]:
            content = os.read(self._descriptor, 1 << 16)
            if not content:
                self._open = False
                os.close(self._descriptor)
                break
            self.heard = time.monotonic()
            *lines, self._rest = (self._rest + content).split(b"\n")
            self.lines += [line.decode("utf-8", "replace") for line in lines]
            wait_s = 0.0
        return self._open

    @property
    def running(self) -> bool:
        """Whether the process has not ended by itself."""
        if not self._ended:
            found, _, usage = os.wait4(self.pid, os.WNOHANG)
            if found:
                self._ended, self.peak_bytes = True, 1024 * usage.ru_maxrss
        return not self._ended

    def kill(self) -> None:
        """Kill it with everything it started, and take what it said before."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if not self._ended:
            with suppress(ProcessLookupError):  # before it had a session of its own
                os.kill(self.pid, signal.SIGKILL)
            usage = os.wait4(self.pid, 0)[2]
            self._ended, self.peak_bytes = True, 1024 * usage.ru_maxrss
        while self.read(0.2):
            pass

    def wait(self, longest_s: float) -> Ended:
        """Wait for its value; a process that takes longer is killed, which is a failure."""
        deadline = time.monotonic() + longest_s
        while self.read(0.05) and time.monotonic() < deadline:
            pass
        hung = self._open
        self.kill()
        if hung:
            return Ended(None, f"took more than {longest_s:g} s", self.peak_bytes)
        last = self.lines[-1] if self.lines else ""
        if last.startswith("value "):
            return Ended(json.loads(last[6:]), "", self.peak_bytes)
        return Ended(None, last.removeprefix("traceback ") or "ended unexpectedly", self.peak_bytes)


def in_process(function: Callable[..., Any], *words: Any, longest_s: float = 60.0) -> Ended:
    """Return how a function ended in a process of its own."""
    return Warm(function, *words).wait(longest_s)


def _run(writing: int, function: Callable[..., Any], words: Sequence[Any]) -> None:
    """Run a function in this forked process and end it."""
    try:
        os.setsid()
        os.dup2(writing, 1)
        output = io.BufferedWriter(io.FileIO(1, "w", closefd=False))
        sys.stdout = io.TextIOWrapper(output, "utf-8", errors="replace", line_buffering=True)
        try:
            last = "value " + json.dumps(function(*words))
        except BaseException as error:
            trace = [*traceback.format_tb(error.__traceback__)[-2:], *traceback.format_exception_only(error)]
            last = "traceback " + " | ".join("".join(trace).split("\n"))
        sys.stdout.flush()
        os.write(writing, f"{last}\n".encode("utf-8", "replace"))  # a job's worker lets what is printed go to its log
    finally:
        os._exit(0)  # whatever happened: this copy must not go on with what its parent does


def install() -> None:
    """Let the library fork its children instead of starting interpreters, and not wait for the disk.

    What a kill leaves lies in the system's memory, so that flushing adds time and nothing else.
    """
    child_process.run_module = dicom_patient.run_module = _run_module  # type: ignore[assignment]
    os.fsync = lambda descriptor: None  # type: ignore[assignment]


def _run_module(
    python: Path,
    module: str,
    args: Sequence[str],
    longest_s: float,
    cancel: CancelToken | None = None,
    limits: Any = None,
    task: Any = None,
) -> ProcessResult:
    """Do as ``child_process.run_module`` in a forked process."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as messages:
        pid = os.fork()
        if pid == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(messages.fileno(), 2)
            sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", write_through=True)
            os.environ.update(limits.environment() if limits is not None else {})
            sys.argv = [module, *args]
            code = 1
            with suppress(BaseException):
                runpy.run_module(module, run_name="__main__", alter_sys=False)
                code = 0
            os._exit(code)
        deadline = time.monotonic() + longest_s
        pause = 0.001
        while True:
            found, status, _ = os.wait4(pid, os.WNOHANG)
            if found:
                break
            if time.monotonic() > deadline or (cancel is not None and cancel.cancelled):
                os.kill(pid, signal.SIGKILL)
            time.sleep(pause)
            pause = min(0.02, 1.3 * pause)
        output.seek(0)
        messages.seek(0)
        return ProcessResult(os.waitstatus_to_exitcode(status), output.read(), messages.read())
