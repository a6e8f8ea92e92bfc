"""What a network of nnU-Net looks like: depth, features, kernels and strides, and the patch it was trained on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from TransferSegLib.errors import ModelError
from TransferSegLib.networks.interface import Triple

_MOST_LEVELS, _MOST_FEATURES, _MOST_CONVOLUTIONS, _LARGEST_KERNEL, _LARGEST_STRIDE = 12, 4096, 32, 15, 8
_LARGEST_PATCH = 1024
#: nnU-Net gives no level of a 3D network more features than this.
_MOST_PLAIN_FEATURES = 320


@dataclass(frozen=True)
class UNetPlan:
    """The arguments of one network; lists have one entry a level, the finest first.

    ``encoder_blocks`` counts convolutions (plain) or residual blocks, ``decoder_convolutions`` those of the decoder's
    levels, the coarsest first. ``overlap`` is the share by which windows of ``patch_zyx`` voxels overlap. Along
    ``mirror_axes_zyx`` (0 z, 1 y, 2 x) the network was trained on mirrored patches: predictions may be mirrored, too.
    """

    is_residual: bool
    features: tuple[int, ...]
    kernels_zyx: tuple[Triple, ...]
    strides_zyx: tuple[Triple, ...]
    encoder_blocks: tuple[int, ...]
    decoder_convolutions: tuple[int, ...]
    patch_zyx: Triple
    bias: bool = True
    norm_eps: float = 1e-5
    overlap: float = 0.5
    mirror_axes_zyx: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Raise ModelError for what is no network of nnU-Net."""
        levels = len(self.features)
        lengths = (len(self.kernels_zyx), len(self.strides_zyx), len(self.encoder_blocks))
        if not 2 <= levels <= _MOST_LEVELS or set(lengths) != {levels} or len(self.decoder_convolutions) != levels - 1:
            raise ModelError("The network's lists of features, kernels, strides and blocks do not have one length.")
        self._check("features", self.features, _MOST_FEATURES)
        self._check("blocks", (*self.encoder_blocks, *self.decoder_convolutions), _MOST_CONVOLUTIONS)
        self._check("kernels", [side for kernel in self.kernels_zyx for side in kernel], _LARGEST_KERNEL)
        self._check("strides", [side for stride in self.strides_zyx for side in stride], _LARGEST_STRIDE)
        self._check("patch", self.patch_zyx, _LARGEST_PATCH)
        if any(len(sides) != 3 for sides in (*self.kernels_zyx, *self.strides_zyx, self.patch_zyx)):
            raise ModelError("The network is not three-dimensional: only 3D configurations of nnU-Net can be used.")
        if any(side % 2 == 0 for kernel in self.kernels_zyx for side in kernel):
            raise ModelError("The network has a kernel of an even size, which nnU-Net does not plan.")
        if any(side % step for side, step in zip(self.patch_zyx, self.multiple_zyx, strict=True)):
            raise ModelError(f"A patch of {self.patch_zyx} voxels does not halve evenly by {self.multiple_zyx}.")
        if not (0 < self.norm_eps < 1 and 0 <= self.overlap < 1):
            raise ModelError("The network's norm_eps or overlap is not a share.")
        if any(axis not in (0, 1, 2) for axis in self.mirror_axes_zyx) or len(set(self.mirror_axes_zyx)) < len(
            self.mirror_axes_zyx
        ):
            raise ModelError(f"The network's mirror_axes_zyx must be some of 0, 1 and 2, not {self.mirror_axes_zyx}.")

    @staticmethod
    def _check(what: str, values: Any, largest: int) -> None:
        """Raise ModelError unless all values are whole numbers from 1 on."""
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
                raise ModelError(f"The network's {what} must be whole numbers from 1 to {largest}, not {value!r:.60}.")

    @property
    def multiple_zyx(self) -> Triple:
        """By what the sides of a patch must be divisible: the product of all strides."""
        z, y, x = (math.prod(stride[axis] for stride in self.strides_zyx) for axis in range(3))
        return z, y, x

    @staticmethod
    def plain(width: int, levels: int, patch_zyx: Triple) -> UNetPlan:
        """Return nnU-Net's plain U-Net for isotropic grids: ``width`` features at first, twice as many a level."""
        return UNetPlan(
            is_residual=False,
            features=tuple(min(width * 2**level, _MOST_PLAIN_FEATURES) for level in range(levels)),
            kernels_zyx=((3, 3, 3),) * levels,
            strides_zyx=((1, 1, 1), *((2, 2, 2),) * (levels - 1)),
            encoder_blocks=(2,) * levels,
            decoder_convolutions=(2,) * (levels - 1),
            patch_zyx=patch_zyx,
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary: the arguments of a ``NetworkSpec``."""
        return {
            key: [list(v) if isinstance(v, tuple) else v for v in value] if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @staticmethod
    def from_json(entry: dict[str, Any]) -> UNetPlan:
        """Read a dictionary written by ``to_json``; raises ModelError when it is not one."""
        try:
            return UNetPlan(
                is_residual=bool(entry["is_residual"]),
                features=tuple(entry["features"]),
                kernels_zyx=tuple(_triple(kernel) for kernel in entry["kernels_zyx"]),
                strides_zyx=tuple(_triple(stride) for stride in entry["strides_zyx"]),
                encoder_blocks=tuple(entry["encoder_blocks"]),
                decoder_convolutions=tuple(entry["decoder_convolutions"]),
                patch_zyx=_triple(entry["patch_zyx"]),
                bias=bool(entry["bias"]),
                norm_eps=float(entry["norm_eps"]),
                overlap=float(entry["overlap"]),
                mirror_axes_zyx=tuple(entry.get("mirror_axes_zyx", ())),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"The network's arguments cannot be read: {error!r:.120}.") from error


def _triple(sides: Any) -> Triple:
    z, y, x = sides
    return z, y, x
