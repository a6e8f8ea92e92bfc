"""The kept features of a scan as the last layer sees them: log-odds of a structure, and values between grid voxels."""

from __future__ import annotations

from itertools import product

import numpy as np

from TransferSegLib.errors import ModelError
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.inference.kept_features import KeptFeatures
from TransferSegLib.models.store import Model

#: Probabilities are kept so far from 0 and 1: the log-odds stay within 16.
_SMALLEST = 1e-7
#: Rows whose logits are computed at once, in numbers.
_AT_ONCE = 8_000_000


class HeadFeatures:
    """Features of a scan's model grid, and the last layer of the model."""

    def __init__(self, model: Model, kept: KeptFeatures, grid: ModelGrid) -> None:
        """Take a model's last layer and the features in front of it; raises ModelError when they do not fit."""
        self.features, self._grid, self._rows = kept.features, grid, kept.rows()
        name = model.description.backbone.heads[-1]
        folds = [model.fold_weights(number) for number in range(model.description.folds)]
        # The mean of linear maps of each fold's features is a linear map of all features.
        self._weights = np.concatenate([fold[f"{name}.weight"].flatten(1).numpy() for fold in folds], axis=1) / len(
            folds
        )
        self._biases = np.mean([fold[f"{name}.bias"].numpy() for fold in folds], axis=0)
        if self._weights.shape[1] != self.features.shape[1] or kept.size_zyx != grid.size_zyx:
            raise ModelError("The features that were kept of this scan do not fit the model: delete their file.")

    def log_odds(self, channel: int) -> np.ndarray:
        """Return what the model says of a channel (n; float32): the log-odds against all others, by row."""
        result = np.empty(len(self.features), np.float32)
        at_once = max(1, _AT_ONCE // len(self._biases))
        for first in range(0, len(result), at_once):
            logits = self.features[first : first + at_once].astype(np.float32) @ self._weights.T + self._biases
            logits = np.exp(logits - logits.max(axis=1, keepdims=True))
            share = np.clip(logits[:, channel] / logits.sum(axis=1), _SMALLEST, 1 - _SMALLEST)
            result[first : first + at_once] = np.log(share) - np.log1p(-share)
        return result

    def known_at(self, places_zyx: np.ndarray) -> np.ndarray:
        """Return for voxels of the oriented scan (n, 3) whether all features around them were kept."""
        return self.at(np.empty((len(self.features), 0), np.float32), places_zyx)[1]

    def at(self, values: np.ndarray, places_zyx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Interpolate values by row (rows, m) linearly at voxels of the oriented scan (n, 3).

        Returns (n, m), and whether all rows around a voxel are there (n).
        """
        found = np.zeros((len(places_zyx), values.shape[1]), np.float32)
        if not len(self.features):
            return found, np.zeros(len(places_zyx), bool)
        base, fraction = _around(self._grid, places_zyx)
        is_known = np.ones(len(places_zyx), bool)
        sizes, flat_rows = self._grid.size_zyx, self._rows.reshape(-1)
        strides = (sizes[1] * sizes[2], sizes[2], 1)
        # Of each axis the lower and the upper neighbour: how much it counts, and where it lies in the flat grid.
        ends = []
        for axis in range(3):
            upper = np.minimum(base[:, axis] + 1, sizes[axis] - 1)
            part = fraction[:, axis]
            ends.append(((1 - part, base[:, axis] * strides[axis]), (part, upper * strides[axis])))
        for (z_part, z), (y_part, y), (x_part, x) in product(*ends):
            weight = z_part * y_part * x_part
            rows = flat_rows.take(z + y + x)
            is_missing = rows < 0
            is_known &= (weight == 0) | ~is_missing
            if found.size:
                weight[is_missing] = 0  # and the row -1 is any of the others
                found += values.take(rows, axis=0).astype(np.float32, copy=False) * weight[:, None]
        return found, is_known


def voxels_around(grid: ModelGrid, places_zyx: np.ndarray) -> np.ndarray:
    """Return the voxels of the grid (mask, zyx) between which voxels of the oriented scan (n, 3) lie."""
    base, fraction = _around(grid, places_zyx)
    found = np.zeros(grid.size_zyx, bool)
    last = np.array(grid.size_zyx) - 1
    for beyond in product((0, 1), repeat=3):
        counts = ((fraction > 0) | (np.array(beyond) == 0)).all(axis=1)
        found[tuple(np.minimum(base[counts] + beyond, last).T)] = True
    return found


def _around(grid: ModelGrid, places_zyx: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower grid voxel around each voxel of the scan (n, 3), and how far on it lies (0 to 1)."""
    position = (places_zyx[:, ::-1] @ grid.matrix.T + grid.offset_xyz)[:, ::-1]
    position = np.clip(position, 0, np.array(grid.size_zyx) - 1)
    axis = grid.nearest_axis
    if axis is not None:
        position = position.copy()
        position[:, axis] = np.floor(position[:, axis] + 0.5)
    base = np.floor(position).astype(np.int64)
    return base, (position - base).astype(np.float32)
