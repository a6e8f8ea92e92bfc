"""Compare which layers are trained in which order, at equal processor time.

    python3 Testing/run.py benchmark layer_orders --data DATA --work WORK [--parent-of-ct MODEL]
    python3 Testing/run.py benchmark layer_orders --report

Each run has the same processor seconds (--seconds), features and preparation of the network included:

- scratch: random weights, all layers;
- all at once: the parent's weights, all layers (the strategy "vanilla");
- fitted head: as before, after the new outputs were fitted to the data;
- last layers first: a fitted head, then the last two convolutions and the head, then all layers ("finetune");

and after a fitted head:

- gradual: from the head to the first layer, one block more with each twelfth of the time, all from the middle on;
- decay 0.7: all layers, each with 0.7 of the rate of the layer behind it;
- pulled back: all layers, drawn back to the parent's weights (L2-SP, Li et al. 2018);
- decoder: the encoder keeps the parent's weights;
- low rank: the decoder is trained, the encoder's convolutions get adapters of rank 8 (LoRA, Hu et al. 2021).

The parent is the bundled model for the tasks in MR, and for those in CT a model that knows neither their structures nor
their cases (--parent-of-ct; without it, the tasks in CT are left out). Runs that are in the output file are not
repeated. The scores are Dice on test cases, on their own grid; of each structure only the largest component is kept,
as the library does where that is better. The results hold those of all components, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from Testing.research.benchmarks.shared_minutes import KNOWN, SETTINGS, STUDY, State, Task, make_task
from Testing.research.common.cases import add_line, mean_dice, read_lines
from Testing.research.common.measuring import command_line
from Testing.research.study.configuration_file import read_study
from Testing.research.study.study_data import prepare_data
from TransferSegLib.finetuning.adapt import adapt
from TransferSegLib.finetuning.all_layers import all_layers_trainer, initial_network
from TransferSegLib.models.locate import bundled_models
from TransferSegLib.models.store import load_model
from TransferSegLib.training.schedule import Budget, Schedule
from TransferSegLib.training.trainer import Trainer
from TransferSegLib.wording import table

RESULTS = Path(__file__).with_suffix(".jsonl")
TASKS = [name for name in SETTINGS if name != KNOWN]
IN_CT = ("mandible", "larynx")
WARM_UP, DECAY, RANK = 10, 0.7, 8
#: Of the difference to the parent's weights, the share by which a step at rate 1 draws back.
PULL = 2.0
UNLIMITED = 10_000_000


@dataclass(frozen=True)
class Order:
    """Which weights are trained when: ``rate_share`` by block from the input (0) to the head (1), ``trained`` as well.

    ``trained`` gets a block's place and the share of the time that has passed.
    """

    rate_share: Callable[[int, int], float] = lambda block, blocks: 1.0
    trained: Callable[[int, int, float], bool] = lambda block, blocks, share: True
    pull: float = 0.0
    rank: int = 0


def _is_decoder(block: int, blocks: int) -> bool:
    """Whether a block lies behind the deepest maps: seven of fifteen do, the head among them."""
    return block >= (blocks + 1) // 2


ORDERS = {
    "gradual": Order(trained=lambda block, blocks, share: share >= 0.5 * (blocks - 1 - block) / blocks),
    "decay 0.7": Order(rate_share=lambda block, blocks: DECAY ** (blocks - 1 - block)),
    "pulled back": Order(pull=PULL),
    "decoder": Order(trained=lambda block, blocks, share: _is_decoder(block, blocks)),
    "low rank": Order(trained=lambda block, blocks, share: _is_decoder(block, blocks), rank=RANK),
}


@dataclass(frozen=True, eq=False)
class Trained:
    """Trained weights, and the steps of all layers and of the last ones that there was time for."""

    state: State
    steps: int
    tail_steps: int = 0


class LowRank(nn.Module):
    """Adds a product of two thin matrices to a convolution's weights, zero at first."""

    def __init__(self, weight: torch.Tensor, rank: int, generator: torch.Generator) -> None:
        """Draw the matrix on the input's side."""
        super().__init__()
        columns = weight[0].numel()
        self.out = nn.Parameter(torch.zeros(weight.shape[0], rank))
        self.into = nn.Parameter(torch.randn(rank, columns, generator=generator) / columns**0.5)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the adapted weights."""
        return weight + (self.out @ self.into).reshape(weight.shape)


def convolutions(network: nn.Module) -> list[nn.Module]:
    """Return the convolutions in the order in which a scan passes them, the head last."""
    return [module for module in network.modules() if isinstance(module, nn.Conv3d)]


def train_in_order(task: Task, order: Order, seconds: float) -> Trained:
    """Train all layers of a task's network as an order says; the network ends with the averaged weights."""
    budget = Budget(seconds / 60, time.process_time)
    network = initial_network(task.parent, task.change, task.settings)
    network.load_state_dict(train_by_strategy(task, "finetune", seconds, tail_steps=0, steps=0).state)
    blocks = convolutions(network)
    if order.rank:
        generator = torch.Generator().manual_seed(task.settings.seed)
        for number, block in enumerate(blocks):
            if number and not _is_decoder(number, len(blocks)):
                weight = block.get_parameter("weight").detach()
                parametrize.register_parametrization(block, "weight", LowRank(weight, order.rank, generator))
    trainer = all_layers_trainer(task.parent, network, task.cases, task.change, task.settings, task.device, None)
    _shape_steps(trainer, network, blocks, order)
    schedule = Schedule(UNLIMITED, task.rate, WARM_UP, budget)
    while (share := budget.share()) < 1:
        for number, block in enumerate(blocks):
            for name, parameter in block.named_parameters():
                is_adapter = name.endswith((".out", ".into"))
                parameter.requires_grad_(is_adapter or order.trained(number, len(blocks), share))
        trainer.train_step(schedule.rate(trainer.step))
    trainer.keep_average()
    for block in blocks:
        if parametrize.is_parametrized(block):
            parametrize.remove_parametrizations(block, "weight", leave_parametrized=True)
    state = {name: weights.detach().float().clone() for name, weights in network.state_dict().items()}
    return Trained(state, trainer.step)


def _shape_steps(trainer: Trainer, network: nn.Module, blocks: Sequence[nn.Module], order: Order) -> None:
    """Give each convolution its share of the rate, and draw weights back to where they began."""
    optimiser = trainer._optimiser
    share_of = {
        id(parameter): order.rate_share(number, len(blocks))
        for number, block in enumerate(blocks)
        for parameter in block.parameters()
    }
    began = {id(parameter): parameter.detach().clone() for parameter in network.parameters()} if order.pull else {}
    optimiser.param_groups = [
        {**group, "params": [parameter], "share": share_of[id(parameter)]}
        for group in optimiser.param_groups
        for parameter in group["params"]
    ]
    unshaped = optimiser.step

    def step(closure: Any = None) -> None:
        for group in optimiser.param_groups:
            group["lr"] *= group["share"]
        unshaped(closure)
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                if id(parameter) in began:
                    parameter.data.lerp_(began[id(parameter)], min(1.0, order.pull * group["lr"]))

    optimiser.step = step  # type: ignore[method-assign]


def train_by_strategy(task: Task, strategy: str, seconds: float, **settings: Any) -> Trained:
    """Train as the library does."""
    values: dict[str, Any] = {"strategy": strategy, "minutes": seconds / 60, "steps": UNLIMITED}
    configuration = replace(task.settings, **values | settings)
    adapted = adapt(task.parent, task.cases, task.change, configuration, device=task.device, clock=time.process_time)
    return Trained(adapted.state_dict, adapted.steps, adapted.tail_steps)


def ways(task: Task, seconds: float) -> dict[str, Callable[[], Trained]]:
    """Return the ways to spend the processor seconds, by name."""
    by_strategy = partial(train_by_strategy, task, seconds=seconds)
    return {
        "scratch": partial(by_strategy, "scratch"),
        "all at once": partial(by_strategy, "vanilla"),
        "fitted head": partial(by_strategy, "finetune", tail_steps=0, new_rate=task.rate),
        "last layers first": partial(by_strategy, "finetune", new_rate=task.rate),
        **{name: partial(train_in_order, task, order, seconds) for name, order in ORDERS.items()},
    }


def report(file: Path) -> None:
    """Print the mean Dice by task, cases and way, and the spread over seeds."""
    lines = read_lines(file)
    names = list(dict.fromkeys(line["way"] for line in lines))
    keys = sorted({(line["task"], line["cases"], line["seconds"]) for line in lines})
    rows = []
    for key in keys:
        cells, seeds = [], set()
        for name in names:
            means = [
                mean_dice(line, "dice_largest")
                for line in lines
                if line["way"] == name and (line["task"], line["cases"], line["seconds"]) == key
            ]
            seeds.add(len(means))
            cells.append(f"{np.mean(means):.3f}" + (f" ({min(means):.2f})" if len(means) > 1 else "") if means else "")
        rows.append((key[0], str(key[1]), f"{key[2]:g}", "/".join(map(str, sorted(seeds))), *cells))
    print(table(("task", "cases", "seconds", "seeds", *names), rows))


def _parents(options: Any) -> Iterator[tuple[str, Path]]:
    """Return the tasks that can be run, each with its parent."""
    for name in options.tasks:
        if name not in IN_CT:
            yield name, options.parent
        elif options.parent_of_ct is not None:
            yield name, options.parent_of_ct


def main() -> None:
    """Make the runs that are missing, or print what was measured."""
    parser = command_line(__doc__)
    parser.add_argument("--report", action="store_true", help="print the table of the runs made so far")
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where the descriptions of the datasets go")
    parser.add_argument("--parent", type=Path, metavar="MODEL", default=bundled_models()[0])
    parser.add_argument("--parent-of-ct", type=Path, metavar="MODEL")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--ways", nargs="+", help="only these")
    parser.add_argument("--cases", type=int, nargs="+", default=[5, 1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seconds", type=float, default=60, help="processor seconds of a run")
    parser.add_argument("--tested", type=int, default=8, help="number of test cases")
    options = parser.parse_args()
    if options.report:
        report(options.output)
        return
    torch.set_num_threads(1)
    data = prepare_data(read_study(STUDY), options.data, options.work)
    for seed, cases, (name, parent) in product(options.seeds, options.cases, list(_parents(options))):
        place = {"task": name, "cases": cases, "seed": seed, "seconds": options.seconds}
        made = {line["way"] for line in read_lines(options.output) if all(line[key] == place[key] for key in place)}
        task = make_task(data, load_model(parent), name, cases, seed, options.tested)
        for way, make in ways(task, options.seconds).items():
            if way not in made and way in (options.ways or [way]):
                trained = make()
                line = place | {"way": way, "steps": trained.steps, "tail_steps": trained.tail_steps}
                line |= {"parent": task.parent.description.name, "dice": task.dice(trained.state)}
                line["dice_largest"] = task.dice(trained.state, task.change.label_set.names)
                add_line(options.output, line)
                shown = {key: round(mean_dice(line, key), 4) for key in ("dice", "dice_largest")}
                print(json.dumps(line | shown), flush=True)


if __name__ == "__main__":
    main()
