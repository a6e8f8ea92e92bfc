"""Whether a volume is of the kind a model is for: its DICOM modality where that is known, else its intensities."""

from __future__ import annotations

import numpy as np
import slicer
from slicer.i18n import tr as _

from TransferSegGui.nodes import hasVoxels

#: Voxels looked at, at most: enough to see the range of a scan, few enough not to be noticed.
_SAMPLED_VOXELS = 200_000
#: In Hounsfield units, air and lung are below the first and bone is above the second.
_AIR_HU, _BONE_HU = -200.0, 200.0
#: DICOM's words for modalities whose scans look alike.
_SAME = {"MRI": "MR", "PET": "PT"}
_HOUNSFIELD_MODALITIES = ("CT",)


def modalityWarning(volumeNode, modality: str) -> str:
    """Return a line that says why a volume is perhaps not what a model for ``modality`` expects, empty if it is."""
    wanted = _word(modality)
    name = volumeNode.GetName()
    known = _word(dicomModality(volumeNode))
    if known and wanted and known != wanted:
        return _("'{name}' is {known}, and the model was made for {wanted}: its result will hardly be of use.").format(
            name=name, known=known, wanted=wanted
        )
    if known or not wanted or not hasVoxels(volumeNode):
        return ""
    lowest, highest = sampledRange(volumeNode)
    looksLikeCt = lowest <= _AIR_HU and highest >= _BONE_HU
    if wanted in _HOUNSFIELD_MODALITIES and not looksLikeCt:
        return _(
            "The model was made for CT, and the intensities of '{name}' ({lowest} to {highest}) are not those of a CT "
            "in Hounsfield units: check the result with care."
        ).format(name=name, lowest=f"{lowest:g}", highest=f"{highest:g}")
    if wanted not in _HOUNSFIELD_MODALITIES and lowest <= _AIR_HU:
        return _(
            "The model was made for {wanted}, and the intensities of '{name}' ({lowest} to {highest}) look like those "
            "of a CT: check the result with care."
        ).format(wanted=wanted, name=name, lowest=f"{lowest:g}", highest=f"{highest:g}")
    return ""


def dicomModality(volumeNode) -> str:
    """Return the modality that DICOM import wrote into the subject hierarchy ('CT', 'MR'), empty when there is none."""
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    item = hierarchy.GetItemByDataNode(volumeNode) if hierarchy is not None else 0
    return hierarchy.GetItemAttribute(item, "DICOM.Modality") if item else ""


def sampledRange(volumeNode) -> tuple[float, float]:
    """Return the smallest and largest value of voxels all over a volume that has some."""
    voxels_zyx = slicer.util.arrayFromVolume(volumeNode)
    step = max(1, round((voxels_zyx.size / _SAMPLED_VOXELS) ** (1 / 3)))
    sampled = voxels_zyx[::step, ::step, ::step]
    finite = sampled[np.isfinite(sampled)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _word(modality: str) -> str:
    word = modality.strip().upper()
    return _SAME.get(word, word)
