"""Progress with the remaining time, and a token that asks long work to stop; ``Task`` holds both and nests by weight.

Whoever starts work makes a task and hands it down; nothing in the library keeps one.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NoReturn, TypeVar

from TransferSegLib.errors import Cancelled
from TransferSegLib.pace import passed_share
from TransferSegLib.progress_reports import Progress as Progress
from TransferSegLib.progress_reports import ProgressCallback as ProgressCallback
from TransferSegLib.progress_reports import Reports

if TYPE_CHECKING:
    from concurrent.futures import Future

#: How often a task that waits for a call checks the cancel token.
_LOOK_S = 0.1
#: The name of a thread whose call is not waited for any more.
_LEFT_BEHIND = "transferseg-left-behind"

Result = TypeVar("Result")
Item = TypeVar("Item")


class CancelToken:
    """A flag another thread (or a signal handler) sets to ask long work to stop."""

    def __init__(self) -> None:
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


class Task:
    """Progress and cancelling of some work in one object, which nests by weight.

    >>> task = Task("Segmenting", progress, cancel)
    >>> reading, computing = task.split(1, 9)
    >>> image = reading.wait(lambda: read(path), 2.0)
    >>> for plane in computing.over(planes):
    ...     work(plane)

    ``named`` gives a part a name of its own, ``each`` and ``counting`` count steps, ``Parts`` are parts whose seconds
    are estimated. Every report says how much of the whole is done, which never decreases, however
    parts are nested. Reports are throttled, but for those that end a step or a part; the cancel token is checked
    every time: call ``at`` as often as the work allows.
    """

    def __init__(
        self,
        name: str = "",
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
        key: str = "",
    ) -> None:
        """Begin a whole work, by default without reports; ``name`` and ``key`` are those of ``Progress``."""
        self._reports = Reports(name, progress)
        #: The token, for functions that take one.
        self.cancel = cancel
        self._start, self._length = 0.0, 1.0
        self._name, self._key, self._subject = name, key, ""
        self._parts: Parts | None = None
        self._counter: _Counter | None = None

    def named(self, name: str, key: str = "") -> Task:
        """Return this task under a name of its own, after that of the work around it: 'Fold 1: training'.

        The keys are joined by slashes: ``fold/training``.
        """
        task = self._part(0.0, 1.0)
        if not self._name:
            task._name = name
        elif name.casefold() != self._name.casefold():
            task._name = f"{self._name}: {name[:1].lower()}{name[1:]}"
        if key != self._key.rpartition("/")[2]:
            task._key = "/".join(part for part in (self._key, key) if part)
        return task

    def about(self, subject: str) -> Task:
        """Return this task with lines for a person that begin with a subject, e.g. which scan it is: 'scan 1 of 2'."""
        task = self._part(0.0, 1.0)
        task._subject = subject
        return task

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
        reached = self._reports.highest if self._parts is None else self._parts.reached
        done = (reached - self._start) / self._length if self._length > 0 else 0.0
        return self._part(min(1.0, max(0.0, done)), 1.0)

    def counting(self, steps: int, done: int = 0) -> Task:
        """Return this task as one of so many steps, of which ``done`` were made earlier; ``step`` ends each."""
        task = self._part(0.0, 1.0)
        task._counter = _Counter(max(1, steps), done)
        if done and self._parts is None:
            self._reports.begin_at(task._start + task._length * min(1.0, done / max(1, steps)))
        return task

    @property
    def reached(self) -> float:
        """How much of the whole work is done, by what was reported."""
        return self._reports.highest

    def begin_at(self, fraction: float) -> None:
        """Note that so much of the whole was done by an earlier process: what is reported goes on from there."""
        self._reports.begin_at(min(max(fraction, 0.0), 1.0))

    def next_step(self, message: str | None = None) -> Task:
        """Return the task of the next of the steps that this task counts."""
        assert self._counter is not None
        if message is not None:
            self.say(message)
        done, steps = self._counter.done, self._counter.steps
        return self._part(min(done, steps) / steps, min(done + 1, steps) / steps)

    def step(
        self,
        message: str | None = None,
        *,
        count: int = 1,
        fraction: float | None = None,
        loss: float | None = None,
        dice: float | None = None,
    ) -> None:
        """Report that ``count`` more steps are done, with the training's loss and Dice as in ``Progress``.

        ``fraction`` is the part of this task that is done, where not the steps alone decide it. Does not check the
        cancel token: a training does that where it can be resumed.
        """
        assert self._counter is not None
        self._counter.done = min(self._counter.steps, self._counter.done + count)
        share = self._counter.done / self._counter.steps if fraction is None else fraction
        self._report(share, message, always=True, loss=loss, dice=dice)

    def each(self, items: Sequence[Item], name: Callable[[Item], str] | None = None) -> Iterator[tuple[Item, Task]]:
        """Iterate over items of like cost with the task of each, which are steps; ``name`` returns their messages.

        Checks the cancel token before each item.
        """
        counting = self.counting(len(items))
        for item in items:
            counting.check()
            message = None if name is None else name(item)
            yield item, counting.next_step(message)
            counting.step(message)

    def over(self, items: Sequence[Item]) -> Iterator[Item]:
        """Iterate over many small items, e.g. planes: as ``each`` without tasks and steps."""
        for number, item in enumerate(items):
            self.at(number / len(items))
            yield item
        self.at(1.0)

    def check(self) -> None:
        """Raise Cancelled when stopping was asked for."""
        if self.cancel is not None:
            self.cancel.check()

    def at(self, fraction: float, message: str | None = None, *, look: bool = True) -> None:
        """Report that so much of this task is done (0 to 1), with a line for a person (None: the last one).

        Checks the cancel token first, unless ``look`` is False.
        """
        if look:
            self.check()
        self._report(fraction, message)

    def say(self, message: str) -> None:
        """Set the line for a person that the next report will have."""
        self._reports.said = (self._name, message)

    def done(self, message: str | None = None, *, dice: float | None = None, look: bool = True) -> None:
        """Report that this task is done, with a Dice as in ``Progress``; this report is always made.

        Checks the cancel token afterwards, unless ``look`` is False: where nothing is left to stop.
        """
        self._report(1.0, message, always=True, dice=dice)
        if look:
            self.check()

    def waited(self, seconds: float, expected_s: float, *, look: bool = True) -> None:
        """Report that so many of roughly ``expected_s`` seconds have passed: ever closer to an unknown end."""
        self.at(passed_share(seconds, expected_s), look=look)

    def wait(self, call: Callable[[], Result], expected_s: float = 1.0, leave: bool = True) -> Result:
        """Return the result of a call into compiled code that cannot be stopped, made in a thread beside this one.

        The call must let other threads run, as those of SimpleITK, scipy and zlib do. ``expected_s`` is roughly how
        long it takes. When stopping is asked for, the call is left behind to end alone and its result is dropped; with
        ``leave`` False Cancelled is raised only after it has ended: it changes what others see.
        """
        from concurrent.futures import Future, wait  # not for the start of the command line

        self.check()
        outcome: Future[Result] = Future()
        thread = threading.Thread(target=_make, args=(call, outcome), name="transferseg-call", daemon=True)
        thread.start()
        started = time.monotonic()
        try:
            while wait((outcome,), _LOOK_S).not_done:
                if leave:
                    self.check()
                self.waited(time.monotonic() - started, expected_s, look=False)
        except BaseException:
            if leave:
                thread.name = _LEFT_BEHIND
            else:
                thread.join()
            raise
        try:
            result = outcome.result()
        finally:
            del outcome  # an error's frames would hold it, and it the error
        self.check()
        self.at(1.0, look=False)
        return result

    def _part(self, start: float, end: float) -> Task:
        part = copy(self)
        part._start, part._length = self._start + self._length * start, self._length * (end - start)
        return part

    def _report(
        self,
        fraction: float,
        message: str | None,
        always: bool = False,
        loss: float | None = None,
        dice: float | None = None,
    ) -> None:
        if self._reports.said[0] != self._name:  # a line about other work
            self._reports.said = (self._name, "")
        if message is not None and message != self._reports.said[1]:
            self._reports.said, always = (self._name, message), True
        position, seconds_left = self._start + self._length * min(1.0, max(0.0, fraction)), None
        if self._parts is not None:
            position, seconds_left = self._parts.place(position)
        done, steps = (None, None) if self._counter is None else (self._counter.done, self._counter.steps)
        message = ": ".join(part for part in (self._subject, self._reports.said[1]) if part)
        report = Progress(self._name, position, message, seconds_left, done, steps, loss, dice, self._key)
        self._reports.report(report, always)


class Parts:
    """Parts of a task whose seconds are estimated, and estimated anew while it runs.

    >>> parts = Parts(task)
    >>> parts.estimate({"reading": 5, "train:1": 60, "train:2": 60})
    >>> work(parts.begin("train:1", "Fold 1 of 2")); parts.end()

    A part is called by its key. One that ends tells how long others of its kind, the key up to the last colon, will
    take.
    """

    def __init__(self, task: Task, clock: Callable[[], float] = time.monotonic, spent_s: float = 0.0) -> None:
        """Divide a task, on which earlier processes have spent so many seconds."""
        self._task, self._clock = task, clock
        self._left: dict[str, float] = {}
        self._done_s = spent_s
        self._part, self._started = "", 0.0
        #: The seconds after which all of it ends, those of earlier processes included; None: when it is done.
        self.limit_s: float | None = None
        #: How much of the current part is done.
        self.reached = 0.0

    def estimate(self, seconds: Mapping[str, float]) -> None:
        """Estimate anew how long the parts that are not done will take; those not named are left out."""
        current = {self._part: self._left[self._part]} if self._part in self._left else {}
        self._left = {**current, **seconds}

    def join(self, keys: Iterable[str], key: str, at_once: int) -> None:
        """Make one part of some, of which so many are done at the same time."""
        self._left[key] = sum(self._left.pop(one, 0.0) for one in keys) / at_once

    def begin(self, key: str, name: str) -> Task:
        """Begin a part and return its task."""
        self._part, self._started, self.reached = key, self._clock(), 0.0
        self._left.setdefault(key, 1.0)
        task = self._task.named(name, key)
        task._start, task._length, task._parts = 0.0, 1.0, self
        task._report(0.0, None, always=True)
        return task

    def end(self, is_typical: bool = True) -> None:
        """End the part; one that was resumed is no measure for others of its kind, which ``is_typical`` says."""
        if not self._part:
            return
        took = self._clock() - self._started
        self._left.pop(self._part, None)
        kind = _kind(self._part)
        if is_typical:
            self._left = {key: took if _kind(key) == kind else left for key, left in self._left.items()}
        self._done_s += took
        self._part = ""

    def skip(self, key: str) -> None:
        """Leave out a part that was done by an earlier process."""
        self._left.pop(key, None)

    def place(self, share: float) -> tuple[float, float]:
        """Return the position in the whole, and the seconds left, when so much (0 to 1) of the current part is done."""
        self.reached = max(self.reached, share)
        elapsed = self._clock() - self._started
        estimated = self._left.get(self._part, 0.0)
        # A part that takes longer than was estimated is as long as it turns out to be.
        length = max(estimated, elapsed / share if share > 0.02 else elapsed)
        left = length * (1 - share) + sum(self._left.values()) - estimated
        total = self._done_s + length + sum(self._left.values()) - estimated
        fraction = min(0.999, 1 - left / total) if total > 0 else 0.0
        until_limit = 0.0 if self.limit_s is None else self.limit_s - self._done_s - elapsed
        if until_limit > 0:  # what is late anyway is as late as it turns out to be
            left = min(left, until_limit)
        return self._task._start + self._task._length * fraction, left


def _kind(key: str) -> str:
    """Return what a part has in common with others: its key without the number."""
    return key.rpartition(":")[0] or key


@dataclass
class _Counter:
    """The steps that a task counts."""

    steps: int
    done: int


def _make(call: Callable[[], Result], outcome: Future[Result]) -> None:
    """Make a call and keep what it returns or raises."""
    try:
        outcome.set_result(call())
    except BaseException as error:  # raised again where it is waited for
        outcome.set_exception(error)


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
