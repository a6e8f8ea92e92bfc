"""Training until held-out Dice no longer improves: in rounds, each as long as all before it.

After each round the candidates are compared on the cases left out of their training. As long as twice the training
brings more than ``GAIN``, there is another round, in which each candidate continues from its own weights; the cases
that it is compared on stay unseen.

>>> shares = [round_share(number) for number in range(4)]
>>> shares
[1.0, 1.0, 2.0, 4.0]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from TransferSegLib.finetuning.configuration import UNLIMITED_STEPS, FineTuningConfiguration
from TransferSegLib.finetuning.time_plan import Amount, Speeds, TooLittleTime, plan_time

#: The first round is planned as a run of so many minutes.
FIRST_MINUTES = 10.0
#: Twice the training must bring more mean Dice than this, else it no longer improves.
GAIN = 0.005
#: With a Dice below this, little is learned yet, and one round that brings nothing is not the end.
_LITTLE = 0.3
#: Without a limit: rounds, the last of which is 512 times as long as the first.
_MOST_ROUNDS = 11
#: Rounds draw their patches with seeds so far apart.
_SEED_OF_ROUND = 7919


@dataclass(frozen=True)
class RoundResult:
    """What candidates trained for so long reached: ``minutes`` and ``steps`` of one of them, all rounds together."""

    minutes: float
    steps: int
    mean_dice: float

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return dict(vars(self))


def round_share(number: int) -> float:
    """Return how long a round (from 0) is, in lengths of the first one."""
    return 1.0 if number == 0 else 2.0 ** (number - 1)


def share_of_all(rounds: int) -> float:
    """Return how long so many rounds are together, in lengths of the first one."""
    return 2.0 ** (rounds - 1)


def settings_of_round(settings: FineTuningConfiguration, round_number: int) -> FineTuningConfiguration:
    """Return the settings of a round (from 0) of a training: its steps, and other patches than those seen before."""
    if round_number == 0:
        return settings
    share, seed = round_share(round_number), settings.seed + _SEED_OF_ROUND * round_number
    steps = (min(int(share * one), UNLIMITED_STEPS) for one in (settings.tail_steps, settings.steps))
    return replace(settings.with_steps(*steps), minutes=settings.minutes, seed=seed)


def improves(curve: Sequence[RoundResult]) -> bool:
    """Tell whether the last rounds brought enough for another one."""
    if len(curve) >= _MOST_ROUNDS:
        return False
    best = 0
    for number, one in enumerate(curve):
        if one.mean_dice > curve[best].mean_dice + GAIN:
            best = number
    patience = 1 if curve[best].mean_dice >= _LITTLE else 2
    return len(curve) - 1 - best < patience


def best_round(curve: Sequence[RoundResult]) -> int:
    """Return the round (from 0) to keep: the first that no later one surpasses by more than ``GAIN``."""
    best = max(one.mean_dice for one in curve)
    return next(number for number, one in enumerate(curve) if one.mean_dice >= best - GAIN)


def first_minutes(limit: float, amount: Amount, speeds: Speeds, spent_s: float) -> float:
    """Return the minutes for which the first of several rounds is planned (0: no limit).

    They are enough to train all layers, on patches of the usual size.
    """
    minutes = min(FIRST_MINUTES, limit)
    while 0 < minutes < limit:
        try:
            plan = plan_time(minutes, amount, speeds, spent_s)
            if not (plan.tail_only or plan.side):
                break
        except TooLittleTime:
            pass  # longer, perhaps
        minutes = min(2 * minutes, limit)
    return minutes


def rounds_text(limit: float) -> str:
    """Return what is planned, in a sentence; ``limit`` in minutes, 0: none."""
    most = f", at most {limit:g} min in all" if limit else ""
    return (
        "Training continues in rounds, each as long as all before it, until the Dice on cases left out of training "
        f"no longer improves by more than {GAIN:g}{most}."
    )


def curve_note(curve: Sequence[RoundResult]) -> str:
    """Return what the rounds showed, and what more training would bring, in two sentences."""
    lengths = [f"{one.minutes:.3g}" if one.minutes else str(one.steps) for one in curve]
    unit = "min" if curve[0].minutes else "steps"
    found = f"Mean Dice on cases left out of training, after {', '.join(lengths)} {unit} of it: "
    found += ", ".join(f"{one.mean_dice:.3f}" for one in curve) + "."
    if len(curve) > 1 and not improves(curve):
        return f"{found} The last doubling of the training time brought less than {GAIN:g}: training ended."
    if len(curve) > 1:
        gain = curve[-1].mean_dice - max(one.mean_dice for one in curve[:-1])
        return (
            f"{found} The time was up while it still improved: the last doubling brought {gain:+.3f}, and more "
            "minutes are likely to bring more."
        )
    return f"{found} There was no time for more training: with more minutes it may improve."
