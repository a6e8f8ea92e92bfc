"""Numbers on a model's grid, such as its doubt, brought to the voxels of the scan by linear interpolation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage, sparse

from TransferSegLib.images.label_resampling import base_and_fraction, positions_along
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.progress import Task


def values_on_scan(
    values_zyx: np.ndarray, grid: ModelGrid, elsewhere: float = 0.0, task: Task | None = None
) -> np.ndarray:
    """Return numbers of a grid's voxels at the voxels of its scan (float32; zyx of the scan's own array).

    Beyond the outermost centres of the grid its outermost values count, and ``elsewhere`` where the grid leaves the
    scan out. Along an axis whose labels are taken from the nearest voxel, numbers are too. Raises Cancelled.
    """
    own_size = [0, 0, 0]
    for world, axis in enumerate(grid.order.axes):
        own_size[axis] = grid.whole_zyx[2 - world]
    result = np.full(own_size[::-1], elsewhere, np.float32)
    planes = _aligned_planes(values_zyx, grid) if grid.aligned else _oblique_planes(values_zyx, grid)
    oriented = grid.oriented(result)
    for number in (task or Task()).over(range(len(oriented))):
        oriented[number] = next(planes)
    return result


def scan_index(position_zyx: Sequence[float], grid: ModelGrid) -> tuple[float, float, float]:
    """Return where a position on a grid lies in its scan: an index (x, y, z) of the image, not rounded."""
    along_grid = np.array(position_zyx[::-1], np.float64)
    oriented = np.linalg.solve(grid.matrix, along_grid - grid.offset_xyz) + np.array(grid.scan_start_zyx[::-1])
    index = [0.0, 0.0, 0.0]
    for place, (axis, back) in enumerate(zip(grid.order.axes, grid.order.reversed, strict=True)):
        last = grid.whole_zyx[2 - place] - 1
        index[axis] = float(last - oriented[place] if back else oriented[place])
    return index[0], index[1], index[2]


def _aligned_planes(values_zyx: np.ndarray, grid: ModelGrid) -> Iterator[np.ndarray]:
    """Yield the planes along z of a scan whose axes are the grid's."""
    along_z, along_y, along_x = (_interpolation(grid, axis) for axis in range(3))
    for number in range(along_z.shape[0]):
        row = along_z[[number]]
        plane = np.zeros(values_zyx.shape[1:], np.float32)
        for index, weight in zip(row.indices, row.data, strict=True):
            if weight:
                plane += weight * values_zyx[index].astype(np.float32)
        yield (along_x @ (along_y @ plane).T).T


def _interpolation(grid: ModelGrid, axis: int) -> sparse.csr_array:
    """Return the matrix that takes the grid's voxels along an axis (0 z, 1 y, 2 x) to the scan's."""
    world, size, count = 2 - axis, grid.size_zyx[axis], grid.scan_size_zyx[axis]
    step, offset = float(grid.matrix[world, world]), float(grid.offset_xyz[world])
    base, fraction = base_and_fraction(positions_along(np.arange(count), step, offset), size, np.dtype(np.float32))
    if axis == grid.nearest_axis:
        fraction = (fraction >= 0.5).astype(np.float32)
    upper = np.minimum(base + 1, size - 1)
    rows = np.arange(count)
    entries = np.concatenate([1 - fraction, fraction])
    places = (np.concatenate([rows, rows]), np.concatenate([base, upper]))
    return sparse.csr_array((entries, places), shape=(count, size))


def _oblique_planes(values_zyx: np.ndarray, grid: ModelGrid) -> Iterator[np.ndarray]:
    """Yield the planes along z of a scan that is turned against the grid."""
    depth, height, width = grid.scan_size_zyx
    values = values_zyx.astype(np.float32)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    for z in range(depth):
        to_grid = [row[0] * x + row[1] * y + row[2] * z for row in grid.matrix[::-1]]
        positions = [along + offset for along, offset in zip(to_grid, grid.offset_xyz[::-1], strict=True)]
        yield ndimage.map_coordinates(values, positions, order=1, mode="nearest")
