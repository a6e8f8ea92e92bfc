"""Whether a scan is of the modality a model is for, and whether a CT is in Hounsfield units.

In Hounsfield units air is about -1000, fat -100, muscle and organs 0 to 100, and little but bone is above 300. What a
planning system cut away has one value below all of this. Single voxels do not matter: every scan has metal, padding and
noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from TransferSegLib.images.modality import AIR_HU, modality_word

#: DICOM's modality in the metadata of an image.
MODALITY_KEY = "0008|0060"
#: Voxels looked at, at most.
_SAMPLED_VOXELS = 400_000
#: Below this is air, lung and padding; above it tissue, in Hounsfield units.
_TISSUE_FROM_HU = -300.0
#: Where most of the tissue of any CT is, and where its middle is.
_TISSUE_HU = (-200.0, 300.0)
_MIDDLE_HU = (-150.0, 250.0)
#: No tissue is less dense than air; padding has one value below it and is left out.
_THINNEST_HU = -1150.0
#: Where so large a share of the voxels is air or lung, a tenth of those is thinner than this (lung is about -850).
_MUCH_AIR, _THICKEST_AIR_HU = 0.05, -700.0
#: The fewest voxels that show a distribution.
_ENOUGH = 200


@dataclass(frozen=True)
class _Sample:
    """Finite intensities all over a scan, and those of them that are neither padding nor the highest value of all."""

    values: np.ndarray
    lowest: float
    highest: float

    @staticmethod
    def of(voxels_zyx: np.ndarray) -> _Sample:
        step = max(1, int((voxels_zyx.size / _SAMPLED_VOXELS) ** (1 / 3)))
        sampled = voxels_zyx[::step, ::step, ::step].astype(np.float64).ravel()
        finite = sampled[np.isfinite(sampled)]
        if not finite.size:
            return _Sample(finite, 0.0, 0.0)
        return _Sample(finite, float(finite.min()), float(finite.max()))

    def share(self, low: float, high: float) -> float:
        """Return the share of all values from ``low`` to ``high``."""
        return float(np.mean((self.values >= low) & (self.values <= high)))

    @property
    def range_text(self) -> str:
        """The range for a person."""
        return f"{self.lowest:g} to {self.highest:g}"


def modality_problem(known: str, wanted: str, voxels_zyx: np.ndarray) -> str:
    """Return why a scan is not of the modality that a model is for, empty if there is no reason to doubt it.

    ``known`` is the scan's DICOM modality, empty if unknown; ``wanted`` is the model's.
    """
    known, wanted = modality_word(known), modality_word(wanted)
    if known and wanted and known != wanted:
        return f"The scan is {_named(known)}, and the model was made for {wanted}."
    if wanted == "CT":
        problem = hounsfield_problem(voxels_zyx)
        if problem and not known:
            problem += " It may be an MR or another modality."
        return problem
    if wanted and not known:
        sample = _Sample.of(voxels_zyx)
        if sample.values.size >= _ENOUGH and sample.lowest <= AIR_HU and not _not_hounsfield(sample):
            return (
                f"The scan's intensities ({sample.range_text}) are those of a CT, and the model was made for {wanted}."
            )
    return ""


def hounsfield_problem(voxels_zyx: np.ndarray) -> str:
    """Return why the intensities of a scan (any numbers, zyx) are not Hounsfield units, empty where they may be."""
    sample = _Sample.of(voxels_zyx)
    if sample.values.size < _ENOUGH:
        return ""
    reason, found = _not_hounsfield(sample), sample.range_text
    return f"The scan's intensities ({found}) are not those of a CT in Hounsfield units: {reason}." if reason else ""


def _not_hounsfield(sample: _Sample) -> str:
    """Return why these are not Hounsfield units, empty where they may be."""
    values, lowest, highest = sample.values, sample.lowest, sample.highest
    if float(np.percentile(values, 0.5)) > -30.0 or lowest > -60.0:
        return "there is neither air (about -1000) nor fat (about -100)"
    if highest < 150.0:
        return "there is no bone (above 300)"
    if lowest > -300.0 and highest < 300.0:
        return "there is neither air (about -1000) nor bone (above 300)"
    tissue = values[values > _TISSUE_FROM_HU]
    if tissue.size < max(_ENOUGH // 4, 0.005 * values.size):
        return "there is next to no tissue (-100 to 100)"
    middle = float(np.median(tissue))
    if not _MIDDLE_HU[0] <= middle <= _MIDDLE_HU[1]:
        return f"the middle of what is no air lies at {middle:.0f} instead of about 0 to 100"
    ordinary = float(np.mean((tissue >= _TISSUE_HU[0]) & (tissue <= _TISSUE_HU[1])))
    if ordinary < 0.5:
        return f"only {100 * ordinary:.0f} % of what is no air is soft tissue"
    raised, between = (float(np.mean((tissue > low) & (tissue < high))) for low, high in ((800, 1300), (300, 700)))
    if raised > 0.08 and raised > 1.5 * between:
        return "there is a peak at about 1000, as soft tissue has where 1024 was not subtracted"
    return _wrong_ends(sample, tissue) or _few_levels(sample, tissue)


def _wrong_ends(sample: _Sample, tissue: np.ndarray) -> str:
    """Return what is wrong with the ends of the range: no air where it should be, or a window that cut them."""
    values, lowest, highest = sample.values, sample.lowest, sample.highest
    thin = values[(values < _THINNEST_HU) & (values > lowest)]
    airy = np.sum((values < _TISSUE_FROM_HU) & (values > lowest))
    share_thin = thin.size / values.size
    if thin.size and np.ptp(thin) > 50 and (share_thin > 0.02 or (share_thin > 0.003 and thin.size > 0.2 * airy)):
        return f"{100 * share_thin:.1f} % of the voxels are thinner than air ({_THINNEST_HU:.0f})"
    at_lowest = float(np.mean(values == lowest))
    if lowest > -400.0 and at_lowest > 0.03:
        return f"air is not at about -1000: {100 * at_lowest:.0f} % of the voxels are {lowest:g}, as after windowing"
    air = values[values < _TISSUE_FROM_HU]
    if air.size > _MUCH_AIR * values.size and float(np.percentile(air, 10)) > _THICKEST_AIR_HU:
        return f"air is at about {np.median(air):.0f} instead of -1000, as after scaling"
    at_highest = float(np.sum(values == highest)) / tissue.size
    if at_highest > 0.01 and highest < 2000.0:
        return f"{100 * at_highest:.0f} % of the tissue has the highest value, {highest:g}, as after windowing"
    return ""


def _few_levels(sample: _Sample, tissue: np.ndarray) -> str:
    """Return that there are too few grey levels: a picture of 8 bits whose numbers were stretched."""
    ordinary = tissue[(tissue >= _TISSUE_HU[0]) & (tissue <= _TISSUE_HU[1])]
    levels = np.unique(ordinary)
    # Drawn from a smooth distribution, a tenth as many values show nearly all of 500 levels.
    if ordinary.size >= 5_000 and levels.size < 130:
        return f"soft tissue has only {levels.size} grey levels, as a picture of 8 bits has"
    return ""


def _named(word: str) -> str:
    """Return a modality with its article."""
    return f"an {word}" if word[:1] in "AEFHILMNORSX" else f"a {word}"
