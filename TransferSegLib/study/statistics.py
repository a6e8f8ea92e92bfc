"""What a study's results say: means with intervals, gains over another strategy, tests corrected for their number.

The unit is the **patient**: a patient's score is the mean over the structures of a case, over the patient's cases and
over the seeds. Seeds are averaged, not counted as further patients: they share the test cases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from TransferSegLib.evaluation.statistics import bootstrap_interval, holm, wilcoxon
from TransferSegLib.study.configuration import Study
from TransferSegLib.study.results import Result
from TransferSegLib.study.runs import Run, plan_runs

#: Places of the measures in a result's scores.
DICE, NSD, HD95 = 0, 1, 2
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Cell:
    """A place in the tables: one base, task, strategy and size (0: all), whatever the seed."""

    base: str
    task: str
    strategy: str
    size: int


@dataclass(frozen=True)
class Estimate:
    """A mean over patients with its bootstrap interval, None below 6 patients; ``seeds`` are those averaged."""

    mean: float
    low: float | None
    high: float | None
    patients: int
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Distance:
    """HD95 in mm: the median over cases, structures and seeds, and the share of them that were missed (infinite)."""

    median_mm: float
    missed: float


@dataclass(frozen=True)
class Gain:
    """The paired difference of two cells in mean Dice, over patients and the seeds that both have.

    ``p_value`` is Wilcoxon's signed-rank test over patients, ``p_holm`` corrected for all tests of its question; None
    where there are too few patients.
    """

    cell: Cell
    against: Cell
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    p_holm: float | None
    patients: int
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Summary:
    """The paper's own figures: over ``experiments`` (a task and a size), the largest and the mean gain over scratch.

    ``better`` and ``worse`` count the experiments whose corrected test is below 0.05, either way.
    """

    base: str
    strategy: str
    experiments: int
    largest: Gain
    mean: float
    better: int
    worse: int


class StudyStatistics:
    """The results of a study, by cell."""

    def __init__(self, study: Study, results: Iterable[Result]) -> None:
        """Take results that belong to the study's runs (see ``finished_runs``)."""
        self.study = study
        self.runs: list[Run] = plan_runs(study)
        self._cells = tuple(dict.fromkeys(Cell(run.base, run.task, run.strategy, run.size) for run in self.runs))
        self._by_cell: dict[Cell, dict[int, Result]] = defaultdict(dict)
        for result in results:
            self._by_cell[Cell(result.base, result.task, result.strategy, result.size)][result.seed] = result

    def cells(self, task: str, bases: Sequence[str] | None = None) -> list[Cell]:
        """Return the cells of a task that are asked for, those of the bases named (None: all), done or not."""
        return [cell for cell in self._cells if cell.task == task and (bases is None or cell.base in bases)]

    def results(self, cell: Cell) -> dict[int, Result]:
        """Return the results of a cell by seed."""
        return self._by_cell.get(cell, {})

    def estimate(self, cell: Cell, measure: int = DICE) -> Estimate | None:
        """Return the mean of a measure (Dice or NSD), None without results."""
        results = self.results(cell)
        if not results:
            return None
        values = np.array(list(by_patient(results.values(), measure).values()))
        interval = bootstrap_interval(values, _CONFIDENCE)
        low, high = (None, None) if interval is None else interval
        return Estimate(float(values.mean()), low, high, len(values), tuple(sorted(results)))

    def distance(self, cell: Cell) -> Distance | None:
        """Return the HD95 of a cell, None without results."""
        values = [
            three[HD95]
            for result in self.results(cell).values()
            for by_structure in result.scores.values()
            for three in by_structure.values()
        ]
        if not values:
            return None
        return Distance(float(np.median(values)), float(np.mean(np.isinf(values))))

    def gain(self, cell: Cell, against: Cell) -> Gain | None:
        """Return the gain of a cell over another, not yet corrected; None where no seed has both."""
        ours, theirs = self.results(cell), self.results(against)
        seeds = tuple(sorted(set(ours) & set(theirs)))
        if not seeds:
            return None
        first = by_patient([ours[seed] for seed in seeds], DICE)
        second = by_patient([theirs[seed] for seed in seeds], DICE)
        differences = np.array([first[patient] - second[patient] for patient in first if patient in second])
        if not differences.size:
            return None
        interval = bootstrap_interval(differences, _CONFIDENCE)
        low, high = (None, None) if interval is None else interval
        p_value = wilcoxon(differences)[0]
        return Gain(cell, against, float(differences.mean()), low, high, p_value, None, len(differences), seeds)

    def scratch_of(self, cell: Cell) -> Cell | None:
        """Return the cell of training from scratch that a cell is compared with, None when the study has none.

        It may be of another base: scratch is run once for all bases of one width and grid.
        """
        for strategy in self.study.tasks[cell.task].strategies:
            if not self.study.is_scratch(cell.task, strategy):
                continue
            for base in (cell.base, *self.study.tasks[cell.task].bases):
                found = Cell(base, cell.task, strategy, cell.size)
                if found in self._cells:
                    return found
        return None

    def gains_over_scratch(self) -> list[Gain]:
        """Return the gain of every cell over scratch, corrected for their number."""
        pairs = []
        for task in self.study.tasks:
            for cell in self.cells(task):
                scratch = self.scratch_of(cell)
                if scratch is not None and cell.strategy != scratch.strategy:
                    pairs.append((cell, scratch))
        return self._corrected(pairs)

    def gains_of(self, strategy: str, against: str) -> list[Gain]:
        """Return the gain of a strategy over another with the same base, corrected for their number."""
        cells = [cell for task in self.study.tasks for cell in self.cells(task) if cell.strategy == strategy]
        return self._corrected([(cell, replace(cell, strategy=against)) for cell in cells])

    def gains_of_base(self, base: str, against: str) -> list[Gain]:
        """Return the gain of a base over another with the same strategy, corrected for their number."""
        cells = [cell for task in self.study.tasks for cell in self.cells(task, [base])]
        return self._corrected([(cell, replace(cell, base=against)) for cell in cells])

    def _corrected(self, pairs: Sequence[tuple[Cell, Cell]]) -> list[Gain]:
        """Return the gains of all pairs that have results, with Holm's correction over all of them."""
        gains = [gain for cell, against in pairs if (gain := self.gain(cell, against)) is not None]
        corrected = holm([gain.p_value for gain in gains])
        return [replace(gain, p_holm=p_value) for gain, p_value in zip(gains, corrected, strict=True)]


def by_patient(results: Iterable[Result], measure: int) -> dict[str, float]:
    """Return the mean of a measure by patient: over structures, then over cases, then over results (seeds)."""
    seeds: dict[str, list[float]] = defaultdict(list)
    for result in results:
        cases: dict[str, list[float]] = defaultdict(list)
        for case, by_structure in result.scores.items():
            if by_structure:
                patient = result.patients.get(case, case)
                cases[patient].append(float(np.mean([three[measure] for three in by_structure.values()])))
        for patient, values in cases.items():
            seeds[patient].append(float(np.mean(values)))
    return {patient: float(np.mean(values)) for patient, values in seeds.items()}


def summarise_gains(gains: Sequence[Gain]) -> list[Summary]:
    """Return the paper's figures for every base and strategy, in the order of first appearance."""
    groups: dict[tuple[str, str], list[Gain]] = defaultdict(list)
    for gain in gains:
        groups[gain.cell.base, gain.cell.strategy].append(gain)
    return [
        Summary(
            base,
            strategy,
            len(group),
            max(group, key=lambda gain: gain.difference),
            float(np.mean([gain.difference for gain in group])),
            sum(_is_clear(gain) and gain.difference > 0 for gain in group),
            sum(_is_clear(gain) and gain.difference < 0 for gain in group),
        )
        for (base, strategy), group in groups.items()
    ]


def _is_clear(gain: Gain) -> bool:
    return gain.p_holm is not None and gain.p_holm < 0.05


@dataclass(frozen=True)
class FloorCheck:
    """A floor and what was reached: by size, or on average (``size`` None); ``reached`` None: no results yet."""

    words: str
    size: int | None
    at_least: float
    reached: float | None

    @property
    def holds(self) -> bool:
        """Whether the floor was reached (to rounding)."""
        return self.reached is not None and self.reached >= self.at_least - 1e-9


def check_floors(statistics: StudyStatistics) -> list[FloorCheck]:
    """Return every floor of the configuration with what was reached, in mean Dice over patients and seeds."""
    checks = []
    for floor in statistics.study.floors:
        words = f"{floor.task}: {floor.strategy} over {floor.against}"
        reached: dict[int, float | None] = {}
        for size in floor.sizes:
            cell = Cell(statistics.study.tasks[floor.task].bases[0], floor.task, floor.strategy, size)
            gain = statistics.gain(cell, replace(cell, strategy=floor.against))
            reached[size] = None if gain is None else gain.difference
        if floor.on_average:
            values = [value for value in reached.values() if value is not None]
            mean = float(np.mean(values)) if len(values) == len(floor.sizes) else None
            checks.append(FloorCheck(words, None, floor.at_least, mean))
        else:
            checks += [FloorCheck(words, size, floor.at_least, value) for size, value in reached.items()]
    return checks
