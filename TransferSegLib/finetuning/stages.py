"""The two stages' loops, their budgets and their rates: the tail on cached features, then all weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from TransferSegLib.errors import TrainingError
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.distillation import Distillation
from TransferSegLib.finetuning.feature_cache import FeatureCache
from TransferSegLib.finetuning.last_layers import Tail
from TransferSegLib.inference.devices import Device
from TransferSegLib.networks.unet_valid.unet import UNet3D
from TransferSegLib.progress import CancelToken
from TransferSegLib.training.interruption import interruptible
from TransferSegLib.training.losses import marginal_loss
from TransferSegLib.training.optimiser import MuonWithAdamW
from TransferSegLib.training.trainer import Batch, FurtherLoss, StepReport

#: Seconds from some moment on.
Clock = Callable[[], float]


class Budget:
    """The minutes of a run, over its interruptions; ``clock`` is handed in, so that tests can say what time it is."""

    def __init__(self, minutes: float, clock: Clock, spent_s: float = 0.0) -> None:
        """Start the clock of a run that has spent some seconds already; ``minutes`` 0: no limit."""
        self._limit_s = minutes * 60.0
        self._clock = clock
        self._started = clock() - spent_s

    @property
    def spent_s(self) -> float:
        """Seconds spent so far, in this process and those before."""
        return self._clock() - self._started

    def share(self, until: float = 1.0, since_s: float = 0.0) -> float:
        """Return the share spent (0 and up) of the time from ``since_s`` to that share of the minutes."""
        if self._limit_s <= 0:
            return 0.0
        length = until * self._limit_s - since_s
        return 1.0 if length <= 0 else (self.spent_s - since_s) / length


@dataclass(frozen=True)
class StageClock:
    """One stage within a budget: it ends after ``steps``, or at a share of the minutes, whichever comes first."""

    budget: Budget
    steps: int
    until: float
    since_s: float

    def done(self, step: int) -> float:
        """Return the share of the stage that is done after so many steps, 0 to 1."""
        by_steps = 1.0 if self.steps <= 0 else step / self.steps
        return min(1.0, max(by_steps, self.budget.share(self.until, self.since_s)))

    def rate(self, step: int, highest: float, warm_up: int) -> float:
        """Return the rate of the next step: a linear warm-up, then a cosine to zero at the stage's end."""
        return highest * min(1.0, (step + 1) / max(1, warm_up)) * 0.5 * (1 + math.cos(math.pi * self.done(step)))


class LastLayersTrainer:
    """Trains the last layers of a network on cached features; the rest of it is never touched.

    Step ``n`` of a seed draws the same patches in every run, as in ``Trainer``.
    """

    def __init__(
        self,
        network: UNet3D,
        cache: FeatureCache,
        configuration: FineTuningConfiguration,
        device: Device,
        holding: Distillation | None = None,
    ) -> None:
        """Set up the optimiser over the network's tail."""
        self._place = torch.device(device.torch_name)
        self.tail = Tail(network.to(self._place), configuration.tail).train()
        for convolution in self.tail.convolutions.parameters():
            if convolution.ndim == 5:
                convolution.data = convolution.data.contiguous(memory_format=torch.channels_last_3d)
        self.step = 0
        self._cache = cache
        self._configuration = configuration
        self._device = device
        self._holding = holding
        self._optimiser = MuonWithAdamW(
            self.tail,
            configuration.tail_rate,
            configuration.weight_decay,
            device.dtype,
            hidden=[parameter for parameter in self.tail.convolutions.parameters() if parameter.ndim == 5],
            size_share=configuration.size_share,
        )
        self._average = {name: value.detach().clone() for name, value in self.tail.state_dict().items()}

    def train_step(self, rate: float) -> StepReport:
        """Draw cached patches, take one step and move the running average; raises TrainingError when it diverges."""
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        cross_entropy, dice, held = self.loss(np.random.default_rng([self._configuration.seed, 1, self.step]))
        self._optimiser.zero_grad(set_to_none=True)
        (cross_entropy + dice + held).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.tail.parameters(), self._configuration.gradient_norm)
        if not torch.isfinite(norm):
            raise TrainingError(f"Stage 1 went astray at step {self.step + 1}: lower tail_rate.")
        self._optimiser.step()
        self.step += 1
        keep = min(self._configuration.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.tail.state_dict().items():
                self._average[name].lerp_(value, 1 - keep)
        return StepReport(self.step, cross_entropy.item(), dice.item(), norm.item(), rate, held.item())

    def loss(self, random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return cross-entropy, Dice loss and the loss of what is held, of patches drawn."""
        patches = [self._cache.draw(random) for _ in range(self._configuration.tail_batch)]
        labels = torch.stack([patch.labels for patch in patches]).to(self._place)
        weights = torch.stack([patch.weights for patch in patches]).to(self._place)
        annotated = torch.stack([patch.annotated for patch in patches]).to(self._place)
        # Channels last, as they lie in the cache: stacking as they are would reorder them.
        maps = torch.stack([patch.maps.permute(1, 2, 3, 0) for patch in patches]).permute(0, 4, 1, 2, 3)
        maps = maps.to(self._place, self._device.dtype)
        with torch.autocast(self._place.type, self._device.dtype, enabled=self._device.dtype != torch.float32):
            logits = self.tail(maps)
        cross_entropy, dice = marginal_loss(logits, labels, annotated, weights)
        held = logits.new_zeros((), dtype=torch.float32)
        if self._holding is not None and any(patch.teacher is not None for patch in patches):
            empty = torch.zeros((self._holding.groups, *labels.shape[1:]), dtype=torch.float16)
            teacher = torch.stack([empty if patch.teacher is None else patch.teacher for patch in patches])
            everywhere = torch.ones(labels.shape[1:], dtype=torch.bool, device=self._place)
            held = self._configuration.distillation * self._holding.loss(
                logits, teacher.to(self._place), labels, annotated, weights, everywhere
            )
        return cross_entropy, dice, held

    def finish(self) -> None:
        """Leave the averaged weights in the network."""
        self.tail.load_state_dict(self._average)

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on exactly from here."""
        return {
            "step": self.step,
            "tail": self.tail.state_dict(),
            "average": self._average,
            "optimiser": self._optimiser.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state returned by ``state``; raises TrainingError when it belongs to another network."""
        try:
            self.tail.load_state_dict(state["tail"])
            self._optimiser.load_state_dict(state["optimiser"])
            self._average = {name: value.to(self._place) for name, value in state["average"].items()}
            self.step = int(state["step"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f"The checkpoint belongs to another network and cannot be resumed ({error})."
            ) from error


def distillation_loss(
    parent: UNet3D,
    holding: Distillation,
    configuration: FineTuningConfiguration,
    device: Device,
    cancel: CancelToken | None = None,
) -> FurtherLoss:
    """Return the loss that holds unannotated structures to the parent's predictions on the same padded patches."""
    place = torch.device(device.torch_name)
    parent = parent.to(place).eval().requires_grad_(False)
    inner = slice(configuration.frame, configuration.patch - configuration.frame)

    def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        if not any(holding.holds(flags) for flags in batch.annotated.tolist()):
            return logits.new_zeros((), dtype=torch.float32)
        with torch.no_grad(), torch.autocast(place.type, device.dtype, enabled=device.dtype != torch.float32):
            scans = batch.scans.contiguous(memory_format=torch.channels_last_3d)
            with interruptible(parent, cancel):
                teacher = holding.teacher(parent(scans, padded=True))
        counted = torch.zeros(logits.shape[2:], dtype=torch.bool, device=place)
        counted[inner, inner, inner] = True
        return configuration.distillation * holding.loss(
            logits, teacher, batch.labels, batch.annotated, batch.weights, counted
        )

    return loss
