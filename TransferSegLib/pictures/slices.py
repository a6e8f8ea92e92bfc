"""Which slices of a scan to show, which part of each, and between which intensities.

All is done on the scan with its axes put in the order and direction closest to LPS (array axes z to the head, y to
the back, x to the left), so that the picture does not depend on how the file stores its voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from TransferSegLib.images.model_grid import AxisOrder
from TransferSegLib.structures import LabelSet

#: Space shown around the structures, in parts of their extent along the axis and along the longest axis.
_MARGIN_OWN, _MARGIN_LONGEST = 0.25, 0.12
#: At least this part of the body is shown around small structures, so that one sees where they are.
_LEAST_OF_BODY = 0.45
#: Space shown around the body, in parts of its extent.
_BODY_MARGIN = 0.04
#: A scan that goes below this is a CT in HU; its window shows soft tissue, its body is what lies above _CT_BODY.
_CT_MINIMUM = -500.0
_CT_WINDOW = (-160.0, 240.0)
_CT_BODY = -350.0
_PERCENTILES = (1.0, 99.6)


@dataclass(frozen=True)
class Plane:
    """A viewing plane: the array axis (of zyx) it is perpendicular to, those down and across the picture.

    ``upwards``: the index along the picture's rows grows upwards. ``edges``: letters at left, right, top, bottom.
    """

    name: str
    normal: int
    down: int
    across: int
    upwards: bool
    edges: tuple[str, str, str, str]


#: In the radiological convention the viewer stands at the patient's feet, or faces him: his right is on the left.
PLANES = (
    Plane("Axial", 0, 1, 2, False, ("R", "L", "A", "P")),
    Plane("Coronal", 1, 0, 2, True, ("R", "L", "S", "I")),
    Plane("Sagittal", 2, 0, 1, True, ("A", "P", "S", "I")),
)

#: A part of a slice in mm from the corner of its first voxel: (first, last) along the picture's rows and columns.
Crop = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class OrientedScan:
    """A scan and its structures, axes zyx along S, P, L: intensities (a view), channel numbers, voxel sides."""

    intensities_zyx: np.ndarray
    channels_zyx: np.ndarray
    spacing_zyx_mm: tuple[float, float, float]

    @staticmethod
    def of(image: sitk.Image, label_map: sitk.Image, label_set: LabelSet) -> OrientedScan:
        """Put a scan and a label map on the same grid in order; label values that no structure has become 0."""
        order = AxisOrder.closest(np.array(image.GetDirection()).reshape(3, 3))
        spacing = [float(image.GetSpacing()[axis]) for axis in reversed(order.axes)]
        stored = sitk.GetArrayViewFromImage(label_map)
        by_value = sorted((structure.label, channel) for channel, structure in enumerate(label_set, start=1))
        values = np.array([value for value, _ in by_value], np.int64)
        numbers = np.array([channel for _, channel in by_value], np.uint16)
        channels = np.zeros(stored.shape, np.uint16)
        for plane, voxels in zip(channels, stored, strict=True):
            place = np.minimum(np.searchsorted(values, voxels), len(values) - 1)
            plane[:] = np.where(values[place] == voxels, numbers[place], 0)
        return OrientedScan(
            order.apply(sitk.GetArrayViewFromImage(image)), order.apply(channels), (spacing[0], spacing[1], spacing[2])
        )

    def slice_of(self, array_zyx: np.ndarray, plane: Plane, index: int) -> np.ndarray:
        """Return one slice as an array of its own (rows, columns), first row at the lowest index."""
        return np.ascontiguousarray(np.take(array_zyx, index, axis=plane.normal))


@dataclass(frozen=True)
class StructureExtents:
    """Per channel 1, 2 ...: voxel counts along each axis (channels x length, zyx) and in all."""

    profiles_zyx: tuple[np.ndarray, np.ndarray, np.ndarray]
    voxels: np.ndarray

    @staticmethod
    def of(scan: OrientedScan, structures: int) -> StructureExtents:
        """Count the voxels of every structure in every slice."""
        profiles = [np.zeros((structures, length), np.int64) for length in scan.channels_zyx.shape]
        boxes = ndimage.find_objects(scan.channels_zyx, structures)
        for number, box in enumerate(boxes):
            if box is None:
                continue
            mask = scan.channels_zyx[box] == number + 1
            for axis, profile in enumerate(profiles):
                others = tuple(other for other in range(3) if other != axis)
                profile[number, box[axis]] = np.count_nonzero(mask, axis=others)
        return StructureExtents((profiles[0], profiles[1], profiles[2]), profiles[0].sum(axis=1))

    def best_slice(self, axis: int) -> int:
        """Return the slice that shows most: every structure counts by how much of its largest section is there.

        The square root makes two structures half seen worth more than one in full. Without structures it is the
        middle; among equals the nearest to the middle.
        """
        profile = self.profiles_zyx[axis]
        largest = profile.max(axis=1, keepdims=True)
        score = np.sqrt(profile / np.maximum(largest, 1)).sum(axis=0)
        best = np.flatnonzero(score >= score.max() - 1e-9)
        return int(best[np.argmin(np.abs(best - (len(score) - 1) / 2))])

    def range_of(self, axis: int) -> tuple[int, int] | None:
        """Return the first and last slice with any structure along an axis, None when there is none."""
        found = np.flatnonzero(self.profiles_zyx[axis].any(axis=0))
        return (int(found[0]), int(found[-1])) if found.size else None


def is_ct(scan: OrientedScan) -> bool:
    """Tell whether intensities look like HU: only CT goes so far below zero."""
    return bool(np.fmin.reduce(scan.intensities_zyx, axis=None) < _CT_MINIMUM)


def grey_window(slices: list[np.ndarray], ct: bool) -> tuple[float, float]:
    """Return the intensities shown black and white: soft tissue for CT, else robust ends of what is shown."""
    if ct:
        return _CT_WINDOW
    shown = np.concatenate([one[np.isfinite(one)].ravel() for one in slices])
    if shown.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(shown, _PERCENTILES))
    if high <= low:
        low, high = float(shown.min()), float(shown.max())
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def interesting_part(
    scan: OrientedScan, extents: StructureExtents, plane: Plane, intensities: np.ndarray, threshold: float
) -> Crop:
    """Return the part of a slice worth showing: the structures with a generous margin, no further than the body.

    What is brighter than ``threshold`` counts as body.
    """
    structures = [
        None if found is None else (found[0] * side, (found[1] + 1) * side)
        for found, side in zip(map(extents.range_of, range(3)), scan.spacing_zyx_mm, strict=True)
    ]
    longest = max(0.0 if one is None else one[1] - one[0] for one in structures)
    down, across = (
        _part_of_axis(
            (body[0] * scan.spacing_zyx_mm[axis], (body[1] + 1) * scan.spacing_zyx_mm[axis]),
            structures[axis],
            longest,
            scan.intensities_zyx.shape[axis] * scan.spacing_zyx_mm[axis],
        )
        for axis, body in zip((plane.down, plane.across), _body_box(intensities > threshold), strict=True)
    )
    return down, across


def _part_of_axis(
    body: tuple[float, float], structures: tuple[float, float] | None, longest: float, whole: float
) -> tuple[float, float]:
    """Return what to show along one axis in mm, from where body and structures lie and the structures' longest side."""
    pad = _BODY_MARGIN * (body[1] - body[0])
    low, high = body[0] - pad, body[1] + pad
    if structures is not None:
        near, far = structures
        margin = max(
            _MARGIN_OWN * (far - near) + _MARGIN_LONGEST * longest,
            (_LEAST_OF_BODY * (high - low) - (far - near)) / 2,
        )
        # Structures outside what looks like the body are shown all the same.
        low = min(max(low, near - margin), near - margin / 4)
        high = max(min(high, far + margin), far + margin / 4)
    return max(0.0, low), min(whole, high)


def body_threshold(window: tuple[float, float], ct: bool) -> float:
    """Return the intensity above which a voxel counts as body."""
    return _CT_BODY if ct else window[0] + 0.08 * (window[1] - window[0])


def _body_box(mask: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the first and last row and column of the larger connected parts of a mask, of all when it is empty."""
    parts, number = ndimage.label(mask)
    if number == 0:
        return (0, mask.shape[0] - 1), (0, mask.shape[1] - 1)
    # Not specks of noise, nor the couch: thin lines.
    sizes = np.bincount(parts.ravel())[1:]
    boxes = [box for box, size in zip(ndimage.find_objects(parts), sizes, strict=True) if size >= 0.1 * sizes.max()]
    rows, columns = zip(*boxes, strict=True)
    return (
        (min(one.start for one in rows), max(one.stop for one in rows) - 1),
        (min(one.start for one in columns), max(one.stop for one in columns) - 1),
    )
