"""The optimisation loop: patches in, a network and the running average of its weights out.

A run is a function of its cases, its configuration and its seed. Step ``n`` draws its patches from the generator
``(seed, n)``, so a run that was stopped and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from TransferSegLib.errors import TrainingError
from TransferSegLib.network.unet import UNet3D
from TransferSegLib.segmenting.devices import Device
from TransferSegLib.training.configuration import TrainingConfiguration
from TransferSegLib.training.losses import marginal_loss
from TransferSegLib.training.optimiser import MuonWithAdamW
from TransferSegLib.training.patches import Patch, PatchSampler


@dataclass(frozen=True)
class StepReport:
    """What one step did: its number from 1, the two parts of the loss, and the gradient's norm before clipping."""

    step: int
    cross_entropy: float
    dice_loss: float
    gradient_norm: float
    learning_rate: float


class Trainer:
    """Trains one network on sampled patches.

    >>> trainer = Trainer(network, sampler, configuration, device)
    >>> while trainer.step < configuration.steps:
    ...     report = trainer.train_step()
    >>> trainer.averaged_state()
    """

    def __init__(
        self, network: UNet3D, sampler: PatchSampler, configuration: TrainingConfiguration, device: Device
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
        self._optimiser = MuonWithAdamW(
            self.network, configuration.learning_rate, configuration.weight_decay, device.dtype
        )
        self._average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    def train_step(self) -> StepReport:
        """Draw a batch, take one step of the optimiser and move the running average."""
        rate = learning_rate(self.step, self._configuration)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        random = np.random.default_rng([self._configuration.seed, self.step])
        batch = [self._sampler.draw(random) for _ in range(self._configuration.batch)]
        cross_entropy, dice = self._loss(batch)
        self._optimiser.zero_grad(set_to_none=True)
        (cross_entropy + dice).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self._configuration.gradient_norm)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"Training went astray at step {self.step + 1}: the loss is no longer a number. "
                "Start again with a lower learning rate."
            )
        self._optimiser.step()
        self.step += 1
        self._move_average()
        return StepReport(self.step, cross_entropy.item(), dice.item(), norm.item(), rate)

    def _loss(self, batch: list[Patch]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cross-entropy and Dice loss of a batch."""
        device = self._torch_device
        scans = torch.from_numpy(np.stack([patch.intensities for patch in batch])[:, None]).to(device)
        labels = torch.from_numpy(np.stack([patch.labels for patch in batch])).to(device)
        weights = torch.from_numpy(np.stack([patch.weights for patch in batch])).to(device)
        annotated = torch.from_numpy(np.stack([patch.annotated for patch in batch])).to(device)
        with torch.autocast(device.type, self._device.dtype, enabled=self._device.dtype != torch.float32):
            logits = self.network(scans.to(memory_format=torch.channels_last_3d), padded=True)
        return marginal_loss(logits, labels, annotated, weights)

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
