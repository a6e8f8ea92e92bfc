"""The modality of a scan, guessed from its intensities where nothing names it: a CT has air and bone."""

from __future__ import annotations

import numpy as np

#: At most so many voxels are sampled: enough to see the range of a scan, few enough to take no time.
_SAMPLED_VOXELS = 200_000
#: In Hounsfield units, air and lung are below the first and bone is above the second.
AIR_HU, BONE_HU = -200.0, 200.0
#: Other spellings of DICOM's codes.
_SAME = {"MRI": "MR", "PET": "PT"}


def modality_word(modality: str) -> str:
    """Return DICOM's code of a modality: 'CT', 'MR', 'PT'; others in capital letters, '' for none."""
    code = modality.strip().upper()
    return _SAME.get(code, code)


def sampled_range(voxels_zyx: np.ndarray) -> tuple[float, float]:
    """Return the smallest and the largest finite value of voxels all over a volume; 0 and 0 where there is none."""
    step = max(1, round((voxels_zyx.size / _SAMPLED_VOXELS) ** (1 / 3)))
    sampled = voxels_zyx[::step, ::step, ::step]
    finite = sampled[np.isfinite(sampled)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def looks_like_ct(lowest: float, highest: float) -> bool:
    """Return whether a range of intensities has air and bone in Hounsfield units."""
    return lowest <= AIR_HU and highest >= BONE_HU


def guess_modality(voxels_zyx: np.ndarray) -> str:
    """Return 'CT', 'MR' for a scan without any negative value (which no CT in Hounsfield units is), or '' in doubt.

    An MR with negative values, or a CT cropped so closely that air or bone is missing, is in doubt. PET and ultrasound
    cannot be distinguished from MR.
    """
    lowest, highest = sampled_range(voxels_zyx)
    if looks_like_ct(lowest, highest):
        return "CT"
    return "MR" if lowest >= 0 and highest > 0 else ""
