"""Compare learning rates of what AdamW trains (heads, biases, the first convolution), as shares of Muon's rate.

    python3 Testing/run.py benchmark head_rates --data DATA --work WORK --tasks hippocampus left_ventricle
    python3 Testing/run.py benchmark head_rates --data DATA --work WORK --tasks mandible larynx --parent MODEL
    python3 Testing/run.py benchmark head_rates --report

A parent is trained on structures that are new to it, by the default strategy of the task: all layers at once
("vanilla") for another modality, else the last layers first ("finetune"). All runs of a task, seed and number of steps
have the same cases and patches. The parent is the bundled model for the tasks in MR; for those in CT (--parent) one
without their structures, such as the bundled one without the two outputs, whose features then know them. Runs that are
in the output file are not repeated. The scores are Dice on test cases, on their own grid; of each structure only the
largest component is kept.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from Testing.research.benchmarks.shared_minutes import STUDY, Task, make_task
from Testing.research.common.cases import add_line, mean_dice, read_lines
from Testing.research.common.measuring import command_line
from Testing.research.study.configuration_file import read_study
from Testing.research.study.study_data import prepare_data
from TransferSegLib.finetuning.adapt import adapt
from TransferSegLib.finetuning.strategies import FINETUNE, VANILLA
from TransferSegLib.inference.devices import choose_device
from TransferSegLib.models.locate import bundled_models
from TransferSegLib.models.store import load_model
from TransferSegLib.wording import table

RESULTS = Path(__file__).with_suffix(".jsonl")
#: The strategy of each task, and the side of its patches in voxels.
TASKS = {
    "hippocampus": (VANILLA, 32),
    "left_ventricle": (VANILLA, 40),
    "mandible": (FINETUNE, 48),
    "larynx": (FINETUNE, 48),
}
SHARES = (0.05, 0.25, 0.6)
FRAME = 4
#: Steps of the last layers alone, with "finetune"; number of test cases.
TAIL_STEPS, TESTED = 60, 6
_KEY = ("task", "parent", "strategy", "cases", "steps", "seed")


def measure(options: Any, task: Task, place: dict[str, Any]) -> None:
    """Make the runs of a task, number of cases, seed and steps that are missing."""
    made = {line["share"] for line in read_lines(options.output) if all(line[key] == place[key] for key in place)}
    side = TASKS[place["task"]][1]
    for share in options.shares:
        if share in made:
            continue
        settings = replace(
            task.settings, strategy=place["strategy"], patch=side, frame=min(FRAME, side // 8), minutes=0.0,
            steps=place["steps"], tail_steps=TAIL_STEPS, adam_share=share,
        )  # fmt: skip
        adapted = adapt(task.parent, task.cases, task.change, settings, device=task.device)
        found = {
            "share": share,
            "tail_steps": adapted.tail_steps,
            "precision": str(task.device.dtype),
            "dice": task.dice(adapted.state_dict, tuple(task.change.label_set.names)),
        }
        add_line(options.output, place | found)
        print(json.dumps(place | {"share": share, "dice": mean_dice(found)}), flush=True)


def report(file: Path) -> None:
    """Print the mean Dice of every run: a row for each task, strategy, number of cases, steps and seed."""
    lines = read_lines(file)
    shares = sorted({line["share"] for line in lines})
    rows = []
    for key in sorted({tuple(line[name] for name in _KEY) for line in lines}):
        found = {line["share"]: mean_dice(line) for line in lines if tuple(line[name] for name in _KEY) == key}
        cells = (f"{found[share]:.3f}" if share in found else "" for share in shares)
        rows.append((*map(str, key), *cells))
    print(table((*_KEY, *(f"{share:g}" for share in shares)), rows))


def main() -> None:
    """Make the runs that are missing, or print what was measured."""
    parser = command_line(__doc__)
    parser.add_argument("--report", action="store_true", help="print the table of the runs made so far")
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where the descriptions of the datasets go")
    parser.add_argument("--parent", type=Path, metavar="MODEL", default=bundled_models()[0])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--strategy", choices=(FINETUNE, VANILLA), help="instead of the task's own")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--cases", type=int, nargs="+", default=[2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=80, help="of all layers")
    options = parser.parse_args()
    if options.report:
        report(options.output)
        return
    torch.set_num_threads(1)
    device = choose_device("cpu")
    data, parent = prepare_data(read_study(STUDY), options.data, options.work), load_model(options.parent)
    for seed, name, cases in product(options.seeds, options.tasks, options.cases):
        task = replace(make_task(data, parent, name, cases, seed, TESTED), device=device)
        strategy = options.strategy or TASKS[name][0]
        place = {"task": name, "strategy": strategy, "cases": cases, "seed": seed, "steps": options.steps}
        place["parent"] = parent.description.name
        measure(options, task, place)


if __name__ == "__main__":
    main()
