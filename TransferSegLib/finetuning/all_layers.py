"""Training all layers of a fine-tuning, alone or with the other processes that torchrun started.

The first process leads: it alone reads the project, decides, predicts, trains the last layers, judges and writes.
Where all layers are trained, it hands out what the others need, model and cases included, and they take the steps with
it. So the others need no project and no library.

>>> with joined("auto") as processes:
...     if processes.is_first:
...         with leading(processes) as leader:
...             adapt(parent, cases, change, settings, leader=leader)
...     else:
...         follow(processes, "auto")
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from TransferSegLib.datasets.prepared import PreparedCase
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.distillation import Distillation, distillation_loss
from TransferSegLib.finetuning.head_init import init_at_random
from TransferSegLib.finetuning.label_change import LabelChange, adapted_state
from TransferSegLib.inference.devices import Device, choose_device
from TransferSegLib.models.store import Model
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.progress import CancelToken, Task
from TransferSegLib.training.loop import Hooks, train
from TransferSegLib.training.patch_objective import PatchObjective
from TransferSegLib.training.patches import PatchSampler
from TransferSegLib.training.processes import ALONE, Processes
from TransferSegLib.training.schedule import Schedule
from TransferSegLib.training.trainer import Trainer


@dataclass(frozen=True, eq=False)
class _Handed:
    """Something that the other processes keep: a model, or a case."""

    thing: Any


@dataclass(frozen=True, eq=False)
class _Training:
    """One training of all layers; the numbers are those of what was handed out. ``state`` is the trainer's."""

    parent: int
    cases: tuple[int, ...]
    change: LabelChange
    settings: FineTuningConfiguration
    precision: str
    state: bytes


class Leader:
    """Makes the trainers of all layers, in this process and in those that follow it."""

    def __init__(self, processes: Processes = ALONE) -> None:
        """Lead processes that call ``follow``."""
        self.processes = processes
        self._handed: list[Any] = []

    def trainer(
        self,
        parent: Model,
        network: nn.Module,
        training: Sequence[PreparedCase],
        change: LabelChange,
        settings: FineTuningConfiguration,
        device: Device,
        cancel: CancelToken | None,
        state: dict[str, Any] | None = None,
    ) -> Trainer:
        """Return what ``all_layers_trainer`` does, in a state in which it was stopped, if any; then train with it."""
        trainer = all_layers_trainer(parent, network, training, change, settings, device, cancel, self.processes)
        if state:
            trainer.restore(state)
        if self.processes.count > 1:
            numbers = [self._number(thing) for thing in (parent, *training)]
            precision = str(device.dtype).removeprefix("torch.")
            order = _Training(numbers[0], tuple(numbers[1:]), change, settings, precision, _packed(trainer.state()))
            self.processes.first_does(lambda: order)
        return trainer

    def _number(self, thing: Any) -> int:
        """Return the number of a thing, after handing it out where that was not done before."""
        for number, handed in enumerate(self._handed):
            if handed is thing:
                return number
        self.processes.first_does(lambda: _Handed(thing))
        self._handed.append(thing)
        return len(self._handed) - 1


@contextmanager
def leading(processes: Processes) -> Iterator[Leader]:
    """Lead the other processes, which end when this does, and as it does."""
    try:
        yield Leader(processes)
    except BaseException as error:
        if not processes.are_leaving:
            processes.first_does(partial(_fail, error))
        raise
    processes.first_does(lambda: None)


def _fail(error: BaseException) -> None:
    raise error


def follow(processes: Processes, wanted_device: str, cancel: CancelToken | None = None) -> None:
    """Take part in the trainings of the first process until it has ended; raises what it raises."""
    handed: list[Any] = []
    while True:
        order: _Handed | _Training | None = processes.first_does(lambda: None)
        if order is None:
            return
        if isinstance(order, _Handed):
            handed.append(order.thing)
        else:
            device = choose_device(processes.device(wanted_device), getattr(torch, order.precision))
            cases = [handed[number] for number in order.cases]
            _take_part(order, handed[order.parent], cases, device, processes, cancel)


def _take_part(
    order: _Training,
    parent: Model,
    cases: Sequence[PreparedCase],
    device: Device,
    processes: Processes,
    cancel: CancelToken | None,
) -> None:
    """Take the steps of one training; when it ends, and at which rates, the first process says."""
    network = initial_network(parent, order.change, order.settings).to(torch.device(device.torch_name))
    trainer = all_layers_trainer(parent, network, cases, order.change, order.settings, device, cancel, processes)
    trainer.restore(torch.load(io.BytesIO(order.state), map_location="cpu", weights_only=True))
    hooks = Hooks(lambda: None, 1, lambda line: None)
    train(trainer, Schedule(1, 0.0, 1), hooks, Task("", None, cancel))


def _packed(state: dict[str, Any]) -> bytes:
    """Return the state of a trainer on any device as bytes."""
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def initial_network(parent: Model, change: LabelChange, settings: FineTuningConfiguration) -> nn.Module:
    """Return the network with the weights that a strategy begins with."""
    backbone = backbone_of(settings.network(parent.description.network, change.label_set.classes))
    network = backbone.build()
    backbone.initialise(network, settings.seed)
    if settings.way.from_parent:
        state, fresh = adapted_state(parent.fold_weights(), backbone.heads, change)
        init_at_random(state, backbone.heads, fresh, settings.seed)
        network.load_state_dict(state)
    return network


def all_layers_trainer(
    parent: Model,
    network: nn.Module,
    training: Sequence[PreparedCase],
    change: LabelChange,
    settings: FineTuningConfiguration,
    device: Device,
    cancel: CancelToken | None,
    processes: Processes = ALONE,
) -> Trainer:
    """Return what trains all layers of a network that ``initial_network`` made on patches of the training cases."""
    backbone = backbone_of(settings.network(parent.description.network, change.label_set.classes))
    further = None
    distillation = distillation_of(change, settings)
    if distillation is not None:
        of_parent = parent.description.backbone
        further = distillation_loss(parent.network(), of_parent, distillation, settings, device, cancel)
    patch = backbone.training_patch(settings.patch, settings.frame)
    sampler = PatchSampler(training, change.label_set.mirrored_channels(), patch, settings)
    objective = PatchObjective(network, backbone, sampler, device, settings.batch, further, settings.deep_supervision)
    if not settings.way.from_parent:
        settings = replace(settings, size_share=0.0)
    return Trainer(objective, settings, device, processes)


def distillation_of(change: LabelChange, configuration: FineTuningConfiguration) -> Distillation | None:
    """Return what holds structures without annotation to the parent, None where they are not held.

    From random weights a network learns from the labels only: to hold what a parent knew is a transfer from it.
    """
    is_held = configuration.distillation > 0 and configuration.way.from_parent
    return Distillation(change) if is_held else None
