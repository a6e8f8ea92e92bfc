"""Choosing the settings of every strategy on validation cases: the same runs, on none of the test cases.

The validation cases of a task are taken from its pool, by patient, and are not learned from while choosing. A study's
own runs may learn from them afterwards; what was chosen is written into its configuration by a person.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from Testing.research.study.configuration import BY_SIZE, Study, merged
from Testing.research.study.results import Result
from Testing.research.study.statistics import DICE, by_patient
from TransferSegLib.errors import StudyError, TransferSegError

#: Between a strategy's name and the knobs tried, in the name of a candidate.
_TRIED = "@"


@dataclass(frozen=True)
class Candidate:
    """One setting of a strategy: its mean validation Dice over tasks, sizes, seeds and patients, and how many runs."""

    strategy: str
    knobs: str
    dice: float
    by_task: dict[str, float]
    runs: int


def choice_study(study: Study) -> Study:
    """Return the study whose strategies are all settings to be tried, tested on validation cases.

    Its results lie beside the study's own. Raises StudyError when the configuration has nothing to choose.
    """
    choose = study.choose
    if choose is None:
        raise StudyError(f"{study.path} has no 'choose': nothing says which knobs are to be tried.")
    strategies: dict[str, Any] = {}
    origins: dict[str, str] = {}
    tried_by: dict[str, dict[str, Any]] = {}
    for strategy, grid in choose.grids.items():
        for values in product(*grid.values()):
            tried = dict(zip(grid, values, strict=True))
            name = strategy + _TRIED + ",".join(f"{knob}={value}" for knob, value in tried.items())
            strategies[name], origins[name] = merged(_without(study.strategies[strategy], tried), tried), strategy
            tried_by[name] = tried
    tasks = {}
    for name in choose.tasks:
        task = study.tasks[name]
        mine = tuple(key for key, strategy in origins.items() if strategy in task.strategies)
        knobs = {
            key: _without(task.strategy_knobs[origins[key]], tried_by[key])
            for key in mine
            if origins[key] in task.strategy_knobs
        }
        tasks[name] = replace(
            task,
            strategies=mine,
            strategy_knobs=knobs,
            sizes=choose.sizes,
            seeds=choose.seeds,
            bases=task.bases[:1],
            validation=choose.validation,
        )
    # The tasks that are not tried stay, without runs, for the bases that must not see their cases.
    others = {
        name: replace(task, sizes=(), seeds=(), bases=()) for name, task in study.tasks.items() if name not in tasks
    }
    results = study.results.with_name(study.results.name.replace(".results.jsonl", "") + ".choice.jsonl")
    chosen = replace(
        study,
        # What a base's runs are limited to is not meant for these.
        bases={name: replace(base, tasks=(), sizes=(), strategies=(), seeds=()) for name, base in study.bases.items()},
        strategies=strategies,
        tasks={**tasks, **others},
        results=results,
        floors=(),
        comparisons=(),
        base_comparisons=(),
    )
    _check_knobs(chosen)
    return chosen


def _check_knobs(study: Study) -> None:
    """Raise StudyError for values to be tried that no fine-tuning takes."""
    for name, task in study.tasks.items():
        for strategy, size in product(task.strategies if task.sizes else (), task.sizes):
            try:
                study.configuration(name, strategy, task.seeds[0], size)
            except KeyError as error:
                raise StudyError(f"The study {study.path}, 'choose': there is no intensity rule {error}.") from error
            except TransferSegError as error:
                raise StudyError(f"The study {study.path}, 'choose': {strategy}: {error}") from error


def _without(knobs: Mapping[str, Any], tried: Mapping[str, Any]) -> dict[str, Any]:
    """Return knobs without those that are tried, also within the knobs of single sizes."""
    kept = {name: value for name, value in knobs.items() if name not in tried}
    if BY_SIZE in kept:
        kept[BY_SIZE] = {size: _without(own, tried) for size, own in kept[BY_SIZE].items()}
    return kept


def candidates(results: Iterable[Result]) -> list[Candidate]:
    """Return every setting that was tried with its mean Dice, by strategy, the best of the complete ones first.

    Every task counts alike, whatever its number of patients.
    """
    dice: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        strategy, _, knobs = result.strategy.partition(_TRIED)
        values = by_patient([result], DICE).values()
        if values:
            dice[strategy, knobs][result.task].append(float(np.mean(list(values))))
    found = []
    for (strategy, knobs), tasks in dice.items():
        means = {task: float(np.mean(values)) for task, values in tasks.items()}
        runs = sum(len(values) for values in tasks.values())
        found.append(Candidate(strategy, knobs, float(np.mean(list(means.values()))), means, runs))
    order = list(dict.fromkeys(candidate.strategy for candidate in found))
    # One that was not tried on all tasks is not comparable, and comes after those that were.
    return sorted(found, key=lambda one: (order.index(one.strategy), -len(one.by_task), -one.dice))
