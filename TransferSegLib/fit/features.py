"""Collect, while a scan is segmented, what the fit check uses of the network's deepest maps.

Only sums are kept: the mean of the maps over the places that lie in tissue, each counted once however many tiles show
it, and how much each place excites the maps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from TransferSegLib.fit.feature_profile import ScanFeatures
from TransferSegLib.networks.interface import DeepestLattice

if TYPE_CHECKING:
    import torch

#: A voxel is of tissue when its prepared intensity is above padding by this share of the scan's range, and a place of
#: the deep lattice when more than half of its voxels are.
_ABOVE_PADDING = 0.15
#: Rows of maps that are kept of one scan for making a profile.
_MOST_KEPT = 1000


class FeatureCollector:
    """An observer of the deepest maps of one scan (see ``Predictor.predict``)."""

    def __init__(
        self,
        intensities_zyx: np.ndarray,
        padding_value: float,
        lattice: DeepestLattice,
        usual: np.ndarray | None = None,
        keep: bool = False,
    ) -> None:
        """Find the places in the tissue of prepared intensities, those of the first channel.

        ``usual`` scales the channels to measure excitement; with ``keep`` maps are kept for making a profile.
        """
        self._tissue = tissue_places(intensities_zyx, padding_value, lattice)
        self._first = lattice.first
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
            start, stop = max(first, self._first), min(first + length, self._first + size)
            if start >= stop:
                return
            there.append(slice(start - self._first, stop - self._first))
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
    """Return the mean over channels of maps (places, channels) over what is usual; silent channels do not count."""
    alive = usual > 0.01 * usual.mean()
    return np.asarray((rows[:, alive] / usual[alive]).mean(axis=1))


def tissue_places(intensities_zyx: np.ndarray, padding_value: float, lattice: DeepestLattice) -> np.ndarray:
    """Return which places of the deep lattice, from the first whose voxels lie within the volume on, are in tissue."""
    first, step = lattice.first_voxel, lattice.step
    counts = [(length - first) // step for length in intensities_zyx.shape]
    if min(counts) < 1:
        return np.zeros((0, 0, 0), bool)
    box = tuple(slice(first, first + step * count) for count in counts)
    threshold = padding_value + _ABOVE_PADDING * (float(intensities_zyx.max()) - padding_value)
    tissue = (intensities_zyx[box] > threshold).reshape(counts[0], step, counts[1], step, counts[2], step)
    return np.asarray(tissue.sum(axis=(1, 3, 5), dtype=np.int64) > step**3 / 2)
