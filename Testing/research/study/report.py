"""The report of a study as Markdown: everything in it is computed from the results file, nothing is typed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from Testing.research.study.base_facts import facts_file, read_facts
from Testing.research.study.choosing import candidates, choice_study
from Testing.research.study.configuration import Study, size_word
from Testing.research.study.report_cells import (
    cases_word,
    distance_text,
    estimate_text,
    failure_text,
    gain_text,
    interval_text,
    mean_text,
    row_label,
    seeds_text,
    table,
)
from Testing.research.study.results import Result, ResultsFile, finished_runs
from Testing.research.study.runs import plan_runs
from Testing.research.study.statistics import FAILURE, NSD, Cell, Gain, StudyStatistics, with_common_seeds
from Testing.research.study.summaries import check_floors, mean_gain_by_seed, mean_interval, summarise_gains
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import StudyError

#: The report is written between these lines of a page; people write the rest.
BEGIN, END = "<!-- study report begins -->", "<!-- study report ends -->"
#: Up to this number, training cases are few.
FEW = 5
#: The paper's own summary figures (arXiv 2311.05032): gains of mean Dice over training from scratch.
PAPER_LARGEST, PAPER_MEAN, PAPER_EXPERIMENTS = 0.129, 0.029, 23


def read_statistics(study: Study) -> StudyStatistics:
    """Return the statistics of the results that belong to the study as it is configured now; raises StudyError.

    Seeds that not all strategies have yet are left out.
    """
    found = finished_runs(plan_runs(study), ResultsFile(study.results).read())
    return StudyStatistics(study, with_common_seeds(found.values()))


def report_text(statistics: StudyStatistics, pictures: Sequence[str] = ()) -> str:
    """Return the whole report; ``pictures`` are paths of the learning curves as the page has them."""
    parts = [
        _extent(statistics),
        *(f"![Dice and gain over scratch by number of cases]({path})" for path in pictures),
        _summary(statistics),
        _few_and_more(statistics),
    ]
    parts += [_floors(statistics)] if statistics.study.floors else []
    parts += [_task(statistics, task) for task in statistics.study.tasks]
    for strategy, against in statistics.study.comparisons:
        title = f"### {strategy} against {against}"
        parts.append(_comparison(title, statistics.gains_of(strategy, against), statistics))
    for base, against in statistics.study.base_comparisons:
        title = f"### Base {base} against base {against}"
        parts.append(_comparison(title, statistics.gains_of_base(base, against), statistics))
    parts.append(choice_text(statistics.study))
    parts.append(_bases(statistics))
    parts.append(_cost(statistics))
    parts.append(_knobs(statistics))
    return "\n\n".join(part for part in parts if part) + "\n"


def write_report(study: Study, text: str) -> None:
    """Put the report between its marks in the study's page; raises StudyError when there is no such page."""
    page = study.report
    if page is None:
        raise StudyError(f"{study.path} names no 'report' to write into.")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        old = page.read_text(encoding="utf-8") if page.exists() else f"# {study.title}\n\n{BEGIN}\n{END}\n"
        first, last = old.find(BEGIN), old.find(END)
        if first < 0 or last < first:
            raise StudyError(f"{page} has no lines '{BEGIN}' and '{END}' between which the report can stand.")
        write_text_durably(page, f"{old[: first + len(BEGIN)]}\n\n{text}\n{old[last:]}")
    except OSError as error:
        raise StudyError(f"{page} cannot be written: {error.strerror or error}.") from error


def _extent(statistics: StudyStatistics) -> str:
    """Return how much of the study is done, by which code, on what."""
    kept = ResultsFile(statistics.study.results).read()
    results = list(finished_runs(statistics.runs, kept).values())
    if not results:
        return f"No run of {len(statistics.runs)} is done yet."
    versions = sorted({result.version for result in results})
    devices = sorted({f"{result.device}, {result.threads} thread(s) a run" for result in results})
    made = sum(result.wall_s + result.test_s for result in results)
    lines = [
        f"{len(results)} of {len(statistics.runs)} runs are done, on {'; '.join(devices)}: {made / 3600:.1f} hours "
        f"of wall-clock time one after another. Code: {', '.join(versions)}. Test cases are measured on the scans' own "
        "grid.",
    ]
    waiting = len(results) - len(_all_results(statistics))
    if waiting:
        lines.append(f"{waiting} of them wait for the same seed of the other strategies, and are left out here.")
    lines.append(
        "Intervals are 95 % (bootstrap over patients, not corrected for their number); p-values are Wilcoxon's over "
        "patients, corrected by Holm's method for all tests of a task in the same table. Both speak of other patients "
        "and *these* training sets. What another draw does is seen from the range over seeds: other training cases, "
        "patches and random weights (with all cases, other patches and weights only). Interval and p can disagree: a "
        "few missed cases pull a mean, and not the ranks."
    )
    lines += _between_seeds(statistics)
    strangers = len(kept) - len(results)
    if strangers:
        lines.append(f"{strangers} more results in the file belong to another configuration and are left out.")
    for base in statistics.study.bases:
        weights = {result.base_weights for result in results if result.base == base}
        if len(weights) > 1:
            lines.append(f"The base {base} was trained {len(weights)} times in the course of these runs.")
    return "\n\n".join(lines)


def _between_seeds(statistics: StudyStatistics) -> list[str]:
    """Return by how much another seed, so another training set, changed a run at most; nothing with single seeds."""
    largest = {True: 0.0, False: 0.0}
    for task in statistics.study.tasks:
        for cell in statistics.cells(task):
            means = statistics.seed_means(cell).values()
            if len(means) > 1:
                is_scratch = statistics.study.is_scratch(task, cell.strategy)
                largest[is_scratch] = max(largest[is_scratch], max(means) - min(means))
    if not any(largest.values()):
        return []
    return [
        f"The mean Dice of a cell differs between two seeds by up to {largest[False]:.2f} with transfer and by up to "
        f"{largest[True]:.2f} from scratch."
    ]


def _all_results(statistics: StudyStatistics) -> list[Result]:
    cells = [cell for task in statistics.study.tasks for cell in statistics.cells(task)]
    return [result for cell in cells for result in statistics.results(cell).values()]


def _summary(statistics: StudyStatistics) -> str:
    """Return the paper's figures beside ours."""
    rows = [
        (
            "the paper, fine-tuning",
            str(PAPER_EXPERIMENTS),
            f"{PAPER_LARGEST:+.3f}",
            f"{PAPER_MEAN:+.3f}",
            "not known to us",
            "not known to us",
            "not known to us",
        )
    ]
    for summary in summarise_gains(statistics, statistics.gains_over_scratch()):
        largest = summary.largest
        where = f"{largest.cell.task}, {cases_word(largest.cell.size)}"
        rows.append(
            (
                row_label(statistics, summary.base, summary.strategy),
                str(summary.experiments),
                f"{largest.difference:+.3f} ({where})",
                f"{summary.mean:+.3f}{interval_text(summary.low, summary.high)}",
                seeds_text(summary.by_seed) or "-",
                str(summary.better),
                str(summary.worse),
            )
        )
    if len(rows) == 1:
        return ""
    header = (
        "gain in mean Dice over scratch",
        "experiments",
        "largest",
        "mean",
        "mean of each seed",
        "clearly better",
        "clearly worse",
    )
    words = (
        "An experiment is a task and a number of cases. The paper's figures are those of its abstract, and its 23 "
        "experiments may be a selection. Intervals of the mean: patients drawn anew, with the training sets that there "
        "were. Clearly (bold in the tables below): corrected p below 0.05, an interval without 0, two seeds or more, "
        "all on the same side."
    )
    return f"### The paper's figures and ours\n\n{table(header, rows)}\n\n{words}"


def _few_and_more(statistics: StudyStatistics) -> str:
    """Return the mean Dice of every strategy over few cases, and over more, task by task."""
    study = statistics.study
    header, rows = ["mean Dice"], []
    for name in study.tasks:
        header += [f"{name}, to {FEW} cases", f"{name}, more"]
    for base, strategy in dict.fromkeys((run.base, run.strategy) for run in statistics.runs):
        row = []
        for name, task in study.tasks.items():
            for is_few in (True, False):
                sizes = [size for size in task.sizes if (0 < size <= FEW) == is_few]
                means = [statistics.estimate(Cell(base, name, strategy, size)) for size in sizes]
                done = [one.mean for one in means if one is not None]
                row.append(f"{np.mean(done):.3f}" if done and len(done) == len(sizes) else "-")
        if any(words != "-" for words in row):
            rows.append((row_label(statistics, base, strategy), *row))
    words = "A mean of the numbers of cases that were run, each counting alike."
    return f"### Few cases and more\n\n{table(header, rows)}\n\n{words}" if rows else ""


def _floors(statistics: StudyStatistics) -> str:
    """Return which floors hold."""
    rows = []
    for check in check_floors(statistics):
        size = "on average" if check.size is None else cases_word(check.size)
        reached = "no results" if check.reached is None else f"{check.reached:+.3f}"
        answer = "holds" if check.holds else "open" if check.reached is None else "MISSED"
        if check.reached is not None and not check.is_whole:
            answer += " so far"
        rows.append((check.words, size, f"{check.at_least:+.3f}", reached, answer))
    return "### Floors\n\n" + table(("floor", "cases", "at least", "reached", ""), rows)


def _task(statistics: StudyStatistics, task_name: str) -> str:
    """Return the tables of one task."""
    study = statistics.study
    task = study.tasks[task_name]
    done = [result for cell in statistics.cells(task_name) for result in statistics.results(cell).values()]
    if not done:
        return f"### {task.title or task_name}\n\nNo run is done yet."
    patients = len(set(done[0].patients.values()))
    facts = (
        f"{', '.join(task.structures)}; {len(done[0].scores)} test cases of {patients} patients; "
        f"all: {_pool_size(done)}. Tolerance of the NSD: {task.tolerance_mm:g} mm."
    )
    gains = {gain.cell: gain for gain in statistics.gains_over_scratch()}
    sections = [
        ("Mean Dice" + _missing_seeds(statistics, task_name), lambda cell: estimate_text(statistics, cell)),
        ("Gain in mean Dice over scratch", lambda cell: gain_text(gains.get(cell), statistics)),
        (f"Not found: share of structures with a Dice below {FAILURE:g}", lambda cell: failure_text(statistics, cell)),
        ("Mean NSD", lambda cell: mean_text(statistics.estimate(cell, NSD))),
        (
            "HD95 in mm, median over cases, structures and seeds (share without any voxel)",
            lambda cell: distance_text(statistics, cell),
        ),
    ]
    found = [(title, _by_size(statistics, task_name, text)) for title, text in sections]
    tables = [f"**{title}**\n\n{rows}" for title, rows in found if rows]
    shown, folded = tables[:2], tables[2:]
    if folded:
        folded = ["<details><summary>Not found, NSD, HD95</summary>", *folded, "</details>"]
    return "\n\n".join([f"### {task.title or task_name}", facts, *shown, *folded])


def _missing_seeds(statistics: StudyStatistics, task: str) -> str:
    """Return what a fraction behind a number means, where there is one."""
    cells = [cell for cell in statistics.cells(task) if statistics.results(cell)]
    is_whole = all(len(statistics.results(cell)) == statistics.planned_seeds(cell) for cell in cells)
    return "" if is_whole else " (1/3: one seed of three is done)"


def _pool_size(results: Sequence[Result]) -> str:
    """Return how many cases 'all' are, as far as a run with all of them is done."""
    sizes = {len(result.training) for result in results if result.size == 0}
    return f"{max(sizes)} cases" if sizes else "not run"


def _by_size(statistics: StudyStatistics, task: str, text: Callable[[Cell], str]) -> str:
    """Return a table with a row per base and strategy, a column per size; rows without any text are left out."""
    sizes = statistics.study.tasks[task].sizes
    rows = []
    for base, strategy in dict.fromkeys((cell.base, cell.strategy) for cell in statistics.cells(task)):
        cells = [text(Cell(base, task, strategy, size)) for size in sizes]
        if any(cells):
            rows.append((row_label(statistics, base, strategy), *(words or "-" for words in cells)))
    return table(("cases to learn from", *(size_word(size) for size in sizes)), rows) if rows else ""


def _comparison(title: str, gains: Sequence[Gain], statistics: StudyStatistics) -> str:
    """Return a table of gains, a row per task (and base), with the mean of all of them."""
    if not gains:
        return ""
    sizes = sorted({gain.cell.size for gain in gains}, key=lambda size: size or float("inf"))
    rows = []
    by_base = title.startswith("### Base")
    groups = dict.fromkeys((g.cell.task, g.cell.strategy if by_base else g.cell.base) for g in gains)
    few = []
    for task, other in groups:
        found = {
            g.cell.size: g for g in gains if (g.cell.task, g.cell.strategy if by_base else g.cell.base) == (task, other)
        }
        several = by_base or len(statistics.study.bases) > 1
        name = f"{task}, {other if by_base else 'base ' + other}" if several else task
        rows.append((name, *(gain_text(found.get(size), statistics) or "-" for size in sizes)))
        by_seed = seeds_text(mean_gain_by_seed([gain for size, gain in found.items() if 0 < size <= FEW]))
        few += [f"{name} {by_seed}"] if by_seed else []
    mean = float(np.mean([gain.difference for gain in gains]))
    header = ("gain in mean Dice", *(size_word(size) for size in sizes))
    low, high = mean_interval(statistics, gains) or (None, None)
    by_seed = seeds_text(mean_gain_by_seed(gains))
    words = f"Mean of {len(gains)} comparisons: {mean:+.3f}{interval_text(low, high)}"
    words += f"; of each seed {by_seed}." if by_seed else "."
    words += f" Up to {FEW} cases, of each seed: {'; '.join(few)}." if few else ""
    return f"{title}\n\n{table(header, rows)}\n\n{words}"


def choice_text(study: Study) -> str:
    """Return how the settings that were tried on validation cases did; empty where nothing was tried."""
    if study.choose is None:
        return ""
    tried = choice_study(study)
    found = candidates(finished_runs(plan_runs(tried), ResultsFile(tried.results).read()).values())
    if not found:
        return ""
    names = [name for name in study.choose.tasks if any(name in candidate.by_task for candidate in found)]
    rows = []
    for candidate in found:
        scores = [f"{candidate.by_task[name]:.3f}" if name in candidate.by_task else "-" for name in names]
        rows.append((f"{candidate.strategy}: {candidate.knobs}", *scores, f"{candidate.dice:.3f}", str(candidate.runs)))
    sizes = " and ".join(size_word(size) for size in study.choose.sizes)
    words = (
        f"Mean Dice on {study.choose.validation} cases of each task's pool, none of them a test case, with {sizes} "
        f"training case(s), {len(study.choose.seeds)} seed(s), the best of each strategy first."
    )
    title = "### Settings tried on validation cases"
    return f"{title}\n\n{words}\n\n{table(('setting', *names, 'mean', 'runs'), rows)}"


def _bases(statistics: StudyStatistics) -> str:
    """Return what the bases of these runs learned from, and how well they know it."""
    used = {(result.base, result.base_weights) for result in _all_results(statistics)}
    facts = [one for key, one in read_facts(facts_file(statistics.study)).items() if key in used]
    if not facts:
        return ""
    rows = []
    for one in sorted(facts, key=lambda one: list(statistics.study.bases).index(one.base)):
        drawn = ", ".join(f"{name} {count}" for name, count in one.drawn.items())
        dice = "-" if one.dice is None else f"{one.dice:.3f}"
        rows.append((one.base, str(one.cases or "-"), str(one.validation), dice, drawn or "-", one.weights))
    header = ("base", "cases", "of them validation", "Dice on these", "annotated cases per structure", "weights (hash)")
    return f"### Bases\n\n{table(header, rows)}"


def _cost(statistics: StudyStatistics) -> str:
    """Return what making a model takes, by task, strategy and size: processor seconds, whatever else ran beside."""
    sizes = list(dict.fromkeys(size for task in statistics.study.tasks.values() for size in task.sizes))
    sizes.sort(key=lambda size: size or float("inf"))
    rows = []
    for task in statistics.study.tasks:
        for strategy in statistics.study.tasks[task].strategies:
            by_size: dict[int, list[Result]] = {}
            for cell in statistics.cells(task):
                if cell.strategy == strategy:
                    by_size.setdefault(cell.size, []).extend(statistics.results(cell).values())
            every = [result for results in by_size.values() for result in results]
            if every:
                steps = sorted({f"{result.tail_steps} + {result.steps}" for result in every})
                seconds = [
                    f"{np.median([result.cpu_s for result in by_size[size]]):.0f}" if by_size.get(size) else "-"
                    for size in sizes
                ]
                rows.append((f"{task}, {strategy}", ", ".join(steps), *seconds))
    if not rows:
        return ""
    header = ("", "steps (last layers + all)", *(size_word(size) for size in sizes))
    title = "### Time: processor seconds to make a model (median)"
    return f"{title}\n\n{table(header, rows)}"


def _knobs(statistics: StudyStatistics) -> str:
    """Return the settings of every strategy and base that differ from the defaults, as the configuration has them."""
    study = statistics.study
    rows = [(f"strategy {name}", _knob_text(dict(knobs))) for name, knobs in study.strategies.items()]
    rows += [(f"task {name}", _knob_text(dict(task.knobs))) for name, task in study.tasks.items() if task.knobs]
    for name, task in study.tasks.items():
        rows += [(f"{strategy} on {name}", _knob_text(dict(knobs))) for strategy, knobs in task.strategy_knobs.items()]
    rows += [(f"base {name}", _knob_text(dict(base.knobs))) for name, base in study.bases.items() if base.knobs]
    common = _knob_text(dict(study.knobs))
    return f"### Settings that differ from the defaults\n\n{table(('of', 'settings'), [('all runs', common), *rows])}"


def _knob_text(knobs: dict[str, object]) -> str:
    words = []
    for name, value in knobs.items():
        words.append(f"{name} ({_knob_text(value)})" if isinstance(value, dict) else f"{name} {value}")
    return ", ".join(words) or "-"
