"""Doubts of known shape on the grid of a turned scan."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from TransferSegLib.doubt.calibration import LARGEST_MARGIN, DoubtCalibration
from TransferSegLib.doubt.scan_doubt import ScanDoubt
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.structures import LabelSet, Structure

LABELS = LabelSet((Structure("one", 7, (200, 0, 0)), Structure("two", 3, (0, 200, 0))))
#: Half of the voxels without a margin are wrong, none with a margin of 4 or more.
CURVE = DoubtCalibration(5, (0.0, 4.0), (0.5, 0.0))


def turned_scan() -> sitk.Image:
    image = sitk.Image(50, 44, 30, sitk.sitkInt16)
    image.SetSpacing((1.0, 1.2, 2.0))
    image.SetOrigin((-40.0, 12.0, 90.0))
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.1, -0.2, 0.3).GetMatrix())
    return image


def doubt_of(image: sitk.Image, calibration: DoubtCalibration | None = CURVE) -> ScanDoubt:
    """Return a doubt that is 0 everywhere: background, far ahead of structure 1."""
    grid = ModelGrid.around(image, (2.0, 2.0, 2.0))
    margins = np.full(grid.size_zyx, LARGEST_MARGIN, np.float16)
    return ScanDoubt(
        margins, np.zeros(grid.size_zyx, np.uint8), np.ones(grid.size_zyx, np.uint8), grid, LABELS, calibration
    )


def ball(doubt: ScanDoubt, centre_zyx: tuple[int, int, int], radius_mm: float) -> np.ndarray:
    """Return the voxels of the grid (2 mm) within a distance of one of them."""
    away = np.indices(doubt.margins_zyx.shape) - np.array(centre_zyx)[:, None, None, None]
    return np.asarray(2.0 * np.sqrt((away**2).sum(axis=0)) <= radius_mm)
