"""What a grid of voxels costs a structure: the Dice that a perfect network could reach on it.

A reference is taken from its scan's own voxels to a grid, as it is for training, and back, as a prediction is. What
is lost on the way no network can make good: of a structure of 20 mm, 3 mm voxels cost more than most trainings gain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from TransferSegLib.evaluation.scores import dice
from TransferSegLib.images.label_resampling import LabelResampler, Probabilities
from TransferSegLib.images.model_grid import AxisOrder, ModelGrid
from TransferSegLib.images.preprocess import labels_on_grid
from TransferSegLib.images.stored_axes import named_axes, stored_axes
from TransferSegLib.structures import Structure

Triple = tuple[float, float, float]
#: Of a larger structure a cube with so many voxels a side is looked at: it tells as much.
_LONGEST_SIDE = 112
#: So many voxels of the grid around a structure are looked at, too.
_MARGIN_VOXELS = 2


@dataclass(frozen=True)
class ScanAxes:
    """How a scan's voxels lie in the world: their sides in mm and direction cosines, as images store them."""

    spacing_xyz_mm: Triple
    direction: tuple[float, ...]

    @staticmethod
    def of(image: sitk.Image) -> ScanAxes:
        """Return those of a 3D image."""
        x, y, z = image.GetSpacing()
        return ScanAxes((x, y, z), tuple(image.GetDirection()))

    def along(self, values_xyz: tuple[float, ...], axes: str) -> Triple:
        """Return a value of each of the scan's axes in the order (zyx) of a model's ``Preparation.axes``."""
        order = AxisOrder.of_scan(self.image_of(np.zeros((1, 1, 1), np.uint8)), axes)
        x, y, z = (values_xyz[axis] for axis in order.axes)
        return z, y, x

    def image_of(self, voxels_zyx: np.ndarray) -> sitk.Image:
        """Return an image whose voxels lie so, its origin anywhere."""
        image = sitk.GetImageFromArray(voxels_zyx)
        image.SetSpacing(self.spacing_xyz_mm)
        image.SetDirection(self.direction)
        return image


@dataclass(frozen=True, eq=False)
class StructureMask:
    """The voxels of a structure in one scan, cut out: ``bits`` are those of an array of ``shape_zyx``.

    ``room_zyx`` counts the voxels of the scan before and behind it along each axis. ``size_xyz_mm`` is the size of the
    box around the whole structure, along the scan's axes.
    """

    bits: np.ndarray
    shape_zyx: tuple[int, int, int]
    room_zyx: tuple[tuple[int, int], ...]
    axes: ScanAxes
    size_xyz_mm: Triple

    def voxels(self, margin_zyx: tuple[int, ...]) -> np.ndarray:
        """Return the mask (uint8, zyx) with so many voxels around it as the scan has, at most those asked for."""
        count = math.prod(self.shape_zyx)
        mask = np.unpackbits(self.bits, count=count).reshape(self.shape_zyx)
        around = [
            (min(before, most), min(behind, most))
            for (before, behind), most in zip(self.room_zyx, margin_zyx, strict=True)
        ]
        return np.pad(mask, around)


def masks_of(label_map: sitk.Image, structures: Iterable[Structure]) -> dict[str, StructureMask]:
    """Return the masks of structures of a label map by name; one without a voxel is not among them."""
    labels = sitk.GetArrayViewFromImage(label_map)
    boxes = ndimage.find_objects(labels)
    found = {}
    for structure in structures:
        box = boxes[structure.label - 1] if structure.label <= len(boxes) else None
        if box is not None:
            found[structure.name] = _mask_of(labels, structure.label, box, ScanAxes.of(label_map))
    return found


def _mask_of(labels: np.ndarray, value: int, box: tuple[slice, ...], axes: ScanAxes) -> StructureMask:
    """Return the mask of a structure in its box of a label map."""
    mask = labels[box] == value
    sides_xyz = mask.shape[::-1]
    x, y, z = (side * step for side, step in zip(sides_xyz, axes.spacing_xyz_mm, strict=True))
    room = [(part.start, length - part.stop) for part, length in zip(box, labels.shape, strict=True)]
    if max(mask.shape) > _LONGEST_SIDE:
        mask, room = _part_of(mask, room)
    return StructureMask(np.packbits(mask), (mask.shape[0], mask.shape[1], mask.shape[2]), tuple(room), axes, (x, y, z))


def _part_of(mask: np.ndarray, room: list[tuple[int, int]]) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return a part of a large mask around one of its voxels, and the voxels of the scan beyond it."""
    voxels = np.flatnonzero(mask)
    middle = np.unravel_index(voxels[voxels.size // 2], mask.shape)
    part, left = [], []
    for position, length, (before, behind) in zip(middle, mask.shape, room, strict=True):
        start = min(max(0, int(position) - _LONGEST_SIDE // 2), max(0, length - _LONGEST_SIDE))
        stop = min(length, start + _LONGEST_SIDE)
        part.append(slice(start, stop))
        # Where the structure goes on, the part ends as a scan does.
        left.append((before if start == 0 else 0, behind if stop == length else 0))
    return mask[tuple(part)], left


def resolution_cap(mask: StructureMask, spacing_zyx_mm: Triple, axes: str) -> float:
    """Return the Dice between a structure and the same taken to a model's grid and back (0: it vanishes).

    ``axes`` are those of ``Preparation``.
    """
    reach_mm = _MARGIN_VOXELS * max(spacing_zyx_mm)
    margin = tuple(math.ceil(reach_mm / step) + 1 for step in mask.axes.spacing_xyz_mm[::-1])
    voxels = mask.voxels(margin)
    image = mask.axes.image_of(voxels)
    grid = ModelGrid.around(image, spacing_zyx_mm, named_axes(axes, stored_axes(image)))
    on_grid = labels_on_grid(image, (1,), grid)
    resampler = LabelResampler(grid, (0, 1))
    resampler.write(Probabilities(np.stack([on_grid == 0, on_grid == 1], axis=-1).astype(np.float32)), (0, 0, 0))
    return float(dice(resampler.labels_zyx == 1, voxels == 1))
