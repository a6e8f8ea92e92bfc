"""Compare sides of training patches at equal processor time: smaller patches make more steps, and show less at a time.

    python3 Testing/run.py benchmark patch_sizes --data DATA --work WORK
    python3 Testing/run.py benchmark patch_sizes --report

All layers of a parent are trained at once on structures that are new to it (the strategy "vanilla"), in the computer's
fastest precision. Side 0 is the last layers alone, on cached features, for all of the time. The parent is the bundled
model for the tasks in MR. For those in CT it is (--parent) a model without their structures, such as the bundled one
without the two outputs, whose features then know them. Runs that are in the output file are not repeated. The scores
are Dice on test cases, on their own grid; of each structure only the largest component is kept.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from Testing.research.benchmarks.layer_orders import UNLIMITED, train_by_strategy
from Testing.research.benchmarks.shared_minutes import Task, command_line_for_tasks, each_task
from Testing.research.common.cases import add_line, mean_dice, read_lines
from TransferSegLib.wording import table

RESULTS = Path(__file__).with_suffix(".jsonl")
TASKS = ("hippocampus", "left_ventricle", "mandible", "larynx")
SIDES = (0, 32, 40, 48, 64)
FRAME = 4
PLACE = ("task", "parent", "cases", "seconds")


def measure(options: Any, task: Task, place: dict[str, Any]) -> None:
    """Make the runs of a task, number of cases, seed and time that are missing."""
    made = {line["side"] for line in read_lines(options.output) if all(line[key] == place[key] for key in place)}
    for side in options.sides:
        if side in made:
            continue
        if side:
            sized = replace(task, settings=replace(task.settings, patch=side, frame=min(FRAME, side // 8)))
            trained = train_by_strategy(sized, "vanilla", place["seconds"])
        else:
            tail = {"tail_steps": UNLIMITED, "tail_minutes_share": 1.0, "new_tail_rate": task.settings.new_tail_rate}
            trained = train_by_strategy(task, "finetune", place["seconds"], **tail)
        parts = tuple(task.change.label_set.names)
        found = {"steps": trained.steps, "tail_steps": trained.tail_steps, "dice": task.dice(trained.state, parts)}
        add_line(
            options.output,
            place | {"side": side, "precision": str(task.device.dtype)} | found,
        )
        print(json.dumps(place | {"side": side, "steps": trained.steps, "dice": mean_dice(found)}), flush=True)


def report(file: Path) -> None:
    """Print the mean Dice by task, parent, cases, seconds and side, the lowest seed, and the mean steps."""
    lines = read_lines(file)
    keys = sorted({tuple(line[name] for name in PLACE) for line in lines})
    sides = sorted({line["side"] for line in lines})
    rows = []
    for key in keys:
        some = [line for line in lines if tuple(line[name] for name in PLACE) == key]
        seeds = {sum(line["side"] == side for line in some) for side in sides} - {0}
        cells = [_cell([line for line in some if line["side"] == side]) for side in sides]
        task, parent, cases, seconds = key
        rows.append((task, parent, str(cases), f"{seconds:g}", "/".join(map(str, sorted(seeds))), *cells))
    heads = ["last layers" if side == 0 else f"{side} voxels" for side in sides]
    print(table((*PLACE, "seeds", *heads), rows))


def _cell(lines: Sequence[dict[str, Any]]) -> str:
    if not lines:
        return ""
    means = [mean_dice(line) for line in lines]
    steps = np.mean([line["steps"] or line["tail_steps"] for line in lines])
    return f"{np.mean(means):.3f} ({min(means):.2f}; {steps:.0f})"


def main() -> None:
    """Make the runs that are missing, or print what was measured."""
    parser = command_line_for_tasks(__doc__, RESULTS, TASKS)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    parser.add_argument("--seconds", type=float, nargs="+", default=[120], help="processor seconds of a run")
    options = parser.parse_args()
    if options.report:
        report(options.output)
        return
    for task, place in each_task(options):
        for seconds in options.seconds:
            measure(options, task, place | {"seconds": seconds})


if __name__ == "__main__":
    main()
