r"""Compare values of one setting of fine-tuning, at equal processor time, on structures that are new to the parent.

    python3 Testing/run.py benchmark one_setting --data DATA --work WORK --setting background_share --values 0.1 0.4 \
        --tasks hippocampus left_ventricle
    python3 Testing/run.py benchmark one_setting --report

The strategy is each task's default: all layers at once for another modality, the last layers first for the base's. The
parent is the bundled model for the tasks in MR. For those in CT it is (--parent) a model without their structures.
Runs that are in the output file are not repeated. The scores are Dice on test cases, on their own grid: of all that was
found, and of the largest component of each structure, which the library keeps where that is better.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from Testing.research.benchmarks.layer_orders import IN_CT, TASKS, train_by_strategy
from Testing.research.benchmarks.shared_minutes import Task, command_line_for_tasks, each_task
from Testing.research.common.cases import add_line, mean_dice, read_lines
from TransferSegLib.wording import table

RESULTS = Path(__file__).with_suffix(".jsonl")
#: What makes two runs comparable.
PLACE = ("task", "parent", "cases", "seconds", "seed", "setting")


def measure(options: Any, task: Task, place: dict[str, Any]) -> None:
    """Make the runs of a task, seed and time that are missing."""
    made = {line["value"] for line in read_lines(options.output) if all(line[key] == place[key] for key in PLACE)}
    parts = tuple(task.change.label_set.names)
    for value in options.values:
        if value in made:
            continue
        trained = train_by_strategy(task, place["strategy"], place["seconds"], **{options.setting: value})
        line = place | {"value": value, "steps": trained.steps, "tail_steps": trained.tail_steps}
        line |= {"precision": str(task.device.dtype), "dice": task.dice(trained.state)}
        line["dice_largest"] = task.dice(trained.state, parts)
        add_line(options.output, line)
        shown = {key: round(mean_dice(line, key), 4) for key in ("dice", "dice_largest")}
        print(json.dumps(line | shown), flush=True)


def report(file: Path) -> None:
    """Print the Dice of the largest components by task, parent, setting and seed, one column for each value."""
    lines = read_lines(file)
    for setting in dict.fromkeys(line["setting"] for line in lines):
        some = [line for line in lines if line["setting"] == setting]
        values = sorted({line["value"] for line in some})
        keys = sorted({tuple(line[name] for name in PLACE[:5]) for line in some})
        rows = [
            (
                task,
                parent,
                str(cases),
                f"{seconds:g}",
                str(seed),
                *_cells(some, (task, parent, cases, seconds, seed), values),
            )
            for task, parent, cases, seconds, seed in keys
        ]
        print(table((*PLACE[:5], *(f"{setting} {value}" for value in values)), rows), end="\n\n")


def _cells(lines: Sequence[dict[str, Any]], key: tuple[Any, ...], values: Sequence[Any]) -> list[str]:
    """Return the cells of a row: the Dice of the largest components, and in brackets that of everything found."""
    cells = []
    for value in values:
        found = [line for line in lines if tuple(line[name] for name in PLACE[:5]) == key and line["value"] == value]
        largest, every = (np.mean([mean_dice(line, name) for line in found]) for name in ("dice_largest", "dice"))
        cells.append(f"{largest:.3f} ({every:.3f})" if found else "")
    return cells


def main() -> None:
    """Make the runs that are missing, or print what was measured."""
    parser = command_line_for_tasks(__doc__, RESULTS, TASKS, seeds=(1, 2, 3))
    parser.add_argument("--setting", help="name of a setting of the fine-tuning configuration")
    parser.add_argument("--values", type=json.loads, nargs="+", help="its values, as in JSON")
    parser.add_argument("--seconds", type=float, nargs="+", default=[120], help="processor seconds of a run")
    parser.add_argument("--patch", type=int, default=48, help="side of the training patches")
    options = parser.parse_args()
    if options.report:
        report(options.output)
        return
    for task, place in each_task(options):
        sized = replace(task, settings=replace(task.settings, patch=options.patch))
        strategy = "finetune" if place["task"] in IN_CT else "vanilla"
        place |= {"setting": options.setting, "strategy": strategy, "patch": options.patch}
        for seconds in options.seconds:
            measure(options, sized, place | {"seconds": seconds})


if __name__ == "__main__":
    main()
