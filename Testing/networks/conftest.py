"""A small random network, and recording of what a network's convolutions really do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn import functional

from Testing import random_models
from TransferSegLib.networks.unet_valid.unet import UNet3D


@dataclass(frozen=True)
class Convolution:
    """One convolution as it was executed: shapes without the batch, and the kernel's taps."""

    channels_in: int
    channels_out: int
    sides_in_zyx: tuple[int, ...]
    sides_out_zyx: tuple[int, ...]
    taps: int

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the convolution as written."""
        z, y, x = self.sides_out_zyx
        return z * y * x * self.channels_in * self.channels_out * self.taps


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[[torch.nn.Module, torch.Tensor], list[Convolution]]:
    """Return a function that runs a network on torch's meta device and returns its convolutions in order."""

    def run(network: torch.nn.Module, scan: torch.Tensor) -> list[Convolution]:
        made: list[Convolution] = []
        original = functional.conv3d

        def recording(maps: torch.Tensor, weight: torch.Tensor, *more: Any, **options: Any) -> torch.Tensor:
            result = original(maps, weight, *more, **options)
            taps = weight.shape[2] * weight.shape[3] * weight.shape[4]
            sides = tuple(maps.shape[2:]), tuple(result.shape[2:])
            made.append(Convolution(maps.shape[1], result.shape[1], *sides, taps))
            return result

        with monkeypatch.context() as patch:
            patch.setattr(functional, "conv3d", recording)
            # A plain nn.Conv3d calls torch.nn.functional.conv3d too, so the head is recorded as well.
            network.to("meta")(scan.to("meta"))
        return made

    return run


@pytest.fixture(scope="session")
def network() -> UNet3D:
    """Four classes, width 2."""
    return random_models.random_network()
