"""Compare ways to share the training time between what is kept and the candidates that are only compared.

    python3 Testing/run.py benchmark shared_minutes --data DATA --parent MODEL --work WORK
    python3 Testing/run.py benchmark shared_minutes --report

DATA holds the study's collections, MODEL is a base that knows neither the tasks' structures nor their cases (such as
the study's base "sparse"). Each run may make the same number of steps of all layers (--steps), however they are shared:

- one model: all of them, with nothing to compare;
- as many each: the candidate of every left-out case and the final one;
- half: the final one gets half, the candidates the rest, and are thrown away;
- average of 3: three candidates, of which the average is kept;
- from 2, from 3: the candidates share half, and the final one continues from their average with the other half.

The task "known" learns what the base knows already: weights between the base and one trained model are compared, by the
base's share. Runs that are in the output file are not repeated. The scores are Dice on test cases, on their own grid.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from Testing.research.common.cases import add_line, mean_dice, read_lines
from Testing.research.common.measuring import command_line
from Testing.research.study.case_selection import only_structures, training_set
from Testing.research.study.configuration_file import read_study
from Testing.research.study.study_data import StudyData, prepare_data
from TransferSegLib.datasets.dataset import Dataset
from TransferSegLib.datasets.prepared import PreparedCase, prepare_cases
from TransferSegLib.evaluation.predict_and_score import evaluate
from TransferSegLib.finetuning.all_layers import all_layers_trainer, initial_network
from TransferSegLib.finetuning.blending import blended
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.label_change import LabelChange, plan_label_change
from TransferSegLib.images.intensity import MR_PERCENTILES
from TransferSegLib.inference.devices import Device, choose_device
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.locate import bundled_models
from TransferSegLib.models.store import Model, load_model
from TransferSegLib.training.configuration import AugmentationConfiguration
from TransferSegLib.wording import table

RESULTS = Path(__file__).with_suffix(".jsonl")
STUDY = Path(__file__).parents[1] / "study.json"
KNOWN = "known"
SETTINGS: dict[str, dict[str, Any]] = {
    "mandible": {},
    "larynx": {},
    KNOWN: {},
    "hippocampus": {"spacing_mm": 1.0, "intensity": MR_PERCENTILES},
    "left_ventricle": {
        "spacing_mm": 4.0,
        "intensity": MR_PERCENTILES,
        "augmentation": AugmentationConfiguration(intensity_curve=0.9, gamma=0.5),
    },
}
RATE, RATE_OF_KNOWN, PATCH, WARM_UP = 0.01, 0.004, 48, 10
PARENTS_SHARES = (0.0, 0.25, 0.5, 0.75)
State = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Task:
    """One task with the cases of one seed; ``ids`` are learned from, ``tested`` scored."""

    parent: Model
    change: LabelChange
    dataset: Dataset
    ids: tuple[str, ...]
    tested: tuple[str, ...]
    cases: list[PreparedCase]
    settings: FineTuningConfiguration
    rate: float
    device: Device

    def train(self, numbers: Sequence[int], steps: int, stream: int, start: State | None = None) -> State:
        """Train all layers on some of the cases; ``stream`` makes the patches others."""
        network = initial_network(self.parent, self.change, self.settings)
        if start is not None:
            network.load_state_dict(start)
        settings = replace(self.settings, seed=100 * self.settings.seed + stream)
        cases = [self.cases[number] for number in numbers]
        trainer = all_layers_trainer(self.parent, network, cases, self.change, settings, self.device, None)
        while trainer.step < steps:
            falling = 0.5 * (1 + math.cos(math.pi * trainer.step / steps))
            trainer.train_step(self.rate * min(1.0, (trainer.step + 1) / WARM_UP) * falling)
        trainer.keep_average()
        return {name: weights.detach().float().clone() for name, weights in network.state_dict().items()}

    def candidates(self, folds: int, steps: int, stream: int) -> list[State]:
        """Train a candidate for each fold, without every folds-th case."""
        every = range(len(self.ids))
        return [self.train([n for n in every if n % folds != fold], steps, stream + fold) for fold in range(folds)]

    def dice(self, state: State, single_part: Sequence[str] = ()) -> dict[str, dict[str, float]]:
        """Return the Dice by test case and structure; of structures in ``single_part`` the largest component counts."""
        description = replace(
            self.parent.description,
            label_set=self.change.label_set,
            preparation=self.settings.preparation(self.parent.description),
            network=self.parent.description.network.with_classes(self.change.label_set.classes),
            fit=None,
            single_part=tuple(single_part),
        )
        cases = replace(self.dataset, cases=tuple(self.dataset.case(id) for id in self.tested))
        found = evaluate(Segmenter(Model(description, state, self.parent.path), self.device), cases)
        return {id: {name: round(score.dice, 4) for name, score in scores.items()} for id, scores in found.items()}


def make_task(data: StudyData, parent: Model, name: str, cases: int, seed: int, tested: int) -> Task:
    """Choose and prepare the cases of a task as the study does."""
    study = read_study(STUDY)
    source = "mandible" if name == KNOWN else name
    known, selection = parent.description.label_set, data.selections[source]
    collection = data.datasets[study.tasks[source].collection]
    ids, test = training_set(collection, selection, cases, seed), tuple(selection.test[:tested])
    structures = known.names if name == KNOWN else study.tasks[name].structures
    dataset = only_structures(collection.select([*ids, *test]), structures)
    change = plan_label_change(known, dataset.label_set, dropped=() if name == KNOWN else known.names)
    settings = FineTuningConfiguration(
        strategy="vanilla", patch=PATCH, seed=seed, distillation=0.0, report_cases=0, **SETTINGS[name]
    ).for_change(parent.description, name != KNOWN)
    chosen = replace(dataset, cases=tuple(dataset.case(id) for id in ids))
    prepared = prepare_cases(chosen, change.label_set, settings.preparation(parent.description))
    rate = RATE_OF_KNOWN if name == KNOWN else RATE
    return Task(parent, change, dataset, ids, test, prepared, settings, rate, choose_device("cpu"))


def ways(task: Task, steps: int) -> dict[str, Callable[[], State]]:
    """Return the ways to spend so many steps, by name; each makes the weights that are kept."""
    every, count = range(len(task.ids)), len(task.ids)

    def from_average(folds: int) -> State:
        each = steps // (2 * folds)
        return task.train(every, steps - each * folds, 40, mean(task.candidates(folds, each, 20)))

    found: dict[str, Callable[[], State]] = {
        "one model": partial(task.train, every, steps, 0),
        "as many each": partial(task.train, every, steps // (count + 1), 0),
        "half": partial(task.train, every, steps // 2, 0),
        "average of 3": lambda: mean(task.candidates(3, steps // 3, 10)),
        "from 3": partial(from_average, 3),
        "from 2": partial(from_average, 2),
    }
    return {name: way for name, way in found.items() if count >= 3 or name in ("one model", "as many each", "half")}


def mean(states: Sequence[State]) -> State:
    """Return the average of weights."""
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}


def measure(options: Any, task: Task, place: dict[str, Any]) -> None:
    """Make the runs of a task, number of cases, seed and steps that are missing."""
    made = {line["way"] for line in read_lines(options.output) if all(line[key] == place[key] for key in place)}
    parent = task.parent

    def keep(way: str, state: State) -> None:
        add_line(options.output, place | {"way": way, "parent": parent.description.name, "dice": task.dice(state)})
        print(json.dumps(place | {"way": way}), flush=True)

    if place["task"] != KNOWN:
        for way, make in ways(task, options.steps).items():
            if way not in made:
                keep(way, make())
    elif not {str(share) for share in PARENTS_SHARES} <= made:
        trained = task.train(range(place["cases"]), options.steps, 0)
        keep("1.0", {key: weights.float() for key, weights in parent.fold_weights().items()})
        for share in PARENTS_SHARES:
            keep(str(share), blended(parent, task.change, trained, share))


def report(file: Path) -> None:
    """Print a table of each way over tasks and seeds, and one of each share of the base."""
    lines = read_lines(file)
    for known in (False, True):
        some = [line for line in lines if (line["task"] == KNOWN) == known]
        ways_made = sorted({line["way"] for line in some}, reverse=True) if known else list(_in_order(some))
        rows = []
        for key in sorted({_place(line) for line in some}):
            scores = {line["way"]: mean_dice(line) for line in some if _place(line) == key}
            task, cases, steps, seed = key
            cells = (f"{scores[way]:.3f}" if way in scores else "" for way in ways_made)
            rows.append((task, str(cases), str(steps), str(seed), *cells))
        heads = [f"base {float(way):.0%}" for way in ways_made] if known else ways_made
        print(table(("task", "cases", "steps", "seed", *heads), rows), end="\n\n")


def _in_order(lines: Sequence[dict[str, Any]]) -> dict[str, None]:
    return dict.fromkeys(line["way"] for line in lines)


def _place(line: dict[str, Any]) -> tuple[str, int, int, int]:
    return line["task"], line["cases"], line["steps"], line["seed"]


def command_line_for_tasks(
    text: str | None,
    results: Path,
    tasks: Iterable[str],
    cases: int = 2,
    seeds: Sequence[int] = (1, 2),
    tested: int = 6,
) -> argparse.ArgumentParser:
    """Return a parser with the options of the benchmarks that fine-tune a parent for tasks of the study."""
    parser, names = command_line(text), list(tasks)
    parser.add_argument("--report", action="store_true", help="print the table of the runs made so far")
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where the descriptions of the datasets go")
    parser.add_argument("--parent", type=Path, metavar="MODEL", default=bundled_models()[0])
    parser.add_argument("--output", type=Path, default=results)
    parser.add_argument("--tasks", nargs="+", choices=names, default=names)
    parser.add_argument("--cases", type=int, nargs="+", default=[cases])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--tested", type=int, default=tested, help="number of test cases")
    return parser


def each_task(options: argparse.Namespace) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Prepare the tasks that the options ask for, one after another, and say which they are; on one thread."""
    torch.set_num_threads(1)
    data, parent = prepare_data(read_study(STUDY), options.data, options.work), load_model(options.parent)
    for seed, name, cases in product(options.seeds, options.tasks, options.cases):
        task = make_task(data, parent, name, cases, seed, options.tested)
        yield task, {"task": name, "parent": parent.description.name, "cases": cases, "seed": seed}


def main() -> None:
    """Make the runs that are missing, or print what was measured."""
    parser = command_line_for_tasks(__doc__, RESULTS, SETTINGS, cases=5, seeds=(1, 2, 3), tested=8)
    parser.set_defaults(parent=None)  # the bundled model knows the tasks' structures
    parser.add_argument("--steps", type=int, default=180)
    options = parser.parse_args()
    if options.report:
        report(options.output)
        return
    for task, place in each_task(options):
        measure(options, task, {key: place[key] for key in ("task", "cases", "seed")} | {"steps": options.steps})


if __name__ == "__main__":
    main()
