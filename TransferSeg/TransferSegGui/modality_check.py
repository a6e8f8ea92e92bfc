"""Whether a volume is of the kind a model is for: its DICOM modality where that is known, else its intensities."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from TransferSegGui.nodes import hasVoxels
from TransferSegLib.scans.modality import AIR_HU, looks_like_ct, modality_word, sampled_range

_HOUNSFIELD_MODALITIES = ("CT",)


def modalityWarning(volumeNode, modality: str) -> str:
    """Return a line that says why a volume is perhaps not what a model for ``modality`` expects, empty if it is."""
    wanted = modality_word(modality)
    name = volumeNode.GetName()
    known = modality_word(dicomModality(volumeNode))
    if known and wanted and known != wanted:
        return _("'{name}' is {known}, and the model was made for {wanted}: its result will hardly be of use.").format(
            name=name, known=known, wanted=wanted
        )
    if known or not wanted or not hasVoxels(volumeNode):
        return ""
    lowest, highest = sampled_range(slicer.util.arrayFromVolume(volumeNode))
    if wanted in _HOUNSFIELD_MODALITIES and not looks_like_ct(lowest, highest):
        return _(
            "The model was made for CT, and the intensities of '{name}' ({lowest} to {highest}) are not those of a CT "
            "in Hounsfield units: check the result with care."
        ).format(name=name, lowest=f"{lowest:g}", highest=f"{highest:g}")
    if wanted not in _HOUNSFIELD_MODALITIES and lowest <= AIR_HU:
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
