"""Learning curves of a study as pictures: mean Dice, and the gain over scratch, by the number of training cases.

matplotlib is needed here only; ``python3 Testing/run.py study`` installs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from Testing.research.study.configuration import size_word
from Testing.research.study.statistics import Cell, Estimate, Gain, StudyStatistics
from TransferSegLib.errors import StudyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colours and markers that are told apart without colour vision (Okabe and Ito), one per strategy in their order.
_LOOKS = (("#666666", "s"), ("#0072B2", "o"), ("#D55E00", "^"), ("#009E73", "D"), ("#CC79A7", "v"), ("#E69F00", "P"))
#: Strategies are moved apart by this along x, so that their intervals do not lie on one another.
_APART = 0.07


def draw_curves(statistics: StudyStatistics, folder: Path) -> list[Path]:
    """Draw a picture per base that has results and return their paths: a column a task, Dice above the gain.

    Raises StudyError when matplotlib is missing or a picture cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise StudyError("Drawing the curves needs matplotlib: use python3 Testing/run.py study.") from error
    study = statistics.study
    gains = {gain.cell: gain for gain in statistics.gains_over_scratch()}
    pictures = []
    for base in study.bases:
        tasks = [
            name for name in study.tasks if any(statistics.results(cell) for cell in statistics.cells(name, [base]))
        ]
        if not tasks:
            continue
        with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
            figure = Figure(figsize=(4.2 * len(tasks) + 0.6, 7.2), layout="constrained", dpi=110)
            FigureCanvasAgg(figure)
            axes = figure.subplots(2, len(tasks), squeeze=False)
            for column, task in enumerate(tasks):
                _draw_dice(axes[0][column], statistics, base, task)
                _draw_gain(axes[1][column], statistics, base, task, gains)
            axes[0][0].set_ylabel("mean Dice of the test patients")
            axes[1][0].set_ylabel("gain in mean Dice over scratch")
            handles, labels = _legend(list(axes.flat))
            figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
            words = "bars: 95 % interval over patients; dots: single seeds; "
            words += "axes differ" if is_whole(statistics, base) else "hollow: not all seeds are done; axes differ"
            figure.supxlabel(f"cases to learn from (base: {base}; {words})", fontsize=10)
            path = folder / f"{study.path.stem}-{base}.png"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                # Without the version of matplotlib in it, so that the same results give the same file.
                figure.savefig(path, metadata={"Software": None})
            except OSError as error:
                raise StudyError(f"The picture {path} cannot be written: {error.strerror or error}.") from error
        pictures.append(path)
    return pictures


def _legend(axes: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """Return each strategy's line once."""
    found: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def _draw_dice(axes: Axes, statistics: StudyStatistics, base: str, task: str) -> None:
    """Draw the mean Dice of every strategy of one task."""
    own = statistics.study.tasks[task]
    axes.set_title(own.title or task, fontsize=10, fontweight="bold")
    for number, strategy in enumerate(own.strategies):
        points = []
        for place, size in enumerate(own.sizes):
            cell = Cell(base, task, strategy, size)
            scratch = statistics.scratch_of(cell)
            if scratch is not None and scratch.strategy == strategy:
                cell = scratch  # run once for all bases of one width
            estimate = statistics.estimate(cell)
            if estimate is not None:
                points.append((place, estimate, tuple(statistics.seed_means(cell).values())))
        _line(axes, statistics, strategy, number, points, len(own.seeds))
    _size_axis(axes, own.sizes)


def _draw_gain(axes: Axes, statistics: StudyStatistics, base: str, task: str, gains: dict[Cell, Gain]) -> None:
    """Draw the gain over scratch of every other strategy of one task."""
    own = statistics.study.tasks[task]
    axes.axhline(0, color=_LOOKS[0][0], linewidth=1)
    for number, strategy in enumerate(own.strategies):
        points = []
        for place, size in enumerate(own.sizes):
            gain = gains.get(Cell(base, task, strategy, size))
            if gain is not None:
                mean = Estimate(gain.difference, gain.low, gain.high, gain.patients, gain.seeds)
                points.append((place, mean, gain.by_seed))
        _line(axes, statistics, strategy, number, points, len(own.seeds))
    _size_axis(axes, own.sizes)


def is_whole(statistics: StudyStatistics, base: str) -> bool:
    """Return whether no seed of a base is missing, in the cells that have results."""
    cells = [cell for task in statistics.study.tasks for cell in statistics.cells(task, [base])]
    found = [(len(statistics.results(cell)), statistics.planned_seeds(cell)) for cell in cells]
    return all(done in (0, planned) for done, planned in found)


def _line(
    axes: Axes,
    statistics: StudyStatistics,
    strategy: str,
    number: int,
    points: Sequence[tuple[int, Estimate, tuple[float, ...]]],
    seeds: int,
) -> None:
    """Draw one strategy's estimates with their intervals, open below ``seeds`` seeds, and the single seeds as dots."""
    if not points:
        return
    names = list(statistics.study.strategies)
    color, marker = _LOOKS[names.index(strategy) % len(_LOOKS)]
    shift = _APART * (number - (len(names) - 1) / 2)
    places = [place + shift for place, _, _ in points]
    means = [estimate.mean for _, estimate, _ in points]
    axes.plot(places, means, color=color, marker=marker, markersize=5, linewidth=1.8, label=strategy)
    for place, (_, estimate, by_seed) in zip(places, points, strict=True):
        if len(by_seed) > 1:
            axes.plot([place] * len(by_seed), by_seed, ".", color=color, markersize=5, alpha=0.5)
        if len(estimate.seeds) < seeds:
            axes.plot(place, estimate.mean, color=color, marker=marker, markersize=5, markerfacecolor="white")
        if estimate.low is not None and estimate.high is not None:
            axes.plot([place, place], [estimate.low, estimate.high], color=color, linewidth=1, alpha=0.7)


def _size_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Label the sizes one beside the other, at equal distances."""
    axes.set_xticks(range(len(sizes)), [size_word(size) for size in sizes])
    axes.set_xlim(-0.4, len(sizes) - 0.6)
    axes.grid(axis="y", color="#e0e0e0", linewidth=0.8)
    axes.set_axisbelow(True)
