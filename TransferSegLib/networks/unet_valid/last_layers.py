"""The network cut in two: the last layers, and those before them, whose features are cached."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from TransferSegLib.networks.unet_valid.unet import ConvolutionPair, UNet3D


class LastConvolutions(nn.Module):
    """The head and the last one or two convolutions of a network, whose weights they share."""

    def __init__(self, network: UNet3D, convolutions: int) -> None:
        """Take the layers of a network; training them trains the network."""
        super().__init__()
        pair = cast(ConvolutionPair, network.up[-1])
        self.convolutions = nn.ModuleList([pair.first, pair.second][-convolutions:])
        self.head = network.head

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes, D - 2 h, ...) of features (N, C, D, ...), h the number of convolutions."""
        return self.head(self.features(features))

    def features(self, features: torch.Tensor) -> torch.Tensor:
        """Return the maps (N, 2 * width, D - 2 h, ...) that the head classifies."""
        for layer in self.convolutions:
            features = functional.relu(layer(features))
        return features


class FrozenLayers(nn.Module):
    """A copy of all layers of a network before its last one or two convolutions."""

    def __init__(self, network: UNet3D, convolutions: int) -> None:
        """Copy the layers; later changes of the network's weights do not reach them."""
        super().__init__()
        self.body = copy.deepcopy(network).eval()
        self._ends_before_pair = convolutions == 2

    @torch.no_grad()
    def forward(self, scans: torch.Tensor) -> torch.Tensor:
        """Return the features of scans (N, 1, D, ...) of legal sides, with all their context, as in predicting."""
        maps = self.body.features_before_last_pair(scans)
        if self._ends_before_pair:
            return maps
        return functional.relu(cast(ConvolutionPair, self.body.up[-1]).first(maps))
