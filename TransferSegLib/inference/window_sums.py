"""Adding up the logits of overlapping windows, for the rows along z that the current windows reach.

``BlendedSums`` weights each window by its share of all windows at a voxel, so that sums are the answer; classes are
compared to the largest one, so that half precision, which a scan with many classes needs, keeps what decides.
``NnUNetSums`` rounds where nnU-Net rounds: weights and sums in float16, divided in the end, each fold on its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy import ndimage

from TransferSegLib.errors import DeviceError
from TransferSegLib.inference.devices import Device, free_memory_bytes, is_out_of_memory
from TransferSegLib.networks.interface import Triple

#: Standard deviation of the weights, in sides of a window.
_SIGMA = 1 / 8
#: nnU-Net's largest weight.
_NNUNETS_LARGEST = 10
#: Share of a GPU's free memory that the sums may take; else they are kept in the computer's memory.
_SHARE_OF_GPU = 0.4
#: Sums that would take more in float32 are kept in half precision.
_MOST_IN_FLOAT32 = 1e9

#: Where windows begin along one axis; the first may begin before the scan, if that is smaller than a window.
Starts = list[int]


class WindowSums(ABC):
    """Sums for the rows that the current windows reach, behind the last row of the slab before.

    That first row is finished already; the next slab shares it.
    """

    def __init__(self, sums_shape: tuple[int, int], size_zyx: Triple, patch_zyx: Triple, device: Device) -> None:
        """Begin at the first row of a scan, for (folds, classes); raises DeviceError for too little memory."""
        self.size_zyx, self.patch_zyx = size_zyx, patch_zyx
        depth = min(patch_zyx[0], size_zyx[0]) + 1
        shape = (*sums_shape, depth, *size_zyx[1:])
        dtype = self.dtype_for(float(np.prod(shape)))
        needed = float(np.prod(shape)) * dtype.itemsize
        free = free_memory_bytes(device)
        on_gpu = free is not None and needed < _SHARE_OF_GPU * free
        self._device = torch.device(device.torch_name if on_gpu else "cpu")
        try:
            self._sums = torch.zeros(shape, dtype=dtype, device=self._device)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise DeviceError(
                f"There is not enough memory for the logits of a slab of this scan ({needed / 1e9:.1f} GB): close "
                "other programs."
            ) from None
        #: The row of the scan behind the finished ones; it is row 1 of the sums.
        self._first = 0

    @staticmethod
    @abstractmethod
    def dtype_for(values: float) -> torch.dtype:
        """Return the precision of so many sums."""

    @classmethod
    def bytes_for(cls, folds: int, classes: int, size_zyx: Triple, patch_zyx: Triple) -> float:
        """Return the memory that the sums take."""
        values = float(folds) * classes * (min(patch_zyx[0], size_zyx[0]) + 1) * size_zyx[1] * size_zyx[2]
        return values * cls.dtype_for(values).itemsize

    @abstractmethod
    def add(self, corner_zyx: Triple, logits: torch.Tensor) -> None:
        """Add the logits (folds, classes, z, y, x) of a window whose first voxel is given; they are changed."""

    @abstractmethod
    def values(self, rows: slice, fresh: slice) -> torch.Tensor:
        """Return the logits (classes, z, y, x) of some rows, of which the fresh ones have got all their windows."""

    def finished(self, stop: int) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield first row, end and logits (classes, z, y, x) of pieces of the slab that ends before ``stop``.

        Pieces share a row with their neighbours.
        """
        count, shared = stop - self._first, min(1, self._first)
        yield self._first - shared, stop, self.values(slice(1 - shared, count + 1), slice(1, count + 1))

    def move_to(self, stop: int) -> None:
        """Make room for the rows from ``stop`` on, which overwrites the slab that ended there."""
        count, self._first = stop - self._first, stop
        self._move(self._sums, count)

    def _move(self, sums: torch.Tensor, count: int) -> None:
        """Move rows (axis -3) to the front by so many and clear those at the end."""
        depth = sums.shape[-3]
        for row in range(depth - count):
            sums[..., row, :, :] = sums[..., row + count, :, :]
        sums[..., depth - count :, :, :] = 0

    def _places(self, corner_zyx: Triple) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Return where a window lies in the sums, and the part of the window that lies in the scan."""
        (z, y, x), in_window = common(corner_zyx, self.patch_zyx, self.size_zyx)
        return (slice(z.start - self._first + 1, z.stop - self._first + 1), y, x), in_window


class BlendedSums(WindowSums):
    """Sums of logits that are weighted by a window's share of all windows at a voxel."""

    def __init__(
        self,
        classes: int,
        size_zyx: Triple,
        patch_zyx: Triple,
        starts: Sequence[Starts],
        device: Device,
        relative: bool,
        folds: int = 1,
    ) -> None:
        """Begin; ``relative``: only differences of classes count, so each voxel's largest logit is made 0."""
        super().__init__((folds, classes), size_zyx, patch_zyx, device)
        self._relative = relative and self._sums.dtype != torch.float32
        self._shares = [shares_along(*axis) for axis in zip(patch_zyx, starts, size_zyx, strict=True)]

    @staticmethod
    def dtype_for(values: float) -> torch.dtype:
        """Return float32, or float16 where that would take too much memory."""
        return torch.float32 if 4 * values <= _MOST_IN_FLOAT32 else torch.float16

    def add(self, corner_zyx: Triple, logits: torch.Tensor) -> None:
        """Add a window's logits."""
        here, in_window = self._places(corner_zyx)
        along = (shares[start][part] for shares, start, part in zip(self._shares, corner_zyx, in_window, strict=True))
        z, y, x = (torch.from_numpy(share).to(logits.device) for share in along)
        with torch.inference_mode():  # so that the logits can be weighted in place
            inside = logits[(slice(None), slice(None), *in_window)]
            if self._relative:
                inside -= inside.amax(dim=1, keepdim=True)
            inside *= z[:, None, None] * y[:, None] * x
            self._sums[(slice(None), slice(None), *here)] += inside.to(self._device)

    def values(self, rows: slice, fresh: slice) -> torch.Tensor:
        """Return the sums, which are the answer."""
        return self._sums[0, :, rows]


class NnUNetSums(WindowSums):
    """Sums as nnU-Net makes them, to the last bit: float16, each fold on its own."""

    def __init__(self, folds: int, classes: int, size_zyx: Triple, patch_zyx: Triple, device: Device) -> None:
        """Begin at the first row of a scan."""
        super().__init__((folds, classes), size_zyx, patch_zyx, device)
        self._weights = nnunet_weights(patch_zyx)
        self._weight_sums = torch.zeros(self._sums.shape[2:], dtype=torch.float16, device=self._device)

    @staticmethod
    def dtype_for(values: float) -> torch.dtype:
        """Return float16."""
        return torch.float16

    def add(self, corner_zyx: Triple, logits: torch.Tensor) -> None:
        """Add a window's logits."""
        here, in_window = self._places(corner_zyx)
        weights = self._weights[in_window].to(logits.device)
        with torch.inference_mode():
            inside = logits[(slice(None), slice(None), *in_window)]
            inside *= weights
            self._sums[(slice(None), slice(None), *here)] += inside.to(self._device)
            self._weight_sums[here] += weights.to(self._device)

    def values(self, rows: slice, fresh: slice) -> torch.Tensor:
        """Divide the fresh rows by their weights; return the mean of the folds."""
        self._sums[:, :, fresh] /= self._weight_sums[fresh]
        total = self._sums[0, :, rows]
        if len(self._sums) == 1:
            return total
        total = total.clone()
        for fold in self._sums[1:]:
            total += fold[:, rows]
        return total.div_(len(self._sums))

    def move_to(self, stop: int) -> None:
        """Make room for the rows from ``stop`` on, for sums and weights."""
        self._move(self._weight_sums, stop - self._first)
        super().move_to(stop)


def window_starts(size: int, side: int, step: float) -> Starts:
    """Return where windows begin along an axis, at most a share ``step`` of a window apart and evenly spread.

    A scan smaller than a window lies in its middle.

    >>> window_starts(20, 8, 0.5)
    [0, 4, 8, 12]
    """
    if size <= side:
        return [-((side - size) // 2)]
    count = int(np.ceil((size - side) / (side * step)))
    apart = (size - side) / count
    return [round(apart * number) for number in range(count + 1)]


def bell(side: int) -> np.ndarray:
    """Return the Gaussian weights along one side of a window (float64, at most 1)."""
    impulse = np.zeros(side)
    impulse[side // 2] = 1.0
    weights = ndimage.gaussian_filter(impulse, side * _SIGMA, mode="constant")
    return np.asarray(weights / weights.max())


def shares_along(side: int, starts: Starts, size: int) -> dict[int, np.ndarray]:
    """Return, for each window along an axis, which share (float32) of all weights at a voxel is its own."""
    weights = bell(side)
    total = np.zeros(size)
    places = {start: common((start,), (side,), (size,)) for start in starts}
    for (inside,), (in_window,) in places.values():
        total[inside] += weights[in_window]
    shares = {start: np.zeros(side, np.float32) for start in starts}
    for start, ((inside,), (in_window,)) in places.items():
        shares[start][in_window] = weights[in_window] / total[inside]
    return shares


def nnunet_weights(patch_zyx: Triple) -> torch.Tensor:
    """Return nnU-Net's weights of the voxels of a window (z, y, x; float16)."""
    impulse = np.zeros(patch_zyx, np.float64)
    impulse[tuple(side // 2 for side in patch_zyx)] = 1.0
    blurred = ndimage.gaussian_filter(impulse, [side * _SIGMA for side in patch_zyx], mode="constant")
    weights = torch.from_numpy(blurred / (blurred.max() / _NNUNETS_LARGEST)).to(torch.float16)
    weights[weights == 0] = weights[weights > 0].min()
    return weights


def common(
    corner: Sequence[int], sides: Sequence[int], size: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the voxels of a scan that lie in a window, and where in the window they are."""
    inside, in_window = [], []
    for start, side, length in zip(corner, sides, size, strict=True):
        low, high = max(0, start), min(length, start + side)
        inside.append(slice(low, high))
        in_window.append(slice(low - start, high - start))
    return tuple(inside), tuple(in_window)
