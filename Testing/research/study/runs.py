"""The runs of a study: every base, task, size, strategy and seed that is asked for, and what each depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import product
from typing import Any

from Testing.research.study.configuration import Study, size_word
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.training.configuration import TrainingConfiguration

#: Part of every run's hash: raise it when runs are made or measured differently, so that old results are not mixed in.
METHOD = 1
#: Settings that did not exist when the committed results were made; their defaults do what was done then.
LATER = (
    "deep_supervision",
    "network",
    "levels",
    "spacing_z_mm",
    "decay_share",
    "blend",
    "continued_rate",
    "much_to_learn",
    "adam_share",
)


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
    but its width and grid: it is run with the first base of a task that asks for it, and counts for all of the same.
    """
    return [run for base in study.bases for run in sorted(_of_base(study, base), key=_order)]


def _order(run: Run) -> tuple[int, float]:
    return run.seed, run.size or float("inf")


def _of_base(study: Study, name: str) -> Iterator[Run]:
    """Give the runs with one base, task by task."""
    for task_name, task in study.tasks.items():
        for strategy, size, seed in product(task.strategies, task.sizes, task.seeds):
            if not _is_asked_for(study, name, task_name, strategy, size, seed):
                continue
            configuration = study.configuration(task_name, strategy, seed, size)
            if configuration.strategy == "scratch":
                others = task.bases[: task.bases.index(name)]
                same = [other for other in others if grid(study, other) == grid(study, name)]
                if any(_is_asked_for(study, other, task_name, strategy, size, seed) for other in same):
                    continue
            hash = _hash(study, name, task_name, size, configuration)
            yield Run(name, task_name, size, strategy, seed, configuration, hash)


def _is_asked_for(study: Study, name: str, task: str, strategy: str, size: int, seed: int) -> bool:
    """Tell whether a base is tried on a task in this way; an empty limit of a base is none."""
    base = study.bases[name]
    limits = ((base.tasks, task), (base.strategies, strategy), (base.sizes, size), (base.seeds, seed))
    return name in study.tasks[task].bases and all(not limit or value in limit for limit, value in limits)


def grid(study: Study, name: str) -> object:
    """Return what training from scratch takes over from a base: width, grid and modality."""
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
        "base": grid(study, base_name) if configuration.strategy == "scratch" else base_identity(study, base_name),
        "collection": _collection(study, task.collection),
        "structures": task.structures,
        "selection": asdict(task.selection),
        "size": size,
        "tolerance_mm": task.tolerance_mm,
        "knobs": _settings(configuration),
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
        "knobs": _settings(base.training()),
    }


def _settings(configuration: FineTuningConfiguration | TrainingConfiguration) -> dict[str, Any]:
    """Return every setting; one that came later only where it is used, so that it changes no earlier hash."""
    defaults = {field.name: field.default for field in fields(configuration)}
    entry = configuration.to_json()
    return {name: value for name, value in entry.items() if name not in LATER or value != defaults[name]}


def _collection(study: Study, name: str) -> dict[str, object]:
    """Return a collection's entry, with what came later only where it is used, so that it changes no earlier hash."""
    entry = asdict(study.collections[name])
    if entry["cases_per_patient"] == 1:
        del entry["cases_per_patient"]
    return entry


def hash_of(entry: object) -> str:
    """Return a short hash of JSON-ready values."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]
