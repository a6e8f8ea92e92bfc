"""Drawing what later steps learn from while a GPU computes this one.

Drawing a patch takes a processor about as long as a GPU takes for a whole step. What a step draws depends on its number
alone, so that drawing it earlier, in another thread, changes nothing. On a CPU nothing is drawn ahead: threads would
take the processor from the step.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

Drawn = TypeVar("Drawn")

#: Steps that are drawn ahead on a GPU, each in a thread of its own. Patches are drawn in C code that other threads run
#: beside.
STEPS_AHEAD = 3


class DrawingAhead(Generic[Drawn]):
    """Gives what was drawn for a step, and has the next ones drawn meanwhile.

    >>> drawing = DrawingAhead(draw, STEPS_AHEAD)
    >>> drawn = drawing.take(0)  # the threads draw for steps 1, 2 and 3 now
    """

    def __init__(self, draw: Callable[[int], Drawn], steps: int) -> None:
        """``draw`` maps the number of a step to what it learns from; with 0 ``steps`` it is called when asked for."""
        self._draw, self._steps = draw, steps
        self._threads: ThreadPoolExecutor | None = None
        self._waiting: dict[int, Future[Drawn]] = {}

    def take(self, step: int) -> Drawn:
        """Return what was drawn for a step; raises what drawing raised. A step may be taken again."""
        if self._steps <= 0:
            return self._draw(step)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._steps, thread_name_prefix="drawing")
        wanted = range(step, step + self._steps + 1)
        for number in [number for number in self._waiting if number not in wanted]:
            self._waiting.pop(number).cancel()
        for number in wanted:
            if number not in self._waiting:
                self._waiting[number] = self._threads.submit(self._draw, number)
        return self._waiting[step].result()

    def stop(self) -> None:
        """End the threads, after what they are drawing now; ``take`` begins anew."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        self._threads = None
        self._waiting.clear()


def pinned(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return values in memory from which a CUDA GPU copies while other work goes on; for other devices as they are."""
    return values.pin_memory() if device.type == "cuda" else values


def moved(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return values on a device; to a CUDA GPU they are copied when it comes to that, without waiting for it."""
    return values.to(device, non_blocking=device.type == "cuda")
