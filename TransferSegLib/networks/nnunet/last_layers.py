"""The network cut in two: the last stage or the head, and the layers before, whose features are cached."""

from __future__ import annotations

import copy

import torch
from torch import nn

from TransferSegLib.networks.nnunet.architecture import NnUNet, logits_of


class LastStage(nn.Module):
    """The head of a network, and perhaps the decoder's last stage, whose weights they share."""

    def __init__(self, network: NnUNet, with_stage: bool) -> None:
        """Take the layers of a network; training them trains the network."""
        super().__init__()
        self.stage = network.decoder.stages[-1] if with_stage else nn.Identity()
        self.head = network.decoder.seg_layers[-1]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes, z, y, x) of features (N, C, z, y, x)."""
        return logits_of(self.head, self.features(features))

    def features(self, features: torch.Tensor) -> torch.Tensor:
        """Return the maps (N, features, z, y, x) that the head classifies."""
        maps: torch.Tensor = self.stage(features)
        return maps


class FrozenLayers(nn.Module):
    """A copy of all layers of a network before its head or before the decoder's last stage."""

    def __init__(self, network: NnUNet, before_stage: bool) -> None:
        """Copy the layers; later changes of the network's weights do not reach them."""
        super().__init__()
        self.body = copy.deepcopy(network).eval()
        self._before_stage = before_stage

    @torch.no_grad()
    def forward(self, scans: torch.Tensor) -> torch.Tensor:
        """Return the features (N, C, z, y, x) of scans (N, channels, z, y, x)."""
        maps = self.body.decoder.before_last_stage(self.body.encoder(scans))
        if self._before_stage:
            return maps
        result: torch.Tensor = self.body.decoder.stages[-1](maps)
        return result
