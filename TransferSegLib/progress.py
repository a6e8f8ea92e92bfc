"""Progress with the remaining time, and a token that asks long work to stop.

Both are passed down by whoever started the work; nothing in the library keeps them. ``Stage`` counts steps, ``Task``
joins the two in one object that nests by weight.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Generic, NoReturn, TypeVar

from TransferSegLib.errors import Cancelled

#: Reports of a task are at least so far apart, in seconds, but for those that end a part.
_BETWEEN_REPORTS_S = 0.2
#: How often a task that waits for a call looks whether to stop.
_LOOK_S = 0.1
#: The remaining time comes from the pace over this share of the time so far: parts differ in pace.
_RECENT_SHARE = 0.5
_MOST_REMEMBERED = 400
#: The name of a thread whose call nobody waits for any more.
_LEFT_BEHIND = "transferseg-left-behind"

Result = TypeVar("Result")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Progress:
    """One report: ``fraction`` done of ``stage`` (0 to 1), a line for a person, and the seconds left if known.

    Stages that count say the number of steps done and how many there are; those that train may say their loss, and
    their mean Dice (0 to 1) on cases they do not learn from.
    """

    stage: str
    fraction: float
    message: str = ""
    seconds_left: float | None = None
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    dice: float | None = None


ProgressCallback = Callable[[Progress], None]


class CancelToken:
    """A flag another thread (or a signal handler) sets to ask long work to stop."""

    def __init__(self) -> None:
        """Make a token that has not been set."""
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop at its next safe point."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether stopping was asked for."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise Cancelled when stopping was asked for."""
        if self.cancelled:
            raise Cancelled("Stopped on request.")


class Stage:
    """Counts the steps of one stage and reports each with an estimate of the remaining time.

    >>> stage = Stage("tiles", 3, callback, cancel)
    >>> for tile in tiles:
    ...     stage.check()
    ...     work(tile)
    ...     stage.step()
    """

    def __init__(
        self,
        name: str,
        steps: int,
        callback: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
        done: int = 0,
    ) -> None:
        """Begin a stage of so many steps, of which ``done`` were made earlier (a resumed job)."""
        self.name = name
        self.steps = max(1, steps)
        self.done = done
        self._done_at_start = done
        self._callback = callback
        self._cancel = cancel
        self._started = time.monotonic()

    def check(self) -> None:
        """Raise Cancelled when stopping was asked for."""
        if self._cancel is not None:
            self._cancel.check()

    def step(self, message: str = "", count: int = 1, loss: float | None = None, dice: float | None = None) -> None:
        """Report that ``count`` more steps are done, with the training's loss and Dice as in ``Progress``."""
        self.done = min(self.steps, self.done + count)
        if self._callback is not None:
            fraction, left = self.done / self.steps, self.seconds_left()
            self._callback(Progress(self.name, fraction, message, left, self.done, self.steps, loss, dice))

    def within(self, message: str = "") -> Task:
        """Return a task for the next step, whose reports are about the whole stage; ``step`` ends it."""
        done = self.done

        def report(inner: Progress) -> None:
            fraction = (done + inner.fraction) / self.steps
            left = self.seconds_left()
            if self._callback is not None:
                self._callback(Progress(self.name, fraction, message, left, done, self.steps))

        return Task(self.name, None if self._callback is None else report, self._cancel)

    def seconds_left(self) -> float | None:
        """Return the remaining seconds at the average pace so far, None before the first step."""
        made = self.done - self._done_at_start
        if made <= 0:
            return None
        return (time.monotonic() - self._started) / made * (self.steps - self.done)


class Task:
    """Progress and cancelling of some work in one object, which nests by weight.

    >>> task = Task("Segmenting", progress, cancel)
    >>> reading, computing = task.split(1, 9)
    >>> image = reading.wait(lambda: read(path), 2.0)
    >>> for plane in computing.over(planes):
    ...     work(plane)

    Every report says how much of the whole is done, which never goes back, however parts are nested. Reports are
    throttled, looks at the cancel token are not: call ``at`` as often as the work allows.
    """

    def __init__(
        self, name: str = "", progress: ProgressCallback | None = None, cancel: CancelToken | None = None
    ) -> None:
        """Begin the whole of a work; without arguments it is one that nobody follows or stops."""
        self._whole = _Whole(name, progress, cancel)
        self._start, self._length = 0.0, 1.0

    @property
    def cancel(self) -> CancelToken | None:
        """The token, for functions that take one."""
        return self._whole.cancel

    @property
    def progress(self) -> ProgressCallback | None:
        """A callback for functions that take one: how far they are becomes how far this task is."""
        if self._whole.callback is None:
            return None
        return lambda report: self.at(report.fraction, report.message, look=False)

    def split(self, *weights: float) -> tuple[Task, ...]:
        """Return one task for each part of this one, in the order in which they are done."""
        total = sum(weights) or 1.0
        ends = [0.0, *(end / total for end in accumulate(weights))]
        return tuple(self._part(start, end) for start, end in pairwise(ends))

    def share(self, number: int, count: int) -> Task:
        """Return one (0, 1, 2 ...) of so many equal parts of this task."""
        return self._part(number / count, (number + 1) / count)

    def rest(self) -> Task:
        """Return what is left of this task, for work that begins anew."""
        done = (self._whole.highest - self._start) / self._length if self._length > 0 else 0.0
        return self._part(min(1.0, max(0.0, done)), 1.0)

    def check(self) -> None:
        """Raise Cancelled when stopping was asked for."""
        if self._whole.cancel is not None:
            self._whole.cancel.check()

    def at(self, fraction: float, message: str | None = None, *, look: bool = True) -> None:
        """Say that so much of this task is done (0 to 1), with a line for a person (None: the last one).

        Looks whether to stop first, but for ``look`` False.
        """
        if look:
            self.check()
        self._whole.report(self._start + self._length * min(1.0, max(0.0, fraction)), message)

    def say(self, message: str) -> None:
        """Set the line for a person that the next report will have."""
        self._whole.message = message

    def done(self, message: str | None = None) -> None:
        """Say that this task is done; this report is always made. Looks whether to stop afterwards."""
        self._whole.report(self._start + self._length, message, always=True)
        self.check()

    def ended(self) -> None:
        """Say that this task is done, where nothing is left to stop: this does not look."""
        self._whole.report(self._start + self._length, None, always=True)

    def over(self, items: Sequence[Item]) -> Iterator[Item]:
        """Iterate over items of like cost: looks whether to stop before each, reports after it."""
        for number, item in enumerate(items):
            self.at(number / len(items))
            yield item
        self.at(1.0)

    def waited(self, seconds: float, expected_s: float, *, look: bool = True) -> None:
        """Say that so many of roughly ``expected_s`` seconds were waited: closer and closer to an end nobody knows."""
        self.at(1 - math.exp(-seconds / max(expected_s, _LOOK_S)), look=look)

    def wait(self, call: Callable[[], Result], expected_s: float = 1.0, leave: bool = True) -> Result:
        """Return the result of a call into compiled code that cannot be stopped, made in a thread beside this one.

        The call must let other threads run, as those of SimpleITK, scipy and zlib do. ``expected_s`` is roughly how
        long it takes. When stopping is asked for, the call is left behind to end alone and its result is dropped; with
        ``leave`` False Cancelled is raised only after it has ended: it changes what others see.
        """
        self.check()
        outcome = _Outcome(call)
        thread = threading.Thread(target=outcome.run, name="transferseg-call", daemon=True)
        thread.start()
        started = time.monotonic()
        try:
            while not outcome.ended.wait(_LOOK_S):
                if leave:
                    self.check()
                self.waited(time.monotonic() - started, expected_s, look=False)
        except BaseException:
            if leave:
                thread.name = _LEFT_BEHIND
            else:
                thread.join()
            raise
        result = outcome.result()
        self.check()
        self.at(1.0, look=False)
        return result

    def _part(self, start: float, end: float) -> Task:
        part = Task.__new__(Task)
        part._whole = self._whole
        part._start, part._length = self._start + self._length * start, self._length * (end - start)
        return part


class _Whole:
    """What all parts of a task share: who is told, when that was last, how far it is, and at what pace."""

    def __init__(self, name: str, callback: ProgressCallback | None, cancel: CancelToken | None) -> None:
        self.cancel, self.callback = cancel, callback
        self._name, self.message = name, ""
        self.highest = 0.0
        self._started = self._reported_at = time.monotonic()
        self._remembered: list[tuple[float, float]] = [(0.0, 0.0)]

    def report(self, fraction: float, message: str | None, always: bool = False) -> None:
        """Report unless that was done a moment ago."""
        self.highest = max(self.highest, fraction)
        is_new = message is not None and message != self.message
        if is_new:
            self.message = str(message)
        now = time.monotonic()
        if self.callback is None or not (always or is_new or now - self._reported_at >= _BETWEEN_REPORTS_S):
            return
        self._reported_at = now
        self.callback(Progress(self._name, self.highest, self.message, self._seconds_left(now - self._started)))

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
            before, done = 0.0, 0.0
        return None if self.highest <= 0 else (elapsed - before) / (self.highest - done) * (1 - self.highest)


class _Outcome(Generic[Result]):
    """What a call in another thread returned or raised."""

    def __init__(self, call: Callable[[], Result]) -> None:
        self.ended = threading.Event()
        self._call: Callable[[], Result] | None = call
        self._value: Result | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Make the call; this is what the thread does."""
        assert self._call is not None
        try:
            self._value = self._call()
        except BaseException as error:  # raised again where it is waited for
            self._error = error
        finally:
            self._call = None
            self.ended.set()

    def result(self) -> Result:
        """Return or raise what came of the call."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # the error's frames hold this object
        return self._value  # type: ignore[return-value]


def end_process(code: int) -> NoReturn:
    """End this process with an exit code, without waiting for calls that were left behind.

    Such a call must not crash on what an orderly end of the process takes away from under it.
    """
    if any(thread.name == _LEFT_BEHIND for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)
