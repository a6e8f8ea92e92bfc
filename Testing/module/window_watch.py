"""How long the window's thread computes at a stretch, against a computation that is timed in the same run."""

from __future__ import annotations

import json
import time


def reference_s() -> float:
    """Return the processor seconds of a fixed computation on this thread: how fast this computer is just now."""
    value = {"structures": [{"name": f"structure {n}", "label": n, "color": [n, n, n]} for n in range(200)]}
    began = time.thread_time()
    for _ in range(20):
        value = json.loads(json.dumps(value, indent=1))
    return time.thread_time() - began


class WindowWatch:
    """Measures the longest stretch between two turns of Qt's event loop, with a timer that is due every 5 ms.

    ``longest_s`` are processor seconds of this thread, because the clock of a busy machine tells of the other programs
    too. ``references`` is the longest stretch in units of the reference, which is timed before and after. It may be
    entered several times.
    """

    def __init__(self) -> None:
        import qt

        self.longest_s = self.references = self._now_longest_s = self._reference_s = self._before = 0.0
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self._tick)

    def __enter__(self) -> WindowWatch:
        self._reference_s, self._now_longest_s = reference_s(), 0.0
        self._before = time.thread_time()
        self._timer.start(5)
        return self

    def __exit__(self, *error: object) -> None:
        self._tick()
        self._timer.stop()
        self.longest_s = max(self.longest_s, self._now_longest_s)
        self.references = max(self.references, self._now_longest_s / ((self._reference_s + reference_s()) / 2))

    def __str__(self) -> str:
        return (
            f"The window's thread computed at most {self.longest_s:.3f} s at a stretch, {self.references:.1f} times "
            "the reference."
        )

    def _tick(self) -> None:
        now = time.thread_time()
        self._now_longest_s = max(self._now_longest_s, now - self._before)
        self._before = now
