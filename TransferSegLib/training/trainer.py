"""The optimisation loop: patches in, a network and the running average of its weights out.

A run is a function of its cases, its configuration and its seed. Step ``n`` draws its patches from the generator
``(seed, n)``, so a run that was stopped and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from TransferSegLib.errors import TrainingError
from TransferSegLib.inference.devices import Device
from TransferSegLib.networks.unet_valid.unet import UNet3D
from TransferSegLib.progress import CancelToken
from TransferSegLib.training.configuration import TrainingConfiguration
from TransferSegLib.training.interruption import interruptible
from TransferSegLib.training.losses import marginal_loss
from TransferSegLib.training.optimiser import MuonWithAdamW
from TransferSegLib.training.patches import Patch


class DrawsPatches(Protocol):
    """Anything that draws a patch from a generator, e.g. a PatchSampler."""

    def draw(self, random: np.random.Generator) -> Patch:
        """Draw one patch."""


@dataclass(frozen=True)
class Batch:
    """Patches on the device: scans (N, 1, z, y, x), labels and weights (N, z, y, x), annotated (N, classes)."""

    scans: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    annotated: torch.Tensor


#: A loss added to the marginal one, of the logits (N, classes, z, y, x) of a batch.
FurtherLoss = Callable[[torch.Tensor, Batch], torch.Tensor]


@dataclass(frozen=True)
class StepReport:
    """What one step did: its number from 1, the parts of the loss, and the gradient's norm before clipping."""

    step: int
    cross_entropy: float
    dice_loss: float
    gradient_norm: float
    learning_rate: float
    further_loss: float = 0.0


class Trainer:
    """Trains one network on sampled patches.

    >>> trainer = Trainer(network, sampler, configuration, device)
    >>> while trainer.step < configuration.steps:
    ...     report = trainer.train_step()
    >>> trainer.averaged_state()
    """

    def __init__(
        self,
        network: UNet3D,
        sampler: DrawsPatches,
        configuration: TrainingConfiguration,
        device: Device,
        further_loss: FurtherLoss | None = None,
    ) -> None:
        """Put the network on the device and set up the optimiser."""
        self._torch_device = torch.device(device.torch_name)
        self.network = network.to(self._torch_device)
        for parameter in self.network.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
        self.network.train()
        self.step = 0
        self._sampler = sampler
        self._configuration = configuration
        self._device = device
        self._further_loss = further_loss
        self._optimiser = MuonWithAdamW(
            self.network,
            configuration.learning_rate,
            configuration.weight_decay,
            device.dtype,
            size_share=configuration.size_share,
        )
        self._average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    def train_step(self, rate: float | None = None, cancel: CancelToken | None = None) -> StepReport:
        """Draw a batch, take one step of the optimiser and move the running average.

        ``rate`` None: the one that the configuration has for this step. Raises Cancelled within the step, which then
        counts as never begun, and TrainingError when training diverges.
        """
        rate = learning_rate(self.step, self._configuration) if rate is None else rate
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        random = np.random.default_rng([self._configuration.seed, self.step])
        batch = [self._sampler.draw(random) for _ in range(self._configuration.batch)]
        with interruptible(self.network, cancel):
            cross_entropy, dice, further = self._loss(batch)
            self._optimiser.zero_grad(set_to_none=True)
            (cross_entropy + dice + further).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self._configuration.gradient_norm)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"Training went astray at step {self.step + 1}: the loss is no longer a number. "
                "Start again with a lower learning rate."
            )
        self._optimiser.step()
        self.step += 1
        self._move_average()
        return StepReport(self.step, cross_entropy.item(), dice.item(), norm.item(), rate, further.item())

    def _loss(self, patches: list[Patch]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return cross-entropy, Dice loss and further loss of some patches."""
        device = self._torch_device
        batch = Batch(
            torch.from_numpy(np.stack([patch.intensities for patch in patches])[:, None]).to(device),
            torch.from_numpy(np.stack([patch.labels for patch in patches])).to(device),
            torch.from_numpy(np.stack([patch.weights for patch in patches])).to(device),
            torch.from_numpy(np.stack([patch.annotated for patch in patches])).to(device),
        )
        with torch.autocast(device.type, self._device.dtype, enabled=self._device.dtype != torch.float32):
            logits = self.network(batch.scans.to(memory_format=torch.channels_last_3d), padded=True)
        cross_entropy, dice = marginal_loss(logits, batch.labels, batch.annotated, batch.weights)
        further = self._further_loss(logits, batch) if self._further_loss is not None else logits.new_zeros(())
        return cross_entropy, dice, further

    def _move_average(self) -> None:
        """Move the running average; early on it follows quickly, so that it does not remember the random start."""
        keep = min(self._configuration.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                self._average[name].lerp_(value, 1 - keep)

    def averaged_state(self) -> dict[str, torch.Tensor]:
        """Return the running average of the weights, on the CPU: the model that is kept."""
        return {name: value.detach().cpu().clone() for name, value in self._average.items()}

    @contextmanager
    def averaged(self) -> Iterator[UNet3D]:
        """Lend the network with its averaged weights, in evaluation mode; the trained ones come back afterwards."""
        current = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(self._average)
        self.network.eval()
        try:
            yield self.network
        finally:
            self.network.load_state_dict(current)
            self.network.train()

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on exactly from here."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "average": self._average,
            "optimiser": self._optimiser.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state returned by ``state``; raises TrainingError when it belongs to another network."""
        try:
            self.network.load_state_dict(state["network"])
            self._optimiser.load_state_dict(state["optimiser"])
            self._average = {name: value.to(self._torch_device) for name, value in state["average"].items()}
            self.step = int(state["step"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f"The checkpoint belongs to another network and cannot be resumed ({error})."
            ) from error


def learning_rate(step: int, configuration: TrainingConfiguration) -> float:
    """Return the rate of a step (from 0): a linear warm-up, then a cosine down to zero at the last step."""
    if step < configuration.warm_up:
        return configuration.learning_rate * (step + 1) / configuration.warm_up
    share = (step - configuration.warm_up) / max(1, configuration.steps - configuration.warm_up)
    return configuration.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
