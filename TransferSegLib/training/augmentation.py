"""Changes of intensity that keep the anatomy: contrast (up to its inversion), brightness, gamma, noise, resolution."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from TransferSegLib.training.configuration import AugmentationConfiguration
from TransferSegLib.training.contrasts import curved, inverted


def vary_intensities(
    intensities: np.ndarray, augmentation: AugmentationConfiguration, random: np.random.Generator
) -> np.ndarray:
    """Return a varied copy of a patch (float32, zyx); each change happens with the configured probability."""
    varied = intensities
    # Probabilities of 0 draw no number, so that a seed keeps its patches when they are not asked for.
    if augmentation.inversion > 0 and random.random() < augmentation.inversion:
        varied = inverted(varied)
    if augmentation.intensity_curve > 0 and random.random() < augmentation.intensity_curve:
        varied = curved(varied, augmentation.curve_points, random)
    if random.random() < augmentation.intensity:
        varied = low_resolution(varied, random.uniform(1.0, augmentation.low_resolution, 3))
    if random.random() < augmentation.intensity:
        varied = gamma(varied, float(np.exp(random.uniform(-1, 1) * augmentation.gamma)))
    if random.random() < augmentation.intensity:
        factor = 1 + random.uniform(-1, 1) * augmentation.contrast
        shift = random.uniform(-1, 1) * augmentation.contrast / 2
        varied = varied * np.float32(factor) + np.float32(shift)
    if random.random() < augmentation.intensity:
        deviation = np.float32(random.uniform(0, augmentation.noise))
        varied = varied + deviation * random.standard_normal(varied.shape, dtype=np.float32)
    return varied.astype(np.float32, copy=False)


def gamma(intensities: np.ndarray, exponent: float) -> np.ndarray:
    """Raise the intensities, seen as fractions of the patch's own range, to a power; the range stays."""
    low, high = float(intensities.min()), float(intensities.max())
    if high <= low:
        return intensities
    fractions = (intensities - np.float32(low)) / np.float32(high - low)
    return np.power(fractions, np.float32(exponent)) * np.float32(high - low) + np.float32(low)


def low_resolution(intensities: np.ndarray, factors_zyx: np.ndarray) -> np.ndarray:
    """Blur as if the voxels were larger by these factors: the shape stays, detail is lost."""
    # A voxel f times as wide averages over a box; a Gaussian of the same variance stands for it.
    deviations = np.sqrt(np.maximum(0.0, np.square(factors_zyx) - 1.0) / 12.0)
    return ndimage.gaussian_filter(intensities, deviations, mode="nearest", truncate=3.0)
