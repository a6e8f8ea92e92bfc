"""The 3D U-Net of the paper: valid convolutions, no normalisation, four levels.

Source: Humpire-Mamani et al. 2023 (arXiv 2311.05032) and its published code; see ``docs/network.md``.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional

from TransferSegLib.networks.unet_valid.geometry import check_input_side, check_padded_side
from TransferSegLib.networks.unet_valid.repeated import joined_and_convolved

#: Devices on which training repeats and convolves in one step. ``Testing/run.py gpu step`` measures whether it pays; so
#: far that was done on CPUs only.
_FOLDED_ON: tuple[str, ...] = ("cpu",)


class ConvolutionPair(nn.Module):
    """Two valid 3x3x3 convolutions, each followed by a ReLU."""

    def __init__(self, channels_in: int, channels_middle: int, channels_out: int) -> None:
        """Make the pair with the given channel counts."""
        super().__init__()
        self.first = nn.Conv3d(channels_in, channels_middle, kernel_size=3)
        self.second = nn.Conv3d(channels_middle, channels_out, kernel_size=3)

    def forward(self, maps: torch.Tensor, padding: int = 0, skip: torch.Tensor | None = None) -> torch.Tensor:
        """Map (N, C, D, H, W) to (N, C', D - 4, H - 4, W - 4), or to the same size with a padding of 1.

        With ``skip``, the skipped maps of twice the size, and a padding of 1 the maps are first joined with these.
        """
        if skip is None:
            maps = functional.conv3d(maps, self.first.weight, self.first.bias, padding=padding)
        elif maps.device.type in _FOLDED_ON:
            maps = joined_and_convolved(maps, skip, self.first)
        else:
            maps = functional.conv3d(join(maps, skip), self.first.weight, self.first.bias, padding=padding)
        maps = functional.relu(maps, inplace=True)
        maps = functional.conv3d(maps, self.second.weight, self.second.bias, padding=padding)
        return functional.relu(maps, inplace=True)


class UNet3D(nn.Module):
    """The paper's network with its width as a parameter.

    Input (N, 1, D, H, W) with legal sides (108, 116, 124, 132 ... voxels), output (N, classes, D - 88, H - 88, W - 88)
    logits, channel 0 the background. ``width`` is the number of filters of the first convolution, 32 in the paper.
    """

    def __init__(self, classes: int, width: int = 32) -> None:
        """Make a network with random weights for so many classes, the background included."""
        super().__init__()
        self.classes = classes
        self.width = width
        levels = range(4)
        self.down = nn.ModuleList(
            ConvolutionPair(1 if level == 0 else width * 2**level, width * 2**level, width * 2 ** (level + 1))
            for level in levels
        )
        self.up = nn.ModuleList(
            ConvolutionPair(width * 2 ** (level + 2) + width * 2 ** (level + 1), here, here)
            for level, here in ((level, width * 2 ** (level + 1)) for level in (2, 1, 0))
        )
        self.head = nn.Conv3d(2 * width, classes, kernel_size=1)

    def forward(self, scan: torch.Tensor, padded: bool = False) -> torch.Tensor:
        """Return the logits of a batch of tiles; raises NetworkError for an illegal side.

        ``padded`` keeps the size (sides divisible by 8): every convolution sees zeros beyond the tile. Training uses
        it because a patch then costs a quarter of a tile with all its context; predicting never does.
        """
        return self.head(self.features(scan, padded))

    def features(self, scan: torch.Tensor, padded: bool = False) -> torch.Tensor:
        """Return the maps (N, 2 * width, D - 88, H - 88, W - 88) that the head classifies."""
        if not padded:
            return self.up[-1](self.features_before_last_pair(scan))
        maps, skips = self._down(scan, padded)
        for pair in self.up:
            maps = pair(maps, padding=1, skip=skips.pop())
        return maps

    def features_before_last_pair(self, scan: torch.Tensor) -> torch.Tensor:
        """Return the maps (N, 6 * width, D - 84, H - 84, W - 84) that enter the last two convolutions."""
        maps, skips = self._down(scan, padded=False)
        for pair in self.up[:-1]:
            maps = pair(join(maps, skips.pop()))
        return join(maps, skips.pop())

    def _down(self, scan: torch.Tensor, padded: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the deepest maps, and those that the other levels hand over to the way up."""
        for side in scan.shape[2:]:
            if padded:
                check_padded_side(side)
            else:
                check_input_side(side)
        skips = []
        maps = self._as_first_layer_takes(scan)
        for level, pair in enumerate(self.down):
            maps = pair(maps, padding=int(padded))
            if level < 3:
                skips.append(maps)
                maps = functional.max_pool3d(maps, 2)
        return maps, skips

    def _as_first_layer_takes(self, scan: torch.Tensor) -> torch.Tensor:
        """Return a scan in autocast's precision and, where the weights are so, channels last."""
        kind = scan.device.type
        if kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind):
            scan = scan.to(torch.get_autocast_dtype(kind))  # autocast itself would forget the strides
        weights = cast(ConvolutionPair, self.down[0]).second.weight
        is_last = weights.is_contiguous(memory_format=torch.channels_last_3d)
        return channels_last(scan.contiguous()) if is_last else scan


def join(low: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    """Up-sample the low-resolution maps by repetition and put the centre of the skipped maps behind them."""
    high = functional.interpolate(low, scale_factor=2, mode="nearest")
    crop = [(have - want) // 2 for have, want in zip(skip.shape[2:], high.shape[2:], strict=True)]
    z, y, x = (slice(start, start + want) for start, want in zip(crop, high.shape[2:], strict=True))
    return torch.cat([high, skip[:, :, z, y, x]], dim=1)


def channels_last(scan: torch.Tensor) -> torch.Tensor:
    """Return a scan (N, 1, z, y, x), contiguous, with the strides of maps that are channels last.

    Of one channel, torch takes strides for contiguous that are channels last as well; then what the first convolution
    gives is contiguous, too, and reordered for the next one. In bfloat16 that takes up to a quarter of the time of
    predicting, and 5 % of a training step.
    """
    depth, height, width = scan.shape[2:]
    return scan.as_strided(scan.shape, (depth * height * width, 1, height * width, width, 1))


def initialise(network: UNet3D, seed: int) -> None:
    """Draw He-normal weights from a seed, zero biases, and a head that starts with even probabilities."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        network.head.weight.mul_(0.1)
