"""The logits of a box of a volume, as predictors yield them and ``images.label_resampling`` takes them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from TransferSegLib.images.label_resampling import MOST_PROBABLE, LabelRule
from TransferSegLib.networks.interface import Triple
from TransferSegLib.progress import Task

#: Rows along z whose most probable channels are found at once on a CPU.
_ROWS_AT_ONCE = 16
#: On a GPU, which is waited for each time, it is as many rows as have so many voxels.
_VOXELS_AT_ONCE = 2**25
#: Half precision holds larger margins badly, and they mean nothing more.
_LARGEST_MARGIN = 1e4


def holds_any(wanted_zyx: np.ndarray, start_zyx: Sequence[int], stop_zyx: Sequence[int]) -> bool:
    """Tell whether a mask holds a voxel from ``start_zyx`` to ``stop_zyx`` (not included), which may lie beyond it."""
    return bool(
        wanted_zyx[tuple(slice(max(0, start), stop) for start, stop in zip(start_zyx, stop_zyx, strict=True))].any()
    )


@dataclass(frozen=True)
class BoxFeatures:
    """Head features (channels, z, y, x; float16, on the CPU) of the voxels of a volume from ``start_zyx`` on.

    The logits are a linear map of them. Of several folds, each has its channels.
    """

    start_zyx: Triple
    values: torch.Tensor


@dataclass(frozen=True)
class BoxLogits:
    """Logits (classes, z, y, x) of the voxels from ``start_zyx`` on, on the device.

    The box owns the voxels before ``stop_zyx``, and each voxel of a volume has one owner; it may hold one voxel more
    along each axis. Logits may be less any number that all classes of a voxel have in common. ``task`` is for what is
    made of them, before the next box is computed.
    """

    start_zyx: Triple
    stop_zyx: Triple
    values: torch.Tensor
    task: Task = field(default_factory=Task)
    #: Whether logits are interpolated, and not probabilities.
    as_logits: bool = False
    rule: LabelRule = MOST_PROBABLE
    #: What the head makes the logits of, where it was asked for.
    features: BoxFeatures | None = None

    @property
    def classes(self) -> int:
        """How many classes there are, the background included."""
        return self.outputs + self.rule.regions

    @property
    def outputs(self) -> int:
        """How many logits a voxel has."""
        return self.values.shape[0]

    def most_probable(self) -> np.ndarray:
        """Return the channel of every voxel (zyx; uint8, or uint16 for many classes): the most probable one.

        With regions it is the last one, from 1 on, whose logit is above 0.
        """
        channels = np.empty(self.values.shape[1:], np.min_scalar_type(self.classes))
        for rows in self._slabs():
            logits = self.values[:, rows]
            # max is faster than argmax.
            most = _last_region(logits) if self.rule.regions else logits.max(dim=0).indices
            channels[rows] = most.to(torch.uint8 if self.classes < 256 else torch.int32).cpu().numpy()
        return channels

    def two_best(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the margin of the best class's logit over the second's (float16), and both channels (all zyx).

        With regions the margin is the smallest distance of a logit from 0, and the second channel is of that region, or
        the background where the region is the best.
        """
        size = self.values.shape[1:]
        margins = np.empty(size, np.float16)
        best, second = (np.empty(size, np.min_scalar_type(self.classes)) for _ in range(2))
        for rows in self._slabs():
            logits = self.values[:, rows].float()
            found = _nearest_region(logits) if self.rule.regions else _two_largest(logits)
            margins[rows] = found[0].clamp(max=_LARGEST_MARGIN).to(torch.float16).cpu().numpy()
            for channels, values in ((best, found[1]), (second, found[2])):
                channels[rows] = values.to(torch.uint8 if self.classes < 256 else torch.int32).cpu().numpy()
        return margins, best, second

    def _slabs(self) -> Iterator[slice]:
        """Yield slabs of rows along z, because torch's indices take eight bytes each; looks whether to stop."""
        depth, rows_at_once = self.values.shape[1], _ROWS_AT_ONCE
        if self.values.device.type != "cpu":
            rows_at_once = max(rows_at_once, _VOXELS_AT_ONCE // max(1, math.prod(self.values.shape[2:])))
        for first in range(0, depth, rows_at_once):
            self.task.at(0.0)
            yield slice(first, first + rows_at_once)

    def probabilities_at(self, positions_zyx: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """Return the probabilities, or what is interpolated instead (n, outputs; float32), at n voxels."""
        z, y, x = (torch.from_numpy(along).to(self.values.device) for along in positions_zyx)
        logits = self.values.permute(1, 2, 3, 0)[z, y, x]
        logits = logits.to(torch.float32)
        return (logits if self.as_logits else torch.softmax(logits, dim=1)).cpu().numpy()

    @property
    def window(self) -> tuple[slice, slice, slice]:
        """The voxels of the volume that the box owns."""
        z, y, x = (slice(start, stop) for start, stop in zip(self.start_zyx, self.stop_zyx, strict=True))
        return z, y, x

    @property
    def own(self) -> tuple[slice, slice, slice]:
        """The voxels of the box that it owns."""
        z, y, x = (slice(0, stop - start) for start, stop in zip(self.start_zyx, self.stop_zyx, strict=True))
        return z, y, x


def _last_region(logits: torch.Tensor) -> torch.Tensor:
    """Return the number, from 1 on, of the last region (axis 0) whose logit is above 0; 0 where there is none."""
    last = torch.zeros(logits.shape[1:], dtype=torch.int32, device=logits.device)
    for number, region in enumerate(logits, start=1):
        last[region > 0] = number
    return last


def _two_largest(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the difference of the two largest logits along axis 0, and the indices of both."""
    first = logits.max(dim=0)
    if len(logits) == 1:
        return torch.full_like(first.values, _LARGEST_MARGIN), first.indices, first.indices
    rest = logits.scatter(0, first.indices[None], -torch.inf).max(dim=0)
    return first.values - rest.values, first.indices, rest.indices


def _nearest_region(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the smallest distance of a region's logit from 0, the last region above 0, and the one that is nearest."""
    nearest = logits.abs().min(dim=0)
    last, number = _last_region(logits), nearest.indices.to(torch.int32) + 1
    return nearest.values, last, torch.where(last == number, 0, number)
