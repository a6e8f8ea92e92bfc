"""What is done in the minutes that a user gives: how many folds, which layers, how many steps; or why it cannot be.

The minutes are a bound for everything: reading, the parent's predictions, features, all candidates, comparing, saving.
Half of the training time goes to the candidates of the folds, the other half to the final one, which starts from the
average of their weights: so all of it is spent on the version that is kept. Where the steps that fit are too few to
learn anything, there are fewer folds; then only the last layers are trained, on cached features; then it is refused,
with the minutes that are needed.

Speeds are measured on this machine (see ``speeds``), on one case and a few steps: every number is an "about".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from TransferSegLib.errors import TrainingError
from TransferSegLib.finetuning.side_by_side import turns
from TransferSegLib.finetuning.time_plan_text import described, seconds_text
from TransferSegLib.wording import counted

#: Features take at most this share of what is left for training.
FEATURE_SHARE = 0.25
#: A fold is not trained for less than this if fewer folds can be made.
_SHORTEST_FOLD_S = 20.0
#: Candidates that are compared, where the number was not asked for: more of them would each be trained for less.
MOST_FOLDS = 3
#: With several strategies to choose from, so many more of them choose.
CHOOSING_FOLDS = 2
#: Share of the training time that the final candidate gets (docs/measurements.md, "How the minutes are shared").
FINAL_SHARE = 0.5
#: Fewer steps than these teach too little to be worth a verdict (docs/fine-tuning.md, "Steps that are needed"): of the
#: last layers on cached features, of all layers after those, and of all layers alone.
LEAST_TAIL_STEPS, LEAST_FULL_STEPS, LEAST_STEPS_ALONE = 60, 20, 60
#: Of all layers alone, where the parent knows the structures, or where there is no time for more: the verdict calls
#: less too short.
FEWEST_STEPS_ALONE = 30
#: With a smaller training patch a step takes so much of the usual time as this power of the sides' quotient says. (A
#: third power would be the voxels': deep layers and the optimiser take as long for few voxels.)
_POWER_OF_SIDE = 2.0
#: The plan leaves this share of the minutes for what takes longer than it was measured.
_RESERVE = 0.05
#: Longer than any run: all steps are made.
_NO_LIMIT_S = 1e12
#: No candidate has less, however little time is left.
_SHORTEST_MINUTES = 1.0 / 60.0


class TooLittleTime(TrainingError):
    """The minutes do not suffice; ``minutes`` would."""

    def __init__(self, message: str, minutes: float) -> None:
        super().__init__(message)
        self.minutes = minutes


@dataclass(frozen=True)
class Speeds:
    """Seconds on this machine: of reading a case, predicting one whole, scoring one, a patch's features, steps.

    ``candidate_s`` is what a candidate takes beside its training (networks, files), ``save_s`` what it takes to keep
    the version, ``measuring_s`` what it took to measure. In a worker with fewer threads a step takes ``slowdown`` times
    as long, and it needs ``worker_start_s`` to load the program and the plan.
    """

    read_s: float
    predict_s: float
    score_s: float
    feature_s: float
    tail_step_s: float
    full_step_s: float
    candidate_s: float
    save_s: float
    measuring_s: float = 0.0
    slowdown: float = 1.0
    worker_start_s: float = 0.0

    def of_worker(self) -> Speeds:
        """Return the speeds of a worker: of all that it computes with its threads."""
        names = ("predict_s", "score_s", "feature_s", "tail_step_s", "full_step_s")
        return replace(self, **{name: self.slowdown * getattr(self, name) for name in names})

    def to_json(self) -> dict[str, float]:
        """Return JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Amount:
    """What there is to do. ``learnable`` cases have a voxel, ``fewest_folds`` hold every structure (see folds).

    ``extra`` candidates only choose a strategy. ``trains_tail``: stage 1 runs; ``caches``: features are computed;
    ``shares``: once, for all candidates. ``may_train_tail_only``: no other strategy was asked for by name.
    """

    cases: int
    learnable: int
    patients: int
    fewest_folds: int
    reported: int
    tail_steps: int
    steps: int
    patches: int
    tail_share: float
    cache_share: float
    most_folds: int = MOST_FOLDS
    extra: int = 0
    parent_answers: bool = True
    trains_tail: bool = True
    caches: bool = True
    shares: bool = True
    inits_from_data: bool = False
    may_train_tail_only: bool = True
    #: Whether the final candidate starts from the average of the folds' candidates.
    averages: bool = True
    #: Steps of all layers alone below which nothing is learned.
    least_alone: int = LEAST_STEPS_ALONE
    #: How many variants of each candidate are compared on its held-out cases.
    compared: int = 1
    #: Rounds of features that are computed already; None: they are still to be.
    cached_rounds: int | None = None
    #: Processes that train candidates of the folds at the same time; 0: one after another, in this one.
    workers: int = 0
    #: Side of the training patches, and sides that they may have where there is no time for enough steps, falling.
    side: int = 0
    smaller_sides: tuple[int, ...] = ()
    #: The side that ``Speeds.full_step_s`` is of (0: ``side``).
    timed_side: int = 0

    @property
    def wanted_folds(self) -> int:
        """Folds where time does not matter."""
        # Those that choose a strategy are not those that the verdict is about, where there are enough.
        most = max(2, self.most_folds + (CHOOSING_FOLDS if self.extra else 0))
        return 2 if self.patients < 2 else min(self.patients, most)

    def tail_only(self) -> Amount:
        """Return the same with nothing but the last layers trained, by one strategy."""
        shares = self.patients > 1 and not self.workers
        return replace(self, steps=0, trains_tail=True, caches=True, shares=shares, tail_share=1.0, extra=0)

    def with_side(self, side: int) -> Amount:
        """Return the same with smaller training patches, by one strategy."""
        smaller = tuple(other for other in self.smaller_sides if other < side)
        return replace(self, extra=0, side=side, smaller_sides=smaller, timed_side=self.timed_side or self.side)

    def with_smallest_side(self) -> Amount:
        """Return the same with the smallest patches there are, by one strategy."""
        return self.with_side(self.smaller_sides[-1]) if self.smaller_sides else replace(self, extra=0)

    def full_step_s(self, speeds: Speeds) -> float:
        """Return about what a step of all layers takes."""
        share = (self.side / self.timed_side) ** _POWER_OF_SIDE if self.timed_side else 1.0
        return max(share * speeds.full_step_s, 1e-9)

    def turns(self, folds: int) -> int:
        """Return how many times as long as one of them the candidates of so many folds take."""
        choosing = self.extra + CHOOSING_FOLDS if self.extra else 0
        return turns(folds + self.extra, choosing, max(1, self.workers))

    def busy_workers(self, folds: int) -> int:
        """Return how many workers train at the same time at most: never more than there are candidates for."""
        choosing = self.extra + CHOOSING_FOLDS if self.extra else 0
        return min(self.workers, max(choosing, folds + self.extra - choosing))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class TimePlan:
    """Folds and the minutes of each of their candidates (0: its steps decide); ``text`` says it to a person.

    ``tail_steps`` and ``steps`` are about what a fold's candidate will make; ``final_minutes``, ``final_tail_steps``
    and ``final_steps`` are those of the final one. ``total_s`` is about what everything takes (0: not known),
    ``parts_s`` of what. ``tail_only``: nothing but the last layers is trained. ``extra`` candidates choose. ``side`` is
    that of training patches that are smaller than usual, 0 otherwise.
    """

    folds: int
    minutes_each: float
    text: str
    tail_steps: int = 0
    steps: int = 0
    tail_only: bool = False
    extra: int = 0
    total_s: float = 0.0
    parts_s: dict[str, float] = field(default_factory=dict)
    final_minutes: float = 0.0
    final_tail_steps: int = 0
    final_steps: int = 0
    side: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return dict(vars(self))


def plan_time(minutes: float, amount: Amount, speeds: Speeds, spent_s: float = 0.0) -> TimePlan:
    """Return the plan for so many minutes, of which some are spent; 0 minutes: the steps decide.

    Raises TooLittleTime, naming the minutes that are needed.
    """
    if minutes <= 0:
        plan = _planned(_NO_LIMIT_S, amount.wanted_folds, amount, speeds, later=False)
        plan = replace(plan, minutes_each=0.0, final_minutes=0.0, total_s=plan.total_s + spent_s)
        return described(plan, amount, speeds, 0.0)
    found = _fitting(_usable_s(60.0 * minutes, spent_s), amount, speeds)
    if found is None:
        needed = _minutes_needed(amount, speeds, spent_s)
        raise TooLittleTime(_refusal(minutes, needed, amount, speeds, spent_s), needed)
    plan, actual = found
    return described(replace(plan, total_s=plan.total_s + spent_s), actual, speeds, minutes, amount)


def best_of_what_is_left(
    limit_s: float, spent_s: float, amount: Amount, speeds: Speeds, asked: Amount | None = None
) -> TimePlan:
    """Return the plan for what is left when the parent has predicted, however little: then the smallest there is.

    ``asked`` is what there was to do before an earlier plan left something out (None: the same).
    """
    left_s = _usable_s(limit_s, spent_s)
    found = _fitting(left_s, amount, speeds, later=True)
    if found is None:
        smallest = amount.tail_only() if amount.may_train_tail_only else amount.with_smallest_side()
        found = _planned(left_s, 2, smallest, speeds, later=True), smallest
    plan, actual = found
    each, final = (max(minutes, _SHORTEST_MINUTES) for minutes in (plan.minutes_each, plan.final_minutes))
    plan = replace(plan, total_s=plan.total_s + spent_s, minutes_each=each, final_minutes=final)
    return described(plan, actual, speeds, limit_s / 60.0, asked or amount)


def planned_amount(plan: TimePlan, asked: Amount) -> Amount:
    """Return what is left to do of what was asked for, after a plan has left out what there is no time for."""
    if plan.tail_only:
        return asked.tail_only()
    return asked.with_side(plan.side) if 0 < plan.side < asked.side else replace(asked, extra=plan.extra)


def fixed_seconds(amount: Amount, folds: int, speeds: Speeds, later: bool = False) -> dict[str, float]:
    """Return the seconds of all parts but features and training; ``later``: cases are read, and the parent is asked."""
    a_fold = -(-amount.cases // folds)
    held_out, comparing = amount.cases + amount.extra * a_fold, speeds
    if amount.workers:
        held_out, comparing = amount.turns(folds) * a_fold, speeds.of_worker()
    begin = (
        {}
        if later
        else {
            "reading": speeds.read_s * amount.cases,
            "parent": speeds.predict_s * amount.cases * amount.parent_answers,
        }
    )
    return (
        begin
        | {
            "comparing": (comparing.predict_s + comparing.score_s) * held_out * amount.compared,
            "candidates' files": speeds.candidate_s * (amount.turns(folds) + 1),
            "forgetting": (speeds.predict_s + speeds.score_s) * amount.reported,
            "saving": speeds.save_s,
        }
        | (
            {"workers' start": amount.turns(folds) * (speeds.worker_start_s + speeds.read_s * amount.cases)}
            if amount.workers
            else {}
        )
    )


def candidate_steps(seconds: float, amount: Amount, speeds: Speeds, rounds: float) -> tuple[int, int]:
    """Return about how many steps of the last layers and of all layers a candidate makes in so many seconds.

    ``rounds`` patches of every case are cached, those of a candidate's own within its time.
    """
    patches = rounds * amount.learnable
    used = _own_features_s(seconds, amount, speeds)
    if amount.inits_from_data:
        used += patches * speeds.tail_step_s / 3  # the tail runs forwards over every patch once
    tail = 0
    if amount.trains_tail:
        tail = _whole((amount.tail_share * seconds - used) / max(speeds.tail_step_s, 1e-9), amount.tail_steps)
    used += tail * speeds.tail_step_s
    return tail, _whole((seconds - used) / amount.full_step_s(speeds), amount.steps)


def _final_steps(seconds: float, amount: Amount, speeds: Speeds, rounds: float) -> tuple[int, int]:
    """Return about how many steps of the last layers and of all layers the final candidate makes.

    One that starts from the average of the others does not train the last layers first again.
    """
    if not amount.averages:
        return candidate_steps(seconds, amount, speeds, rounds)
    if amount.steps:
        return 0, _whole(seconds / amount.full_step_s(speeds), amount.steps)
    return _whole(seconds / max(speeds.tail_step_s, 1e-9), amount.tail_steps), 0


def _own_features_s(seconds: float, amount: Amount, speeds: Speeds) -> float:
    """Return the seconds of the features that a candidate computes for itself, of those it has."""
    if not amount.caches or amount.shares:
        return 0.0
    all_s = amount.patches * amount.learnable * speeds.feature_s
    return min(all_s, amount.tail_share * amount.cache_share * seconds)


def _whole(steps: float, most: int) -> int:
    return int(min(max(steps, 0.0), most))


def _usable_s(limit_s: float, spent_s: float) -> float:
    return limit_s * (1 - _RESERVE) - spent_s


def _fitting(left_s: float, amount: Amount, speeds: Speeds, later: bool = False) -> tuple[TimePlan, Amount] | None:
    """Try everything, then fewer folds, no choice of a strategy, smaller patches, few steps, the last layers alone."""
    ways = [amount] if amount.extra == 0 else [amount, replace(amount, extra=0)]
    ways += [amount.with_side(side) for side in amount.smaller_sides]
    if amount.averages and not amount.trains_tail and amount.least_alone > FEWEST_STEPS_ALONE:
        ways.append(replace(ways[-1], least_alone=FEWEST_STEPS_ALONE))
    ways += [amount.tail_only()] if amount.may_train_tail_only and (amount.steps or not amount.trains_tail) else []
    for way in ways:
        fewest = min(max(2, way.fewest_folds), way.wanted_folds)
        for folds in sorted({*range(fewest, way.wanted_folds + 1), 2}, reverse=True):
            plan = _planned(left_s, folds, way, speeds, later)
            long_enough = folds <= fewest or 60 * plan.minutes_each >= _SHORTEST_FOLD_S or _is_whole(plan, way)
            if long_enough and _learns_enough(plan, way):
                return plan, way
    return None


def _planned(left_s: float, folds: int, amount: Amount, speeds: Speeds, later: bool) -> TimePlan:
    """Return the plan with so many folds in so many seconds."""
    candidates, at_folds = amount.turns(folds), speeds.of_worker() if amount.workers else speeds
    fixed = fixed_seconds(amount, folds, speeds, later)
    training_s = left_s - sum(fixed.values())
    features_s, rounds = 0.0, float(amount.patches)
    if amount.caches and amount.shares and amount.cached_rounds is not None:
        rounds = float(amount.cached_rounds)
    elif amount.caches and amount.shares:
        a_round = amount.learnable * speeds.feature_s
        rounds = min(amount.patches, max(1.0, FEATURE_SHARE * training_s // max(a_round, 1e-9)))
        features_s = rounds * a_round
    final_s = max(FINAL_SHARE * (training_s - features_s), 0.0)
    each_s = max((1 - FINAL_SHARE) * (training_s - features_s), 0.0) / candidates
    tail, full = candidate_steps(each_s, amount, at_folds, rounds)
    final_tail, final_full = _final_steps(final_s, amount, speeds, rounds)
    parts = fixed | {
        "features": features_s,
        "training": candidates * _lasts(each_s, tail, full, amount, at_folds),
        "final training": _lasts(final_s, final_tail, final_full, amount, speeds, amount.averages),
    }
    return TimePlan(
        folds=folds,
        minutes_each=each_s / 60.0,
        text="",
        tail_steps=tail,
        steps=full,
        extra=amount.extra,
        total_s=sum(parts.values()),
        parts_s=parts,
        final_minutes=final_s / 60.0,
        final_tail_steps=final_tail,
        final_steps=final_full,
        side=amount.side if amount.timed_side else 0,
    )


def _lasts(most_s: float, tail: int, full: int, amount: Amount, speeds: Speeds, from_average: bool = False) -> float:
    """Return the seconds of a candidate: less than it may have where it makes all its steps before."""
    start_s = 0.0
    if not from_average:
        start_s = 0.5 * speeds.tail_step_s * amount.patches * amount.learnable * amount.inits_from_data
        start_s += _own_features_s(most_s, amount, speeds)
    has_tail = amount.trains_tail and not (from_average and amount.steps)
    made = (tail >= amount.tail_steps or not has_tail) and full >= amount.steps
    whole_s = start_s + tail * speeds.tail_step_s + full * amount.full_step_s(speeds)
    return min(most_s, whole_s) if made else most_s


def _is_whole(plan: TimePlan, amount: Amount) -> bool:
    """Whether a candidate makes all steps it is set."""
    return plan.steps >= amount.steps and (plan.tail_steps >= amount.tail_steps or not amount.trains_tail)


def _learns_enough(plan: TimePlan, amount: Amount) -> bool:
    """Whether a candidate makes the steps below which nothing is learned (all of them, where fewer are set)."""
    if plan.minutes_each <= 0:
        return False
    if not amount.trains_tail:
        return plan.steps >= min(amount.least_alone, amount.steps)
    return plan.tail_steps >= min(LEAST_TAIL_STEPS, amount.tail_steps) and plan.steps >= min(
        LEAST_FULL_STEPS, amount.steps
    )


def _minutes_needed(amount: Amount, speeds: Speeds, spent_s: float) -> float:
    """Return the fewest minutes for which there is a plan, rounded up to what a person would type."""
    enough = 0.5
    while _fitting(_usable_s(60.0 * enough, spent_s), amount, speeds) is None and enough < 1e6:
        enough *= 2
    least = enough / 2 if enough > 0.5 else 0.0
    for _ in range(20):
        middle = (least + enough) / 2
        if _fitting(_usable_s(60.0 * middle, spent_s), amount, speeds) is None:
            least = middle
        else:
            enough = middle
    enough *= 1.1  # measured again, it is a little more
    step = 0.5 if enough < 10 else 1.0 if enough < 60 else 10.0
    return math.ceil(enough / step) * step


def _refusal(minutes: float, needed: float, amount: Amount, speeds: Speeds, spent_s: float) -> str:
    """Return why so few minutes are refused, and what to do."""
    work = amount.tail_only() if amount.may_train_tail_only else replace(amount, extra=0)
    fixed_s = sum(fixed_seconds(work, 2, speeds).values())
    step = f"a step of the last layers {seconds_text(speeds.tail_step_s)}"
    if not work.trains_tail:
        step = f"a training step {seconds_text(work.with_smallest_side().full_step_s(speeds))}"
    return (
        f"{minutes:g} min is too little to learn anything from {counted(amount.cases, 'case')} on this machine: allow "
        f"{needed:g} min or more. Reading, predicting and comparing alone take about {seconds_text(fixed_s)}, {step}, "
        "and at least three candidates are trained. Fewer cases, or a faster device, take less."
    )
