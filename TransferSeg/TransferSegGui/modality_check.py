"""Whether a volume is of the kind a model is for, before it is segmented; the library's check of fit decides."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from TransferSegGui.nodes import hasVoxels
from TransferSegLib.fit.intensities import modality_problem
from TransferSegLib.images.modality import modality_word


def modalityWarning(volumeNode, modality: str) -> str:
    """Return a line that says why a volume is perhaps not what a model for ``modality`` expects, empty if it is."""
    known = modality_word(dicomModality(volumeNode))
    if not hasVoxels(volumeNode):
        return ""
    problem = modality_problem(known, modality, slicer.util.arrayFromVolume(volumeNode))
    return _("'{name}': {problem}").format(name=volumeNode.GetName(), problem=problem) if problem else ""


def dicomModality(volumeNode) -> str:
    """Return the modality that DICOM import wrote into the subject hierarchy ('CT', 'MR'), empty when there is none."""
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    item = hierarchy.GetItemByDataNode(volumeNode) if hierarchy is not None else 0
    return hierarchy.GetItemAttribute(item, "DICOM.Modality") if item else ""
