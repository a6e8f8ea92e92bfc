"""Learning the last layers alone, on cached features of the layers before them, which stay frozen.

The paper freezes all but the last 3x3x3 convolution and the 1x1x1 head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import nn

from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.distillation import Distillation
from TransferSegLib.finetuning.feature_cache import FeatureCache
from TransferSegLib.inference.devices import Device
from TransferSegLib.networks.interface import Backbone
from TransferSegLib.training.drawing_ahead import moved, pinned
from TransferSegLib.training.losses import marginal_loss, occurring_channels
from TransferSegLib.training.patch_objective import Batch
from TransferSegLib.training.trainer import Losses


@dataclass(frozen=True)
class CachedBatch:
    """Cached patches, with features for scans; ``teacher`` (N, groups, z, y, x) are the parent's probabilities."""

    batch: Batch
    teacher: torch.Tensor | None


class LastLayersObjective:
    """The marginal loss of a network's last layers on cached features, with distillation from its parent.

    The rest of the network is never touched.
    """

    stream: tuple[int, ...] = (1,)

    def __init__(
        self,
        network: nn.Module,
        backbone: Backbone,
        cache: FeatureCache,
        settings: FineTuningConfiguration,
        device: Device,
        distillation: Distillation | None = None,
    ) -> None:
        """Learn the layers behind ``settings.tail`` from ``settings.tail_batch`` cached patches in a step."""
        self.module = cast(nn.Module, backbone.last_layers(network, settings.tail))
        head = network.get_parameter(f"{backbone.heads[-1]}.weight")
        self.hidden = [weights for weights in self.module.parameters() if weights.ndim == 5 and weights is not head]
        self.batch = settings.tail_batch
        self._cache, self._settings, self._device, self._distillation = cache, settings, device, distillation

    def draw(self, *randoms: np.random.Generator) -> CachedBatch:
        """Draw a cached patch with each generator."""
        patches = [self._cache.draw(random) for random in randoms]
        labels, weights, annotated = (
            torch.stack([getattr(patch, name) for patch in patches]) for name in ("labels", "weights", "annotated")
        )
        # Channels last, as they lie in the cache: stacking as they are would reorder them.
        maps = torch.stack([patch.maps.permute(1, 2, 3, 0) for patch in patches]).permute(0, 4, 1, 2, 3)
        teacher = None
        if self._distillation is not None and any(patch.teacher is not None for patch in patches):
            empty = torch.zeros((self._distillation.groups, *labels.shape[1:]), dtype=torch.float16)
            teacher = torch.stack([empty if patch.teacher is None else patch.teacher for patch in patches])
        batch = Batch(maps, labels, weights, annotated, occurring_channels(labels, annotated, weights))
        place = torch.device(self._device.torch_name)
        return CachedBatch(batch.pinned(place), None if teacher is None else pinned(teacher, place))

    def losses(self, drawn: CachedBatch) -> Losses:
        """Return the losses of cached patches."""
        place, dtype = torch.device(self._device.torch_name), self._device.dtype
        batch = drawn.batch.to(place)
        with torch.autocast(place.type, dtype, enabled=dtype != torch.float32):
            logits = self.module(batch.scans.to(dtype))
        cross_entropy, dice = marginal_loss(logits, batch.labels, batch.annotated, batch.weights, batch.occurring)
        further = logits.new_zeros((), dtype=torch.float32)
        if self._distillation is not None and drawn.teacher is not None:
            teacher = moved(drawn.teacher, place)
            everywhere = torch.ones(batch.labels.shape[1:], dtype=torch.bool, device=place)
            further = self._settings.distillation * self._distillation.loss(
                logits, teacher, batch.labels, batch.annotated, batch.weights, everywhere
            )
        return Losses(cross_entropy, dice, further)
