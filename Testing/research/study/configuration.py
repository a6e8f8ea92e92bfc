"""What a study is made of: collections, bases, tasks, sizes, strategies and seeds, as its configuration file says.

``docs/study.md`` tells what a study does; ``configuration_file`` reads one. Nothing here needs torch or reads an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from Testing.research.study.case_selection import SelectionRule
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.images.intensity import CT_WINDOW, MR_PERCENTILES
from TransferSegLib.training.configuration import TrainingConfiguration

#: Intensity rules that a configuration may call by name.
NAMED_RULES = {"CT_WINDOW": CT_WINDOW, "MR_PERCENTILES": MR_PERCENTILES}
#: The size that means all cases of a pool.
ALL = "all"
#: Among knobs: knobs for single sizes.
BY_SIZE = "by_size"
#: A study counts steps, not minutes: only then do all strategies get the same on a machine that does other things too.
_KNOBS_OF_A_STUDY: dict[str, Any] = {"minutes": 0, "report_cases": 0}


@dataclass(frozen=True)
class Collection:
    """Images with label maps; paths are relative to the study's data folder. See ``datasets.make.FolderSource``.

    ``structures``: names by label value, or a JSON file. ``annotated``: 'present', 'all' or a CSV table. With
    ``cases_per_patient`` above 1 the numbers at the end of the cases' names say who is one patient: 1 and 2, 3 and 4,
    and so on.
    """

    images: str
    labels: str
    structures: Mapping[str, str] | str | None = None
    annotated: str = "present"
    image_pattern: str | None = None
    label_pattern: str | None = None
    group_pattern: str | None = None
    modality: str = ""
    license: str = ""
    description: str = ""
    cases_per_patient: int = 1


@dataclass(frozen=True)
class Base:
    """A base model: trained on what the tasks leave over of a collection, or a ``model`` folder that is there already.

    ``without_cases_of`` names the tasks whose cases it must not see, ``without_structures`` what it must not know.
    ``only_fully_annotated``: only cases with every structure that is left. ``tasks``, ``sizes``, ``strategies`` and
    ``seeds`` limit what the base is tried on (empty: no limit).
    """

    collection: str = ""
    model: str = ""
    without_structures: tuple[str, ...] = ()
    without_cases_of: tuple[str, ...] = ()
    only_fully_annotated: bool = False
    knobs: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    strategies: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    def training(self) -> TrainingConfiguration:
        """Return the knobs of its training."""
        return TrainingConfiguration.from_json(dict(self.knobs))


@dataclass(frozen=True)
class Task:
    """Something to learn from few cases: structures of a collection, and which cases test and teach.

    ``knobs`` go over the study's, ``strategy_knobs`` over those of a strategy. Sizes (0: all), strategies, seeds and
    bases are the study's unless the task has its own. ``title`` is for the report. ``validation`` above 0: the
    number of cases of the pool that replace the test cases (see ``choosing``).
    """

    collection: str
    structures: tuple[str, ...]
    selection: SelectionRule
    knobs: Mapping[str, Any]
    strategy_knobs: Mapping[str, Mapping[str, Any]]
    sizes: tuple[int, ...]
    strategies: tuple[str, ...]
    seeds: tuple[int, ...]
    bases: tuple[str, ...]
    tolerance_mm: float
    title: str = ""
    validation: int = 0


@dataclass(frozen=True)
class Choose:
    """What ``choosing`` tries: for each strategy, lists of values by knob, all combinations of them.

    ``validation`` cases of each task's pool are tested on, with training sets of the ``sizes`` (0: all the others).
    """

    grids: Mapping[str, Mapping[str, tuple[Any, ...]]]
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    validation: int
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Floor:
    """What a strategy must gain over another in mean Dice, at every one of the sizes (0: all cases) or on average."""

    task: str
    strategy: str
    against: str
    at_least: float
    sizes: tuple[int, ...]
    on_average: bool = False


@dataclass(frozen=True)
class Study:
    """A whole study; ``results`` and ``report`` are absolute paths, ``data`` is None when the file names none.

    ``comparisons`` and ``base_comparisons`` are pairs (of strategies, of bases) that the report compares, the first
    with the second; every strategy is compared with training from scratch anyway.
    """

    path: Path
    title: str
    data: Path | None
    results: Path
    report: Path | None
    collections: Mapping[str, Collection]
    bases: Mapping[str, Base]
    tasks: Mapping[str, Task]
    strategies: Mapping[str, Mapping[str, Any]]
    knobs: Mapping[str, Any]
    floors: tuple[Floor, ...] = ()
    comparisons: tuple[tuple[str, str], ...] = ()
    base_comparisons: tuple[tuple[str, str], ...] = ()
    choose: Choose | None = None

    def configuration(self, task: str, strategy: str, seed: int, size: int) -> FineTuningConfiguration:
        """Return the knobs of a run: defaults, then the study's, the task's, the strategy's, the task's for it.

        In each of these ``by_size`` holds knobs for single sizes, which go over the others beside it.
        """
        own = self.tasks[task]
        knobs = dict(_KNOBS_OF_A_STUDY)
        for layer in (self.knobs, own.knobs, self.strategies[strategy], own.strategy_knobs.get(strategy, {})):
            knobs = merged(knobs, {name: value for name, value in layer.items() if name != BY_SIZE})
            knobs = merged(knobs, layer.get(BY_SIZE, {}).get(size_word(size), {}))
        if isinstance(knobs.get("intensity"), str):
            knobs["intensity"] = NAMED_RULES[knobs["intensity"]].to_json()
        return FineTuningConfiguration.from_json(knobs | {"seed": seed})

    def is_scratch(self, task: str, strategy: str) -> bool:
        """Tell whether a strategy starts from random weights on a task."""
        own = self.tasks[task]
        return self.configuration(task, strategy, own.seeds[0], own.sizes[0]).strategy == "scratch"


def size_word(size: int) -> str:
    """Return a size as the configuration has it."""
    return str(size) if size else ALL


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the first knobs with the second over them; those of the augmentation one by one."""
    result = dict(first) | dict(second)
    if "augmentation" in first and "augmentation" in second:
        result["augmentation"] = dict(first["augmentation"]) | dict(second["augmentation"])
    return result
