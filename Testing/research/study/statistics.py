"""What a study's results say: means with intervals, gains over another strategy, tests corrected for their number.

The unit is the **patient**: a patient's score is the mean over the structures of a case, over the patient's cases and
over the seeds. Seeds are averaged, not counted as further patients: they share the test cases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from Testing.research.study.configuration import Study
from Testing.research.study.results import Result
from Testing.research.study.runs import Run, grid, plan_runs
from TransferSegLib.evaluation.statistics import bootstrap_interval, holm, wilcoxon

#: Places of the measures in a result's scores.
DICE, NSD, HD95 = 0, 1, 2
_CONFIDENCE = 0.95
#: A structure with less Dice than this was not found.
FAILURE = 0.1


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

    ``p_value`` is Wilcoxon's signed-rank test over patients, ``p_holm`` corrected for all tests of its task in the same
    table; None where there are too few patients. ``by_seed`` are the differences of the single seeds, of which
    ``planned`` are asked for: how much they differ says what interval and test do not, that is, what other training
    cases would do.
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
    by_seed: tuple[float, ...]
    planned: int

    @property
    def is_clear(self) -> bool:
        """Whether the corrected test is below 0.05, the interval leaves out 0, and all seeds, two or more, agree."""
        same_sign = all(one > 0 for one in self.by_seed) or all(one < 0 for one in self.by_seed)
        is_repeated = len(self.by_seed) >= min(2, self.planned)
        leaves_out_0 = self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)
        return self.p_holm is not None and self.p_holm < 0.05 and leaves_out_0 and same_sign and is_repeated


class StudyStatistics:
    """The results of a study, by cell."""

    def __init__(self, study: Study, results: Iterable[Result]) -> None:
        """Take results that belong to the study's runs (see ``finished_runs``)."""
        self.study = study
        self.runs: list[Run] = plan_runs(study)
        self._cells = tuple(dict.fromkeys(Cell(run.base, run.task, run.strategy, run.size) for run in self.runs))
        self._planned: dict[Cell, set[int]] = defaultdict(set)
        for run in self.runs:
            self._planned[Cell(run.base, run.task, run.strategy, run.size)].add(run.seed)
        self._by_cell: dict[Cell, dict[int, Result]] = defaultdict(dict)
        for result in results:
            self._by_cell[Cell(result.base, result.task, result.strategy, result.size)][result.seed] = result

    def cells(self, task: str, bases: Sequence[str] | None = None) -> list[Cell]:
        """Return the cells of a task that are asked for, those of the bases named (None: all), done or not."""
        return [cell for cell in self._cells if cell.task == task and (bases is None or cell.base in bases)]

    def planned_seeds(self, cell: Cell) -> int:
        """Return how many seeds are asked for in a cell."""
        return len(self._planned[cell])

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

    def seed_means(self, cell: Cell) -> dict[int, float]:
        """Return the mean Dice of every seed of a cell."""
        results = self.results(cell).items()
        return {seed: float(np.mean(list(by_patient([result], DICE).values()))) for seed, result in results}

    def _every(self, cell: Cell, measure: int) -> list[float]:
        """Return a measure of every seed, case and structure of a cell."""
        return [
            triple[measure]
            for result in self.results(cell).values()
            for by_structure in result.scores.values()
            for triple in by_structure.values()
        ]

    def failures(self, cell: Cell) -> float | None:
        """Return the share of cases, structures and seeds with a Dice below 0.1, None without results."""
        values = self._every(cell, DICE)
        return float(np.mean([value < FAILURE for value in values])) if values else None

    def distance(self, cell: Cell) -> Distance | None:
        """Return the HD95 of a cell, None without results."""
        values = self._every(cell, HD95)
        if not values:
            return None
        return Distance(float(np.median(values)), float(np.mean(np.isinf(values))))

    def gain(self, cell: Cell, against: Cell) -> Gain | None:
        """Return the gain of a cell over another, not yet corrected; None where no seed has both."""
        by_seed = self._by_seed(cell, against)
        differences = np.array(list(self.differences(cell, against).values()))
        if not differences.size:
            return None
        interval = bootstrap_interval(differences, _CONFIDENCE)
        low, high = (None, None) if interval is None else interval
        return Gain(
            cell,
            against,
            float(differences.mean()),
            low,
            high,
            wilcoxon(differences)[0],
            None,
            len(differences),
            tuple(by_seed),
            tuple(by_seed.values()),
            self.planned_seeds(cell),
        )

    def differences(self, cell: Cell, against: Cell) -> dict[str, float]:
        """Return a cell's mean Dice minus another's by patient, over the seeds that both have."""
        ours, theirs = self.results(cell), self.results(against)
        seeds = sorted(set(ours) & set(theirs))
        first = by_patient([ours[seed] for seed in seeds], DICE)
        second = by_patient([theirs[seed] for seed in seeds], DICE)
        return {patient: first[patient] - second[patient] for patient in first if patient in second}

    def _by_seed(self, cell: Cell, against: Cell) -> dict[int, float]:
        """Return the mean difference of every seed that both cells have."""
        found = {}
        for seed in sorted(set(self.results(cell)) & set(self.results(against))):
            first, second = (by_patient([self.results(one)[seed]], DICE) for one in (cell, against))
            found[seed] = float(np.mean([first[patient] - second[patient] for patient in first if patient in second]))
        return found

    def scratch_of(self, cell: Cell) -> Cell | None:
        """Return the cell of training from scratch that a cell is compared with, None when the study has none.

        It may be of another base: scratch is run once for all bases of one width and grid.
        """
        for strategy in self.study.tasks[cell.task].strategies:
            if not self.study.is_scratch(cell.task, strategy):
                continue
            for base in (cell.base, *self.study.tasks[cell.task].bases):
                found = Cell(base, cell.task, strategy, cell.size)
                if found in self._cells and grid(self.study, base) == grid(self.study, cell.base):
                    return found
        return None

    def gains_over_scratch(self) -> list[Gain]:
        """Return the gain of every cell over scratch, corrected for their number in each task."""
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
        """Return the gains of all pairs that have results, with Holm's correction over those of each task."""
        gains = [gain for cell, against in pairs if (gain := self.gain(cell, against)) is not None]
        corrected: dict[Cell, float | None] = {}
        for task in self.study.tasks:
            family = [gain for gain in gains if gain.cell.task == task]
            p_values = holm([gain.p_value for gain in family])
            corrected |= {gain.cell: p_value for gain, p_value in zip(family, p_values, strict=True)}
        return [replace(gain, p_holm=corrected[gain.cell]) for gain in gains]


def with_common_seeds(results: Iterable[Result]) -> list[Result]:
    """Return the results of seeds that all strategies of a base have, for a task and size, as far as they have any.

    Means over other seeds are not comparable: of a study under way the rest has to wait.
    """
    groups: dict[tuple[str, str, int], dict[str, dict[int, Result]]] = defaultdict(lambda: defaultdict(dict))
    for result in results:
        groups[result.base, result.task, result.size][result.strategy][result.seed] = result
    kept = []
    for strategies in groups.values():
        common = set.intersection(*(set(by_seed) for by_seed in strategies.values()))
        kept += [
            one for by_seed in strategies.values() for seed, one in by_seed.items() if not common or seed in common
        ]
    return kept


def by_patient(results: Iterable[Result], measure: int) -> dict[str, float]:
    """Return the mean of a measure by patient: over structures, then over cases, then over results (seeds)."""
    seeds: dict[str, list[float]] = defaultdict(list)
    for result in results:
        cases: dict[str, list[float]] = defaultdict(list)
        for case, by_structure in result.scores.items():
            if by_structure:
                patient = result.patients.get(case, case)
                cases[patient].append(float(np.mean([triple[measure] for triple in by_structure.values()])))
        for patient, values in cases.items():
            seeds[patient].append(float(np.mean(values)))
    return {patient: float(np.mean(values)) for patient, values in seeds.items()}
