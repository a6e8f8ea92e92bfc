"""Scans to measure with: the bundled sample CT, brought to a clinical size, and a synthetic body."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.images.read import read_scan
from TransferSegLib.models.locate import bundled_sample


def sample_scan() -> sitk.Image:
    """Return the bundled sample CT."""
    return read_scan(read_dataset(bundled_sample()).cases[0].image)


def resampled_around(image: sitk.Image, size: Sequence[int], spacing_mm: Sequence[float]) -> sitk.Image:
    """Return a CT on another grid around the same middle (size and spacing as xyz); what is not in the scan is air."""
    middle = np.array(image.TransformContinuousIndexToPhysicalPoint([n / 2 for n in image.GetSize()]))
    axes = np.array(image.GetDirection()).reshape(3, 3)
    origin = middle - axes @ (np.array(size) * np.array(spacing_mm) / 2)
    grid = (list(size), sitk.Transform(), sitk.sitkLinear, origin.tolist(), list(spacing_mm), image.GetDirection())
    return sitk.Resample(image, *grid, -1024, sitk.sitkInt16)


def stacked(image: sitk.Image, times: int) -> sitk.Image:
    """Return a scan repeated along its slices."""
    tall = sitk.GetImageFromArray(np.concatenate([sitk.GetArrayFromImage(image)] * times))
    tall.SetSpacing(image.GetSpacing())
    tall.SetDirection(image.GetDirection())
    return tall


def synthetic_scan(size_xyz: tuple[int, int, int], spacing_xyz_mm: tuple[float, float, float]) -> sitk.Image:
    """Return an elliptic body in air with noise and a few thousand blobs of soft tissue (int16)."""
    width, height, depth = size_xyz
    generator = np.random.default_rng(0)
    coarse = generator.normal(size=(depth // 8 + 2, height // 16 + 2, width // 16 + 2))
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    body = (x / 0.85) ** 2 + (y / 0.6) ** 2 < 1
    voxels = np.full((depth, height, width), -1000, np.int16)
    for index in range(depth):
        blobs = np.kron(coarse[index // 8], np.full((16, 16), 80.0))[:height, :width]
        voxels[index] = np.where(body, blobs + generator.normal(0, 15, (height, width)), -1000)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing_xyz_mm)
    return image
