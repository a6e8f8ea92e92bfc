"""Adding up features instead of logits, where a network has more classes than features.

Where logits are a linear map of a voxel's own features, the map of an average of features is the average of the maps:
the head can wait until all windows of a voxel are added up. A network of 117 structures and 32 features so needs little
more than a quarter of the memory, and its head is computed once for a voxel and not once for each window.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from TransferSegLib.inference.devices import Device
from TransferSegLib.inference.window_sums import BlendedSums, Starts
from TransferSegLib.networks.interface import Triple

#: Sums that would take more in float32 are kept in half precision.
_MOST_IN_FLOAT32 = 2e9
#: Logits that are computed at once, in bytes.
_LOGITS_AT_ONCE = 2.5e8


class FeatureSums(BlendedSums):
    """Sums of the features of each fold, of which logits are made a few rows at a time."""

    def __init__(
        self,
        heads: Sequence[nn.Module],
        features: int,
        classes: int,
        size_zyx: Triple,
        patch_zyx: Triple,
        starts: Sequence[Starts],
        device: Device,
    ) -> None:
        """Begin; a head maps ``features`` (N, C, z, y, x) to logits (N, classes, z, y, x)."""
        super().__init__(features, size_zyx, patch_zyx, starts, device, relative=False, folds=len(heads))
        self._heads = [copy.deepcopy(head).eval().to(self._device) for head in heads]
        self._rows_at_once = max(1, int(_LOGITS_AT_ONCE / (4.0 * classes * size_zyx[1] * size_zyx[2])))

    @staticmethod
    def dtype_for(values: float) -> torch.dtype:
        """Return float32, or float16 where that would take too much memory."""
        return torch.float32 if 4 * values <= _MOST_IN_FLOAT32 else torch.float16

    def finished(self, stop: int) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Yield first row, end and logits (classes, z, y, x) of pieces of the slab that ends before ``stop``."""
        offset = self._first - 1  # of the sums' row 0
        begin = self._first - min(1, self._first)
        while begin < stop:
            end = min(stop, begin + self._rows_at_once + 1)
            yield begin, end, self._logits(slice(begin - offset, end - offset))
            begin = end if end == stop else end - 1

    def features(self, begin: int, end: int) -> torch.Tensor:
        """Return the features (folds * channels, z, y, x; float16, on the CPU) of rows that ``finished`` yields."""
        offset = self._first - 1
        return self._sums[:, :, begin - offset : end - offset].flatten(0, 1).to("cpu", torch.float16, copy=True)

    def _logits(self, rows: slice) -> torch.Tensor:
        """Return the logits of some rows, the mean over the folds."""
        with torch.inference_mode():
            total: torch.Tensor = self._heads[0](self._sums[0, :, rows].float()[None])[0]
            for head, sums in zip(self._heads[1:], self._sums[1:], strict=True):
                total += head(sums[:, rows].float()[None])[0]
            return total if len(self._heads) == 1 else total.div_(len(self._heads))
