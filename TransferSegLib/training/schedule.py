"""How long a training lasts and at which learning rate: by steps, by minutes, or whichever ends first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

#: Seconds from some moment on.
Clock = Callable[[], float]


class Budget:
    """The minutes of a run, over its interruptions; tests hand in a ``clock``."""

    def __init__(self, minutes: float = 0.0, clock: Clock = time.monotonic, spent_s: float = 0.0) -> None:
        """Start the clock of a run that has spent some seconds already; ``minutes`` 0: no limit."""
        self._limit_s = minutes * 60.0
        self._clock = clock
        self._started = clock() - spent_s

    @property
    def spent_s(self) -> float:
        """Seconds spent so far, in this process and those before."""
        return self._clock() - self._started

    def share(self, until: float = 1.0, since_s: float = 0.0) -> float:
        """Return the share spent (0 and up) of the time from ``since_s`` to that share of the minutes."""
        if self._limit_s <= 0:
            return 0.0
        length = until * self._limit_s - since_s
        return 1.0 if length <= 0 else (self.spent_s - since_s) / length


@dataclass(frozen=True)
class Schedule:
    """One training: it ends after ``steps``, or at the share ``until`` of the minutes, whichever comes first.

    The learning rate rises linearly to ``highest_rate`` in ``warm_up`` steps and falls as a cosine to zero at the end:
    from step ``decay_from`` on, by default from the first one.
    """

    steps: int
    highest_rate: float
    warm_up: int
    budget: Budget = field(default_factory=Budget)
    until: float = 1.0
    since_s: float = 0.0
    decay_from: int = 0

    def done(self, step: float) -> float:
        """Return the share of the training that is done after so many steps, 0 to 1; one may be under way."""
        by_steps = 1.0 if self.steps <= 0 else step / self.steps
        return min(1.0, max(by_steps, self.budget.share(self.until, self.since_s)))

    def rate(self, step: int) -> float:
        """Return the learning rate of the next step."""
        warmed = min(1.0, (step + 1) / max(1, self.warm_up))
        decayed = self.done(step)
        if self.decay_from > 0:
            decayed = min(1.0, max(0, step - self.decay_from) / max(1, self.steps - self.decay_from))
        return self.highest_rate * warmed * 0.5 * (1 + math.cos(math.pi * decayed))
