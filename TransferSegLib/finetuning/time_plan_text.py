"""A plan of a fine-tuning's time in words: what is done, how long it takes, and what there is no time for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from TransferSegLib.wording import counted

if TYPE_CHECKING:
    from TransferSegLib.finetuning.time_plan import Amount, Speeds, TimePlan


def described(plan: TimePlan, amount: Amount, speeds: Speeds, minutes: float, asked: Amount | None = None) -> TimePlan:
    """Return the plan with its text; ``asked`` is what would have been done with more time."""
    asked = amount if asked is None else asked
    tail_only = (amount.steps == 0 and asked.steps > 0) or (amount.trains_tail and not asked.trains_tail)
    compared = "slabs" if amount.patients < 2 else "patients"
    start = "starts from their average and " if amount.averages else ""
    text = (
        f"{plan.folds} candidates learn from some of the {compared} and are tested on the others "
        f"(each {_training_text(plan.minutes_each, plan.tail_steps, plan.steps)}). The final one, which is kept, "
        f"{start}learns from all cases ({_training_text(plan.final_minutes, plan.final_tail_steps, plan.final_steps)})."
    )
    if plan.total_s:
        of = f" of the {minutes:g} min given" if minutes > 0 else ""
        text = f"About {seconds_text(plan.total_s)}{of}. {text}"
    text += _workers_text(amount, plan.folds, speeds, minutes)
    if plan.extra:
        text += f" {plan.extra} more candidates serve to choose the strategy."
    text += _changes(plan, asked, tail_only)
    return replace(plan, text=text, tail_only=tail_only)


def _workers_text(amount: Amount, folds: int, speeds: Speeds, minutes: float) -> str:
    """Return what is assumed of the workers, as sentences after a space; empty without workers."""
    if not amount.workers:
        return ""
    busy = amount.busy_workers(folds)
    verb = "trains" if busy == 1 else "train"
    text = f" {counted(busy, 'worker')} {verb} the compared ones, each for itself."
    if minutes <= 0:
        return text
    return (
        f"{text} It is assumed that a step takes a worker {speeds.slowdown:.1f} times as long as this process; what "
        "they slow each other down is not known. Each ends by its own clock."
    )


def _training_text(minutes: float, tail_steps: int, steps: int) -> str:
    parts = []
    if tail_steps:
        parts.append(f"{tail_steps} steps of the last layers")
    if steps:
        parts.append(f"{steps} steps of all layers")
    most = f"at most {seconds_text(60 * minutes)}, " if minutes > 0 else ""
    return f"{most}about {' and '.join(parts or ['no step'])}"


def _changes(plan: TimePlan, asked: Amount, tail_only: bool) -> str:
    """Return what is left out for want of time, as sentences after a space."""
    text = ""
    if tail_only:
        text += " There is time for the last layers only; give more minutes to train all layers."
    if plan.side and not tail_only:
        text += f" Training patches have only {plan.side} voxels a side, so that there is time for more steps."
    if asked.averages and not asked.trains_tail and 0 < plan.steps < min(asked.least_alone, asked.steps):
        text += " That is little training; with more minutes, more is learned."
    if asked.extra and not plan.extra:
        text += " There is no time to choose among strategies."
    if plan.folds < asked.wanted_folds:
        text += f" For {asked.wanted_folds} candidates there is not enough time."
    if plan.folds < min(asked.fewest_folds, asked.wanted_folds):
        text += " With so few of them, a new structure may be missing in what one of them learns from."
    return text


def seconds_text(seconds: float) -> str:
    """Return a duration in round words."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
