"""Wrong labels, and those of another convention, made from right ones: as arrays (zyx), images, or prepared cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from TransferSegLib.datasets.prepared import PreparedCase

Change = Callable[[np.ndarray], np.ndarray]
#: The voxels beside a voxel within its slice.
_WITHIN_SLICES = ndimage.generate_binary_structure(2, 1)[None]


def wider(labels: np.ndarray) -> np.ndarray:
    """Return labels in which every structure takes the background's voxels beside it, within the slices."""
    return np.where(labels == 0, ndimage.grey_dilation(labels, footprint=_WITHIN_SLICES), labels)


def tighter(labels: np.ndarray) -> np.ndarray:
    """Return labels in which every structure loses its outermost voxels within the slices, where any is left."""
    return eroded(labels, _WITHIN_SLICES)


def eroded(labels: np.ndarray, neighbours: np.ndarray | None = None) -> np.ndarray:
    """Return labels without the outermost voxels of every structure, where any is left."""
    kept = np.zeros_like(labels)
    for value in np.unique(labels[labels > 0]):
        mask = labels == value
        inner = ndimage.binary_erosion(mask, neighbours)
        kept[inner if inner.any() else mask] = value
    return kept


def moved(labels: np.ndarray, voxels_zyx: tuple[int, int, int] = (-2, 2, 0)) -> np.ndarray:
    """Return labels moved by some voxels (to the back and down), as when a map was saved on the wrong grid."""
    return np.roll(labels, voxels_zyx, (0, 1, 2))


def fitted(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return labels cut or filled up to a shape, centre on centre."""
    values = np.zeros(shape, labels.dtype)
    into, out = [], []
    for wanted, there in zip(shape, labels.shape, strict=True):
        length = min(wanted, there)
        into.append(slice((wanted - length) // 2, (wanted - length) // 2 + length))
        out.append(slice((there - length) // 2, (there - length) // 2 + length))
    values[tuple(into)] = labels[tuple(out)]
    return values


def on_grid_of(image: sitk.Image, values: np.ndarray) -> sitk.Image:
    """Return values as an image on the same grid."""
    result = sitk.GetImageFromArray(values)
    result.CopyInformation(image)
    return result


def changed_image(labels: sitk.Image, change: Change | None) -> sitk.Image:
    """Return a label map after a change, if there is one."""
    return labels if change is None else on_grid_of(labels, change(sitk.GetArrayFromImage(labels)))


def with_labels(case: PreparedCase, labels: np.ndarray) -> PreparedCase:
    """Return a prepared case with other labels, of annotated structures only."""
    labels = np.where(case.annotated[labels], labels, 0).astype(np.uint8)
    channels = [int(channel) for channel in np.unique(labels) if channel]
    return replace(case, labels=labels, voxels={channel: np.flatnonzero(labels == channel) for channel in channels})
