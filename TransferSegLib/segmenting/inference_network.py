"""The same network as ``UNet3D``, arranged for predicting: fewer multiply-adds, a fraction of the memory.

Three changes leave the answer the same but for rounding:

- Repeating every voxel twice along each axis and then convolving with 3x3x3 weights equals one transposed convolution
  of stride 2 with 4x4x4 weights, of which only 2x2x2 meet each voxel: 8 multiply-adds instead of 27, and neither the
  repeated maps nor the joined ones are ever stored. Measured on 2 cores (100 voxels a side, 64 + 32 to 32 channels,
  bfloat16, channels last): 1.25 s for repeating, joining and convolving, 0.56 s so.
- Of the maps a level hands over to the way up, only the centre that is needed there is kept.
- The levels on the way down and the last one, whose maps are the largest, are computed in slabs along z.

Processor seconds of one tile on one core, bfloat16, channels last (``Testing/benchmarks/tile_memory.py``): width 16 and
212 voxels a side 6.4 instead of 9.0, width 32 and 180 voxels 12.8 instead of 15.4.
"""

from __future__ import annotations

from typing import cast

import torch
from torch.nn import functional

from TransferSegLib.network.geometry import check_input_side, output_side
from TransferSegLib.network.unet import ConvolutionPair, UNet3D

#: Rows along z, at their own resolution, of the slabs of the first three levels on the way down. Thin ones stay in
#: memory that is used again and again instead of being given back to the system and cleared (a fifth of the time at the
#: first level); two rows per slab of each level's first, cheaper convolution are made twice.
DOWN_SLAB_ROWS = (8, 16, 32)
#: Rows of a slab of the last level.
LAST_SLAB_ROWS = 16


class InferenceNetwork:
    """A copy of a network's weights on a device, in a precision and memory format; the network is left as it is.

    >>> logits = InferenceNetwork(network, "cpu", torch.bfloat16, torch.channels_last_3d)(scan)
    """

    def __init__(
        self,
        network: UNet3D,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        """Copy and rearrange the weights."""
        self.classes = network.classes
        self.width = network.width
        self.device = torch.device(device)
        self.dtype = dtype
        self.memory_format = memory_format
        with torch.no_grad():
            down, up = (cast(list[ConvolutionPair], list(pairs)) for pairs in (network.down, network.up))
            self._down = [[self._convolution(layer) for layer in (pair.first, pair.second)] for pair in down]
            self._up = [self._up_weights(pair) for pair in up]
            self._head = self._convolution(network.head)

    def __call__(self, scan: torch.Tensor) -> torch.Tensor:
        """Return the logits (1, classes, D - 88, H - 88, W - 88) of a tile (1, 1, D, H, W) in the network's precision.

        Raises NetworkError for an illegal side.
        """
        for side in scan.shape[2:]:
            check_input_side(side)
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            return self._logits(self._ready(scan))

    def _logits(self, scan: torch.Tensor) -> torch.Tensor:
        """Go down to the lowest level and up again, dropping every map as soon as it is not needed."""
        outputs = [output_side(side) for side in scan.shape[2:]]
        # Sides at which the way up enters each level: 4 more than what it hands on, halved (and 2 more) a level down.
        entering = [[side + 4 for side in outputs]]
        for _ in range(2):
            entering.append([side // 2 + 4 for side in entering[-1]])
        maps, skips = scan, []
        for level in range(3):
            maps, skip = self._go_down(maps, level, entering[level])
            skips.append(skip)
            del skip
        maps = self._pair(maps, self._down[3])
        for step in (0, 1):
            maps = self._join_and_convolve(maps, skips.pop(), step)
        return self._last_level(maps, skips.pop())

    def _go_down(self, maps: torch.Tensor, level: int, kept: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the pooled maps of a level and the centre, of ``kept`` voxels, that the way up needs of it."""
        depth, height, width = (side - 4 for side in maps.shape[2:])
        channels = 2 * self.width * 2**level
        pooled = self._empty(channels, (depth // 2, height // 2, width // 2))
        skip = self._empty(channels, (kept[0], kept[1], kept[2]))
        first = (depth - kept[0]) // 2
        for start in range(0, depth, DOWN_SLAB_ROWS[level]):
            stop = min(depth, start + DOWN_SLAB_ROWS[level])
            slab = self._pair(maps[:, :, start : stop + 4], self._down[level])
            pooled[:, :, start // 2 : stop // 2] = functional.max_pool3d(slab, 2)
            low, high = max(start, first), min(stop, first + kept[0])
            if low < high:
                rows = centre(slab, [stop - start, kept[1], kept[2]])
                skip[:, :, low - first : high - first] = rows[:, :, low - start : high - start]
                del rows
            del slab  # before the next one is made
        return pooled, skip

    def _last_level(self, low: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Return the logits from the maps of the level below and the kept maps of the first level."""
        depth, height, width = (side - 4 for side in skip.shape[2:])
        logits = self._empty(self.classes, (depth, height, width))
        for start in range(0, depth, LAST_SLAB_ROWS):
            stop = min(depth, start + LAST_SLAB_ROWS)
            maps = self._join_and_convolve(low[:, :, start // 2 : stop // 2 + 2], skip[:, :, start : stop + 4], 2)
            logits[:, :, start:stop] = functional.conv3d(maps, *self._head)
            del maps
        return logits

    def _pair(self, maps: torch.Tensor, weights: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Apply two valid 3x3x3 convolutions, each followed by a ReLU."""
        for kernel, bias in weights:
            maps = functional.relu(functional.conv3d(maps, kernel, bias), inplace=True)
        return maps

    def _join_and_convolve(self, low: torch.Tensor, skip: torch.Tensor, step: int) -> torch.Tensor:
        """Apply a pair of convolutions of the way up to the maps of the level below and the kept ones of this level."""
        from_low, from_skip, bias, second, second_bias = self._up[step]
        maps = functional.conv3d(skip, from_skip, bias)
        maps += functional.conv_transpose3d(low, from_low, stride=2, padding=2)
        maps = functional.conv3d(functional.relu(maps, inplace=True), second, second_bias)
        return functional.relu(maps, inplace=True)

    def _up_weights(self, pair: ConvolutionPair) -> tuple[torch.Tensor, ...]:
        """Split the first convolution of a pair of the way up into its part for the level below and for this level."""
        weight = pair.first.weight.detach()
        low_channels = weight.shape[1] * 2 // 3
        return (
            self._ready(repeated_then_convolved(weight[:, :low_channels])),
            *self._convolution(pair.first, weight[:, low_channels:]),
            *self._convolution(pair.second),
        )

    def _convolution(
        self, layer: torch.nn.Conv3d, weight: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a copy of a layer's weights (or a part of them) and bias as this network wants them."""
        assert layer.bias is not None
        bias = layer.bias.detach().to(self.device, self.dtype, copy=True)
        return self._ready((layer.weight if weight is None else weight).detach().clone()), bias

    def _ready(self, values: torch.Tensor) -> torch.Tensor:
        """Return a 5D tensor on this network's device in its precision and memory format."""
        return values.to(self.device, self.dtype).contiguous(memory_format=self.memory_format)

    def _empty(self, channels: int, size_zyx: tuple[int, int, int]) -> torch.Tensor:
        """Return room for maps."""
        shape = (1, channels, *size_zyx)
        return torch.empty(shape, device=self.device, dtype=self.dtype, memory_format=self.memory_format)


def centre(maps: torch.Tensor, size_zyx: list[int]) -> torch.Tensor:
    """Return a view of the centre of maps (N, C, D, H, W)."""
    for axis, (have, want) in enumerate(zip(maps.shape[2:], size_zyx, strict=True), start=2):
        maps = maps.narrow(axis, (have - want) // 2, want)
    return maps


def repeated_then_convolved(weight: torch.Tensor) -> torch.Tensor:
    """Return the weights of the transposed convolution that equals repeating voxels and convolving.

    ``weight`` (out, in, 3, 3, 3) of a convolution of maps repeated twice along each axis; the result (in, out, 4, 4, 4)
    is for ``conv_transpose3d(stride=2, padding=2)``. Along one axis repeating is a transposed convolution with (1, 1),
    and (1, 1) convolved with the three mirrored weights gives four.
    """
    mirrored = weight.flip(2, 3, 4)
    for axis in (2, 3, 4):
        before = [0, 0] * 3
        after = [0, 0] * 3
        before[2 * (4 - axis)] = 1
        after[2 * (4 - axis) + 1] = 1
        mirrored = functional.pad(mirrored, before) + functional.pad(mirrored, after)
    return mirrored.transpose(0, 1).contiguous()
