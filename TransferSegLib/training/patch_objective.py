"""Learning all layers from patches of scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import nn

from TransferSegLib.inference.devices import Device
from TransferSegLib.networks.interface import Backbone
from TransferSegLib.training.drawing_ahead import moved, pinned
from TransferSegLib.training.losses import marginal_loss, occurring_channels
from TransferSegLib.training.patches import Patch
from TransferSegLib.training.processes import Shares
from TransferSegLib.training.trainer import Losses


class DrawsPatches(Protocol):
    """Anything that draws a patch from a generator, e.g. a PatchSampler."""

    def draw(self, random: np.random.Generator) -> Patch:
        """Draw one patch."""


@dataclass(frozen=True)
class Batch:
    """Patches: scans (N, channels, z, y, x), labels and weights (N, z, y, x), annotated (N, classes).

    ``annotated`` stays on the CPU, where it is asked for. ``occurring`` are the channels that the Dice loss is of, for
    each patch: found on the CPU, because a GPU would have to be waited for.
    """

    scans: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    annotated: torch.Tensor
    occurring: tuple[torch.Tensor, ...] | None = None

    def pinned(self, device: torch.device) -> Batch:
        """Return the batch in memory from which it is fast to copy to a device."""
        scans, labels, weights = (pinned(values, device) for values in (self.scans, self.labels, self.weights))
        return replace(self, scans=scans, labels=labels, weights=weights)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        scans, labels, weights = (moved(values, device) for values in (self.scans, self.labels, self.weights))
        occurring = self.occurring and tuple(moved(channels, device) for channels in self.occurring)
        return replace(self, scans=scans, labels=labels, weights=weights, occurring=occurring)


class FurtherLoss(Protocol):
    """A loss added to the marginal one: a mean over those patches of a batch that it is about."""

    def __call__(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return the loss of the logits (N, classes, z, y, x) of a batch, a scalar."""

    def count(self, batch: Batch) -> int:
        """Return how many patches the loss is the mean of."""


class PatchObjective:
    """The marginal loss of a whole network on sampled patches, and what is added to it."""

    stream: tuple[int, ...] = ()

    def __init__(
        self,
        network: nn.Module,
        backbone: Backbone,
        sampler: DrawsPatches,
        device: Device,
        batch: int = 1,
        further_loss: FurtherLoss | None = None,
        deep_supervision: float = 0.0,
    ) -> None:
        """Learn from ``batch`` patches in a step; ``deep_supervision`` as in ``supervision_weights``."""
        self.module = network
        self.hidden = hidden_weights(network, backbone)
        self.batch = batch
        self._backbone, self._sampler = backbone, sampler
        self._device, self._further_loss = device, further_loss
        self._deep_supervision = deep_supervision

    def draw(self, *randoms: np.random.Generator) -> Batch:
        """Draw a patch with each generator."""
        patches = [self._sampler.draw(random) for random in randoms]
        scans, labels, weights, annotated = (
            torch.from_numpy(np.stack([getattr(patch, name) for patch in patches]))
            for name in ("intensities", "labels", "weights", "annotated")
        )
        occurring = occurring_channels(labels, annotated, weights)
        return Batch(scans, labels, weights, annotated, occurring).pinned(torch.device(self._device.torch_name))

    def losses(self, drawn: Batch, shares: Shares | None = None) -> Losses:
        """Return the losses of patches.

        With ``shares``, of what several processes counted, the parts of all processes add up to the losses of one
        batch with all their patches.
        """
        device = torch.device(self._device.torch_name)
        batch = drawn.to(device)
        with torch.autocast(device.type, self._device.dtype, enabled=self._device.dtype != torch.float32):
            scans = batch.scans.to(memory_format=self._device.memory_format)
            if self._deep_supervision > 0:
                resolutions = self._backbone.supervised_logits(self.module, scans)
            else:
                resolutions = (self._backbone.training_logits(self.module, scans),)
        logits = resolutions[0]
        parts = _supervised_losses(resolutions, batch, self._deep_supervision)
        further = self._further_loss(logits, batch) if self._further_loss is not None else logits.new_zeros(())
        if shares is not None:
            counts = _counts(drawn, [size for size, _, _ in parts])
            *of_parts, of_further = shares([*counts, self._further_loss.count(drawn) if self._further_loss else 0])
            further = further * of_further
            parts = [
                (size, cross_entropy * of_parts[2 * number], dice * of_parts[2 * number + 1])
                for number, (size, cross_entropy, dice) in enumerate(parts)
            ]
        _, cross_entropies, dices = zip(*parts, strict=True)
        return Losses(torch.stack(cross_entropies).sum(), torch.stack(dices).sum(), further)


def supervision_weights(resolutions: int, share: float) -> list[float]:
    """Return the weights (sum 1) of the losses at so many resolutions, the finest first.

    Each weighs ``share`` times as much as the next finer one, and the coarsest nothing: with a share of 0.5 as in
    nnU-Net. With 0, or a single resolution, the finest counts alone.
    """
    weights = [share**number for number in range(resolutions)]
    if resolutions > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


def _supervised_losses(
    resolutions: Sequence[torch.Tensor], batch: Batch, share: float
) -> list[tuple[tuple[int, ...], torch.Tensor, torch.Tensor]]:
    """Return (size zyx, cross-entropy, Dice loss), weighted, at each resolution of the logits that counts."""
    losses = []
    for logits, weight in zip(resolutions, supervision_weights(len(resolutions), share), strict=True):
        if weight > 0:
            labels, counted = (_reduced(maps, logits.shape[2:]) for maps in (batch.labels, batch.weights))
            occurring = batch.occurring if labels.shape == batch.labels.shape else None
            cross_entropy, dice = marginal_loss(logits, labels, batch.annotated, counted, occurring)
            losses.append((tuple(logits.shape[2:]), weight * cross_entropy, weight * dice))
    return losses


def _counts(batch: Batch, sizes_zyx: Sequence[Sequence[int]]) -> list[float]:
    """Return what the losses at each size are means over: weights of voxels, and structures in patches."""
    counts: list[float] = []
    for size in sizes_zyx:
        labels, weights = _reduced(batch.labels, size), _reduced(batch.weights, size)
        occurring = batch.occurring if labels.shape == batch.labels.shape else None
        occurring = occurring or occurring_channels(labels, batch.annotated, weights)
        counts += [float(weights.double().sum()), float(sum(len(channels) for channels in occurring))]
    return counts


def _reduced(maps: torch.Tensor, size_zyx: Sequence[int]) -> torch.Tensor:
    """Return every n-th voxel of maps (N, z, y, x), the middle one, so that a size remains that divides theirs."""
    steps = [side // small for side, small in zip(maps.shape[1:], size_zyx, strict=True)]
    z, y, x = (slice(step // 2, None, step) for step in steps)
    return maps[:, z, y, x]


def hidden_weights(network: nn.Module, backbone: Backbone) -> list[nn.Parameter]:
    """Return the weights that Muon moves: those of all convolutions but the first and the heads."""
    apart = {id(backbone.first_layer(network))} | {
        id(network.get_parameter(f"{head}.weight")) for head in backbone.heads
    }
    return [weights for weights in network.parameters() if weights.ndim == 5 and id(weights) not in apart]
