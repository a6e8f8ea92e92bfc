"""Sizes and positions of the structures in a result, to be compared with those of a model's training cases."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from TransferSegLib.structures import LabelSet

if TYPE_CHECKING:
    import SimpleITK as sitk

#: A structure that comes so near to the edge of the scan may go on beyond it.
_EDGE_MM = 3.0
#: Smaller parts are specks and are ignored.
_LEAST_PART_ML = 0.1
#: Voxels that share a face, an edge or a corner belong together.
_NEIGHBOURS = np.ones((3, 3, 3), bool)


@dataclass(frozen=True)
class Part:
    """A part of a structure that does not touch its largest one: millilitres, and mm between the boxes of the two."""

    ml: float
    apart_mm: float


@dataclass(frozen=True)
class FoundStructure:
    """A structure in a scan: millilitres, centre in mm (LPS), whether the edge of the scan cuts it, and other parts."""

    ml: float
    centre_mm: tuple[float, float, float]
    cut: bool
    parts: tuple[Part, ...] = ()


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


def shapes_of(label_map: sitk.Image, label_set: LabelSet, in_one_part: Collection[str] = ()) -> ScanShapes:
    """Return the structures of a label map; one without a voxel is not among them.

    Structures ``in_one_part`` are known to be connected: their parts are not searched for.
    """
    import SimpleITK as sitk  # a model is described without it

    labels = sitk.GetArrayViewFromImage(label_map)
    boxes = ndimage.find_objects(labels)
    found = {}
    for structure in label_set:
        box = boxes[structure.label - 1] if structure.label <= len(boxes) else None
        if box is not None:
            mask = labels[box] == structure.label
            one = _found(label_map, mask, box)
            if structure.name not in in_one_part:
                one = replace(one, parts=other_parts(mask, label_map.GetSpacing()[::-1]))
            found[structure.name] = one
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


def other_parts(mask_zyx: np.ndarray, spacing_zyx: tuple[float, ...]) -> tuple[Part, ...]:
    """Return the parts of a mask, except the largest one and specks, the farthest first."""
    parts, count = ndimage.label(mask_zyx, _NEIGHBOURS)
    if count < 2:
        return ()
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    millilitres = sizes * float(np.prod(spacing_zyx)) / 1000.0
    largest = int(sizes.argmax())
    boxes = ndimage.find_objects(parts)
    found = []
    for number in np.flatnonzero(millilitres >= _LEAST_PART_ML):
        if number != largest:
            gaps = [
                max(0, one.start - main.stop, main.start - one.stop) * side_mm
                for one, main, side_mm in zip(boxes[number - 1], boxes[largest - 1], spacing_zyx, strict=True)
            ]
            found.append(Part(float(millilitres[number]), float(np.linalg.norm(gaps))))
    return tuple(sorted(found, key=lambda part: -part.apart_mm))


def _point(values: np.ndarray) -> tuple[float, float, float]:
    """Return three numbers."""
    return float(values[0]), float(values[1]), float(values[2])
