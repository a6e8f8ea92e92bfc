"""Intensity changes wide enough to cross modalities: inverted contrast and random monotone curves.

Networks trained under random contrasts keep features that survive a change of modality (SynthSeg, Billot et al. 2023).
"""

from __future__ import annotations

import numpy as np


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
