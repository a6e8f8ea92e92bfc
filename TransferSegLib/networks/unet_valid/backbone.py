"""The paper's network behind the interface that the rest of the library sees.

The paper freezes all but the last 3x3x3 convolution and the 1x1x1 head (112,151 weights at full width).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from TransferSegLib.errors import ModelError, TrainingError
from TransferSegLib.networks.interface import NetworkSpec, SplitSizes, Tiling, TrainingPatch, Triple
from TransferSegLib.networks.unet_valid.geometry import ALIGNMENT, MARGIN, SMALLEST_INPUT_SIDE

if TYPE_CHECKING:
    import torch
    from torch import nn

    from TransferSegLib.networks.unet_valid.last_layers import LastConvolutions
    from TransferSegLib.networks.unet_valid.tiles import ValidUNetTiles
    from TransferSegLib.networks.unet_valid.unet import UNet3D

KIND = "unet3d-valid"
LAST_CONVOLUTION, LAST_PAIR = "last convolution", "last pair"
_LARGEST_WIDTH = 256
#: Below 32 voxels the lowest level has less than 4 a side, where torch 2.13's bfloat16 weight gradients are wrong on
#: CPUs (they differ from call to call, and are nan at times).
SMALLEST_PATCH = 32


def unet_valid_spec(width: int, classes: int) -> NetworkSpec:
    """Return the spec of the paper's network; ``width`` is the filters of its first convolution, 32 in the paper."""
    return NetworkSpec(kind=KIND, classes=classes, arguments={"width": width})


class ValidUNetBackbone:
    """The 3D U-Net with valid convolutions and no normalisation (Humpire-Mamani et al. 2023)."""

    def __init__(self, spec: NetworkSpec) -> None:
        """Describe a network; ``check`` tells whether it can be built."""
        self.spec = spec

    def check(self) -> None:
        """Raise ModelError when the spec's arguments do not describe a network of this family."""
        width = self.spec.arguments.get("width")
        if isinstance(width, bool) or not isinstance(width, int):
            raise ModelError(f"The model's network width must be a whole number, not {width!r:.60}.")
        if not 1 <= width <= _LARGEST_WIDTH:
            raise ModelError(f"The model's network width is {width}; it must be from 1 to {_LARGEST_WIDTH}.")
        if self.spec.channels != 1:
            raise ModelError(f"A network of the kind '{KIND}' has one input channel, not {self.spec.channels}.")

    @property
    def width(self) -> int:
        """Filters of the first convolution."""
        return int(self.spec.arguments["width"])

    @property
    def summary(self) -> str:
        """The arguments that matter, in a few words for a person."""
        return f"width {self.width}"

    @property
    def parameters(self) -> int:
        """The number of weights, counted from the layers."""
        width, pairs = self.width, []
        for level in range(4):
            here = width * 2**level
            pairs.append((1 if level == 0 else here, here, 2 * here))
        for level in (2, 1, 0):
            here = width * 2 ** (level + 1)
            pairs.append((3 * here, here, here))
        head = 2 * width * self.spec.classes + self.spec.classes
        return head + sum(27 * a * b + b + 27 * b * c + c for a, b, c in pairs)

    @property
    def tiling(self) -> Tiling:
        """Tiles agree to rounding where they overlap."""
        return Tiling("exact", _cube(ALIGNMENT), _cube(SMALLEST_PATCH))

    @property
    def split_points(self) -> tuple[str, ...]:
        """Where the network can be cut: before its last convolution, or before its last two."""
        return LAST_CONVOLUTION, LAST_PAIR

    @property
    def heads(self) -> tuple[str, ...]:
        """The one layer whose outputs are classes."""
        return ("head",)

    def build(self) -> UNet3D:
        """Return the network with torch's own random weights."""
        from TransferSegLib.networks.unet_valid.unet import UNet3D

        return UNet3D(self.spec.classes, self.width)

    def initialise(self, network: nn.Module, seed: int) -> None:
        """Draw He-normal weights, zero biases and a head that starts with even probabilities."""
        from TransferSegLib.networks.unet_valid.unet import initialise

        initialise(cast("UNet3D", network), seed)

    def training_logits(self, network: nn.Module, scans: torch.Tensor) -> torch.Tensor:
        """Return logits of the patches' size: every convolution sees zeros beyond a patch."""
        return cast("torch.Tensor", network(scans, padded=True))

    def supervised_logits(self, network: nn.Module, scans: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the logits of the only head."""
        return (self.training_logits(network, scans),)

    def training_patch(self, side: int, frame: int) -> TrainingPatch:
        """Return a cube: near its border, in the frame, the network sees zeros for context."""
        if side < SMALLEST_PATCH or side % ALIGNMENT:
            raise TrainingError(f"patch must be a multiple of {ALIGNMENT}, at least {SMALLEST_PATCH}, not {side}.")
        return TrainingPatch(_cube(side), _cube(frame))

    def feature_patch(self, side: int) -> Triple:
        """Return a cube; with its context it must pass through the network."""
        smallest = SMALLEST_INPUT_SIDE - 2 * MARGIN
        if side < smallest or (side - smallest) % ALIGNMENT:
            raise TrainingError(f"tail_patch must be {smallest} + {ALIGNMENT} n, e.g. 44, not {side}.")
        return _cube(side)

    def first_layer(self, network: nn.Module) -> nn.Parameter:
        """Return the weights of the first convolution."""
        return next(network.parameters())

    def split_sizes(self, point: str) -> SplitSizes:
        """Return the sizes at a split point: all context, and a voxel on each side for every last convolution."""
        if point == LAST_PAIR:
            return SplitSizes(_cube(MARGIN), _cube(2), 6 * self.width)
        return SplitSizes(_cube(MARGIN), _cube(1), 2 * self.width)

    def frozen_layers(self, network: nn.Module, point: str) -> nn.Module:
        """Return a copy of the layers before the last convolution, or before the last two."""
        from TransferSegLib.networks.unet_valid.last_layers import FrozenLayers

        return FrozenLayers(cast("UNet3D", network), 2 if point == LAST_PAIR else 1)

    def last_layers(self, network: nn.Module, point: str) -> LastConvolutions:
        """Return the last convolution or the last two, and the head."""
        from TransferSegLib.networks.unet_valid.last_layers import LastConvolutions

        return LastConvolutions(cast("UNet3D", network), 2 if point == LAST_PAIR else 1)

    def exact_tiles(self, network: nn.Module) -> ValidUNetTiles:
        """Return the tiles of a network."""
        from TransferSegLib.networks.unet_valid.tiles import ValidUNetTiles

        return ValidUNetTiles(cast("UNet3D", network))


def _cube(side: int) -> Triple:
    return side, side, side
