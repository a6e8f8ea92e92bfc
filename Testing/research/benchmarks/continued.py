"""Compare how a model that learned a new structure from two cases learns from four more.

    python3 Testing/run.py benchmark continued --data DATA --work WORK
    python3 Testing/run.py benchmark continued --report

The first model is made from the bundled one and two cases, in --first processor seconds, as ``finetune`` does by
default. From it, each way learns from six cases, those two among them, for --seconds:

- parent: nothing is learned;
- last layers: nothing but the last convolution and the head, on cached features;
- last layers first: those, then all layers;
- all layers: all from the beginning, at the highest rates of 0.004, 0.01 and 0.02.

The scores are Dice on cases that neither saw, of each structure's largest component. Runs that are in the output file
are not repeated.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from Testing.research.benchmarks.shared_minutes import SETTINGS, STUDY, State, Task
from Testing.research.common.cases import add_line, read_lines
from Testing.research.common.measuring import command_line
from Testing.research.study.case_selection import only_structures, training_set
from Testing.research.study.configuration_file import read_study
from Testing.research.study.study_data import StudyData, prepare_data
from TransferSegLib.datasets.prepared import prepare_cases
from TransferSegLib.finetuning.adapt import adapt
from TransferSegLib.finetuning.configuration import UNLIMITED_STEPS, FineTuningConfiguration
from TransferSegLib.finetuning.label_change import plan_label_change
from TransferSegLib.inference.devices import choose_device
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import Model, load_model
from TransferSegLib.wording import table

RESULTS = Path(__file__).with_suffix(".jsonl")
TASKS = ("hippocampus", "left_ventricle")
FIRST, ALL, PARENT = 2, 6, "parent"
WAYS: dict[str, dict[str, Any]] = {
    "last layers": {"strategy": "finetune", "steps": 0, "tail_minutes_share": 1.0},
    "last layers first": {"strategy": "finetune"},
    "all layers, 0.004": {"strategy": "vanilla", "vanilla_rate": 0.004},
    "all layers, 0.01": {"strategy": "vanilla", "vanilla_rate": 0.01},
    "all layers, 0.02": {"strategy": "vanilla", "vanilla_rate": 0.02},
}


def make_task(data: StudyData, parent: Model, name: str, ids: tuple[str, ...], tested: int, seed: int) -> Task:
    """Prepare cases for a parent, which knows the task's structures or drops all that it knows."""
    study, selection = read_study(STUDY), data.selections[name]
    collection = data.datasets[study.tasks[name].collection]
    test = tuple(selection.test[:tested])
    dataset = only_structures(collection.select([*ids, *test]), study.tasks[name].structures)
    known = parent.description.label_set
    is_first = not set(known.names) & set(dataset.label_set.names)
    change = plan_label_change(known, dataset.label_set, dropped=known.names if is_first else ())
    settings = FineTuningConfiguration(
        strategy="vanilla", vanilla_rate=FineTuningConfiguration.new_rate, seed=seed, report_cases=0, **SETTINGS[name]
    ).for_change(parent.description, is_first)
    chosen = replace(dataset, cases=tuple(dataset.case(id) for id in ids))
    prepared = prepare_cases(chosen, change.label_set, settings.preparation(parent.description))
    return Task(parent, change, dataset, ids, test, prepared, settings, 0.0, choose_device("cpu"))


def trained(task: Task, seconds: float, **settings: Any) -> tuple[State, int, int]:
    """Return the weights after so many processor seconds, and the steps of the last layers and of all."""
    configuration = replace(task.settings, **{"minutes": seconds / 60, "steps": UNLIMITED_STEPS} | settings)
    made = adapt(task.parent, task.cases, task.change, configuration, device=task.device, clock=time.process_time)
    return made.state_dict, made.tail_steps, made.steps


def measure(options: Any, data: StudyData, base: Model, name: str, seed: int) -> None:
    """Make the runs of a task and a seed that are missing."""
    place = {"task": name, "seed": seed, "first": options.first, "seconds": options.seconds}
    made = {line["way"] for line in read_lines(options.output) if all(line[key] == place[key] for key in place)}
    if made >= {PARENT, *WAYS}:
        return
    collection = data.datasets[read_study(STUDY).tasks[name].collection]
    ids = training_set(collection, data.selections[name], ALL, seed)
    first = make_task(data, base, name, ids[:FIRST], options.tested, seed)
    state, _, _ = trained(first, options.first)
    description = replace(
        base.description,
        label_set=first.change.label_set,
        preparation=first.settings.preparation(base.description),
        network=base.description.network.with_classes(first.change.label_set.classes),
        single_part=(),
        fit=None,
    )
    parent = Model(description, state, base.path)
    task = make_task(data, parent, name, ids, options.tested, seed)
    for way in (PARENT, *WAYS):
        if way not in made:
            weights, tail, steps = (state, 0, 0) if way == PARENT else trained(task, options.seconds, **WAYS[way])
            line = place | {"way": way, "tail_steps": tail, "steps": steps}
            line["dice"] = task.dice(weights, task.change.label_set.names)
            add_line(options.output, line)
            print(json.dumps(line | {"mean": round(mean_dice(line), 4)}), flush=True)


def mean_dice(line: dict[str, Any]) -> float:
    """Return the mean Dice over cases and structures."""
    return float(np.mean([np.mean(list(scores.values())) for scores in line["dice"].values()]))


def report(lines: list[dict[str, Any]]) -> str:
    """Return the table of mean Dice by task and way, with the lowest seed in brackets."""
    rows = []
    for task in dict.fromkeys(line["task"] for line in lines):
        cells, seeds = [], set()
        for way in (PARENT, *WAYS):
            some = [mean_dice(line) for line in lines if (line["task"], line["way"]) == (task, way)]
            seeds.add(len(some))
            cells.append(f"{np.mean(some):.3f} ({min(some):.3f})" if some else "")
        rows.append((task.replace("_", " "), "/".join(map(str, sorted(seeds))), *cells))
    return table(("task", "seeds", PARENT, *WAYS), rows)


def main() -> None:
    """Make the runs that are missing, or print what was measured."""
    parser = command_line(__doc__)
    parser.add_argument("--report", action="store_true", help="print the table of the runs made so far")
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where the descriptions of the datasets go")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--first", type=float, default=60, help="processor seconds of the first model (default: 60)")
    parser.add_argument("--seconds", type=float, default=40, help="processor seconds of each way (default: 40)")
    parser.add_argument("--tested", type=int, default=10, help="number of test cases (default: 10)")
    options = parser.parse_args()
    if not options.report:
        if options.data is None or options.work is None:
            raise SystemExit("Name the folders --data and --work.")
        torch.set_num_threads(1)
        data, base = prepare_data(read_study(STUDY), options.data, options.work), load_model(find_model(None))
        for seed in options.seeds:
            for name in options.tasks:
                measure(options, data, base, name, seed)
    print(report(read_lines(options.output)))


if __name__ == "__main__":
    main()
