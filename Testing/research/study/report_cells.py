"""How single numbers of a study's report are written: a cell of a table, a row's name, a Markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from Testing.research.study.statistics import Cell, Estimate, Gain, StudyStatistics


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table: the first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def row_label(statistics: StudyStatistics, base: str, strategy: str) -> str:
    """Return a row's name: the strategy, and the base where there are several and it matters."""
    study = statistics.study
    is_scratch = all(
        study.is_scratch(name, strategy) for name, task in study.tasks.items() if strategy in task.strategies
    )
    return strategy if len(study.bases) == 1 or is_scratch else f"{strategy}, base {base}"


def cases_word(size: int) -> str:
    """Return a number of cases in words."""
    return "all cases" if size == 0 else "1 case" if size == 1 else f"{size} cases"


def estimate_text(statistics: StudyStatistics, cell: Cell) -> str:
    """Return a mean with its interval, and how many of the seeds are done where some are missing."""
    estimate = statistics.estimate(cell)
    if estimate is None:
        return ""
    interval = "" if estimate.low is None else f" [{estimate.low:.3f}, {estimate.high:.3f}]"
    planned = statistics.planned_seeds(cell)
    missing = "" if len(estimate.seeds) == planned else f" ({len(estimate.seeds)}/{planned})"
    return f"{estimate.mean:.3f}{interval}{missing}"


def failure_text(statistics: StudyStatistics, cell: Cell) -> str:
    """Return the share of structures that were not found."""
    share = statistics.failures(cell)
    return "" if share is None else f"{100 * share:.0f} %"


def mean_text(estimate: Estimate | None) -> str:
    """Return a mean alone."""
    return "" if estimate is None else f"{estimate.mean:.3f}"


def gain_text(gain: Gain | None, statistics: StudyStatistics) -> str:
    """Return a gain with its interval, bold when it is clear; below it the test, and the range over seeds."""
    if gain is None:
        return ""
    below = []
    if gain.p_holm is not None:
        below.append("p < 0.001" if gain.p_holm < 0.001 else f"p {gain.p_holm:.3f}")
    if len(gain.by_seed) > 1:
        below.append(f"seeds {min(gain.by_seed):+.2f} to {max(gain.by_seed):+.2f}")
    if len(gain.seeds) < len(statistics.results(gain.cell)):
        below.append(f"over {len(gain.seeds)} seed(s) that both have")
    number = f"**{gain.difference:+.3f}**" if gain.is_clear else f"{gain.difference:+.3f}"
    first = f"{number}{interval_text(gain.low, gain.high)}"
    return "<br>".join([first, ", ".join(below)]) if below else first


def seeds_text(by_seed: Sequence[float]) -> str:
    """Return the means of single seeds; nothing where there is one."""
    return ", ".join(f"{mean:+.3f}" for mean in by_seed) if len(by_seed) > 1 else ""


def interval_text(low: float | None, high: float | None) -> str:
    """Return an interval of differences, nothing where there is none."""
    return "" if low is None or high is None else f" [{low:+.3f}, {high:+.3f}]"


def distance_text(statistics: StudyStatistics, cell: Cell) -> str:
    """Return the median HD95, and the share without any voxel where that is not 0."""
    distance = statistics.distance(cell)
    if distance is None:
        return ""
    median = "infinite" if np.isinf(distance.median_mm) else f"{distance.median_mm:.1f}"
    return median + (f" ({100 * distance.missed:.0f} %)" if distance.missed > 0 else "")
