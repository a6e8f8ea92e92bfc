"""A second family of networks, unlike the bundled one in every respect the library has to be neutral about.

It is same-padded and instance-normalised, has two input channels (two intensity rules of one scan), works on an
anisotropic grid with RAS axes, and goes down along y and x only. Its scans are segmented in windows that are blended.

>>> register_family(KIND, TinyBackbone)
>>> model = tiny_model()
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from TransferSegLib.errors import ModelError, TrainingError
from TransferSegLib.images.intensity import CT_WINDOW, IntensityRule
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.models.description import ModelDescription, Provenance
from TransferSegLib.models.store import Model
from TransferSegLib.networks.families import register_family
from TransferSegLib.networks.interface import LastLayers, NetworkSpec, SplitSizes, Tiling, TrainingPatch, Triple
from TransferSegLib.structures import LabelSet, Structure

KIND = "tiny-same"
#: A wide window and a narrow one of the same scan.
TWO_WINDOWS = (CT_WINDOW, IntensityRule("window", -100.0, 200.0, (0.0, 1.0)))
SPACING_ZYX_MM = (3.0, 1.5, 1.5)
LAST_BLOCK = "last block"
_MULTIPLE: Triple = (1, 2, 2)
_SMALLEST: Triple = (4, 8, 8)
_PATCH: Triple = (8, 16, 16)


class Block(nn.Module):
    """A convolution that keeps the size, instance normalisation and a leaky ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel_zyx: Triple = (3, 3, 3), stride: int = 1) -> None:
        super().__init__()
        z, y, x = (side // 2 for side in kernel_zyx)
        self.convolution = nn.Conv3d(channels_in, channels_out, kernel_zyx, (1, stride, stride), (z, y, x))
        self.norm = nn.InstanceNorm3d(channels_out, affine=True)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return functional.leaky_relu(self.norm(self.convolution(maps)))


class TinyNet(nn.Module):
    """Two levels: logits (N, classes, z, y, x) of scans (N, channels, z, y, x) with even sides along y and x.

    ``low_head`` is for deep supervision, as in nnU-Net: no part of the prediction, but its outputs are classes.
    """

    def __init__(self, channels: int, classes: int, width: int, low_head: bool) -> None:
        super().__init__()
        self.top = Block(channels, width, (1, 3, 3))
        self.down = Block(width, 2 * width, stride=2)
        self.up = nn.ConvTranspose3d(2 * width, width, (1, 2, 2), (1, 2, 2))
        if low_head:
            self.low_head = nn.Conv3d(2 * width, classes, 1)
        self.last = Block(2 * width, width)
        self.head = nn.Conv3d(width, classes, 1)

    def forward(self, scans: torch.Tensor) -> torch.Tensor:
        return self.head(self.last(self.before_last(scans)))

    def before_last(self, scans: torch.Tensor) -> torch.Tensor:
        top = self.top(scans)
        return torch.cat([self.up(self.down(top)), top], dim=1)


class TinyLastLayers(nn.Module):
    """The last block and the head."""

    def __init__(self, network: TinyNet) -> None:
        super().__init__()
        self.last, self.head = network.last, network.head

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(features))

    def features(self, features: torch.Tensor) -> torch.Tensor:
        return self.last(features)


class TinyFrozenLayers(nn.Module):
    """A copy of what comes before the last block."""

    def __init__(self, network: TinyNet) -> None:
        import copy

        super().__init__()
        self.body = copy.deepcopy(network).eval()

    @torch.no_grad()
    def forward(self, scans: torch.Tensor) -> torch.Tensor:
        return self.body.before_last(scans)


class TinyBackbone:
    """The family behind the library's interface; see ``networks.interface.Backbone``."""

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec

    def check(self) -> None:
        if not isinstance(self.spec.arguments.get("width"), int):
            raise ModelError("A tiny network needs a width.")

    @property
    def width(self) -> int:
        return int(self.spec.arguments["width"])

    @property
    def has_low_head(self) -> bool:
        return bool(self.spec.arguments.get("low_head", False))

    @property
    def summary(self) -> str:
        return f"tiny, width {self.width}"

    @property
    def parameters(self) -> int:
        with torch.device("meta"):
            return sum(weights.numel() for weights in self.build().parameters())

    @property
    def tiling(self) -> Tiling:
        z, y, x = self.spec.arguments.get("window", _PATCH)
        return Tiling("gaussian", _MULTIPLE, _SMALLEST, (z, y, x))

    @property
    def split_points(self) -> tuple[str, ...]:
        return (LAST_BLOCK,)

    @property
    def heads(self) -> tuple[str, ...]:
        return ("low_head", "head") if self.has_low_head else ("head",)

    def build(self) -> TinyNet:
        return TinyNet(self.spec.channels, self.spec.classes, self.width, self.has_low_head)

    def initialise(self, network: nn.Module, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, a=0.01, generator=generator)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def training_logits(self, network: nn.Module, scans: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, network(scans))

    def supervised_logits(self, network: nn.Module, scans: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.training_logits(network, scans),)

    def training_patch(self, side: int, frame: int) -> TrainingPatch:
        return TrainingPatch(_flat(side), (frame // 2, frame, frame))

    def feature_patch(self, side: int) -> Triple:
        return _flat(side)

    def first_layer(self, network: nn.Module) -> nn.Parameter:
        return cast(TinyNet, network).top.convolution.weight

    def split_sizes(self, point: str) -> SplitSizes:
        _check_point(point)
        return SplitSizes((0, 0, 0), (0, 0, 0), 2 * self.width)

    def frozen_layers(self, network: nn.Module, point: str) -> nn.Module:
        _check_point(point)
        return TinyFrozenLayers(cast(TinyNet, network))

    def last_layers(self, network: nn.Module, point: str) -> LastLayers:
        _check_point(point)
        return cast(LastLayers, TinyLastLayers(cast(TinyNet, network)))


def register_tiny_family() -> None:
    """Add the family for this process."""
    register_family(KIND, TinyBackbone)


def tiny_spec(classes: int, width: int = 4, channels: int = 2, low_head: bool = False) -> NetworkSpec:
    """Return the spec of a tiny network."""
    return NetworkSpec(kind=KIND, classes=classes, channels=channels, arguments={"width": width, "low_head": low_head})


def tiny_network(spec: NetworkSpec, seed: int = 4) -> TinyNet:
    """Return a network with random weights that finds every class somewhere in noise."""
    backbone = TinyBackbone(spec)
    network = backbone.build()
    backbone.initialise(network, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        logits = network(torch.randn(1, spec.channels, *(2 * side for side in _PATCH), generator=generator))
        deviation = logits.std(dim=(0, 2, 3, 4))
        network.head.weight /= deviation[:, None, None, None, None]
        network.head.bias.copy_((network.head.bias - logits.mean(dim=(0, 2, 3, 4))) / deviation)
    return network.eval()


def tiny_model(
    structures: LabelSet | None = None,
    spacing_zyx_mm: tuple[float, float, float] = SPACING_ZYX_MM,
    axes: str = "RAS",
    seed: int = 4,
    width: int = 4,
    low_head: bool = False,
) -> Model:
    """Return a model with random weights; ``structures`` None: three parts with the labels 10, 20 and 30."""
    register_tiny_family()
    structures = structures or LabelSet(tuple(Structure(f"part {n}", 10 * n, (n, 0, 0)) for n in (1, 2, 3)))
    spec = tiny_spec(structures.classes, width, low_head=low_head)
    description = ModelDescription(
        name="tiny",
        version="1",
        label_set=structures,
        preparation=Preparation(spacing_zyx_mm, TWO_WINDOWS, axes),
        network=spec,
        modality="CT",
        summary="",
        license="Apache-2.0",
        training_data="none",
        citation="none",
        metrics={},
        provenance=Provenance("test", seed, "0", "2026-01-31"),
    )
    return Model(description, dict(tiny_network(spec, seed).state_dict()), Path("tiny"))


def _flat(side: int) -> Triple:
    """Return a patch that is half as deep as wide; raises TrainingError for a side that does not halve evenly."""
    if side < 2 * _SMALLEST[0] or side % 2:
        raise TrainingError(f"A side must be even and at least {2 * _SMALLEST[0]}, not {side}.")
    return side // 2, side, side


def _check_point(point: str) -> None:
    if point != LAST_BLOCK:
        raise ModelError(f"'{point}' is no place to cut the network: choose {LAST_BLOCK}.")
