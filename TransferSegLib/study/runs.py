"""The runs of a study: every base, task, size, strategy and seed that is asked for, and what each depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.study.configuration import Study, size_word

#: Part of every run's hash: raise it when runs are made or measured differently, so that old results are not mixed in.
METHOD = 1


@dataclass(frozen=True)
class Run:
    """One model made and tested: ``size`` 0 means all cases of the pool.

    ``hash`` stands for everything in the configuration that decides the result; ``key`` names the run in the results.
    """

    base: str
    task: str
    size: int
    strategy: str
    seed: int
    configuration: FineTuningConfiguration
    hash: str

    @property
    def key(self) -> str:
        """The run's name, e.g. ``sparse/mandible/3/ours/1``."""
        return "/".join((self.base, self.task, size_word(self.size), self.strategy, str(self.seed)))


def plan_runs(study: Study) -> list[Run]:
    """Return the runs in the order in which they are made: base by base, and within one, seed by seed.

    So the first seed's results are there early, for all tasks and sizes. Training from scratch knows nothing of a base
    but its width and grid: it is run with a task's first base only, and stands for every other of the same width.
    """
    return [run for base in study.bases for run in sorted(_of_base(study, base), key=_order)]


def _order(run: Run) -> tuple[int, float]:
    return run.seed, run.size or float("inf")


def _of_base(study: Study, name: str) -> Iterator[Run]:
    """Give the runs with one base, task by task."""
    base = study.bases[name]
    for task_name, task in study.tasks.items():
        if name not in task.bases or (base.tasks and task_name not in base.tasks):
            continue
        for strategy in task.strategies:
            if base.strategies and strategy not in base.strategies:
                continue
            for size in task.sizes:
                for seed in task.seeds:
                    if (base.sizes and size not in base.sizes) or (base.seeds and seed not in base.seeds):
                        continue
                    configuration = study.configuration(task_name, strategy, seed, size)
                    if configuration.strategy == "scratch" and not _is_first(study, name, task_name):
                        continue
                    hash = _hash(study, name, task_name, size, configuration)
                    yield Run(name, task_name, size, strategy, seed, configuration, hash)


def _is_first(study: Study, base: str, task: str) -> bool:
    """Tell whether a base is the first of its width and grid that a task is tried with."""
    same = [name for name in study.tasks[task].bases if _grid(study, name) == _grid(study, base)]
    return same[0] == base


def _grid(study: Study, name: str) -> object:
    """Return what training from scratch takes over from a base."""
    base = study.bases[name]
    if base.model:
        return base.model
    knobs = base.training()
    return [knobs.width, knobs.spacing_mm, study.collections[base.collection].modality]


def _hash(study: Study, base_name: str, task_name: str, size: int, configuration: FineTuningConfiguration) -> str:
    """Return a hash of all that decides a run's result, as far as the configuration says it."""
    task = study.tasks[task_name]
    entry = {
        "method": METHOD,
        "base": _grid(study, base_name) if configuration.strategy == "scratch" else base_identity(study, base_name),
        "collection": _collection(study, task.collection),
        "structures": task.structures,
        "selection": asdict(task.selection),
        "size": size,
        "tolerance_mm": task.tolerance_mm,
        "knobs": configuration.to_json(),
    }
    # Only where there is any, so that it changes no hash of a run on test cases.
    return hash_of(entry | ({"validation": task.validation} if task.validation else {}))


def base_identity(study: Study, name: str) -> object:
    """Return everything that decides what a base has learned, as far as the configuration says it."""
    base = study.bases[name]
    if base.model:
        return base.model
    left_out = [study.tasks[task] for task in base.without_cases_of]
    return {
        "collection": _collection(study, base.collection),
        "without_structures": sorted(base.without_structures),
        # The rules, not the names of the tasks, decide which cases are left out.
        "without_cases_of": sorted(json.dumps(asdict(task.selection), sort_keys=True) for task in left_out),
        "only_fully_annotated": base.only_fully_annotated,
        "knobs": base.training().to_json(),
    }


def _collection(study: Study, name: str) -> dict[str, object]:
    """Return a collection's entry, with what came later only where it is used, so that it changes no earlier hash."""
    entry = asdict(study.collections[name])
    if entry["cases_per_patient"] == 1:
        del entry["cases_per_patient"]
    return entry


def hash_of(entry: object) -> str:
    """Return a short hash of JSON-ready values."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]
