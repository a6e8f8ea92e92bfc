"""Cases of a dataset that are unlike its others: a structure much larger, elsewhere in intensity, or in pieces.

Such a case is often right. It is worth a look, because a wrong name, a wrong scan or a forgotten slice looks like this.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from TransferSegLib.structures import Structure

#: A structure is compared where so many cases have it.
FEWEST_CASES = 6
#: How many robust standard deviations (1.4826 times the median absolute deviation) from the median is unusual.
_FAR = 5.0
#: A volume is unusual at this factor at least, an intensity at this distance in HU, a share of loose voxels from here.
_FACTOR, _HU, _LOOSE = 2.0, 100.0, 0.10
#: The least that counts as a standard deviation: of the volume's logarithm, of HU, of the share of loose voxels.
_LEAST_SPREAD = (0.1, 10.0, 0.01)


@dataclass(frozen=True)
class StructureMeasures:
    """What is compared of a structure in a case; ``loose`` is the share of its voxels outside the largest part."""

    volume_ml: float
    mean_intensity: float
    loose: float


@dataclass(frozen=True)
class Outlier:
    """A case that is unlike the others, and in what."""

    case: str
    what: str


def measure_structures(
    image: sitk.Image, labels: sitk.Image, structures: Iterable[Structure]
) -> dict[str, StructureMeasures]:
    """Measure the structures that have voxels; image and label map have one grid."""
    intensities_zyx, labels_zyx = sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(labels)
    voxel_ml = float(np.prod(image.GetSpacing())) / 1000
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.ComputePerimeterOff()
    shapes.Execute(labels)
    present = set(shapes.GetLabels())
    measured = {}
    for structure in structures:
        if structure.label not in present:
            continue
        x, y, z, width, height, depth = shapes.GetBoundingBox(structure.label)
        box = slice(z, z + depth), slice(y, y + height), slice(x, x + width)
        mask = labels_zyx[box] == structure.label
        parts, _ = ndimage.label(mask, np.ones((3, 3, 3), bool))
        sizes = np.bincount(parts.ravel())[1:]
        measured[structure.name] = StructureMeasures(
            float(sizes.sum()) * voxel_ml,
            float(intensities_zyx[box][mask].mean(dtype=np.float64)),
            1.0 - float(sizes.max()) / float(sizes.sum()),
        )
    return measured


def outliers(cases: Mapping[str, Mapping[str, StructureMeasures]], is_ct: bool) -> list[Outlier]:
    """Return what is unlike the other cases, by case id; intensities are compared in CT only."""
    by_structure: dict[str, dict[str, StructureMeasures]] = defaultdict(dict)
    for case, measured in cases.items():
        for name, measures in measured.items():
            by_structure[name][case] = measures
    found = []
    for name, of_cases in by_structure.items():
        if len(of_cases) >= FEWEST_CASES:
            found += _of_structure(name, of_cases, is_ct)
    return found


def _of_structure(name: str, of_cases: Mapping[str, StructureMeasures], is_ct: bool) -> list[Outlier]:
    volumes, hu, loose = (
        _Spread([value(measures) for measures in of_cases.values()], least)
        for value, least in zip((_log_volume, _intensity, _loose), _LEAST_SPREAD, strict=True)
    )
    usual_ml = math.exp(volumes.median)
    found = []
    for case, measures in of_cases.items():
        log_volume = _log_volume(measures)
        if volumes.is_far(log_volume) and abs(log_volume - volumes.median) >= math.log(_FACTOR):
            found.append(Outlier(case, f"'{name}' has {measures.volume_ml:.3g} ml, usual here is {usual_ml:.3g} ml"))
        far_hu = abs(measures.mean_intensity - hu.median) >= _HU
        if is_ct and far_hu and hu.is_far(measures.mean_intensity):
            values = f"{measures.mean_intensity:.0f} HU, usual here is {hu.median:.0f} HU"
            found.append(Outlier(case, f"'{name}' has a mean of {values}"))
        if measures.loose >= _LOOSE and loose.is_far(measures.loose):
            found.append(Outlier(case, f"'{name}' is in pieces: {100 * measures.loose:.0f} % of it lies apart"))
    return found


class _Spread:
    """Median and robust standard deviation of values."""

    def __init__(self, values: Iterable[float], least: float) -> None:
        found = np.fromiter(values, np.float64)
        self.median = float(np.median(found))
        self._deviation = max(least, 1.4826 * float(np.median(np.abs(found - self.median))))

    def is_far(self, value: float) -> bool:
        return abs(value - self.median) > _FAR * self._deviation


def _log_volume(measures: StructureMeasures) -> float:
    return math.log(measures.volume_ml)


def _intensity(measures: StructureMeasures) -> float:
    return measures.mean_intensity


def _loose(measures: StructureMeasures) -> float:
    return measures.loose
