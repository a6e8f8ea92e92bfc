"""The one training loop: steps until a schedule ends, with hooks for validation, checkpoints and the history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from TransferSegLib.progress import Task
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

    The trainer may have made steps already, in a run that is resumed.
    """
    counting = task.counting(schedule.steps, trainer.step)
    recent: list[StepReport] = []
    try:
        ended = hooks.validate(trainer.step, False)
        while not ended and schedule.done(trainer.step) < 1.0:
            counting.check()
            report = trainer.train_step(schedule.rate(trainer.step), task.cancel)
            recent.append(report)
            best = hooks.best_dice()
            message = f"loss {report.loss:.3f}" + ("" if best is None else f", validation Dice {best:.3f}")
            counting.step(message, fraction=schedule.done(report.step), loss=report.loss, dice=best)
            if report.step % _REPORT_STEPS == 0:
                hooks.history(_means(recent))
                recent = []
            ended = hooks.validate(report.step, False)
            if report.step % hooks.checkpoint_every == 0:
                hooks.checkpoint()
        hooks.validate(trainer.step, True)
    except BaseException:
        # Whatever stopped the run, what was learned up to the last whole step is kept.
        hooks.checkpoint()
        raise
    finally:
        trainer.stop_drawing()


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
