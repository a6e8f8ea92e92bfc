"""All that the rest of the library knows of a network: what it is, how it is built, trained, cut in two and run.

A family of networks is one folder beside this file with one class, a ``Backbone``; docs/adding-a-network-family.md
explains how to write one. ``networks.families`` finds it by the ``kind`` of a ``NetworkSpec``, which is what a model's
description holds. Nothing here imports torch, so that models can be listed without it.

>>> backbone = backbone_of(description.network)
>>> network = backbone.build()
>>> logits = backbone.training_logits(network, patches)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

Triple = tuple[int, int, int]
#: First and last + 1 position along an axis.
Span = tuple[int, int]
#: Gets the deepest maps (1, channels, z, y, x) of a part of a scan and where they begin on the scan's deep lattice; it
#: must neither change nor keep them. A position may come more than once, and holds the same then to rounding.
DeepestMapsObserver = Callable[["torch.Tensor", Triple], None]
#: Gets maps (1, channels, z, y, x) that the head classifies and where they begin in a tile's output; it must not change
#: them. What it never gets sees nothing but padding.
HeadMapsObserver = Callable[["torch.Tensor", Triple], None]
#: Called after each piece of a tile with the share of its work (0 to 1) that is done; what it raises ends the tile.
PieceDone = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Which network a model's weights belong to, as its description stores it.

    ``kind`` names the family, ``arguments`` (JSON) are the family's own, such as its width. ``channels`` counts the
    input channels, ``classes`` the outputs, the background included.
    """

    kind: str
    classes: int
    channels: int = 1
    arguments: dict[str, Any] = field(default_factory=dict)

    def with_classes(self, classes: int) -> NetworkSpec:
        """Return the same network for another number of classes, the background included."""
        return replace(self, classes=classes)


@dataclass(frozen=True)
class Tiling:
    """How a scan that does not fit into memory is computed piece by piece.

    ``blend`` "exact": tiles of any size give the same answer where they overlap (valid convolutions, no normalisation),
    so each voxel is taken from one tile, and ``TiledBackbone.exact_tiles`` plans them. ``blend`` "gaussian": calling
    the network on windows of ``patch_zyx`` voxels gives logits of their size; they overlap by the share ``overlap`` and
    are averaged with Gaussian weights, as nnU-Net does.
    They may be mirrored along ``mirror_axes_zyx`` (0 z, 1 y, 2 x), because the network was trained so.
    ``linear_head`` names the split point behind which each voxel's logits are a linear map of its own features, as a
    single 1x1x1 convolution is.
    ``interpolate`` tells what is interpolated between voxels of the model's grid when labels are made of it.
    Sides of training patches and windows are multiples of ``multiple_zyx`` and at least ``smallest_zyx``.
    """

    blend: Literal["exact", "gaussian"]
    multiple_zyx: Triple
    smallest_zyx: Triple
    patch_zyx: Triple | None = None
    overlap: float = 0.5
    interpolate: Literal["probabilities", "logits"] = "probabilities"
    mirror_axes_zyx: tuple[int, ...] = ()
    linear_head: str | None = None


@dataclass(frozen=True)
class TrainingPatch:
    """The size of a training patch in voxels, and the frame at its border in which no loss is counted."""

    sides_zyx: Triple
    frame_zyx: Triple


@dataclass(frozen=True)
class SplitSizes:
    """What it takes to cut a network in two, for training its last layers on cached features.

    ``context_zyx`` is by how many voxels a scan patch is larger on each side than its logits, ``halo_zyx`` by how many
    its features are; ``channels`` counts the features.
    """

    context_zyx: Triple
    halo_zyx: Triple
    channels: int


@dataclass(frozen=True)
class DeepestLattice:
    """Where a network's deepest maps lie in a scan: a position covers a cube of ``step`` voxels a side.

    ``first`` is the first position along an axis whose voxels all lie in the scan, ``first_voxel`` its first voxel.
    """

    step: int
    first: int
    first_voxel: int


@dataclass(frozen=True)
class Tile:
    """An exact tile: it owns the voxels ``start_zyx`` to ``stop_zyx`` (not included) of the volume."""

    start_zyx: Triple
    stop_zyx: Triple


class TilePlan(Protocol):
    """Tiles of one input shape that cover ``region_start_zyx`` to ``region_stop_zyx`` of a volume, each voxel once."""

    @property
    def region_start_zyx(self) -> Triple:
        """The first voxel of the region."""

    @property
    def region_stop_zyx(self) -> Triple:
        """The end of the region (not included)."""

    @property
    def input_zyx(self) -> Triple:
        """What a tile sees, in voxels."""

    def __iter__(self) -> Iterator[Tile]:
        """Iterate over the tiles, z slowest."""


class TileRunner(Protocol):
    """The network on a device, for one tile at a time."""

    def __call__(
        self,
        seen_czyx: np.ndarray,
        padding_values: Sequence[float],
        observer: DeepestMapsObserver | None = None,
        piece_done: PieceDone | None = None,
        head_maps: HeadMapsObserver | None = None,
    ) -> torch.Tensor:
        """Return the logits (classes, z, y, x), less a number that a voxel's classes share, of what a tile sees."""


class ExactTiles(Protocol):
    """How a network is computed in tiles that agree where they overlap: which tiles, how much memory they take."""

    @property
    def margin_zyx(self) -> Triple:
        """By how many voxels a tile sees more than it answers for, on each side."""

    @property
    def smallest_zyx(self) -> Triple:
        """The input of the smallest tile."""

    @property
    def deepest_lattice(self) -> DeepestLattice:
        """Where the maps lie that an observer gets; tiles begin at multiples of its step."""

    def content(self, intensities_czyx: np.ndarray, padding_values: Sequence[float]) -> Sequence[Span] | None:
        """Return the box (zyx) of the voxels that are not padding, None where there are none."""

    def plan(
        self,
        size_zyx: Triple,
        content: Sequence[Span] | None,
        tile_bytes: float,
        itemsize: int,
        longest_side: int | None = None,
    ) -> TilePlan:
        """Return the cheapest tiles for a volume with some content; voxels that they leave out only see padding.

        A tile takes at most ``tile_bytes`` with activations of ``itemsize`` bytes, and its sides are at most
        ``longest_side``. Raises DeviceError when not even the smallest tile fits.
        """

    def memory_bytes(self, input_zyx: Triple, itemsize: int) -> float:
        """Return the most memory that a tile takes."""

    def runner(self, device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format) -> TileRunner:
        """Return a copy of the network on a device, in its precision and memory format."""


class LastLayers(Protocol):
    """The layers behind a cut: an ``nn.Module`` that shares its weights with the network and has these methods."""

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, classes, z, y, x)."""

    def features(self, features: torch.Tensor) -> torch.Tensor:
        """Return the maps (N, C, z, y, x) that the head classifies."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the weights, which are the network's own."""

    def to(self, device: torch.device) -> LastLayers:
        """Move the weights, and so the network's."""


class Backbone(Protocol):
    """A family of networks with the arguments of one network. Implementations import torch in their methods only."""

    spec: NetworkSpec

    def check(self) -> None:
        """Raise ModelError when the spec's arguments do not describe a network of this family; needs no torch."""

    @property
    def summary(self) -> str:
        """The arguments that matter, in a few words for a person: ``width 16``."""

    @property
    def parameters(self) -> int:
        """The exact number of weights, computed without torch; it limits the size of a model's file."""

    @property
    def tiling(self) -> Tiling:
        """How scans larger than a window are computed."""

    @property
    def split_points(self) -> tuple[str, ...]:
        """Names of the places where the network can be cut (at least one), from the fewest last layers to the most.

        Fine-tuning uses the first for what the parent knows, and the last for new structures or another preparation.
        """

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the layers (with ``.weight`` and ``.bias``) whose outputs are classes; the last one predicts."""

    def build(self) -> nn.Module:
        """Return the network with arbitrary weights; under ``torch.device("meta")`` without memory."""

    def initialise(self, network: nn.Module, seed: int) -> None:
        """Draw the weights of a network that starts from nothing."""

    def training_logits(self, network: nn.Module, scans: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, classes, z, y, x) of training patches (N, channels, z, y, x), same size."""

    def supervised_logits(self, network: nn.Module, scans: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the logits of every head for deep supervision, as ``training_logits`` and then ever coarser.

        A coarser head's voxels cover whole voxels of the patch; families with one head return its logits alone.
        """

    def training_patch(self, side: int, frame: int) -> TrainingPatch:
        """Return the training patch for a side and a frame that were asked for; raises TrainingError."""

    def feature_patch(self, side: int) -> Triple:
        """Return the size of the logits that cached features are computed for; raises TrainingError."""

    def first_layer(self, network: nn.Module) -> nn.Parameter:
        """Return the network's first parameter, which sees the scan: optimisers treat it as they treat the head."""

    def split_sizes(self, point: str) -> SplitSizes:
        """Return the sizes at a split point; needs no torch."""

    def frozen_layers(self, network: nn.Module, point: str) -> nn.Module:
        """Return a copy of the layers before a split point: scans (N, channels, z, y, x) to features (N, C, ...)."""

    def last_layers(self, network: nn.Module, point: str) -> LastLayers:
        """Return the layers behind a split point; their weights must be the network's own, no copies."""


class TiledBackbone(Backbone, Protocol):
    """A family whose ``tiling.blend`` is "exact"."""

    def exact_tiles(self, network: nn.Module) -> ExactTiles:
        """Return the tiles of a network."""
