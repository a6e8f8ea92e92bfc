"""What a terminal shows during work: a bar with the remaining time, and Ctrl-C as a polite request.

A program that follows along (the Slicer module) gets the same as JSON lines: see ``JsonLines``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from TransferSegLib.progress import CancelToken, Progress, ProgressCallback, Task
from TransferSegLib.training.processes import are_several

if TYPE_CHECKING:
    from tqdm import tqdm

#: Where there is no terminal (a log file, CI) one line is printed at most this often.
_SECONDS_BETWEEN_LINES = 30.0
#: The same where the lines are the result, as those of ``jobs follow`` are.
_SECONDS_BETWEEN_RESULTS = 2.0
#: How long, in seconds, a second Ctrl-C waits for the work to clean up.
_PATIENCE_S = 1.0


@contextmanager
def progress_shown(as_result: bool = False) -> Iterator[ProgressCallback]:
    """Show progress reports on standard error: a bar on a terminal, a line now and then elsewhere.

    ``as_result``: the reports are what was asked for, so that a pipe or a file gets them on standard output, often.
    """
    if as_result and not sys.stdout.isatty():
        shown: _Bar | _Lines = _Lines(sys.stdout, _SECONDS_BETWEEN_RESULTS)
    else:
        shown = _Bar() if sys.stderr.isatty() else _Lines(sys.stderr, _SECONDS_BETWEEN_LINES)
    try:
        yield shown.report
    finally:
        shown.close()


@contextmanager
def interruptible() -> Iterator[CancelToken]:
    """Turn the first Ctrl-C into a request to stop at the next safe point; a second one stops at once.

    A second one that finds the process in a long call ends it a moment later, whatever it does. Processes that torchrun
    started stop at the next safe point only: torchrun itself ends those that take longer than half a minute.
    """
    token = CancelToken()
    if are_several():
        with _asked_by_torchrun(token):
            yield token
        return

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        if token.cancelled:
            raise KeyboardInterrupt
        print("\nStopping at the next safe point; press Ctrl-C again to stop at once.", file=sys.stderr)
        token.cancel()

    before = signal.signal(signal.SIGINT, ask_to_stop)
    with _ended_hard_when_deaf():
        try:
            yield token
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _asked_by_torchrun(token: CancelToken) -> Iterator[None]:
    """Take the signals with which torchrun ends its processes, of which there may be several, as one request."""

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        token.cancel()

    before = {number: signal.signal(number, ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ended_hard_when_deaf() -> Iterator[None]:
    """Watch, in a thread, for signals that the main thread does not get to, and end the process after a second one.

    The system's own handler writes a byte for each, also while the main thread is busy in compiled code.
    """
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    is_over = threading.Event()

    def watch() -> None:
        asked = 0
        while asked < 2:
            received = ours.recv(16)
            if not received or is_over.is_set():
                return
            asked += received.count(signal.SIGINT)
        if not is_over.wait(_PATIENCE_S):
            os._exit(130)

    threading.Thread(target=watch, name="ctrl-c", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        is_over.set()
        theirs.close()  # which ends the thread's waiting


class JsonLines:
    """Progress, results and errors as one JSON object a line, for a program that follows along.

    ``{"stage": "Segmenting", "fraction": 0.4, "message": "on CPU (float32)", "seconds_left": 12.5}`` while work goes
    on, then ``{"result": {...}}`` for what was done and ``{"error": "..."}`` for what was not (``cli.main`` writes what
    ends a command). Nothing else is written to the stream: whatever is meant for a person goes to standard error.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to a stream (None: standard output), each line at once."""
        self._stream = stream or sys.stdout

    def report(self, progress: Progress) -> None:
        """Write a progress report; this is the ProgressCallback."""
        left = None if progress.seconds_left is None else round(progress.seconds_left, 1)
        fraction = round(progress.fraction, 4)
        self._write({"stage": progress.stage, "fraction": fraction, "message": progress.message, "seconds_left": left})

    def result(self, entry: dict[str, Any]) -> None:
        """Write what was done."""
        self._write({"result": entry})

    def error(self, message: str) -> None:
        """Write why something was not done, in words for a person."""
        self._write({"error": message})

    def another_modality(self, scan: str, project: str) -> None:
        """Write that a scan's modality is not that of its project, before the error with the words for a person."""
        self._write({"another_modality": {"scan": scan, "project": project}})

    def _write(self, entry: dict[str, Any]) -> None:
        print(json.dumps(entry), file=self._stream, flush=True)


@contextmanager
def task_shown(name: str = "", lines: JsonLines | None = None, shown: bool = True) -> Iterator[Task]:
    """Give the task of a command, which Ctrl-C asks to stop; its progress is shown, or written as JSON ``lines``."""
    reported = progress_shown() if lines is None and shown else nullcontext(None if lines is None else lines.report)
    with reported as progress, interruptible() as cancel:
        yield Task(name, progress, cancel)


class _Bar:
    """A tqdm bar per stage."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._stage = ""

    def report(self, progress: Progress) -> None:
        from tqdm import tqdm  # here, because 3D Slicer's Python does not have it

        if self._bar is None or progress.stage != self._stage:
            self.close()
            self._stage = progress.stage
            self._bar = tqdm(
                total=1000,
                desc=progress.stage,
                file=sys.stderr,
                bar_format="{desc} {percentage:3.0f}% |{bar:30}| {postfix}",
                leave=True,
            )
        self._bar.set_postfix_str(_line(progress), refresh=False)
        self._bar.n = round(1000 * progress.fraction)
        self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Lines:
    """A plain line when a stage begins or ends, and now and then in between."""

    def __init__(self, stream: TextIO, seconds_between: float) -> None:
        self._stream, self._between = stream, seconds_between
        self._last = time.monotonic()
        self._stage, self._line = "", ""

    def report(self, progress: Progress) -> None:
        now = time.monotonic()
        line = f"{progress.stage} {100 * progress.fraction:.0f}% {_line(progress)}".rstrip()
        is_new = progress.stage != self._stage and self._between < _SECONDS_BETWEEN_LINES
        is_over = progress.fraction >= 1.0 and now - self._last > 1.0
        if line != self._line and (is_new or is_over or now - self._last >= self._between):
            self._last, self._stage, self._line = now, progress.stage, line
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing stays open."""


def _line(progress: Progress) -> str:
    left = "" if progress.seconds_left is None else f"{duration(progress.seconds_left)} left"
    return ", ".join(part for part in (left, progress.message) if part)


def duration(seconds: float) -> str:
    """Return a duration as a person says it: '8 s', '3 min 05 s', '2 h 10 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
