"""Learning the last layers alone, on cached features of the layers before them, which stay frozen.

The paper freezes all but the last 3x3x3 convolution and the 1x1x1 head.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import nn

from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.distillation import Distillation
from TransferSegLib.finetuning.feature_cache import FeatureCache
from TransferSegLib.inference.devices import Device
from TransferSegLib.networks.interface import Backbone
from TransferSegLib.training.losses import marginal_loss
from TransferSegLib.training.trainer import Losses


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
        self._cache, self._settings, self._device, self._distillation = cache, settings, device, distillation

    def losses(self, random: np.random.Generator) -> Losses:
        """Draw cached patches and return their losses."""
        place, dtype = torch.device(self._device.torch_name), self._device.dtype
        patches = [self._cache.draw(random) for _ in range(self._settings.tail_batch)]
        labels = torch.stack([patch.labels for patch in patches]).to(place)
        weights = torch.stack([patch.weights for patch in patches]).to(place)
        annotated = torch.stack([patch.annotated for patch in patches]).to(place)
        # Channels last, as they lie in the cache: stacking as they are would reorder them.
        maps = torch.stack([patch.maps.permute(1, 2, 3, 0) for patch in patches]).permute(0, 4, 1, 2, 3)
        with torch.autocast(place.type, dtype, enabled=dtype != torch.float32):
            logits = self.module(maps.to(place, dtype))
        cross_entropy, dice = marginal_loss(logits, labels, annotated, weights)
        further = logits.new_zeros((), dtype=torch.float32)
        if self._distillation is not None and any(patch.teacher is not None for patch in patches):
            empty = torch.zeros((self._distillation.groups, *labels.shape[1:]), dtype=torch.float16)
            teacher = torch.stack([empty if patch.teacher is None else patch.teacher for patch in patches]).to(place)
            everywhere = torch.ones(labels.shape[1:], dtype=torch.bool, device=place)
            further = self._settings.distillation * self._distillation.loss(
                logits, teacher, labels, annotated, weights, everywhere
            )
        return Losses(cross_entropy, dice, further)
