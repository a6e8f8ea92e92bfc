"""Scans prepared as TotalSegmentator prepares them for its models of nnU-Net.

It brings the axes into the order of RAS, resamples the scan itself by linear interpolation, from the centre of the
first voxel to that of the last, and rounds towards 0; nnU-Net then crops and normalises. Labels go back by copying the
nearest voxel (``TransferSegLib.images.copied_labels``). Written from the behaviour of TotalSegmentator 2.18.0; versions
before 2.16 interpolated by cubic splines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from TransferSegLib.images.copied_labels import Triple, copied_voxels
from TransferSegLib.images.model_grid import AxisOrder, ModelGrid
from TransferSegLib.images.nnunet_preprocessing import nonzero_box, oriented_arrays
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.images.preprocessed_scan import PreprocessedScan
from TransferSegLib.progress import Task

#: Voxels that are interpolated in a second, roughly.
_ZOOMED_PER_SECOND = 1e7


def preprocess_as_totalsegmentator(
    images: Sequence[sitk.Image], preparation: Preparation, task: Task | None = None
) -> PreprocessedScan:
    """Bring the images of one scan, which share a grid, to a model's grid as TotalSegmentator does.

    Raises ScanError for images of different sizes and for a scan without contrast, Cancelled from the task.
    """
    zooming, preparing = (task or Task()).split(8, 1)
    order, oriented = oriented_arrays(images, preparation.axes)
    # NIfTI files, which TotalSegmentator works with, keep spacings in float32.
    have = [np.float32(images[0].GetSpacing()[axis]) for axis in reversed(order.axes)]
    zoomed = []
    for array, part in zooming.each(oriented):
        expected_s = array.size / _ZOOMED_PER_SECOND
        zoomed.append(part.wait(lambda array=array: _zoomed(array, have, preparation.spacing_zyx_mm), expected_s))  # type: ignore[misc]
    box, inside = nonzero_box(zoomed)
    numbers = preparation.images or (0,) * len(preparation.channels)
    channels = [
        rule.normalised(zoomed[number][box].astype(np.float32), inside)
        for rule, number in preparing.over(list(zip(preparation.channels, numbers, strict=True)))
    ]
    start, size = _triple(part.start for part in box), _triple(channels[0].shape)
    grid = _grid(images[0], order, _triple(oriented[0].shape), _triple(zoomed[0].shape), start, size, preparation)
    return PreprocessedScan(np.stack(channels), grid, (0.0,) * len(channels))


def _zoomed(array_zyx: np.ndarray, have_mm: Sequence[np.float32], wanted_mm: Sequence[float]) -> np.ndarray:
    """Return an array at another spacing, whole numbers; at the same spacing the array itself."""
    if all(float(have) == wanted for have, wanted in zip(have_mm, wanted_mm, strict=True)):
        return array_zyx
    # At least one voxel an axis, which needs a larger factor than the spacings give.
    zoom = [
        max(float(have) / wanted, 0.51 / length)
        for have, wanted, length in zip(have_mm, wanted_mm, array_zyx.shape, strict=True)
    ]
    # The order of the axes is that of TotalSegmentator: it decides the last bit, and so what is rounded towards 0.
    values = ndimage.zoom(array_zyx.T, zoom[::-1], output=np.float64, order=1, mode="nearest")
    whole: np.ndarray = values.astype(np.int32).T
    return whole


def _grid(
    image: sitk.Image,
    order: AxisOrder,
    scan_size: Triple,
    grid_size: Triple,
    start: Triple,
    size: Triple,
    preparation: Preparation,
) -> ModelGrid:
    """Return the box of the model's whole grid that begins at ``start``, all sizes zyx."""
    scale, firsts, counts = np.ones(3), [], []
    for axis in range(3):
        if scan_size[axis] > 1:
            scale[axis] = (grid_size[axis] - 1) / (scan_size[axis] - 1)
        copies = copied_voxels(scan_size[axis], grid_size[axis]) - start[axis]
        inside = np.flatnonzero((copies >= 0) & (copies < size[axis]))
        nearest = min(scan_size[axis] - 1, round(start[axis] / max(scale[axis], 1e-9)))
        firsts.append(int(inside[0]) if inside.size else nearest)
        counts.append(max(1, len(inside)))
    return ModelGrid(
        size,
        preparation.spacing_zyx_mm,
        order,
        _triple(counts),
        np.diag(scale[::-1]),
        (scale * firsts - np.array(start))[::-1],
        _centre_of(image, order, [begin / max(step, 1e-9) for begin, step in zip(start, scale, strict=True)]),
        True,
        _triple(firsts),
        scan_size,
        copied_from_zyx=grid_size,
        copied_start_zyx=start,
    )


def _centre_of(image: sitk.Image, order: AxisOrder, position_zyx: Sequence[float]) -> tuple[float, float, float]:
    """Return where a position in the oriented scan lies in the world."""
    index = np.zeros(3)
    for place, (axis, back) in enumerate(zip(order.axes, order.reversed, strict=True)):
        position = position_zyx[2 - place]
        index[axis] = image.GetSize()[axis] - 1 - position if back else position
    x, y, z = image.TransformContinuousIndexToPhysicalPoint(index.tolist())
    return x, y, z


def _triple(values: Iterable[int]) -> Triple:
    z, y, x = values
    return int(z), int(y), int(x)
