"""The places of a scan where a segmentation is most doubtful, in the order in which they are worth a look.

Along every boundary a thin layer of voxels is doubtful, which says little. A place is where doubt is thick: the mean
doubt over some millimetres has a peak there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from TransferSegLib.doubt.scan_doubt import ScanDoubt
from TransferSegLib.images.grid_to_scan import scan_index
from TransferSegLib.progress import Task
from TransferSegLib.structures import structure_key

#: So many places are found unless asked otherwise.
MOST_PLACES = 20
#: Standard deviation of the mean doubt's weights.
_SIGMA_MM = 3.0
#: A place ends where the mean doubt is below this share of its peak, or so far from it; the next peak is farther.
_SHARE_OF_PEAK, _REACH_MM = 0.5, 12.0
#: The mean doubt is at least so much, as a share of the model's largest doubt.
_LEAST = 0.15
#: Voxels that share a face, an edge or a corner belong together.
_NEIGHBOURS = np.ones((3, 3, 3), bool)
_FILTERED_PER_SECOND = 5e6


@dataclass(frozen=True)
class DoubtfulPlace:
    """A connected place that is doubtful: the middle of the doubt (LPS, mm), and the structure it is mostly about.

    ``doubt`` is the mean doubt around the middle (0 to 1), ``volume_ml`` the size of the place, ``wrong_ml`` how
    much of it is expected to be wrong, None where the doubt is not calibrated.
    """

    position_mm: tuple[float, float, float]
    structure: str
    doubt: float
    volume_ml: float
    wrong_ml: float | None = None

    @property
    def position_ras_mm(self) -> tuple[float, float, float]:
        """The position in RAS, as 3D Slicer shows it."""
        x, y, z = self.position_mm
        return -x, -y, z

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, rounded."""
        return {
            "position_lps_mm": [round(value, 2) for value in self.position_mm],
            "structure": self.structure,
            "doubt": round(self.doubt, 4),
            "volume_ml": round(self.volume_ml, 4),
            "wrong_ml": None if self.wrong_ml is None else round(self.wrong_ml, 4),
        }

    @staticmethod
    def from_json(entry: Any) -> DoubtfulPlace:
        """Read what ``to_json`` wrote; raises KeyError, TypeError or ValueError for something else."""
        x, y, z = (float(value) for value in entry["position_lps_mm"])
        wrong_ml = entry.get("wrong_ml")
        return DoubtfulPlace(
            (x, y, z),
            str(entry["structure"]),
            float(entry["doubt"]),
            float(entry["volume_ml"]),
            None if wrong_ml is None else float(wrong_ml),
        )


def doubtful_places(
    doubts: Iterable[ScanDoubt],
    scan: sitk.Image,
    names: Collection[str],
    most: int = MOST_PLACES,
    task: Task | None = None,
) -> tuple[DoubtfulPlace, ...]:
    """Return at most so many places where these structures are doubtful, the most doubtful ones first.

    ``scan`` is the image that was segmented, or one on its grid. Raises Cancelled from the task.
    """
    found: list[DoubtfulPlace] = []
    for doubt, part in (task or Task()).each(list(doubts)):
        found += _places_of(doubt, scan, names, most, part)
    return tuple(sorted(found, key=_importance, reverse=True)[:most])


def _importance(place: DoubtfulPlace) -> float:
    """Return the doubtful volume of a place."""
    return place.doubt * place.volume_ml


def _places_of(
    doubt: ScanDoubt, scan: sitk.Image, names: Collection[str], most: int, task: Task
) -> list[DoubtfulPlace]:
    """Return the places of one model's doubt."""
    computing, filtering, finding = task.split(1, 3, 2)
    on_grid = doubt.on_grid(names, computing)
    spacing = np.array(doubt.grid.spacing_zyx_mm)
    box = _box_of(on_grid > 0.02 * float(doubt.of_margins(np.zeros(1))[0]), spacing)
    if box is None:
        return []
    on_grid = on_grid[box]
    mean = filtering.wait(
        lambda: ndimage.gaussian_filter(on_grid, _SIGMA_MM / spacing), on_grid.size / _FILTERED_PER_SECOND
    )
    least = _LEAST * float(doubt.of_margins(np.zeros(1))[0])
    reach = tuple(int(np.ceil(_REACH_MM / side)) for side in spacing)
    found = []
    free = mean.copy()
    # More than are wanted: a small place with a high peak is not worth more than a large one.
    for _ in finding.over(range(2 * most)):
        peak = np.unravel_index(int(free.argmax()), free.shape)
        if free[peak] < least:
            break
        window = tuple(slice(max(0, at - far), at + far + 1) for at, far in zip(peak, reach, strict=True))
        found.append(_place(doubt, names, scan, box, window, peak, on_grid, mean))
        free[window] = 0.0
    return found


def _place(
    doubt: ScanDoubt,
    names: Collection[str],
    scan: sitk.Image,
    box: tuple[slice, ...],
    window: tuple[slice, ...],
    peak: tuple[np.intp, ...],
    on_grid: np.ndarray,
    mean: np.ndarray,
) -> DoubtfulPlace:
    """Return the place around a peak of the mean doubt in a box of the grid; ``window`` is where it may reach."""
    parts, _ = ndimage.label(mean[window] >= _SHARE_OF_PEAK * mean[peak], _NEIGHBOURS)
    inside = tuple(at - part.start for at, part in zip(peak, window, strict=True))
    place = parts == parts[inside]
    voxel_ml = float(np.prod(doubt.grid.spacing_zyx_mm)) / 1000.0
    weights = np.where(place, on_grid[window], 0.0)
    position = [float(at + part.start) for at, part in zip(peak, box, strict=True)]
    x, y, z = scan.TransformContinuousIndexToPhysicalPoint(scan_index(position, doubt.grid))
    return DoubtfulPlace(
        (x, y, z),
        _structure(doubt, names, box, window, weights),
        float(mean[peak]),
        float(np.count_nonzero(place)) * voxel_ml,
        None if doubt.calibration is None else float(weights.sum()) * voxel_ml,
    )


def _structure(
    doubt: ScanDoubt, names: Collection[str], box: tuple[slice, ...], window: tuple[slice, ...], weights: np.ndarray
) -> str:
    """Return the structure that most of the doubt of a place is about; both of a voxel's best classes count."""
    sums = np.zeros(len(doubt.label_set) + 1)
    for channels in (doubt.best_zyx[box][window], doubt.second_zyx[box][window]):
        sums += np.bincount(channels.ravel(), weights.ravel(), minlength=len(sums))
    keys = {structure_key(name) for name in names}
    wanted = [channel for channel, structure in enumerate(doubt.label_set, start=1) if structure.key in keys]
    return doubt.label_set.names[max(wanted, key=lambda channel: sums[channel]) - 1]


def _box_of(mask_zyx: np.ndarray, spacing_zyx_mm: np.ndarray) -> tuple[slice, ...] | None:
    """Return the box of a mask with room for the mean doubt around it, None for an empty mask."""
    found = ndimage.find_objects(mask_zyx.astype(np.uint8))
    if not found:
        return None
    margin = np.ceil(3 * _SIGMA_MM / spacing_zyx_mm).astype(int)
    return tuple(
        slice(max(0, part.start - int(more)), part.stop + int(more))
        for part, more in zip(found[0], margin, strict=True)
    )
