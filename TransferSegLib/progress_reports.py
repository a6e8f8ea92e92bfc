"""What is reported while a task runs: the stage, the share that is done and the remaining time, not too often."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

#: Reports of a task are at least so far apart, in seconds, but for those that end a part.
_BETWEEN_REPORTS_S = 0.2
#: The remaining time comes from the pace over this share of the time so far: parts differ in pace.
_RECENT_SHARE = 0.5
_MOST_REMEMBERED = 400


@dataclass(frozen=True)
class Progress:
    """One report: ``stage`` says what is done and ``message`` more of it, both for people; ``key`` is for programs.

    ``fraction`` (0 to 1) of the work is done, ``seconds_left`` is None when not known. Work that counts says ``step``,
    the steps done, and ``steps``, how many there are. Training may say its ``loss`` and its mean ``dice`` (0 to 1) on
    cases it does not learn from. Recognise a stage by its key: sentences change.
    """

    stage: str
    fraction: float
    message: str = ""
    seconds_left: float | None = None
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    dice: float | None = None
    key: str = ""


ProgressCallback = Callable[[Progress], None]


class Reports:
    """Who gets the reports of a task and its parts, when the last was made, how far the work is, at what pace."""

    def __init__(self, name: str, callback: ProgressCallback | None) -> None:
        """Begin the work now."""
        self.callback = callback
        #: The last line for a person, and the name of the task that it is about.
        self.said = ("", "")
        self.highest = 0.0
        self._reported_name = name
        self._started = self._reported_at = time.monotonic()
        #: When (seconds since the start) how much was done; the first is where the work began.
        self._first = (0.0, 0.0)
        self._remembered: list[tuple[float, float]] = [self._first]

    def begin_at(self, fraction: float) -> None:
        """Note that so much was done by an earlier process: it says nothing about the pace."""
        if fraction > self.highest:
            self.highest = fraction
            self._first = (time.monotonic() - self._started, fraction)
            self._remembered = [self._first]

    def report(self, progress: Progress, always: bool) -> None:
        """Report, with the highest fraction so far and the seconds left, unless that was done a moment ago."""
        self.highest = max(self.highest, progress.fraction)
        now = time.monotonic()
        is_due = always or progress.stage != self._reported_name or now - self._reported_at >= _BETWEEN_REPORTS_S
        if self.callback is None or not is_due:
            return
        self._reported_at, self._reported_name = now, progress.stage
        left = progress.seconds_left
        if left is None:
            left = self._seconds_left(now - self._started)
        self.callback(replace(progress, fraction=self.highest, seconds_left=left))

    def _seconds_left(self, elapsed: float) -> float | None:
        """Return the remaining seconds at the recent pace, None before anything is done."""
        if self.highest >= 1.0:
            return 0.0
        since = elapsed * (1 - _RECENT_SHARE)
        earlier = [entry for entry in self._remembered if entry[0] <= since][-1:]
        before, done = (earlier or self._remembered)[0]
        self._remembered = [*earlier, *(entry for entry in self._remembered if entry[0] > since)]
        if len(self._remembered) > _MOST_REMEMBERED:
            self._remembered = self._remembered[::2]
        self._remembered.append((elapsed, self.highest))
        if self.highest <= done:
            # Nothing was done for as long as that: at the pace of the whole.
            before, done = self._first
        return None if self.highest <= done else (elapsed - before) / (self.highest - done) * (1 - self.highest)
