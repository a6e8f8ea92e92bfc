"""The values of a label map (whole numbers from 0, in any type): checked, counted and renumbered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.images.notices import copy_notices

#: Values this close to a whole number count as it: labels that were multiplied (1.0000001), or stored as whole numbers
#: with a scale. A probability map has values in between wherever a structure ends.
_WHOLE_WITHIN = 1e-3
#: The same as a part of the value, where that is more (float32 is exact to 6e-8), but never more than the second.
_WHOLE_WITHIN_PART, _WHOLE_WITHIN_AT_MOST = 1e-6, 0.05


def as_label_map(image: sitk.Image, path: Path) -> sitk.Image:
    """Return a scalar 3D image as ``read_label_map`` does; ``path`` is what a ScanError calls it."""
    voxels = sitk.GetArrayViewFromImage(image)
    low, high = voxels.min(), voxels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ScanError(f"{path} is no label map: some of its voxels are NaN or infinite.")
    if np.rint(low) < 0 or (low < 0 and abs(low) > _WHOLE_WITHIN):
        raise ScanError(f"{path} is no label map: it holds the value {low:g}. Label values are 0, 1, 2 and so on.")
    if high > 2**32 - 1:
        raise ScanError(f"{path} is no label map: it holds the value {high:g}.")
    if voxels.dtype.kind == "f":
        largest = int(np.rint(high))
        labels = image_like(_rounded(voxels, largest, path), image)
    else:
        labels = sitk.Cast(image, smallest_label_type(int(high)))
    copy_notices(image, labels)
    return labels


def image_like(voxels_zyx: np.ndarray, image: sitk.Image) -> sitk.Image:
    """Return an array as an image on the grid of another one, without its metadata."""
    result = sitk.GetImageFromArray(np.ascontiguousarray(voxels_zyx))
    result.CopyInformation(image)
    return result


def renumbered(labels: sitk.Image, numbers: Mapping[int, int]) -> sitk.Image:
    """Return a label map with new values by old ones, 0 for those without one."""
    old_zyx = sitk.GetArrayViewFromImage(labels)
    new_zyx = np.zeros(old_zyx.shape, np.uint32)
    for old, new in numbers.items():
        new_zyx[old_zyx == old] = new
    return image_like(new_zyx, labels)


def count_values(labels: sitk.Image) -> dict[int, int]:
    """Return how many voxels each value of a label map (any unsigned type) has, sorted by value."""
    labels_zyx = sitk.GetArrayViewFromImage(labels)
    if labels_zyx.itemsize <= 2:  # counting is many times faster than sorting
        counts = np.zeros(2 ** (8 * labels_zyx.itemsize), np.int64)
        for plane_yx in labels_zyx:
            counts += np.bincount(plane_yx.ravel(), minlength=counts.size)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, number = np.unique(labels_zyx, return_counts=True)
    return dict(zip(values.tolist(), number.tolist(), strict=True))


def smallest_label_type(largest: int) -> int:
    """Return SimpleITK's smallest unsigned pixel type that holds label values up to ``largest``."""
    if largest <= 255:
        return int(sitk.sitkUInt8)
    return int(sitk.sitkUInt16 if largest <= 65535 else sitk.sitkUInt32)


def _rounded(values_zyx: np.ndarray, largest: int, path: Path) -> np.ndarray:
    """Return floating-point values as whole ones in the smallest unsigned type; raises ScanError for others."""
    labels_zyx = np.zeros(values_zyx.shape, np.min_scalar_type(largest) if largest > 0 else np.uint8)
    for z, plane in enumerate(values_zyx):
        whole = np.rint(plane)
        within = np.clip(np.abs(whole) * _WHOLE_WITHIN_PART, _WHOLE_WITHIN, _WHOLE_WITHIN_AT_MOST)
        # Without any label the smallest value counts: the probabilities of a structure that is absent are all near 0.
        fractions = plane[(np.abs(plane - whole) > within) if largest else (plane != 0)]
        if fractions.size:
            raise ScanError(
                f"{path} is no label map: it holds values such as {fractions[0]:g}, which are not whole. "
                "Is it a scan, or a probability map?"
            )
        labels_zyx[z] = whole
    return labels_zyx
