"""Label maps on their scan's own voxels: padded, cropped, flipped and turned where the voxel centres coincide.

Programs store a label map cropped to what is drawn (3D Slicer), with rows from bottom to top (dcm2niix), or with its
axes in another order. Where the voxel centres are those of the scan, this is undone exactly; a label map on another
lattice would have to be interpolated, and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.images.geometry_checks import SAME_GRID, corners_of, same_geometry, size_text, voxel_steps_mm
from TransferSegLib.images.label_values import image_like
from TransferSegLib.images.model_grid import AxisOrder
from TransferSegLib.images.notices import add_notice, copy_notices


@dataclass(frozen=True)
class Placement:
    """Where the voxels of one image lie among those of another with the same lattice.

    ``order`` brings its axes into the other one's order and directions; ``first_xyz`` is the index, in the other one,
    of the first voxel then. It may be negative.
    """

    order: AxisOrder
    first_xyz: tuple[int, int, int]

    @property
    def is_identity(self) -> bool:
        """Whether index by index the voxels are the same."""
        return self.order == AxisOrder((0, 1, 2), (False, False, False)) and self.first_xyz == (0, 0, 0)


def placement(image: sitk.Image, scan: sitk.Image) -> Placement | None:
    """Return where a 3D image lies on a scan's lattice, None when their voxel centres do not coincide.

    No corner voxel of the image may be off by more than 5 % of the smallest voxel side.
    """
    to_world, scan_to_world = voxel_steps_mm(image), voxel_steps_mm(scan)
    try:
        steps = np.linalg.solve(scan_to_world, to_world)
        start = np.linalg.solve(scan_to_world, np.array(image.GetOrigin()) - np.array(scan.GetOrigin()))
    except np.linalg.LinAlgError:
        return None
    whole, first = np.rint(steps), np.rint(start)
    if not (np.all(np.isfinite(steps)) and np.all(np.isfinite(start)) and np.abs(start).max() < 2**31):
        return None
    if not np.array_equal(np.abs(whole) @ np.abs(whole).T, np.eye(3)):
        return None  # not one axis of the image, in steps of one voxel, along each axis of the scan
    # One step at least along every axis, so that the thickness of a single slice counts as well.
    corners = corners_of(np.maximum(np.array(image.GetSize()) - 1, 1))
    off_mm = scan_to_world @ ((steps - whole) @ corners.T + (start - first)[:, None])
    tolerance_mm = SAME_GRID * min(image.GetSpacing() + scan.GetSpacing())
    if np.linalg.norm(off_mm, axis=0).max() > tolerance_mm:
        return None
    axes = [int(axis) for axis in np.abs(whole).argmax(axis=1)]
    back = [bool(whole[along, axis] < 0) for along, axis in enumerate(axes)]
    begins = [int(first[along]) - (image.GetSize()[axis] - 1 if back[along] else 0) for along, axis in enumerate(axes)]
    return Placement(
        AxisOrder((axes[0], axes[1], axes[2]), (back[0], back[1], back[2])), (begins[0], begins[1], begins[2])
    )


def to_scan_lattice(labels: sitk.Image, scan: sitk.Image, name: str, *, may_drop: bool = False) -> sitk.Image:
    """Return a label map or mask on its scan's grid, exactly: no voxel is interpolated and no label is lost.

    Voxels of the scan that it does not cover become 0. ``name`` is what a message calls it. A single voxel of the value
    0 is an empty label map, wherever it lies: so 3D Slicer stores a segmentation without voxels. Raises ScanError when
    the voxel centres do not coincide, or labelled voxels lie outside the scan (``may_drop``: these are left out).
    """
    values_zyx = sitk.GetArrayViewFromImage(labels)
    if labels.GetSize() == (1, 1, 1) and values_zyx[0, 0, 0] == 0:
        return _on_grid(np.zeros(scan.GetSize()[::-1], values_zyx.dtype), labels, scan)
    place = placement(labels, scan)
    if place is None:
        raise ScanError(
            f"{name} does not lie on the image's voxel grid: {_difference(labels, scan)}. Export it with the image as "
            "reference geometry."
        )
    if place.is_identity and labels.GetSize() == scan.GetSize():
        return _on_grid(values_zyx, labels, scan)
    result_zyx, covered = _pasted(place.order.apply(values_zyx), place.first_xyz[::-1], scan.GetSize()[::-1])
    lost = np.count_nonzero(values_zyx) - np.count_nonzero(result_zyx)
    if not covered or (lost and not may_drop):
        what = f"{lost:,} of its labelled voxels {'lies' if lost == 1 else 'lie'}" if covered else "all of it lies"
        raise ScanError(
            f"{name} does not fit the image: {what} outside of it. Is it the label map of another image? If not, crop "
            "it to the image first."
        )
    result = _on_grid(result_zyx, labels, scan)
    if covered < result_zyx.size and not may_drop:
        add_notice(
            result,
            f"{name} covers only a part of the image ({covered:,} of {result_zyx.size:,} voxels): the rest counts as "
            "unlabelled.",
        )
    return result


def _pasted(values_zyx: np.ndarray, first_zyx: tuple[int, ...], shape_zyx: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """Return an array of a shape with values put in from an index on, and how many of its voxels these cover."""
    result_zyx = np.zeros(shape_zyx, values_zyx.dtype)
    source, target = [], []
    for first, count, size in zip(first_zyx, values_zyx.shape, shape_zyx, strict=True):
        begin, end = max(first, 0), min(first + count, size)
        if begin >= end:
            return result_zyx, 0
        target.append(slice(begin, end))
        source.append(slice(begin - first, end - first))
    result_zyx[tuple(target)] = values_zyx[tuple(source)]
    return result_zyx, int(np.prod([part.stop - part.start for part in target]))


def _on_grid(values_zyx: np.ndarray, labels: sitk.Image, scan: sitk.Image) -> sitk.Image:
    """Return an array as an image with a scan's grid and a label map's notices."""
    image = image_like(values_zyx, scan)
    copy_notices(labels, image)
    return image


def _difference(labels: sitk.Image, scan: sitk.Image) -> str:
    """Return what keeps the voxel centres of two images apart."""
    if labels.GetSize() == scan.GetSize():
        return same_geometry(scan, labels) or "the voxel centres do not coincide"
    sides = [sorted(image.GetSpacing()) for image in (scan, labels)]
    if not np.allclose(sides[0], sides[1], rtol=1e-3, atol=0):
        texts = [size_text([f"{side:.4g}" for side in image.GetSpacing()]) for image in (scan, labels)]
        return f"the voxel sizes differ: {texts[0]} and {texts[1]} mm"
    sizes = f"{size_text(scan.GetSize())} and {size_text(labels.GetSize())} voxels"
    return f"the sizes differ ({sizes}), and the voxel centres do not coincide"
