"""Checks of a 3D image: voxel size, right angles, finite intensities; and whether two images share a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.errors import ScanError

#: Voxel sides outside these, in mm, are mistakes of units (metres, micrometres), not scans.
SMALLEST_SPACING_MM = 0.001
LARGEST_SPACING_MM = 100.0
#: More voxels than this is a mistake in a header, not a scan.
MOST_VOXELS = 2_000_000_000
#: Cosine of the angle between two axes above which the grid counts as sheared: 0.06 degrees, 0.5 mm in 500 mm.
_SHEAR = 1e-3
#: Grids count as the same when no corner differs by more than this part of the smallest voxel side.
SAME_GRID = 0.05


def directions_of(image: sitk.Image) -> np.ndarray:
    """Return the directions of a 3D image's axes as columns (LPS)."""
    return np.array(image.GetDirection()).reshape(3, 3)


def voxel_steps_mm(image: sitk.Image) -> np.ndarray:
    """Return the steps in mm (columns, LPS) from voxel to voxel along x, y, z."""
    return np.asarray(directions_of(image) * np.array(image.GetSpacing()))


def corners_of(last_xyz: Sequence[float]) -> np.ndarray:
    """Return the eight corners (8, 3) of a box from 0 to the last voxel."""
    return np.array(list(product(*((0.0, float(last)) for last in last_xyz))))


def size_text(size: Sequence[object]) -> str:
    """Return a size as text, e.g. '512 x 512 x 120'."""
    return " x ".join(str(number) for number in size)


def is_sheared(axes: np.ndarray) -> bool:
    """Return whether the columns of a 3x3 matrix (the image axes in the world, any length) are not at right angles."""
    lengths = np.linalg.norm(axes, axis=0)
    if not np.all(np.isfinite(lengths)) or np.any(lengths == 0):
        return True
    return shear(axes) > _SHEAR


def shear(axes: np.ndarray) -> float:
    """Return the largest cosine of the angle between two columns of a 3x3 matrix: 0 at right angles."""
    unit = axes / np.linalg.norm(axes, axis=0)
    return float(np.abs(unit.T @ unit - np.eye(3)).max())


def sheared_error(
    path: Path, how: str = "its axes are not at right angles (a tilted gantry, or an affine registration)"
) -> ScanError:
    """Return the error for an image whose axes are not at right angles."""
    return ScanError(
        f"{path} is sheared: {how}. Resample it to a rectangular grid first, e.g. in 3D Slicer with 'Resample "
        "Scalar/Vector/DWI Volume'."
    )


def check_spacing(spacing_mm: Sequence[float], path: Path) -> None:
    """Raise ScanError for a voxel size that is outside the accepted range or not a number."""
    for side in spacing_mm:
        if not (math.isfinite(side) and SMALLEST_SPACING_MM <= side <= LARGEST_SPACING_MM):
            sides = size_text([f"{value:g}" for value in spacing_mm])
            raise ScanError(
                f"{path} has an impossible voxel size of {sides} mm. Sides from {SMALLEST_SPACING_MM:g} to "
                f"{LARGEST_SPACING_MM:g} mm are read: export the scan again, or correct the header."
            )


def check_size(size: Sequence[int], path: Path) -> None:
    """Raise ScanError for an empty axis or more voxels than any scan has."""
    if any(number < 1 for number in size):
        raise ScanError(f"{path} is empty: its header states {size_text(size)} voxels. Export the scan again.")
    if math.prod(size) > MOST_VOXELS:
        raise ScanError(
            f"{path} claims {size_text(size)} voxels, more than any scan this program reads "
            f"({MOST_VOXELS:,}): its header is damaged, or the scan must be cropped or down-sampled first."
        )


def check_layers(image: sitk.Image, path: Path) -> None:
    """Raise ScanError unless an image has layers of whole numbers on a rectangular 3D grid of plausible voxel size."""
    if "integer" not in image.GetPixelIDTypeAsString() or "signed" not in image.GetPixelIDTypeAsString():
        raise ScanError(f"{path} holds no whole numbers, so it is no segmentation. Save it again in 3D Slicer.")
    _check_grid(image, path)


def check_volume(image: sitk.Image, path: Path) -> None:
    """Raise ScanError unless an image is scalar, 3D, on a rectangular grid with plausible voxel sizes."""
    pixel = image.GetPixelIDTypeAsString()
    if "complex" in pixel:
        raise complex_error(path)
    if image.GetNumberOfComponentsPerPixel() > 1 or "vector" in pixel:
        raise components_error(path, image.GetNumberOfComponentsPerPixel())
    if "label" in pixel:
        raise ScanError(f"{path} is stored as run lengths ({pixel}). Save it as an ordinary label map first.")
    _check_grid(image, path)


def _check_grid(image: sitk.Image, path: Path) -> None:
    """Raise ScanError unless an image has three axes at right angles with plausible voxel sizes."""
    check_dimensions(image.GetSize(), path)
    check_size(image.GetSize(), path)
    check_spacing(image.GetSpacing(), path)
    if not np.all(np.isfinite(image.GetOrigin())) or is_sheared(directions_of(image)):
        raise sheared_error(path)


def check_dimensions(size: Sequence[int], path: Path) -> None:
    """Raise ScanError unless there are three axes, saying what to do with pictures and series of volumes."""
    if len(size) < 3:
        raise ScanError(
            f"{path} is a two-dimensional picture of {size_text(size)}. A 3D scan is needed: give all slices."
        )
    if len(size) > 3:
        raise ScanError(
            f"{path} has {len(size)} axes ({size_text(size)}): several volumes, e.g. over time. Save one of them as a "
            "3D file first (3D Slicer: the Sequences module; command line: fslroi IN OUT 0 1)."
        )


def components_error(path: Path, components: int) -> ScanError:
    """Return the error for a colour or vector image."""
    return ScanError(
        f"{path} holds {components} numbers in each voxel (colour, vectors or several volumes), "
        "a scan has one. Save one component as a grey-scale 3D file first."
    )


def complex_error(path: Path) -> ScanError:
    """Return the error for an image of complex numbers."""
    return ScanError(f"{path} holds complex numbers (raw MR data). Save its magnitude as a 3D file first.")


def check_intensities(image: sitk.Image, path: Path) -> None:
    """Raise ScanError for a scan with voxels that are not finite, or all of one intensity."""
    voxels = sitk.GetArrayViewFromImage(image)
    low, high = voxels.min(), voxels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise not_numbers_error(path, int(voxels.size - np.count_nonzero(np.isfinite(voxels))), voxels.size)
    if low == high:
        raise ScanError(f"{path} has the same intensity {low:g} in every voxel: there is nothing to segment.")


def not_numbers_error(path: Path, count: int, voxels: int) -> ScanError:
    """Return the error for an image in which ``count`` voxels are NaN or infinite.

    They are refused, not replaced: they may mean air, a mask or a failed computation, and a wrong guess would silently
    change the segmentation.
    """
    if count == voxels:
        return ScanError(f"{path} has no intensities: every voxel is NaN or infinite. Export the scan again.")
    return ScanError(
        f"{path} has {count:,} voxels ({100 * count / voxels:.2g} %) that are NaN or infinite. "
        "Replace them first, e.g. by the intensity of air."
    )


def same_geometry(first: sitk.Image, second: sitk.Image, tolerance_mm: float | None = None) -> str | None:
    """Return None when two 3D images lie on the same grid, else one line saying what differs.

    ``tolerance_mm`` bounds how far any corner voxel may be displaced; by default 5 % of the smallest voxel side.
    """
    if first.GetSize() != second.GetSize():
        return f"the sizes differ: {size_text(first.GetSize())} and {size_text(second.GetSize())} voxels"
    tolerance = SAME_GRID * min(first.GetSpacing() + second.GetSpacing()) if tolerance_mm is None else tolerance_mm
    last = np.array(first.GetSize()) - 1
    spacings = [np.array(image.GetSpacing()) for image in (first, second)]
    # One voxel at least, so that the thickness of a single slice counts as well.
    if np.any(np.abs(spacings[0] - spacings[1]) * np.maximum(last, 1) > tolerance):
        texts = [size_text([f"{side:.4g}" for side in spacing]) for spacing in spacings]
        return f"the voxel sizes differ: {texts[0]} and {texts[1]} mm"
    directions = [directions_of(image) for image in (first, second)]
    reach = np.linalg.norm((directions[0] - directions[1]) * spacings[0] * np.maximum(last, 1), axis=0)
    if np.any(reach > tolerance):
        return f"the axes point in different directions ({_axes_text(directions[0])} and {_axes_text(directions[1])})"
    shift = np.array(second.GetOrigin()) - np.array(first.GetOrigin())
    if not np.linalg.norm(shift) <= tolerance:
        return "the origins differ by " + size_text([f"{value:.4g}" for value in shift]) + " mm"
    return None


def _axes_text(direction: np.ndarray) -> str:
    """Return where the image axes point, e.g. 'x to L, y to P, z to S', with a mark when oblique."""
    letters = (("L", "R"), ("P", "A"), ("S", "I"))
    parts = []
    for name, column in zip("xyz", direction.T, strict=True):
        world = int(np.argmax(np.abs(column)))
        oblique = "" if abs(column[world]) > 0.9999 else " oblique"
        parts.append(f"{name} to {letters[world][int(column[world] < 0)]}{oblique}")
    return ", ".join(parts)
