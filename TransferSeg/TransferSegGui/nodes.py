"""Between MRML nodes and files: a volume is written for the child process, its result becomes a segmentation."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import slicer
import vtk
from slicer.i18n import tr as _

#: Attributes of a segmentation node that TransferSeg made: they are saved with the scene, and read when a corrected
#: case is kept. The structures are a JSON list of names, those looked for, whether found or not.
MODEL_ATTRIBUTE, VERSION_ATTRIBUTE = "TransferSeg.Model", "TransferSeg.ModelVersion"
STRUCTURES_ATTRIBUTE = "TransferSeg.Structures"
#: The names of those that the model has not found, likewise; it stays when they are drawn by hand.
NOT_FOUND_ATTRIBUTE = "TransferSeg.NotFound"


@dataclass(frozen=True)
class SegmentedBy:
    """Which model made a segmentation, and which structures it looked for."""

    model: str
    version: str
    structures: tuple[str, ...]

    def writeTo(self, segmentationNode) -> None:
        """Store it in the node's attributes."""
        segmentationNode.SetAttribute(MODEL_ATTRIBUTE, self.model)
        segmentationNode.SetAttribute(VERSION_ATTRIBUTE, self.version)
        segmentationNode.SetAttribute(STRUCTURES_ATTRIBUTE, namesText(self.structures))


def segmentedBy(segmentationNode) -> SegmentedBy | None:
    """Return what made a segmentation, None when it was not TransferSeg."""
    model = segmentationNode.GetAttribute(MODEL_ATTRIBUTE)
    if not model:
        return None
    version, structures = map(segmentationNode.GetAttribute, (VERSION_ATTRIBUTE, STRUCTURES_ATTRIBUTE))
    return SegmentedBy(model, version or "", namesFrom(structures))


def referenceVolume(segmentationNode):
    """Return the volume that a segmentation was made for, None when that is not known."""
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    return segmentationNode.GetNodeReference(role)


def namesText(names: Iterable[str]) -> str:
    """Return names as nodes keep them, a JSON list; no names are an empty text."""
    listed = list(names)
    return json.dumps(listed, ensure_ascii=False) if listed else ""


def namesFrom(text: str | None) -> tuple[str, ...]:
    """Return the names in a node's text; none where it is damaged."""
    try:
        names = json.loads(text or "[]")
    except ValueError:
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def hasVoxels(volumeNode) -> bool:
    """Return whether a volume has values: a node may have no image, and an image no voxels."""
    image = volumeNode.GetImageData()
    return image is not None and image.GetPointData().GetScalars() is not None and image.GetNumberOfPoints() > 0


def writeVolume(volumeNode, path: Path) -> None:
    """Write a volume's voxels and geometry; the node, its storage and its file stay as they are.

    The parent transform is not applied: the result is put under the same transform. Raises RuntimeError when there is
    nothing to write or the file cannot be written.
    """
    if not hasVoxels(volumeNode):
        raise RuntimeError(_("The volume '{name}' has no voxels.").format(name=volumeNode.GetName()))
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()  # not in the scene: the volume keeps its own
    storage.SetFileName(str(path))
    storage.SetUseCompression(False)
    if not storage.WriteData(volumeNode) or not path.is_file():
        raise RuntimeError(_("The volume cannot be written to {path}: is the disk full?").format(path=path))


def readSegmentation(path: Path, volumeNode, segmentationNode=None):
    """Return the segmentation node with the segments of a .seg.nrrd file: names, colours and terminology are its own.

    ``segmentationNode`` None makes a new one, otherwise its segments are replaced, and only after the file was read.
    The volume (None when it was removed meanwhile) becomes the reference geometry and lends its transform. Raises
    RuntimeError when the file cannot be read.
    """
    name = _("{name} segmentation").format(name=volumeNode.GetName()) if volumeNode else _("Segmentation")
    readNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", slicer.mrmlScene.GenerateUniqueName(name))
    storage = slicer.vtkMRMLSegmentationStorageNode()  # not in the scene: the file is a temporary one
    storage.SetFileName(str(path))
    if not storage.ReadData(readNode) or readNode.GetSegmentation().GetNumberOfSegments() == 0:
        removeNode(readNode)
        raise RuntimeError(_("The segmentation cannot be read from {path}.").format(path=path))
    if segmentationNode is None:
        segmentationNode = readNode
    else:
        segmentationNode.GetSegmentation().DeepCopy(readNode.GetSegmentation())
        removeNode(readNode)
    segmentationNode.CreateDefaultDisplayNodes()
    _keepNames(segmentationNode.GetSegmentation())
    if volumeNode is not None:
        segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        placeBesideVolume(segmentationNode, volumeNode)
    return segmentationNode


def placeBesideVolume(segmentationNode, volumeNode) -> None:
    """Put a segmentation where the volume is in the subject hierarchy: in the same study, right after it."""
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    volumeItem = hierarchy.GetItemByDataNode(volumeNode) if hierarchy is not None else 0
    if not volumeItem:
        return
    parent = hierarchy.GetItemParent(volumeItem)
    item = hierarchy.GetItemByDataNode(segmentationNode) or hierarchy.CreateItem(parent, segmentationNode)
    if hierarchy.GetItemParent(item) != parent:
        hierarchy.SetItemParent(item, parent)
    siblings = vtk.vtkIdList()
    hierarchy.GetItemChildren(parent, siblings, False)
    after = hierarchy.GetItemPositionUnderParent(volumeItem) + 1
    if after < siblings.GetNumberOfIds() and siblings.GetId(after) != item:
        hierarchy.MoveItem(item, siblings.GetId(after))


def takeBack(volumeNode, segmentationNode) -> list[str]:
    """Bring a segmentation that left the scene, and its volume, back into it; returns a message about it, if it did.

    The nodes keep their voxels, names and attributes; how they were shown went with the scene.
    """
    if slicer.mrmlScene.IsNodePresent(segmentationNode):
        return []
    for node in (volumeNode, segmentationNode):
        if not slicer.mrmlScene.IsNodePresent(node):
            slicer.mrmlScene.AddNode(node)
            node.CreateDefaultDisplayNodes()
    segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    return [_("'{name}' was added to the scene again.").format(name=segmentationNode.GetName())]


def hideOthers(volumeNode, shownNode=None) -> None:
    """Hide what TransferSeg made of other volumes: contours of one patient over the scan of another mislead.

    With ``shownNode``, a new result, earlier results of the same volume are hidden too.
    """
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        reference, display = referenceVolume(node), node.GetDisplayNode()
        isOfOther = reference is not None and reference.GetID() != volumeNode.GetID()
        isEarlier = shownNode is not None and node.GetID() != shownNode.GetID()
        if (isOfOther or isEarlier) and display is not None and segmentedBy(node) is not None:
            display.SetVisibility(False)


def showStructure(segmentationNode, name: str) -> None:
    """Let all slice views show the middle of a structure, if it has one."""
    segmentId = segmentationNode.GetSegmentation().GetSegmentIdBySegmentName(name)
    center = segmentationNode.GetSegmentCenterRAS(segmentId) if segmentId else None
    if center is not None:
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *center)


def showIn3D(segmentationNode, shown: bool) -> None:
    """Show a segmentation as surfaces in 3D views, which takes a while for many structures, or only in slices."""
    if shown:
        segmentationNode.CreateClosedSurfaceRepresentation()
    display = segmentationNode.GetDisplayNode()
    if display is not None:
        display.SetVisibility3D(shown)
    manager = slicer.app.layoutManager()
    view = manager.threeDWidget(0) if shown and manager is not None else None
    if view is not None:
        view.threeDView().resetFocalPoint()  # or the surfaces may be outside of what is seen


def _keepNames(segmentation) -> None:
    """Tell Slicer that names and colours are the model's, so that a change of terminology leaves them."""
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        segment.SetNameAutoGenerated(False)
        segment.SetColorAutoGenerated(False)


def removeNode(node) -> None:
    """Remove a segmentation or a volume from the scene, with the nodes that show and store it."""
    display = [node.GetNthDisplayNode(index) for index in range(node.GetNumberOfDisplayNodes())]
    for each in (*display, node.GetStorageNode(), node):
        if each is not None:
            slicer.mrmlScene.RemoveNode(each)


def isUsed(node) -> bool:
    """Return whether another node of the scene refers to a node: a view, a choice in a panel, a segmentation of it."""
    scene = slicer.mrmlScene
    every = (scene.GetNthNode(index) for index in range(scene.GetNumberOfNodes()))
    others = (each for each in every if not each.IsA("vtkMRMLSubjectHierarchyNode"))
    return any(scene.IsNodeReferencingNodeID(each, node.GetID()) for each in others)
