"""How far something is whose end is not known, by the time that it is expected to take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

#: Nothing is expected to take less, in seconds.
_SHORTEST_S = 0.1
#: How far a step is, is of interest once it has taken so long; shorter ones are counted.
_LONG_S = 1.0


class Pace:
    """How far a step is, by the time that the one before it took: steps of one kind follow each other.

    >>> pace.begin()
    >>> pace.is_long() and pace.share()    # while it is made: ever closer to 1
    >>> pace.end()
    """

    def __init__(self, expected_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Expect the first step to take so many seconds."""
        self._expected_s, self._clock = expected_s, clock
        self._began = clock()

    def begin(self) -> None:
        """Begin a step."""
        self._began = self._clock()

    def share(self) -> float:
        """Return about how much of the step is done."""
        return passed_share(self._clock() - self._began, self._expected_s)

    def is_long(self) -> bool:
        """Tell whether the step has taken so long that a person wants to see it move."""
        return self._clock() - self._began >= _LONG_S

    def end(self) -> None:
        """End the step."""
        self._expected_s = self._clock() - self._began


def passed_share(seconds: float, expected_s: float) -> float:
    """Return how much of roughly ``expected_s`` is done after so many seconds: ever closer to an unknown end."""
    return 1 - math.exp(-seconds / max(expected_s, _SHORTEST_S))
