"""Scans prepared as nnU-Net prepares them: crop to what is not 0, normalise, resample by cubic splines.

Written from the behaviour of nnunetv2 2.8.1 (Isensee et al. 2021), whose arrays it reproduces to the last bit on its
fixtures. Splines are scipy's: ``ndimage.zoom`` with ``grid_mode`` does what nnU-Net asks scikit-image for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from TransferSegLib.errors import ScanError
from TransferSegLib.images.model_grid import AxisOrder, ModelGrid
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.images.preprocessed_scan import PreprocessedScan
from TransferSegLib.progress import Task

#: Above this ratio of the largest to the smallest spacing, the coarse axis is resampled apart from the others.
_ANISOTROPIC = 3.0
_CUBIC = 3
#: Voxels that are resampled by splines in a second, roughly.
_RESAMPLED_PER_SECOND = 5e6

Spacing = tuple[float, float, float]
Box = tuple[slice, slice, slice]


def oriented_arrays(images: Sequence[sitk.Image], axes: str) -> tuple[AxisOrder, list[np.ndarray]]:
    """Return the order of a scan's axes and views of its images (zyx) in it.

    Raises ScanError for images of different sizes and for a scan without contrast.
    """
    order = AxisOrder.of_scan(images[0], axes)
    oriented = [order.apply(sitk.GetArrayViewFromImage(image)) for image in images]
    if len({array.shape for array in oriented}) > 1:
        raise ScanError("The images of the scan do not have the same size.")
    if all(float(array.max()) == float(array.min()) for array in oriented):
        raise ScanError("The scan has the same intensity everywhere: there is nothing to segment.")
    return order, oriented


def preprocess_as_nnunet(
    images: Sequence[sitk.Image], preparation: Preparation, task: Task | None = None
) -> PreprocessedScan:
    """Bring the images of one scan, which share a grid, to a model's grid as nnU-Net does.

    Raises ScanError for images of different sizes and for a scan without contrast, Cancelled from the task.
    """
    cropping, resampling = (task or Task()).split(1, 8)
    order, oriented = oriented_arrays(images, preparation.axes)
    box, inside = cropping.wait(lambda: nonzero_box(oriented))
    step_z, step_y, step_x = (float(images[0].GetSpacing()[axis]) for axis in reversed(order.axes))
    spacing = (step_z, step_y, step_x)
    z, y, x = (
        round(have / want * (part.stop - part.start))
        for have, want, part in zip(spacing, preparation.spacing_zyx_mm, box, strict=True)
    )
    size = (max(1, z), max(1, y), max(1, x))
    channels = []
    numbers = preparation.images or (0,) * len(preparation.channels)
    for (rule, number), part in resampling.each(list(zip(preparation.channels, numbers, strict=True))):
        values = rule.normalised(oriented[number][box].astype(np.float32), inside)
        expected_s = float(np.prod(size)) / _RESAMPLED_PER_SECOND
        channels.append(
            part.wait(
                lambda values=values: resample(values, size, spacing, preparation.spacing_zyx_mm),  # type: ignore[misc]
                expected_s,
            )
        )
    grid = _grid(images[0], order, box, size, preparation.spacing_zyx_mm)
    grid = replace(grid, nearest_axis=coarse_axis(preparation.spacing_zyx_mm, spacing))
    return PreprocessedScan(np.stack(channels), grid, (0.0,) * len(channels))


def nonzero_box(oriented: Sequence[np.ndarray]) -> tuple[Box, np.ndarray]:
    """Return the box of what is not 0 in any image, holes filled, and the mask within it; the whole where all is 0."""
    mask = np.zeros(oriented[0].shape, bool)
    for array in oriented:
        mask |= array != 0
    mask = ndimage.binary_fill_holes(mask)
    box = []
    for axis in range(3):
        along = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(along[0]), int(along[-1]) + 1) if along.size else slice(0, mask.shape[axis]))
    found: Box = (box[0], box[1], box[2])
    return found, mask[found]


def coarse_axis(spacing: Spacing, wanted: Spacing) -> int | None:
    """Return the axis that is resampled apart: the only coarse one of an anisotropic spacing, the scan's own first."""
    for sides in (spacing, wanted):
        if max(sides) / min(sides) > _ANISOTROPIC:
            coarse = [axis for axis, side in enumerate(sides) if side == max(sides)]
            return coarse[0] if len(coarse) == 1 else None
    return None


def resample(values_zyx: np.ndarray, size: tuple[int, int, int], spacing: Spacing, wanted: Spacing) -> np.ndarray:
    """Return float32 values on a grid of another size over the same box: cubic splines, nearest along a coarse axis."""
    if values_zyx.shape == size:
        return values_zyx
    axis = coarse_axis(spacing, wanted)
    if axis is None:
        return _resized(values_zyx, size).astype(np.float32)
    plane_size = tuple(side for other, side in enumerate(size) if other != axis)
    planes = np.moveaxis(values_zyx, axis, 0).astype(np.float64)
    resized = [plane if plane.shape == plane_size else _resized(plane, plane_size) for plane in planes]
    stacked = np.moveaxis(np.stack(resized), 0, axis)
    if stacked.shape[axis] != size[axis]:
        before = stacked.shape
        places = np.meshgrid(
            *((np.arange(size[a]) + 0.5) * (before[a] / size[a]) - 0.5 for a in range(3)), indexing="ij"
        )
        stacked = ndimage.map_coordinates(stacked, np.array(places), order=0, mode="nearest")
    return stacked.astype(np.float32)


def _resized(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return values resized by cubic splines, kept within their range."""
    ratios = [after / before for after, before in zip(size, values.shape, strict=True)]
    resized = ndimage.zoom(values.astype(np.float64), ratios, order=_CUBIC, mode="nearest", grid_mode=True)
    clipped: np.ndarray = np.clip(resized, values.min(), values.max())
    return clipped


def _grid(
    image: sitk.Image, order: AxisOrder, box: Box, size: tuple[int, int, int], spacing_zyx_mm: Spacing
) -> ModelGrid:
    """Return the grid of so many voxels over the box: edge to edge, so that its spacing is only nearly the model's."""
    start = tuple(part.start for part in box)
    cropped = tuple(part.stop - part.start for part in box)
    scale = np.array([after / before for after, before in zip(size, cropped, strict=True)])[::-1]
    return ModelGrid(
        size,
        spacing_zyx_mm,
        order,
        (cropped[0], cropped[1], cropped[2]),
        np.diag(scale),
        0.5 * scale - 0.5,
        _first_centre(image, order, start, scale),
        True,
        (start[0], start[1], start[2]),
        order.apply(sitk.GetArrayViewFromImage(image)).shape,
    )


def _first_centre(
    image: sitk.Image, order: AxisOrder, start_zyx: tuple[int, ...], scale_xyz: np.ndarray
) -> tuple[float, float, float]:
    """Return where the grid's first voxel is centred in the world."""
    index = np.zeros(3)
    for place, (axis, back) in enumerate(zip(order.axes, order.reversed, strict=True)):
        position = start_zyx[2 - place] + (0.5 / scale_xyz[place] - 0.5)
        index[axis] = image.GetSize()[axis] - 1 - position if back else position
    x, y, z = image.TransformContinuousIndexToPhysicalPoint(index.tolist())
    return x, y, z
