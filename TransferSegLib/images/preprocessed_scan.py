"""A scan as a network wants it: prepared intensities on the model's grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from TransferSegLib.images.model_grid import ModelGrid


@dataclass(frozen=True)
class PreprocessedScan:
    """Prepared intensities (float32; channels, z, y, x) on a model's grid, and each channel's value for 'no scan'."""

    intensities_czyx: np.ndarray
    grid: ModelGrid
    padding_values: tuple[float, ...]
