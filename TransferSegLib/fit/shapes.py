"""What of a result is compared with a model's training cases: how large each structure is, and where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from TransferSegLib.structures import LabelSet

if TYPE_CHECKING:
    import SimpleITK as sitk

#: A structure that comes so near to the edge of the scan may go on beyond it.
_EDGE_MM = 3.0


@dataclass(frozen=True)
class FoundStructure:
    """A structure in a scan: millilitres, centre in mm (LPS), and whether the edge of the scan cuts it."""

    ml: float
    centre_mm: tuple[float, float, float]
    cut: bool


@dataclass(frozen=True)
class ScanShapes:
    """The structures found in a scan by name, and the scan's box in mm (LPS): its lowest and highest corner."""

    found: Mapping[str, FoundStructure]
    low_mm: tuple[float, float, float]
    high_mm: tuple[float, float, float]

    def holds(self, point_mm: np.ndarray, margin_mm: float) -> bool:
        """Tell whether a point lies within the scan by a margin."""
        low, high = np.array(self.low_mm) + margin_mm, np.array(self.high_mm) - margin_mm
        return bool(np.all((point_mm >= low) & (point_mm <= high)))


def shapes_of(label_map: sitk.Image, label_set: LabelSet) -> ScanShapes:
    """Return the structures of a label map; one without a voxel is not among them."""
    import SimpleITK as sitk  # a model is described without it

    labels = sitk.GetArrayViewFromImage(label_map)
    boxes = ndimage.find_objects(labels)
    found = {}
    for structure in label_set:
        box = boxes[structure.label - 1] if structure.label <= len(boxes) else None
        if box is not None:
            found[structure.name] = _found(label_map, labels[box] == structure.label, box)
    size = label_map.GetSize()
    ends = [(-0.5, length - 0.5) for length in size]
    corners = np.array(
        [
            label_map.TransformContinuousIndexToPhysicalPoint((x, y, z))
            for x in ends[0]
            for y in ends[1]
            for z in ends[2]
        ]
    )
    return ScanShapes(found, _point(corners.min(axis=0)), _point(corners.max(axis=0)))


def _found(label_map: sitk.Image, mask_zyx: np.ndarray, box: tuple[slice, ...]) -> FoundStructure:
    """Return the measures of the structure whose voxels a mask of a box of the label map shows."""
    count = int(np.count_nonzero(mask_zyx))
    spacing = label_map.GetSpacing()
    index = []
    cut = False
    for axis in (2, 1, 0):  # x, y, z
        others = tuple(other for other in range(3) if other != axis)
        along = mask_zyx.sum(axis=others, dtype=np.int64)
        index.append(box[axis].start + float(along @ np.arange(along.size)) / count)
        side_mm = spacing[2 - axis]
        near = max(0, int(_EDGE_MM / side_mm) - 1)
        cut = cut or box[axis].start <= near or box[axis].stop >= label_map.GetSize()[2 - axis] - near
    centre = label_map.TransformContinuousIndexToPhysicalPoint(index)
    return FoundStructure(count * float(np.prod(spacing)) / 1000.0, _point(np.array(centre)), cut)


def _point(values: np.ndarray) -> tuple[float, float, float]:
    """Return three numbers."""
    return float(values[0]), float(values[1]), float(values[2])
