"""The networks of a model on a device, for windows: the mean over folds, and over mirrored inputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import nn

from TransferSegLib.inference.devices import Device
from TransferSegLib.networks.interface import PieceDone


class WindowNetworks:
    """Copies of networks that report after each layer: a window may take half a minute on a CPU."""

    def __init__(
        self, networks: Sequence[nn.Module], device: Device, mirror_axes_zyx: Sequence[int] = (), copied: bool = True
    ) -> None:
        """Bring the networks, the folds of a model, to a device; windows are mirrored along all sets of the axes.

        Unless they are ``copied``, the networks given are changed.
        """
        self._device = device
        self._on = torch.device(device.torch_name)
        copies = [copy.deepcopy(network) if copied else network for network in networks]
        self._copies = [network.float().eval().to(self._on) for network in copies]
        axes = [axis + 2 for axis in mirror_axes_zyx]
        self._flips = [flip for count in range(len(axes)) for flip in combinations(axes, count + 1)]
        self._layers_done = 0
        self._layer_done: PieceDone | None = None
        layers = [part for each in self._copies for part in each.modules() if not any(True for _ in part.children())]
        self._layers = len(layers) * (len(self._flips) + 1)
        for layer in layers:
            layer.register_forward_hook(self._after_layer)

    def outputs(self, windows: torch.Tensor, each_fold: bool, layer_done: PieceDone | None = None) -> torch.Tensor:
        """Return the networks' outputs (folds, N, outputs, z, y, x; float32) for windows (N, channels, z, y, x).

        Unless each fold is asked for, their mean is returned as one. ``layer_done`` is called after each layer with the
        share (0 to 1) that is done; what it raises ends the work.
        """
        self._layer_done, self._layers_done = layer_done, 0
        scans = windows.to(self._on).contiguous(memory_format=self._device.memory_format)
        is_half = self._device.dtype != torch.float32
        with torch.inference_mode(), torch.autocast(self._on.type, self._device.dtype, enabled=is_half):
            if each_fold:
                return torch.stack([self._of(network, scans) for network in self._copies])
            total = self._of(self._copies[0], scans)
            for network in self._copies[1:]:
                total += self._of(network, scans)
            return (total if len(self._copies) == 1 else total.div_(len(self._copies)))[None]

    def _of(self, network: nn.Module, scans: torch.Tensor) -> torch.Tensor:
        """Return the outputs of one fold, the mean over mirrored inputs."""
        total: torch.Tensor = network(scans).float()
        for axes in self._flips:
            total += torch.flip(network(torch.flip(scans, axes)), axes)
        return total if not self._flips else total.div_(len(self._flips) + 1)

    def _after_layer(self, *_: Any) -> None:
        self._layers_done += 1
        if self._layer_done is not None:
            self._layer_done(min(1.0, self._layers_done / self._layers))
