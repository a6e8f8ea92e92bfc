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
from pathlib import Path
from typing import Any

from Testing.research.benchmarks.shared_minutes import Task, command_line_for_tasks, each_task
from Testing.research.common.cases import add_line, mean_dice, read_lines
from TransferSegLib.finetuning.adapt import adapt
from TransferSegLib.finetuning.strategies import FINETUNE, VANILLA
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
#: Steps of the last layers alone, with "finetune".
TAIL_STEPS = 60
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
    parser = command_line_for_tasks(__doc__, RESULTS, TASKS)
    parser.add_argument("--strategy", choices=(FINETUNE, VANILLA), help="instead of the task's own")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--steps", type=int, default=80, help="of all layers")
    options = parser.parse_args()
    if options.report:
        report(options.output)
        return
    for task, place in each_task(options):
        strategy = options.strategy or TASKS[place["task"]][0]
        measure(options, task, place | {"strategy": strategy, "steps": options.steps})


if __name__ == "__main__":
    main()
