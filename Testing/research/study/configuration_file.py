"""A study's configuration file, read and checked with messages that say which entry is wrong.

``docs/study.md`` tells what a study does; ``Testing/research/study.json`` is the full one. Nothing here needs torch
or reads an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from Testing.research.study.case_selection import SelectionRule
from Testing.research.study.configuration import ALL, BY_SIZE, NAMED_RULES, Base, Choose, Collection, Floor, Study, Task
from TransferSegLib import safe_json
from TransferSegLib.errors import StudyError, TransferSegError
from TransferSegLib.evaluation.scores import DEFAULT_TOLERANCE_MM

_Kind = TypeVar("_Kind")


def read_study(path: Path | str) -> Study:
    """Read a configuration file; raises StudyError that says which entry is wrong."""
    path = Path(path).absolute()
    try:
        content = safe_json.read(path)
    except (OSError, ValueError) as error:
        raise StudyError(f"The study {path} cannot be read as JSON: {error}.") from error
    try:
        return _parse(content, path)
    except _Wrong as wrong:
        # Names in the file may hold line breaks and control characters.
        text = " ".join("".join(one if one.isprintable() else " " for one in str(wrong)).split())
        raise StudyError(f"The study {path} does not work: {text}.") from wrong


class _Wrong(Exception):
    """What is wrong with a configuration, without the name of its file."""


_KEYS = {
    "title",
    "data",
    "results",
    "report",
    "tolerance_mm",
    "collections",
    "bases",
    "tasks",
    "sizes",
    "strategies",
    "seeds",
    "knobs",
    "floors",
    "comparisons",
    "base_comparisons",
    "choose",
}


def _parse(content: Any, path: Path) -> Study:
    """Return the study; raises _Wrong."""
    content = _object(content, "the file")
    _check_keys(content, _KEYS, "the file")
    for key in ("collections", "bases", "tasks", "strategies"):
        if not _object(content.get(key, {}), key):
            raise _Wrong(f"'{key}' must name at least one")
    collections = {name: _collection(name, entry) for name, entry in content["collections"].items()}
    strategies = {name: _knobs(entry, f"strategy '{name}'") for name, entry in content["strategies"].items()}
    bases = {name: _base(name, entry, strategies) for name, entry in content["bases"].items()}
    common = {
        "sizes": content.get("sizes"),
        "seeds": content.get("seeds"),
        "strategies": list(strategies),
        "bases": list(bases),
        "tolerance_mm": content.get("tolerance_mm", DEFAULT_TOLERANCE_MM),
    }
    tasks = {name: _task(name, _object(entry, f"task '{name}'"), common) for name, entry in content["tasks"].items()}
    _check_names(bases, tasks, collections, strategies)
    data, report = content.get("data"), content.get("report")
    study = Study(
        path,
        str(content.get("title", path.stem)),
        None if data is None else (path.parent / str(data)).absolute(),
        path.parent / str(content.get("results", f"{path.stem}.results.jsonl")),
        None if report is None else path.parent / str(report),
        collections,
        bases,
        tasks,
        strategies,
        _knobs(content.get("knobs", {}), "'knobs'"),
        tuple(_floor(_object(floor, "a floor"), tasks) for floor in _list(content.get("floors", []), "'floors'")),
        _pairs(content.get("comparisons", []), strategies, "comparisons"),
        _pairs(content.get("base_comparisons", []), bases, "base_comparisons"),
        _choose(content["choose"], tasks, strategies) if "choose" in content else None,
    )
    _check_knobs(study)
    return study


def _collection(name: str, entry: Any) -> Collection:
    """Return one collection; raises _Wrong."""
    where = f"collection '{name}'"
    _check_name(name, "collection")
    structures = _object(entry, where).get("structures")
    if isinstance(structures, dict) and not all(key.isdecimal() for key in structures):
        raise _Wrong(f'{where}: \'structures\' must give a name for each label value, e.g. {{"1": "liver"}}')
    _check_whole(entry, "cases_per_patient", 1, where)
    for key, value in entry.items():
        if key not in ("structures", "cases_per_patient") and not (value is None or isinstance(value, str)):
            raise _Wrong(f"{where}: '{key}' must be text, not {value!r}")
    named = structures.values() if isinstance(structures, dict) else [structures or ""]
    if not all(isinstance(name, str) for name in named):
        raise _Wrong(f"{where}: 'structures' must be names by label value, or the name of a JSON file")
    return _built(Collection, entry, where)


def _base(name: str, entry: Any, strategies: Mapping[str, Any]) -> Base:
    """Return one base; raises _Wrong."""
    where = f"base '{name}'"
    _check_name(name, "base")
    values = dict(_object(entry, where))
    for key in ("without_structures", "without_cases_of", "tasks", "strategies"):
        values[key] = _names(values.get(key, []), f"{where}: '{key}'")
    values["sizes"] = _sizes(values.get("sizes", []), where)
    values["seeds"] = _seeds(values.get("seeds", []), where)
    values["knobs"] = _knobs(values.get("knobs", {}), where)
    for key in ("collection", "model"):
        if not isinstance(values.get(key, ""), str):
            raise _Wrong(f"{where}: '{key}' must be a name, not {values[key]!r}")
    base = _built(Base, values, where)
    if bool(base.collection) == bool(base.model):
        raise _Wrong(f"{where} must have a 'collection' to be trained on, or a 'model' that is there already")
    unknown = sorted(set(base.strategies) - set(strategies))
    if unknown:
        raise _Wrong(f"{where}: there is no strategy {', '.join(unknown)}")
    return base


def _task(name: str, entry: dict[str, Any], common: Mapping[str, Any]) -> Task:
    """Return one task; raises _Wrong."""
    where = f"task '{name}'"
    _check_name(name, "task")
    if "validation" in entry:
        raise _Wrong(f"{where}: 'validation' belongs to 'choose'")
    values = {**common, **entry}
    rule = dict(_object(values.get("selection"), f"{where}: 'selection'"))
    for key, least in (("test", 1), ("reserved", 0), ("seed", 0)):
        _check_whole(rule, key, least, f"{where}: 'selection'")
    share = rule.get("smallest_share", 0.0)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise _Wrong(f"{where}: 'selection': 'smallest_share' must be between 0 and 1, not {share!r}")
    rule["required"] = _names(rule.get("required", values.get("structures", [])), f"{where}: 'required'")
    for key in ("structures", "strategies", "bases"):
        values[key] = _names(values.get(key, []), f"{where}: '{key}'")
        if not values[key]:
            raise _Wrong(f"{where}: '{key}' must name at least one")
    values["sizes"], values["seeds"] = _sizes(values["sizes"], where), _seeds(values["seeds"], where)
    for key in ("sizes", "seeds"):
        if not values[key]:
            raise _Wrong(f"{where}: '{key}' must hold at least one, here or for the whole study")
    by_strategy = _object(values.get("strategy_knobs", {}), f"{where}: 'strategy_knobs'")
    values["strategy_knobs"] = {key: _knobs(knobs, f"{where}, strategy '{key}'") for key, knobs in by_strategy.items()}
    values["knobs"] = _knobs(values.get("knobs", {}), where)
    if not isinstance(values.get("collection", ""), str):
        raise _Wrong(f"{where}: 'collection' must be a name, not {values['collection']!r}")
    values["selection"] = _built(SelectionRule, rule, f"{where}: 'selection'")
    tolerance = values["tolerance_mm"]
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance < float("inf"):
        raise _Wrong(f"{where}: 'tolerance_mm' must be above 0, not {tolerance!r}")
    return _built(Task, values, where)


def _floor(entry: dict[str, Any], tasks: Mapping[str, Task]) -> Floor:
    """Return one floor; its sizes are the task's where it has none. Raises _Wrong."""
    task = tasks.get(str(entry.get("task")))
    if task is None:
        raise _Wrong(f"a floor is about the task {entry.get('task')!r}, which there is not")
    sizes = _sizes(entry["sizes"], "a floor") if "sizes" in entry else task.sizes
    floor = _built(Floor, {**entry, "sizes": sizes}, "a floor")
    unknown = [name for name in (floor.strategy, floor.against) if name not in task.strategies]
    unknown += [f"size {size or ALL}" for size in sizes if size not in task.sizes]
    if unknown:
        raise _Wrong(f"a floor of task '{floor.task}' is about {unknown[0]}, which the task does not try")
    if isinstance(floor.at_least, bool) or not isinstance(floor.at_least, (int, float)):
        raise _Wrong(f"a floor's 'at_least' must be a number, not {floor.at_least!r}")
    return floor


def _choose(value: Any, tasks: Mapping[str, Task], strategies: Mapping[str, Any]) -> Choose:
    """Return what is to be chosen; raises _Wrong."""
    entry = _object(value, "'choose'")
    grids: dict[str, dict[str, tuple[Any, ...]]] = {}
    for strategy, grid in _object(entry.get("grids"), "'choose': 'grids'").items():
        if strategy not in strategies:
            raise _Wrong(f"'choose': there is no strategy {strategy}")
        for knob, values in _object(grid, f"'choose': the grid of '{strategy}'").items():
            if not isinstance(values, list) or not values:
                raise _Wrong(f"'choose': '{knob}' of '{strategy}' must be a list of values to try, not {values!r}")
        grids[strategy] = {knob: tuple(values) for knob, values in grid.items()}
    named = _names(entry.get("tasks", list(tasks)), "'choose': 'tasks'")
    unknown = [name for name in named if name not in tasks]
    if unknown:
        raise _Wrong(f"'choose': there is no task {', '.join(unknown)}")
    values = {
        **entry,
        "grids": grids,
        "tasks": named,
        "sizes": _sizes(entry.get("sizes"), "'choose'"),
        "seeds": _seeds(entry.get("seeds"), "'choose'"),
    }
    choose = _built(Choose, values, "'choose'")
    if isinstance(choose.validation, bool) or not isinstance(choose.validation, int) or choose.validation < 1:
        raise _Wrong(f"'choose': 'validation' must be a number of cases from 1 up, not {choose.validation!r}")
    return choose


def _pairs(value: Any, known: Mapping[str, Any], where: str) -> tuple[tuple[str, str], ...]:
    """Return pairs of names; raises _Wrong."""
    pairs = []
    for pair in value if isinstance(value, list) else [value]:
        names = _names(pair, f"an entry of '{where}'")
        if len(names) != 2 or any(name not in known for name in names):
            raise _Wrong(f"an entry of '{where}' must be two of {', '.join(known)}, not {pair!r}")
        pairs.append((names[0], names[1]))
    return tuple(pairs)


def _check_names(
    bases: Mapping[str, Base],
    tasks: Mapping[str, Task],
    collections: Mapping[str, Collection],
    strategies: Mapping[str, Any],
) -> None:
    """Raise _Wrong for names that nothing has."""
    used: list[tuple[str, str, tuple[str, ...], Mapping[str, Any]]] = []
    for name, base in bases.items():
        used.append((f"base '{name}'", "collection", (base.collection,) if base.collection else (), collections))
        used.append((f"base '{name}'", "task", (*base.without_cases_of, *base.tasks), tasks))
    for name, task in tasks.items():
        used.append((f"task '{name}'", "collection", (task.collection,), collections))
        used.append((f"task '{name}'", "strategy", (*task.strategies, *task.strategy_knobs), strategies))
        used.append((f"task '{name}'", "base", task.bases, bases))
    for where, kind, names, known in used:
        unknown = [name for name in names if name not in known]
        if unknown:
            raise _Wrong(f"{where}: there is no {kind} {', '.join(unknown)}; there is {', '.join(known)}")
    for name, base in bases.items():
        elsewhere = [task for task in base.without_cases_of if tasks[task].collection != base.collection]
        if base.collection and elsewhere:
            raise _Wrong(f"base '{name}': the cases of {', '.join(elsewhere)} are not of its collection")
        shared = [
            key
            for key, task in tasks.items()
            if task.collection == base.collection and key not in base.without_cases_of
        ]
        tried = [key for key in shared if name in tasks[key].bases and (not base.tasks or key in base.tasks)]
        if tried:
            raise _Wrong(f"base '{name}' would see the test cases of {', '.join(tried)}: add to 'without_cases_of'")


def _check_knobs(study: Study) -> None:
    """Raise _Wrong for knobs that no training or fine-tuning takes."""
    for name, base in study.bases.items():
        try:
            base.training()
        except TransferSegError as error:
            raise _Wrong(f"base '{name}': {str(error).rstrip('.')}") from error
    for name, task in study.tasks.items():
        for strategy, size in product(task.strategies, task.sizes):
            try:
                study.configuration(name, strategy, task.seeds[0], size)
            except KeyError as error:
                known = ", ".join(NAMED_RULES)
                raise _Wrong(f"task '{name}': there is no intensity rule {error}; there is {known}") from error
            except TransferSegError as error:
                raise _Wrong(f"task '{name}', strategy '{strategy}': {str(error).rstrip('.')}") from error


def _check_name(name: str, kind: str) -> None:
    """Raise _Wrong for names that would not do in keys and file names."""
    if not name or not all(letter.isalnum() or letter in "_-" for letter in name):
        raise _Wrong(f"'{name}' cannot be the name of a {kind}: use letters, digits, dashes and underscores")


def _object(value: Any, where: str) -> dict[str, Any]:
    """Return a JSON object; raises _Wrong for anything else."""
    if not isinstance(value, dict):
        raise _Wrong(f"{where} must be an object, not {value!r}")
    return value


def _check_whole(entry: Mapping[str, Any], key: str, least: int, where: str) -> None:
    """Raise _Wrong when an entry is there and no whole number from ``least`` up."""
    value = entry.get(key, least)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _Wrong(f"{where}: '{key}' must be a whole number from {least} up, not {value!r}")


def _check_keys(entry: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(entry) - known)
    if unknown:
        raise _Wrong(f"{where} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")


def _built(kind: Callable[..., _Kind], entry: Mapping[str, Any], where: str) -> _Kind:
    """Return an object of a dataclass from its entry; raises _Wrong for unknown and missing keys."""
    _check_keys(entry, {one.name for one in fields(kind)}, where)  # type: ignore[arg-type]
    try:
        return kind(**entry)
    except TypeError as error:
        raise _Wrong(f"{where}: {error}") from error


def _knobs(value: Any, where: str) -> dict[str, Any]:
    """Return an object of knobs; raises _Wrong, also for an augmentation that is no object."""
    knobs = _object(value, where)
    if "seed" in knobs and not where.startswith("base"):
        raise _Wrong(f"{where}: the seed of a run is one of 'seeds', and no knob")
    _object(knobs.get("augmentation", {}), f"{where}: 'augmentation'")
    for size, own in _object(knobs.get(BY_SIZE, {}), f"{where}: '{BY_SIZE}'").items():
        if size != ALL and not (size.isdecimal() and int(size) > 0):
            raise _Wrong(f"{where}: '{BY_SIZE}' is about numbers of cases, or \"{ALL}\", not '{size}'")
        if BY_SIZE in _knobs(own, f"{where}, size {size}"):
            raise _Wrong(f"{where}: '{BY_SIZE}' cannot be within itself")
    return dict(knobs)


def _list(value: Any, where: str) -> list[Any]:
    """Return a JSON list; raises _Wrong for anything else."""
    if not isinstance(value, list):
        raise _Wrong(f"{where} must be a list, not {value!r}")
    return value


def _names(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise _Wrong(f"{where} must be a list of names, not {value!r}")
    return tuple(value)


def _sizes(value: Any, where: str) -> tuple[int, ...]:
    """Return numbers of cases, 0 for all."""
    if value is None or not isinstance(value, list):
        raise _Wrong(f"{where}: 'sizes' must be a list of numbers of cases, or \"{ALL}\", not {value!r}")
    wrong = [one for one in value if one != ALL and (isinstance(one, bool) or not isinstance(one, int) or one < 1)]
    if wrong:
        raise _Wrong(f'{where}: a size is a number of cases from 1 up, or "{ALL}", not {wrong[0]!r}')
    _check_once(value, f"{where}: 'sizes'")
    return tuple(0 if one == ALL else one for one in value)


def _seeds(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or any(
        isinstance(one, bool) or not isinstance(one, int) or one < 0 for one in value
    ):
        raise _Wrong(f"{where}: 'seeds' must be a list of whole numbers from 0 up, not {value!r}")
    _check_once(value, f"{where}: 'seeds'")
    return tuple(value)


def _check_once(values: list[Any], where: str) -> None:
    """Raise _Wrong for an entry that a list has twice: it would be run and counted twice."""
    twice = [one for number, one in enumerate(values) if one in values[:number]]
    if twice:
        raise _Wrong(f"{where} has {twice[0]!r} twice")
