"""Progress of work that has several parts: how much of the whole is done, and how long the whole will still take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from TransferSegLib.progress import Progress, ProgressCallback


class WholeProgress:
    """Turns reports of parts into reports of the whole.

    >>> whole = WholeProgress(callback, {"reading": 5, "fold 1": 60, "fold 2": 60})
    >>> with_reports = whole.begin("fold 1", "Fold 1 of 2")
    >>> work(with_reports); whole.end()

    Parts have estimated seconds. One that ends tells how long others of its kind (its name up to the first number)
    will take.
    """

    def __init__(
        self,
        callback: ProgressCallback | None,
        estimates_s: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Report to a callback; parts are done in the order of the estimates."""
        self._callback, self._clock = callback, clock
        self._left = dict(estimates_s)
        self._done_s = 0.0
        self._highest = 0.0
        self._part, self._title, self._started = "", "", 0.0
        self._inside: Callable[[Progress], float] = _fraction

    def resume(self, earlier_s: float) -> None:
        """Count what earlier processes have spent as done."""
        self._done_s = earlier_s

    def estimate(self, estimates_s: Mapping[str, float]) -> None:
        """Say anew how long the parts that are not done will take; those not named are forgotten."""
        current = {self._part: self._left[self._part]} if self._part in self._left else {}
        self._left = {**current, **estimates_s}

    def begin(
        self, part: str, title: str, inside: Callable[[Progress], float] | None = None
    ) -> ProgressCallback | None:
        """Begin a part and return the callback for its reports; ``inside`` tells from one how much of it is done."""
        self._part, self._title, self._started = part, title, self._clock()
        self._inside = inside or _fraction
        self._left.setdefault(part, 1.0)
        if self._callback is None:
            return None
        self._callback(self._whole(Progress(title, 0.0), 0.0))
        return self.report

    @property
    def elapsed_s(self) -> float:
        """Seconds since the part began."""
        return self._clock() - self._started

    def report(self, report: Progress) -> None:
        """Report how far the part is; this is the callback handed to its work."""
        if self._callback is not None:
            self._callback(self._whole(report, min(1.0, max(0.0, self._inside(report)))))

    def end(self, tells: bool = True) -> None:
        """End the part; ``tells`` is false of one that was gone on with, which is no measure for others of its kind."""
        if not self._part:
            return
        took = self.elapsed_s
        self._left.pop(self._part, None)
        kind = _kind(self._part)
        if tells:
            self._left = {name: took if _kind(name) == kind else left for name, left in self._left.items()}
        self._done_s += took
        self._part = ""

    def skip(self, part: str) -> None:
        """Leave out a part that was done in an earlier run."""
        self._left.pop(part, None)

    def _whole(self, report: Progress, share: float) -> Progress:
        """Return the report about the whole."""
        current = self._left.get(self._part, 0.0)
        elapsed = self.elapsed_s
        # A part that takes longer than was thought is as long as it turns out to be.
        length = max(current, elapsed / share if share > 0.02 else elapsed)
        left = length * (1 - share) + sum(self._left.values()) - current
        total = self._done_s + length + sum(self._left.values()) - current
        self._highest = max(self._highest, min(0.999, 1 - left / total) if total > 0 else 0.0)
        stage = (
            self._title
            if report.stage == self._title
            else f"{self._title}: {report.stage[:1].lower()}{report.stage[1:]}"
        )
        return replace(report, stage=stage, fraction=self._highest, seconds_left=left)


def _fraction(report: Progress) -> float:
    return report.fraction


def _kind(part: str) -> str:
    """Return a part's name without its number."""
    return part.rstrip("0123456789 ")
