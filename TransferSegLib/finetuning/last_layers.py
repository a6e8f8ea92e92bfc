"""The network cut in two: a frozen part that is run once a patch, and the last layers, which stage 1 trains.

The paper freezes all but the last 3x3x3 convolution and the 1x1x1 head (112,151 weights at full width).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from TransferSegLib.finetuning.configuration import LAST_PAIR
from TransferSegLib.inference.devices import Device
from TransferSegLib.networks.unet_valid.geometry import MARGIN
from TransferSegLib.networks.unet_valid.unet import ConvolutionPair, UNet3D
from TransferSegLib.progress import CancelToken
from TransferSegLib.training.interruption import interruptible

#: A function from scans (N, 1, z, y, x) to the maps that enter the tail, in the device's precision.
FrozenPart = Callable[[torch.Tensor], torch.Tensor]


class Tail(nn.Module):
    """The last layers of a network, whose weights they share: training the tail trains the network."""

    def __init__(self, network: UNet3D, cut: str) -> None:
        """Take the layers behind the cut ("last convolution" or "last pair")."""
        super().__init__()
        pair = cast(ConvolutionPair, network.up[-1])
        self.convolutions = nn.ModuleList([pair.first, pair.second] if cut == LAST_PAIR else [pair.second])
        self.head = network.head

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes, D - 2 h, ...) of maps (N, C, D, ...); h is ``halo(cut)``."""
        return self.head(self.features(maps))

    def features(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the maps (N, 2 * width, D - 2 h, ...) that the head classifies."""
        for layer in self.convolutions:
            maps = functional.relu(layer(maps))
        return maps


def halo(cut: str) -> int:
    """Return by how many voxels the maps that enter the tail are larger than its logits, on each side."""
    return 2 if cut == LAST_PAIR else 1


def channels_at(cut: str, width: int) -> int:
    """Return the number of maps that enter the tail."""
    return 6 * width if cut == LAST_PAIR else 2 * width


def frozen_part(network: UNet3D, cut: str, device: Device, cancel: CancelToken | None = None) -> FrozenPart:
    """Return the part of the network before the cut, with a copy of its weights in the device's precision.

    Maps are computed with all their context, as in predicting: scans of legal sides s give maps of s - 2 * (44 - h).
    It raises Cancelled between two layers once ``cancel`` asks for it.
    """
    body = copy.deepcopy(network).to(torch.device(device.torch_name), device.dtype).eval()
    for parameter in body.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=device.memory_format)
    first = cast(ConvolutionPair, body.up[-1]).first

    @torch.no_grad()
    def run(scan: torch.Tensor) -> torch.Tensor:
        scan = scan.to(torch.device(device.torch_name), device.dtype).contiguous(memory_format=device.memory_format)
        with interruptible(body, cancel):
            maps = body.features_before_last_pair(scan)
            return maps if cut == LAST_PAIR else functional.relu(first(maps))

    return run


def input_side(patch: int) -> int:
    """Return the side of the scan patch that a patch of logits of this side needs around it."""
    return patch + 2 * MARGIN
