"""Optimisation steps: an objective's losses in, trained weights and their running average out.

A run is a function of its cases, its settings and its seed. Step ``n`` draws its first patch with the generator
``(seed, n)`` and patch ``k`` with ``(seed, n, k)``, so a run that was stopped and resumed ends with the same weights as
one that was not, and so does one that several processes share (``processes.py``), up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import nn

from TransferSegLib.errors import Cancelled, TrainingError
from TransferSegLib.freed_memory import keep_freed_memory
from TransferSegLib.inference.devices import Device
from TransferSegLib.progress import CancelToken
from TransferSegLib.training.drawing_ahead import STEPS_AHEAD, DrawingAhead
from TransferSegLib.training.interruption import interruptible
from TransferSegLib.training.optimiser import MuonWithAdamW
from TransferSegLib.training.processes import ALONE, Processes, Shares

#: Where float16's gradients overflow with a scale of the loss this small, the training diverges.
_SMALLEST_SCALE = 1.0


class Losses(NamedTuple):
    """The parts of a loss, each a scalar: marginal cross-entropy, Dice loss, and what is added to them."""

    cross_entropy: torch.Tensor
    dice: torch.Tensor
    further: torch.Tensor


class Objective(Protocol):
    """What is trained, and what a step learns from: patches of scans, or cached features."""

    module: nn.Module
    #: The weights that Muon moves; AdamW moves the others.
    hidden: list[nn.Parameter]
    #: Numbers between the seed and the step in the generator's seed: objectives of one run draw differently.
    stream: tuple[int, ...]
    #: Patches in a step, all processes together.
    batch: int

    def draw(self, *randoms: np.random.Generator) -> Any:
        """Draw a patch with each generator, on the CPU; other threads call this for later steps."""

    def losses(self, drawn: Any) -> Losses:
        """Return the losses of what was drawn."""


class SharedObjective(Objective, Protocol):
    """An objective that several processes can share."""

    def losses(self, drawn: Any, shares: Shares | None = None) -> Losses:
        """Return the losses of what was drawn, with ``shares`` as parts of the losses of all processes' patches."""


class OptimiserSettings(Protocol):
    """The settings of those names in TrainingConfiguration and FineTuningConfiguration."""

    @property
    def seed(self) -> int:
        """Seed of everything random."""

    @property
    def weight_decay(self) -> float:
        """Weight decay, in units of the learning rate."""

    @property
    def size_share(self) -> float:
        """How far steps follow the size of a layer's weights."""

    @property
    def adam_share(self) -> float:
        """AdamW's learning rate as a share of Muon's; 0: what suits the network."""

    @property
    def gradient_norm(self) -> float:
        """Norm to which gradients are scaled down."""

    @property
    def average(self) -> float:
        """Share of the running average that a step keeps."""


@dataclass(frozen=True)
class StepReport:
    """What one step did: its number from 1, the parts of the loss, and the gradient's norm before clipping.

    The norm is 0 where the gradient overflowed in float16 and the weights stayed as they were.
    """

    step: int
    cross_entropy: float
    dice_loss: float
    gradient_norm: float
    learning_rate: float
    further_loss: float = 0.0

    @property
    def loss(self) -> float:
        """The sum that was minimised."""
        return self.cross_entropy + self.dice_loss + self.further_loss


class Trainer:
    """Takes steps of the optimiser for one objective.

    >>> trainer = Trainer(PatchObjective(network, backbone, sampler, device), settings, device)
    >>> report = trainer.train_step(rate=0.01)
    >>> trainer.averaged_state()
    """

    def __init__(
        self,
        objective: Objective | SharedObjective,
        settings: OptimiserSettings,
        device: Device,
        processes: Processes = ALONE,
    ) -> None:
        """Put what is trained on the device and set up the optimiser.

        Several ``processes``, each with its own trainer of the same objective, share every step.
        """
        processes.check_batch(objective.batch)
        processes.check_network(objective.module)
        self.processes = processes
        self._torch_device = torch.device(device.torch_name)
        if device.kind == "cpu":
            keep_freed_memory()
        self.module = objective.module.to(self._torch_device)
        for parameter in self.module.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=device.memory_format)
        self.module.train()
        self.step = 0
        self._objective = objective
        self._settings = settings
        self._optimiser = MuonWithAdamW(
            self.module,
            objective.hidden,
            settings.weight_decay,
            device.dtype,
            size_share=settings.size_share,
            adam_share=settings.adam_share,
        )
        self._average = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        # float16 has no room for small gradients, unless the loss is large.
        self._scaler = torch.amp.GradScaler(device.kind, enabled=device.dtype == torch.float16)
        self._drawing = DrawingAhead(self._draw, 0 if device.kind == "cpu" else STEPS_AHEAD)
        self._parameters = list(self.module.parameters())

    def train_step(
        self, rate: float, cancel: CancelToken | None = None, moved: Callable[[], None] | None = None
    ) -> StepReport:
        """Take one step of the optimiser and move the running average; ``moved`` is called often meanwhile.

        Raises Cancelled within the step, which then counts as never begun, and TrainingError when training diverges.
        Of several processes all raise them in the same step; after Cancelled the trainer takes no further step.
        """
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        drawn = self._drawing.take(self.step)
        losses = self._gradients(drawn, cancel, moved)
        self._scaler.unscale_(self._optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._settings.gradient_norm)
        # All at once: a GPU is waited for here, once a step, and computes the rest while the next step is prepared.
        parts = torch.stack([*losses, norm.detach().float()]).tolist()
        self._check(parts)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self.step += 1
        self._move_average()
        cross_entropy, dice, further, gradient_norm = parts
        gradient_norm = gradient_norm if math.isfinite(gradient_norm) else 0.0
        return StepReport(self.step, cross_entropy, dice, gradient_norm, rate, further)

    def _gradients(
        self, drawn: Any, cancel: CancelToken | None, moved: Callable[[], None] | None
    ) -> Sequence[torch.Tensor]:
        """Compute the gradients of a step, of all processes' patches, and return the parts of the loss."""
        shared = self.processes.begin_step(self._parameters)
        try:
            if cancel is not None and shared is not None:
                cancel.check()
            with interruptible(self.module, cancel, moved):
                if shared is None:
                    losses = self._objective.losses(drawn)
                else:
                    losses = cast(SharedObjective, self._objective).losses(drawn, shared.shares)
                self._optimiser.zero_grad(set_to_none=True)
                self._scaler.scale(losses.cross_entropy + losses.dice + losses.further).backward()
        except Cancelled:
            if shared is not None:
                shared.withdraw()
            raise
        parts = [part.detach().float() for part in losses]
        return parts if shared is None else shared.add_gradients(torch.stack(parts)).unbind()

    def stop_drawing(self) -> None:
        """End the threads that draw for later steps; the next step begins them anew."""
        self._drawing.stop()

    def _draw(self, step: int) -> Any:
        """Return what the step after so many learns from: this process's share of its patches."""
        own = range(self.processes.number, self._objective.batch, self.processes.count)
        return self._objective.draw(*(self._random(step, patch) for patch in own))

    def _random(self, step: int, patch: int) -> np.random.Generator:
        """Return the generator of one patch of the step after so many; it depends on nothing else."""
        of_patch = [patch] if patch else []
        return np.random.default_rng([self._settings.seed, *self._objective.stream, step, *of_patch])

    def _check(self, parts: Sequence[float]) -> None:
        """Raise TrainingError for losses, or a gradient's norm at the end, that are no longer numbers.

        A gradient that overflows in float16 only means that the loss was scaled up too much: the step is left out and
        the scale halved, as long as there is one.
        """
        *losses, norm = (math.isfinite(part) for part in parts)
        is_too_large = self._scaler.is_enabled() and self._scaler.get_scale() > _SMALLEST_SCALE
        if not (norm or (is_too_large and all(losses))):
            raise TrainingError(
                f"Training diverged at step {self.step + 1}: the loss is no longer a number. "
                "Start again with a lower learning rate."
            )

    def _move_average(self) -> None:
        """Move the running average; early on it follows quickly, so that it does not remember the random start."""
        keep = min(self._settings.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.module.state_dict().items():
                if value.is_floating_point():
                    self._average[name].lerp_(value, 1 - keep)
                else:  # a counter
                    self._average[name].copy_(value)

    def averaged_state(self) -> dict[str, torch.Tensor]:
        """Return the running average of the weights, on the CPU: the model that is kept."""
        return {name: value.detach().cpu().clone() for name, value in self._average.items()}

    def keep_average(self) -> None:
        """Leave the averaged weights in what was trained."""
        self.module.load_state_dict(self._average)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Lend the network with its averaged weights, in evaluation mode; the trained ones come back afterwards."""
        current = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        self.module.load_state_dict(self._average)
        self.module.eval()
        try:
            yield self.module
        finally:
            self.module.load_state_dict(current)
            self.module.train()

    def state(self) -> dict[str, Any]:
        """Return everything needed to resume exactly from here."""
        return {
            "step": self.step,
            "network": self.module.state_dict(),
            "average": self._average,
            "optimiser": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from a state returned by ``state``; raises TrainingError when it belongs to another network."""
        try:
            self.module.load_state_dict(state["network"])
            self._optimiser.load_state_dict(state["optimiser"])
            if state.get("scaler"):  # not in other precisions than float16, nor in older checkpoints
                self._scaler.load_state_dict(state["scaler"])
            self._average = {name: value.to(self._torch_device) for name, value in state["average"].items()}
            self.step = int(state["step"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f"The checkpoint belongs to another network and cannot be resumed ({error})."
            ) from error
