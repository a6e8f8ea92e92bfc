"""Where a scan lies: its own grid, and the grid of a model, which covers the same box.

A model's grid has its own axes (LPS for most: array order zyx, z to the head, y to the back, x to the left) and
spacing. Two steps lead there: the scan's axes are put in the order and direction closest to the model's, which is
exact, and the rest (another spacing, an oblique rest of rotation) is one affine map between voxel indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import SimpleITK as sitk

from TransferSegLib.errors import ScanError

#: Direction cosines closer to the model's axes than this count as equal: 0.1 mm at the end of a 500 mm scan.
_ALIGNED = 2e-4
#: Unit vectors (LPS) of the letters that name axes.
_DIRECTIONS = {
    "L": (1.0, 0.0, 0.0),
    "R": (-1.0, 0.0, 0.0),
    "P": (0.0, 1.0, 0.0),
    "A": (0.0, -1.0, 0.0),
    "S": (0.0, 0.0, 1.0),
    "I": (0.0, 0.0, -1.0),
}
#: A model grid with more voxels than this is a mistake in a header, not a scan.
_MOST_VOXELS = 2_000_000_000


@dataclass(frozen=True)
class AxisOrder:
    """The exact part of a reorientation: the scan's axis (0, 1, 2) along each of the model's, and which are turned."""

    axes: tuple[int, int, int]
    reversed: tuple[bool, bool, bool]

    def apply(self, array_zyx: np.ndarray) -> np.ndarray:
        """Return a view of a scan's array whose axes z, y, x run along the model's."""
        oriented = array_zyx.transpose([2 - axis for axis in reversed(self.axes)])
        return oriented[tuple(slice(None, None, -1 if back else 1) for back in reversed(self.reversed))]

    @staticmethod
    def of_scan(image: sitk.Image, axes: str) -> AxisOrder:
        """Return the order that brings an image to a model's axes, as ``Preparation.axes`` names them."""
        if axes.islower():  # stored axes
            first, second, third = ("ijk".index(letter) for letter in axes)
            return AxisOrder((first, second, third), (False, False, False))
        return AxisOrder.closest(_to_axes(axes) @ np.array(image.GetDirection()).reshape(3, 3))

    @staticmethod
    def closest(direction: np.ndarray) -> AxisOrder:
        """Return the order that brings direction cosines (3x3, rows model axes, columns scan axes) closest to 1."""

        def agreement(axes: tuple[int, ...]) -> float:
            return sum(abs(float(direction[world, axis])) for world, axis in enumerate(axes))

        first, second, third = max(permutations(range(3)), key=lambda axes: round(agreement(axes), 6))
        axes = (first, second, third)
        back = tuple(bool(direction[world, axis] < 0) for world, axis in enumerate(axes))
        return AxisOrder(axes, (back[0], back[1], back[2]))


@dataclass(frozen=True)
class ModelGrid:
    """A model's grid around one scan, and the affine map between the two.

    A voxel (x, y, z) of the *oriented* scan (axes put in order by ``order``) lies at grid index
    ``matrix @ index_xyz + offset_xyz``. ``aligned`` tells that the matrix is diagonal.
    """

    size_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    order: AxisOrder
    scan_size_zyx: tuple[int, int, int]
    matrix: np.ndarray
    offset_xyz: np.ndarray
    origin_mm: tuple[float, float, float]
    aligned: bool
    #: Where the box of the oriented scan begins that the grid covers, ``scan_size_zyx`` being the box's size; and the
    #: size of the whole oriented scan, None where the grid covers all of it.
    scan_start_zyx: tuple[int, int, int] = (0, 0, 0)
    whole_scan_zyx: tuple[int, int, int] | None = None
    #: The axis (0 z, 1 y, 2 x) along which answers are not interpolated but taken from the nearest voxel.
    nearest_axis: int | None = None
    #: Where labels are copied back to the scan and not interpolated: the size of the whole grid, of which this one is a
    #: box, and where the box begins.
    copied_from_zyx: tuple[int, int, int] | None = None
    copied_start_zyx: tuple[int, int, int] = (0, 0, 0)

    @property
    def whole_zyx(self) -> tuple[int, int, int]:
        """The size of the whole oriented scan."""
        return self.whole_scan_zyx or self.scan_size_zyx

    def oriented(self, array_zyx: np.ndarray) -> np.ndarray:
        """Return a view of the part of a scan's array that the grid covers, axes in the grid's order and directions."""
        z, y, x = (
            slice(start, start + size) for start, size in zip(self.scan_start_zyx, self.scan_size_zyx, strict=True)
        )
        return self.order.apply(array_zyx)[z, y, x]

    @staticmethod
    def around(image: sitk.Image, spacing_zyx_mm: tuple[float, float, float], axes: str = "LPS") -> ModelGrid:
        """Return the grid with these axes and spacings that covers a 3D image from edge to edge, centred on it.

        Raises ScanError when the grid would be absurdly large.
        """
        to_axes = _to_axes(axes)
        direction = to_axes @ np.array(image.GetDirection()).reshape(3, 3)
        order = AxisOrder.of_scan(image, axes)
        size = np.array([image.GetSize()[axis] for axis in order.axes])
        spacing = np.array([image.GetSpacing()[axis] for axis in order.axes])
        signs = np.where(order.reversed, -1.0, 1.0)
        cosines = direction[:, order.axes] * signs
        aligned = bool(np.abs(cosines - np.eye(3)).max() < _ALIGNED)
        grid_spacing = np.array(spacing_zyx_mm[::-1])
        matrix = (np.eye(3) if aligned else cosines) * (spacing[None, :] / grid_spacing[:, None])
        # 1e-3 voxels of slack: a size that is whole but for rounding is not one voxel larger.
        grid_size = np.maximum(1, np.ceil(np.abs(matrix) @ size - 1e-3)).astype(np.int64)
        if float(np.prod(grid_size.astype(float))) > _MOST_VOXELS:
            steps = grid_spacing[:1] if len(set(grid_spacing)) == 1 else grid_spacing
            raise ScanError(
                f"At {_times(steps)} mm this scan of {_times(size)} voxels would take {_times(grid_size)}: check the "
                "voxel spacing in its header."
            )
        offset = (grid_size - 1) / 2 - matrix @ ((size - 1) / 2)
        first_index = np.where(order.reversed, size - 1, 0)
        corner = to_axes @ np.array(image.GetOrigin()) + direction[:, order.axes] @ (spacing * first_index)
        to_world = cosines * spacing
        origin = to_axes.T @ (corner + to_world @ np.linalg.solve(matrix, -offset))
        return ModelGrid(
            (int(grid_size[2]), int(grid_size[1]), int(grid_size[0])),
            (float(spacing_zyx_mm[0]), float(spacing_zyx_mm[1]), float(spacing_zyx_mm[2])),
            order,
            (int(size[2]), int(size[1]), int(size[0])),
            matrix,
            offset,
            (float(origin[0]), float(origin[1]), float(origin[2])),
            aligned,
        )


def _to_axes(axes: str) -> np.ndarray:
    """Return the matrix (3x3) from world vectors (LPS) to those along a model's axes."""
    return np.array([_DIRECTIONS[letter] for letter in axes])


def _times(numbers: np.ndarray) -> str:
    """Return numbers as in ``512 x 512 x 90``."""
    return " x ".join(f"{number:.12g}" for number in numbers)
