"""The one training loop: steps until a schedule ends, with hooks for validation, checkpoints and the history."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from TransferSegLib.pace import Pace
from TransferSegLib.progress import CancelToken, Task
from TransferSegLib.training.schedule import Schedule
from TransferSegLib.training.trainer import StepReport, Trainer

#: Steps averaged into one line of the history.
_REPORT_STEPS = 20


@dataclass(frozen=True)
class Hooks:
    """What happens beside the steps.

    ``checkpoint`` is called every ``checkpoint_every`` steps, and whenever the training is stopped, be it by an error.
    ``history`` gets the means of the last 20 steps. ``validate`` is called with the step before the first one, after
    each, and, with true, after the last; it returns whether to end early. ``best_dice`` is for the progress.
    """

    checkpoint: Callable[[], None]
    checkpoint_every: int
    history: Callable[[dict[str, Any]], None]
    validate: Callable[[int, bool], bool] = lambda step, is_last: False
    best_dice: Callable[[], float | None] = lambda: None


def train(trainer: Trainer, schedule: Schedule, hooks: Hooks, task: Task) -> None:
    """Train until the schedule ends, or ``validate`` does; raises TrainingError and Cancelled.

    The trainer may have made steps already, in a run that is resumed. Of several processes all take the steps, and the
    first one does everything else: it alone calls hooks, reports progress, and looks at the schedule's clock.
    """
    processes = trainer.processes
    between = _BetweenSteps(trainer, schedule, hooks, task)
    try:
        rate = processes.first_does(between.begin)
        while rate is not None:
            report = trainer.train_step(rate, task.cancel, between.within_step() if processes.is_first else None)
            rate = processes.first_does(partial(between.after, report))
        processes.first_does(lambda: hooks.validate(trainer.step, True))
    except BaseException:
        # Whatever stopped the run, what was learned up to the last whole step is kept.
        processes.leave()
        if processes.is_first:
            hooks.checkpoint()
        raise
    finally:
        trainer.stop_drawing()


@contextmanager
def single_steps(trainer: Trainer, rate: float, cancel: CancelToken | None) -> Iterator[Callable[[], StepReport]]:
    """Lend a function that takes one step, e.g. to measure it; the other processes take them with ``train``."""
    processes = trainer.processes

    def take_step() -> StepReport:
        processes.first_does(lambda: rate)
        return trainer.train_step(rate, cancel)

    try:
        yield take_step
    except BaseException:
        processes.leave()
        raise
    finally:
        trainer.stop_drawing()
    processes.first_does(lambda: None)  # no further step
    processes.first_does(lambda: False)  # nor a validation


class _BetweenSteps:
    """What happens between two steps; each method returns the learning rate of the next one, None after the last."""

    def __init__(self, trainer: Trainer, schedule: Schedule, hooks: Hooks, task: Task) -> None:
        self._trainer, self._schedule, self._hooks = trainer, schedule, hooks
        self._counting = task.counting(schedule.steps, trainer.step)
        self._recent: list[StepReport] = []
        self._pace = Pace()

    def within_step(self) -> Callable[[], None]:
        """Begin a step; returns what reports how far it is, to be called while it is made."""
        self._pace.begin()
        step = self._trainer.step

        def moved() -> None:
            if self._pace.is_long():
                self._counting.at(self._schedule.done(step + self._pace.share()), look=False)

        return moved

    def begin(self) -> float | None:
        """Validate before the first step, where that is due."""
        return self._next(self._hooks.validate(self._trainer.step, False))

    def after(self, report: StepReport) -> float | None:
        """Report a step, validate and write a checkpoint, where that is due."""
        hooks = self._hooks
        self._pace.end()
        self._recent.append(report)
        best = hooks.best_dice()
        message = f"loss {report.loss:.3f}" + ("" if best is None else f", validation Dice {best:.3f}")
        self._counting.step(message, fraction=self._schedule.done(report.step), loss=report.loss, dice=best)
        if report.step % _REPORT_STEPS == 0:
            hooks.history(_means(self._recent))
            self._recent = []
        ended = hooks.validate(report.step, False)
        if report.step % hooks.checkpoint_every == 0:
            hooks.checkpoint()
        return self._next(ended)

    def _next(self, ended: bool) -> float | None:
        step = self._trainer.step
        if ended or self._schedule.done(step) >= 1.0:
            return None
        self._counting.check()
        return self._schedule.rate(step)


def _means(recent: list[StepReport]) -> dict[str, Any]:
    """Return a line of the history."""
    return {
        "step": recent[-1].step,
        "cross_entropy": float(np.mean([report.cross_entropy for report in recent])),
        "dice_loss": float(np.mean([report.dice_loss for report in recent])),
        "held_loss": float(np.mean([report.further_loss for report in recent])),
        "gradient_norm": float(np.mean([report.gradient_norm for report in recent])),
        "learning_rate": recent[-1].learning_rate,
    }
