"""Axes that are not quite at right angles are turned to the nearest ones that are.

Headers round their directions, and registrations leave a trace of shear. Within the limit of
``geometry_checks.is_sheared`` only the axes change, not the voxels' values; a notice gives the largest shift in mm.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.images.geometry_checks import corners_of, directions_of, is_sheared, shear, sheared_error
from TransferSegLib.images.notices import add_notice

#: Cosine of the angle between two axes up to which nothing is done: rounding, which ITK takes for right angles too.
_ROUNDING = 1e-4
#: A voxel may be moved this far, in mm.
_LARGEST_SHIFT_MM = 0.5


def with_right_angles(image: sitk.Image, path: Path) -> sitk.Image:
    """Return a 3D image with orthonormal axes: itself, or with the nearest rotation (or mirrored one) about its middle.

    A notice gives the shift of the outermost voxel. Raises ScanError where that is too far. A sheared image is
    returned as it is.
    """
    direction = directions_of(image)
    if shear(direction) <= _ROUNDING or is_sheared(direction):
        return image
    left, _, right = np.linalg.svd(direction)
    nearest = left @ right
    spacing_mm, last = np.array(image.GetSpacing()), np.array(image.GetSize()) - 1.0
    from_middle_mm = spacing_mm * (corners_of((1, 1, 1)) - 0.5) * last
    shift_mm = float(np.linalg.norm(from_middle_mm @ (nearest - direction).T, axis=1).max())
    if shift_mm > _LARGEST_SHIFT_MM:
        moves = f"straightening them would move voxels by {shift_mm:.1f} mm"
        raise sheared_error(path, f"its axes are not quite at right angles, and {moves}")
    middle = np.array(image.GetOrigin()) + direction @ (spacing_mm * last / 2)
    straight = sitk.Image(image)
    straight.SetDirection(nearest.ravel().tolist())
    straight.SetOrigin((middle - nearest @ (spacing_mm * last / 2)).tolist())
    add_notice(
        straight,
        f"{path}: its axes are not quite at right angles and were straightened; no voxel moved by more than "
        f"{shift_mm:.2g} mm.",
    )
    return straight
