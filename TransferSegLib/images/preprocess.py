"""A scan or label map on its model's grid, with prepared intensities.

Going to a coarser grid averages (a triangle as wide as the new voxel, as image libraries do with "antialias"), so
that thin noisy slices and thick quiet ones look alike; going to a finer one interpolates linearly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage, sparse

from TransferSegLib.computer_memory import physical_memory_bytes
from TransferSegLib.errors import ScanError
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.images.nnunet_preprocessing import preprocess_as_nnunet
from TransferSegLib.images.preparation import Preparation, spacing_text
from TransferSegLib.images.preprocessed_scan import PreprocessedScan
from TransferSegLib.images.totalsegmentator_preprocessing import preprocess_as_totalsegmentator
from TransferSegLib.progress import Task

#: Planes of the grid that are computed at once, before looking whether to stop.
_ROWS_AT_ONCE = 16
#: Voxels that are interpolated in a second, roughly.
_TURNED_PER_SECOND = 2e7


def preprocess(
    images: sitk.Image | Sequence[sitk.Image], preparation: Preparation, task: Task | None = None
) -> PreprocessedScan:
    """Bring a 3D scalar image to a model's grid and apply the intensity rule of each input channel.

    Several images of one scan, in the model's order, must share a grid. Voxels of the grid that the scan does not cover
    get the padding value. Raises ScanError for a scan without contrast, with too few images or too large,
    Cancelled from the task.
    """
    images = (images,) if isinstance(images, sitk.Image) else tuple(images)
    if len(images) != preparation.image_count:
        raise ScanError(f"The model takes {preparation.image_count} images of each scan, not {len(images)}.")
    _check_size(images[0], preparation)
    if preparation.resampling == "nnunet":
        return preprocess_as_nnunet(images, preparation, task)
    if preparation.resampling == "totalsegmentator":
        return preprocess_as_totalsegmentator(images, preparation, task)
    (image,) = images
    resampling, covering, preparing = (task or Task()).split(6, 1, 1)
    grid = ModelGrid.around(image, preparation.spacing_zyx_mm, preparation.axes)
    oriented = grid.order.apply(sitk.GetArrayViewFromImage(image))
    resampled = resample_to_grid(oriented, grid, resampling)
    inside = coverage(grid, covering)
    seen = resampled if inside is None else resampled[inside]
    if float(seen.max()) == float(seen.min()):
        raise ScanError("The scan has the same intensity everywhere: there is nothing to segment.")
    channels, padding_values = [], []
    for rule in preparing.over(preparation.channels):
        prepared = rule.apply(resampled, rule.ends(seen))
        padding = float(prepared.min()) if rule.outside is None else rule.outside
        if inside is not None:
            prepared[~inside] = padding
        channels.append(prepared)
        padding_values.append(padding)
    # One channel, the usual case, is not copied.
    stacked = channels[0][None] if len(channels) == 1 else np.stack(channels)
    return PreprocessedScan(stacked, grid, tuple(padding_values))


def _check_size(image: sitk.Image, preparation: Preparation) -> None:
    """Raise ScanError for a scan that is larger at the model's spacing than this computer's memory."""
    voxels = image.GetNumberOfPixels() * math.prod(image.GetSpacing()) / preparation.voxel_mm3
    memory = physical_memory_bytes()
    if memory is not None and 4 * voxels * len(preparation.channels) > memory:
        size_mm = " x ".join(
            f"{size * step:.0f}" for size, step in zip(image.GetSize(), image.GetSpacing(), strict=True)
        )
        raise ScanError(
            f"The scan measures {size_mm} mm, too much for this computer's memory at "
            f"{preparation.spacing_text}: check its spacing, {spacing_text(tuple(image.GetSpacing()[::-1]))}."
        )


def labels_on_grid(
    label_map: sitk.Image, label_values: Sequence[int], grid: ModelGrid, task: Task | None = None
) -> np.ndarray:
    """Bring a label map of the grid's own scan to the grid; returns channel numbers (uint8, zyx).

    ``label_values`` are the values of channels 1, 2, 3 ...; other values count as background. Each structure is
    resampled as a smooth mask and every voxel takes the largest, which keeps thin structures connected.
    """
    half = np.full(grid.size_zyx, 0.5, np.float32)
    return _largest_share(_oriented(label_map, grid), label_values, grid, half, task or Task())


def judged_labels_on_grid(
    label_map: sitk.Image, judged: sitk.Image, label_values: Sequence[int], grid: ModelGrid, task: Task | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Bring a label map and the region in which it was judged to the grid: channel numbers and booleans (zyx).

    Voxels of the grid of which half was judged are in the region. Where that leaves nothing of a judged part, because
    it is thin (a slice, a stroke), those are in which it lies. The labels are those of the judged part of each voxel,
    and background (0) outside the region.
    """
    measuring, placing, labelling = (task or Task()).split(1, 1, max(1, len(label_values)))
    inside = _oriented(judged, grid) != 0
    share = resample_to_grid(inside.astype(np.float32), grid, measuring)
    half = share > 0.5
    region = half | (_holding(inside, grid, placing) & (share > 0) & ~ndimage.binary_dilation(half))
    covered = coverage(grid)
    if covered is not None:
        region &= covered
    least = np.where(region, 0.5 * share, np.inf).astype(np.float32)
    return _largest_share(_oriented(label_map, grid), label_values, grid, least, labelling, inside), region


def _holding(inside: np.ndarray, grid: ModelGrid, task: Task) -> np.ndarray:
    """Return the voxels of the grid (zyx) that hold the centre of a voxel of a mask of the oriented scan."""
    if not grid.aligned:
        found = np.zeros(grid.size_zyx, bool)
        for z in task.over(range(len(inside))):
            y, x = np.nonzero(inside[z])
            at_xyz = np.rint(grid.matrix @ np.stack([x, y, np.full_like(x, z)]) + grid.offset_xyz[:, None]).astype(int)
            at_zyx = np.clip(at_xyz[::-1], 0, np.array(grid.size_zyx)[:, None] - 1)
            found[tuple(at_zyx)] = True
        return found
    held = inside
    for axis, (step, offset, size) in enumerate(
        zip(np.diag(grid.matrix)[::-1], grid.offset_xyz[::-1], grid.size_zyx, strict=True)
    ):
        task.check()
        place = np.clip(np.rint(step * np.arange(held.shape[axis]) + offset).astype(int), 0, size - 1)
        first = np.flatnonzero(np.diff(place, prepend=-1))
        parts = np.logical_or.reduceat(held, first, axis=axis)
        shape = (*held.shape[:axis], size, *held.shape[axis + 1 :])
        held = np.zeros(shape, bool)
        held[(slice(None),) * axis + (place[first],)] = parts
    return held


def _oriented(label_map: sitk.Image, grid: ModelGrid) -> np.ndarray:
    """Return a label map's voxels (zyx) along the grid's axes; raises ScanError for one of another size."""
    whole = grid.order.apply(sitk.GetArrayViewFromImage(label_map))
    if whole.shape != grid.whole_zyx:
        raise ScanError(f"The label map has size {whole.shape}, its scan {grid.whole_zyx} (zyx).")
    return grid.oriented(sitk.GetArrayViewFromImage(label_map))


def _largest_share(
    oriented: np.ndarray,
    label_values: Sequence[int],
    grid: ModelGrid,
    best: np.ndarray,
    task: Task,
    inside: np.ndarray | None = None,
) -> np.ndarray:
    """Return the channel with the largest share of each voxel of the grid, 0 where none has as much as ``best``.

    Only voxels of the scan that are ``inside`` count (None: all); ``best`` is changed.
    """
    labels = np.zeros(grid.size_zyx, np.uint8)
    for channel, value in enumerate(label_values, start=1):
        here = task.share(channel - 1, len(label_values))
        here.at(0.0)
        mask = oriented == value if inside is None else (oriented == value) & inside
        if not mask.any():
            continue
        share = resample_to_grid(mask.astype(np.float32), grid, here)
        # Half a voxel decides against the background; between two structures the larger share does.
        wins = (share > best) | ((share == best) & (labels == 0))
        here.check()
        labels[wins] = channel
        np.maximum(best, share, out=best)
    inside = coverage(grid)
    if inside is not None:
        labels[~inside] = 0
    return labels


def resample_to_grid(oriented_zyx: np.ndarray, grid: ModelGrid, task: Task | None = None) -> np.ndarray:
    """Resample an oriented scan's array (zyx) to the grid as float32; edges are repeated outwards.

    Along the grid's nearest axis, where a scan's own planes are repeated or left out, so are the array's. Raises
    Cancelled from the task.
    """
    averaging, turning = (task or Task()).split(1, 0 if grid.aligned else 2)
    steps_xyz = np.linalg.norm(grid.matrix, axis=0)
    if grid.aligned:
        matrices = [
            nearest_weights(length, size)
            if axis == grid.nearest_axis
            else averaging_weights(length, size, step, offset)
            for axis, (length, size, step, offset) in enumerate(
                zip(oriented_zyx.shape, grid.size_zyx, steps_xyz[::-1], grid.offset_xyz[::-1], strict=True)
            )
        ]
        return _separable(oriented_zyx, matrices, averaging)
    # Oblique: average along the scan's own axes down to the grid's spacing, then turn by linear interpolation.
    sizes = [
        max(1, int(np.ceil(n * min(1.0, step)))) for n, step in zip(oriented_zyx.shape, steps_xyz[::-1], strict=True)
    ]
    scale = np.minimum(1.0, steps_xyz)[::-1]
    offsets = [
        (size - 1) / 2 - step * (n - 1) / 2 for size, step, n in zip(sizes, scale, oriented_zyx.shape, strict=True)
    ]
    coarse = _separable(
        oriented_zyx,
        [
            averaging_weights(n, size, step, offset)
            for n, size, step, offset in zip(oriented_zyx.shape, sizes, scale, offsets, strict=True)
        ],
        averaging,
    )
    inverse = np.linalg.inv(grid.matrix)[::-1, ::-1]
    to_coarse = scale[:, None] * inverse
    shift = np.array(offsets) - to_coarse @ grid.offset_xyz[::-1]
    return turning.wait(
        lambda: ndimage.affine_transform(coarse, to_coarse, shift, grid.size_zyx, np.float32, order=1, mode="nearest"),
        float(np.prod(grid.size_zyx)) / _TURNED_PER_SECOND,
    )


def averaging_weights(length: int, size: int, step: float, offset: float) -> np.ndarray:
    """Return weights (size, length) that take ``length`` voxels to ``size``; voxel i lies at ``step * i + offset``.

    A triangle of half width max(1, 1 / step) voxels around each new centre, cut at the ends and normalised.
    """
    centres = (np.arange(size, dtype=np.float64) - offset) / step
    reach = max(1.0, 1.0 / step)
    distance = np.abs(np.arange(length, dtype=np.float64)[None, :] - np.clip(centres, 0, length - 1)[:, None])
    weights = np.maximum(0.0, 1.0 - distance / reach)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def nearest_weights(length: int, size: int) -> np.ndarray:
    """Return weights (size, length) that give each of ``size`` voxels over the same box the one it lies in."""
    chosen = np.floor((np.arange(size) + 0.5) * (length / size)).astype(np.int64)
    weights = np.zeros((size, length), np.float32)
    weights[np.arange(size), np.minimum(chosen, length - 1)] = 1.0
    return weights


def coverage(grid: ModelGrid, task: Task | None = None) -> np.ndarray | None:
    """Return which voxels (zyx) lie within the scan, None when all do (an aligned grid fits its scan)."""
    if grid.aligned:
        return None
    inverse = np.linalg.inv(grid.matrix)
    z, y, x = (np.arange(size, dtype=np.float64) for size in grid.size_zyx)
    inside = np.ones(grid.size_zyx, bool)
    for number in (task or Task()).over(range(len(z))):
        for axis, length in enumerate(reversed(grid.scan_size_zyx)):
            row = inverse[axis]
            shift = -float(row @ grid.offset_xyz)
            index = (row[2] * z[number] + shift) + (row[1] * y)[:, None] + (row[0] * x)[None, :]
            inside[number] &= (index >= -0.5) & (index <= length - 0.5)
    return inside


def _separable(array_zyx: np.ndarray, weights_zyx: list[np.ndarray], task: Task) -> np.ndarray:
    """Apply one weight matrix per axis, slice by slice so that a large scan is never copied whole.

    The weights are nearly all zero. As sparse matrices they take a fraction of the time, and no threads of the linear
    algebra library, which wait for one another for seconds on a busy machine.
    """
    along_z, along_y, along_x = (sparse.csr_array(weights) for weights in weights_zyx)
    in_planes, across_planes = task.split(4, 1)
    planes = np.empty((array_zyx.shape[0], along_y.shape[0], along_x.shape[0]), np.float32)
    for index in in_planes.over(range(len(planes))):
        planes[index] = (along_x @ (along_y @ array_zyx[index].astype(np.float32)).T).T
    flat = planes.reshape(len(planes), -1)
    result = np.empty((along_z.shape[0], flat.shape[1]), np.float32)
    for first in across_planes.over(range(0, len(result), _ROWS_AT_ONCE)):
        result[first : first + _ROWS_AT_ONCE] = along_z[first : first + _ROWS_AT_ONCE] @ flat
    return result.reshape(-1, *planes.shape[1:])
