"""Progress with the remaining time, and a token that asks long work to stop.

Both are passed down by whoever started the work; nothing in the library keeps them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from TransferSegLib.errors import Cancelled


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

    def seconds_left(self) -> float | None:
        """Return the remaining seconds at the average pace so far, None before the first step."""
        made = self.done - self._done_at_start
        if made <= 0:
            return None
        return (time.monotonic() - self._started) / made * (self.steps - self.done)
