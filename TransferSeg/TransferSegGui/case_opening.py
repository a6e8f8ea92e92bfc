"""Opening a case of a project again: its scan, its label map and what was ticked become nodes."""

from __future__ import annotations

from pathlib import Path

import slicer
from slicer.i18n import tr as _

from TransferSegGui.annotated_region import REGION_SAVED, setRegion
from TransferSegGui.case_names import CaseNames
from TransferSegGui.nodes import SegmentedBy, readSegmentation
from TransferSegGui.predictions import PREDICTION_ATTRIBUTE
from TransferSegGui.reviewed_table import keyOf, setReviewed
from TransferSegLib.corrections.revisions import ProjectState, Revision

#: Attributes of a volume node: which case of which project it is.
CASE_ATTRIBUTE, PROJECT_ATTRIBUTE = "TransferSeg.Case", "TransferSeg.Project"


def openCase(project: ProjectState, revision: Revision):
    """Return the volume and the segmentation of a case; raises RuntimeError when its files cannot be read.

    Their nodes have no storage: saving the scene asks for files of its own and never writes into the project.
    """
    case = revision.case
    scan = CaseNames.of(project).scans.get(case.id, case.id)
    volume = readVolume(case.image, scan)
    try:
        segmentation = readSegmentation(case.labels, volume)
    except RuntimeError:
        slicer.mrmlScene.RemoveNode(volume)
        raise
    segmentation.SetName(slicer.mrmlScene.GenerateUniqueName(_("{scan} corrected").format(scan=scan)))
    _useNamesOfProject(segmentation, project)
    reviewed = {keyOf(name) for name in case.annotated}
    for each in segmentation.GetSegmentation().GetSegmentIDs():
        segment = segmentation.GetSegmentation().GetSegment(each)
        setReviewed(segment, keyOf(segment.GetName()) in reviewed)
    if revision.corrected_from is not None:
        SegmentedBy(revision.corrected_from.name, revision.corrected_from.version, ()).writeTo(segmentation)
    if revision.prediction is not None:
        segmentation.SetAttribute(PREDICTION_ATTRIBUTE, str(revision.prediction))
    if case.judged is not None:
        setRegion(segmentation, REGION_SAVED, str(case.judged))
    markAsCase(volume, case.id, project.folder)
    return volume, segmentation


def markAsCase(volumeNode, caseId: str, project: Path) -> None:
    """Note that a volume is the scan of a case."""
    volumeNode.SetAttribute(CASE_ATTRIBUTE, caseId)
    volumeNode.SetAttribute(PROJECT_ATTRIBUTE, str(project))


def caseOf(volumeNode, project: Path | None) -> str:
    """Return which case of a project a volume is known to be, empty when it is none."""
    if volumeNode is None or project is None or volumeNode.GetAttribute(PROJECT_ATTRIBUTE) != str(project):
        return ""
    return volumeNode.GetAttribute(CASE_ATTRIBUTE) or ""


def readVolume(path: Path, name: str):
    """Return a new volume of a file, without a storage: a saved scene gets a file of its own. Raises RuntimeError."""
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", slicer.mrmlScene.GenerateUniqueName(name))
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()  # not in the scene: the project's file is not the scene's
    storage.SetFileName(str(path))
    if not storage.ReadData(volume) or volume.GetImageData() is None:
        slicer.mrmlScene.RemoveNode(volume)
        raise RuntimeError(_("The scan cannot be read from {path}.").format(path=path))
    volume.CreateDefaultDisplayNodes()
    return volume


def _useNamesOfProject(segmentationNode, project: ProjectState) -> None:
    """Give segments the current names of their label values: a structure may have been renamed since."""
    segmentation = segmentationNode.GetSegmentation()
    names = {structure.label: structure.name for structure in project.every_structure}
    for each in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(each)
        segment.SetName(names.get(segment.GetLabelValue(), segment.GetName()))
