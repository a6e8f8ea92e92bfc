"""Intensity changes wide enough to cross modalities: inverted contrast and random monotone curves.

Networks trained under random contrasts keep features that survive a change of modality (SynthSeg, Billot et al. 2023).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.training.patches import Patch
from TransferSegLib.training.trainer import DrawsPatches


class ContrastSampler:
    """Draws from another sampler and changes the contrast of what it draws."""

    def __init__(self, sampler: DrawsPatches, configuration: FineTuningConfiguration) -> None:
        """Wrap a sampler; with both probabilities 0 its patches pass unchanged."""
        self._sampler = sampler
        self._configuration = configuration

    def draw(self, random: np.random.Generator) -> Patch:
        """Draw one patch."""
        patch, knobs = self._sampler.draw(random), self._configuration
        if random.random() < knobs.inversion:
            patch = replace(patch, intensities=inverted(patch.intensities))
        if random.random() < knobs.intensity_curve:
            patch = replace(patch, intensities=curved(patch.intensities, knobs.curve_points, random))
        return patch


def inverted(intensities: np.ndarray) -> np.ndarray:
    """Return the patch with bright and dark exchanged within its own range; the darkest 2 % of it stay (air)."""
    low, high = intensities.min(), intensities.max()
    # Air is dark in every modality; inverting it would teach the network scans that do not exist.
    is_air = intensities <= low + np.float32(0.02) * (high - low)
    return np.where(is_air, intensities, low + high - intensities).astype(np.float32, copy=False)


def curved(intensities: np.ndarray, points: int, random: np.random.Generator) -> np.ndarray:
    """Return the patch with its range mapped onto itself by a rising curve through randomly placed knots."""
    low, high = float(intensities.min()), float(intensities.max())
    knots = np.linspace(low, high, points)
    values = np.concatenate([[low], np.sort(random.uniform(low, high, points - 2)), [high]])
    return np.interp(intensities, knots, values).astype(np.float32)
