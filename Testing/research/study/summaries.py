"""What a study says as a whole: the paper's own summary figures for ours, and whether the floors hold."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from Testing.research.study.statistics import Cell, Gain, StudyStatistics

#: Fewest patients, and number of resamples, for the interval of a mean over experiments.
_FEWEST, _RESAMPLES = 6, 9999


@dataclass(frozen=True)
class Summary:
    """The paper's own figures: over ``experiments`` (a task and a size), the largest and the mean gain over scratch.

    ``low`` and ``high`` bound the mean (95 %, bootstrap over patients); ``by_seed`` is the mean of every single seed.
    ``better`` and ``worse`` count the experiments that are clearly so (``Gain.is_clear``).
    """

    base: str
    strategy: str
    experiments: int
    largest: Gain
    mean: float
    low: float | None
    high: float | None
    by_seed: tuple[float, ...]
    better: int
    worse: int


def summarise_gains(statistics: StudyStatistics, gains: Sequence[Gain]) -> list[Summary]:
    """Return the paper's figures for every base and strategy, in the order of first appearance."""
    groups: dict[tuple[str, str], list[Gain]] = defaultdict(list)
    for gain in gains:
        groups[gain.cell.base, gain.cell.strategy].append(gain)
    found = []
    for (base, strategy), group in groups.items():
        low, high = mean_interval(statistics, group) or (None, None)
        found.append(
            Summary(
                base,
                strategy,
                len(group),
                max(group, key=lambda gain: gain.difference),
                float(np.mean([gain.difference for gain in group])),
                low,
                high,
                mean_gain_by_seed(group),
                sum(gain.is_clear and gain.difference > 0 for gain in group),
                sum(gain.is_clear and gain.difference < 0 for gain in group),
            )
        )
    return found


def mean_gain_by_seed(gains: Sequence[Gain]) -> tuple[float, ...]:
    """Return the mean of gains by seed, of seeds that all of them have: what another draw did to it."""
    common = set.intersection(*(set(gain.seeds) for gain in gains)) if gains else set()
    by_seed = [dict(zip(gain.seeds, gain.by_seed, strict=True)) for gain in gains]
    return tuple(float(np.mean([one[seed] for one in by_seed])) for seed in sorted(common))


def mean_interval(statistics: StudyStatistics, gains: Sequence[Gain]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of gains by the percentile bootstrap; None for too few patients.

    Patients are resampled, all experiments of a patient together: tasks with the same test cases share their draw.
    """
    study = statistics.study
    strata: dict[object, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for gain in gains:
        task = study.tasks[gain.cell.task]
        for patient, difference in statistics.differences(gain.cell, gain.against).items():
            # A patient's share of the mean over all experiments, each of which is a mean over patients.
            strata[task.collection, task.selection][patient] += difference / gain.patients / len(gains)
    if any(len(shares) < _FEWEST for shares in strata.values()):
        return None
    random = np.random.default_rng(0)
    means = np.zeros(_RESAMPLES)
    for shares in strata.values():
        values = np.array(list(shares.values()))
        means += values[random.integers(0, len(values), (_RESAMPLES, len(values)))].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class FloorCheck:
    """A floor and what was reached: by size, or on average (``size`` None); ``reached`` None: no results yet.

    ``is_whole`` tells whether all seeds that are asked for are done.
    """

    words: str
    size: int | None
    at_least: float
    reached: float | None
    is_whole: bool

    @property
    def holds(self) -> bool:
        """Whether the floor was reached (to rounding)."""
        return self.reached is not None and self.reached >= self.at_least - 1e-9


def check_floors(statistics: StudyStatistics) -> list[FloorCheck]:
    """Return every floor of the configuration with what was reached, in mean Dice over patients and seeds."""
    checks = []
    for floor in statistics.study.floors:
        words = f"{floor.task}: {floor.strategy} over {floor.against}"
        reached: dict[int, Gain | None] = {}
        for size in floor.sizes:
            cell = Cell(statistics.study.tasks[floor.task].bases[0], floor.task, floor.strategy, size)
            reached[size] = statistics.gain(cell, replace(cell, strategy=floor.against))
        whole = {size: gain is not None and len(gain.seeds) == gain.planned for size, gain in reached.items()}
        if floor.on_average:
            values = [gain.difference for gain in reached.values() if gain is not None]
            mean = float(np.mean(values)) if len(values) == len(floor.sizes) else None
            checks.append(FloorCheck(words, None, floor.at_least, mean, all(whole.values())))
        else:
            for size, gain in reached.items():
                difference = None if gain is None else gain.difference
                checks.append(FloorCheck(words, size, floor.at_least, difference, whole[size]))
    return checks
