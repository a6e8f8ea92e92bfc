"""Collect, while a scan is segmented, what its fit is judged by of the network's deepest maps.

Only sums are kept: the mean of the maps over the places that lie in tissue, each counted once however many tiles show
it, and how much each place excites the maps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from TransferSegLib.fit.feature_profile import ScanFeatures
from TransferSegLib.networks.unet_valid.geometry import ALIGNMENT, deep_centre

if TYPE_CHECKING:
    import torch

#: A voxel is of tissue when its prepared intensity is above 'nothing' by this share of the scan's range, and a place of
#: the deep lattice when more than half of its voxels are.
_ABOVE_NOTHING = 0.15
#: Rows of maps that are kept of one scan for making a profile.
_MOST_KEPT = 1000
#: The first position of the deep lattice whose voxels all lie within a volume, and that volume's first voxel in it.
_FIRST = next(position for position in range(10) if deep_centre(position) >= ALIGNMENT / 2 - 0.5)
_FIRST_VOXEL = round(deep_centre(_FIRST) - (ALIGNMENT - 1) / 2)


class FeatureCollector:
    """An observer of the deepest maps of one scan (see ``Predictor.predict``)."""

    def __init__(
        self, intensities_zyx: np.ndarray, outside: float, usual: np.ndarray | None = None, keep: bool = False
    ) -> None:
        """Find the places in the tissue of prepared intensities.

        ``usual`` scales channels to tell excitement; with ``keep`` maps are kept for making a profile.
        """
        self._tissue = tissue_places(intensities_zyx, outside)
        self._usual = usual
        self._sum: np.ndarray | None = None
        self._count = 0
        self._excitements: list[np.ndarray] = []
        self._kept: list[np.ndarray] | None = [] if keep else None

    def __call__(self, maps: torch.Tensor, first_zyx: tuple[int, int, int]) -> None:
        """Take the maps (1, channels, z, y, x) of some places, of which the first is given."""
        import torch

        own, there = [], []
        for first, length, size in zip(first_zyx, maps.shape[2:], self._tissue.shape, strict=True):
            start, stop = max(first, _FIRST), min(first + length, _FIRST + size)
            if start >= stop:
                return
            there.append(slice(start - _FIRST, stop - _FIRST))
            own.append(slice(start - first, stop - first))
        wanted = self._tissue[tuple(there)].copy()
        self._tissue[tuple(there)] = False  # a place that another tile shows again is not counted twice
        if not wanted.any():
            return
        chosen = torch.from_numpy(wanted).to(maps.device)
        rows = maps[0, :, own[0], own[1], own[2]].permute(1, 2, 3, 0)[chosen].to(torch.float32).cpu().numpy()
        total = rows.sum(axis=0, dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        self._count += len(rows)
        if self._usual is not None:
            self._excitements.append(excitement(rows, self._usual))
        if self._kept is not None:
            self._kept.append(rows.astype(np.float16))

    def features(self, familiar: float = 0.0) -> ScanFeatures | None:
        """Return what was collected, None where no place was in tissue; ``familiar`` is the profile's."""
        if self._sum is None:
            return None
        share = float("nan")
        if self._excitements:
            share = float(np.mean(np.concatenate(self._excitements) >= familiar))
        return ScanFeatures(self._sum / self._count, self._count, share)

    def some_rows(self) -> np.ndarray:
        """Return maps (places, channels) evenly spread over those kept; none where nothing was kept."""
        if not self._kept:
            return np.zeros((0, 0), np.float16)
        rows = np.concatenate(self._kept)
        return rows[:: max(1, -(-len(rows) // _MOST_KEPT))]


def excitement(rows: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Return the mean over channels of maps (places, channels) divided by what is usual; silent channels count not."""
    alive = usual > 0.01 * usual.mean()
    return np.asarray((rows[:, alive] / usual[alive]).mean(axis=1))


def tissue_places(intensities_zyx: np.ndarray, outside: float) -> np.ndarray:
    """Return which places of the deep lattice, from the first whose voxels lie within the volume on, are in tissue."""
    counts = [(length - _FIRST_VOXEL) // ALIGNMENT for length in intensities_zyx.shape]
    if min(counts) < 1:
        return np.zeros((0, 0, 0), bool)
    box = tuple(slice(_FIRST_VOXEL, _FIRST_VOXEL + ALIGNMENT * count) for count in counts)
    threshold = outside + _ABOVE_NOTHING * (float(intensities_zyx.max()) - outside)
    tissue = (intensities_zyx[box] > threshold).reshape(
        counts[0], ALIGNMENT, counts[1], ALIGNMENT, counts[2], ALIGNMENT
    )
    return np.asarray(tissue.sum(axis=(1, 3, 5), dtype=np.int64) > ALIGNMENT**3 / 2)
