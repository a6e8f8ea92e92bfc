"""The annotated region, the reviewed part of a scan: kept with the segmentation node, and saved with the case."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from TransferSegGui.nodes import hasVoxels
from TransferSegLib.corrections.inputs import JudgedSlices
from TransferSegLib.corrections.snapshot import Box

#: Values of the first attribute of a segmentation node; the others hold the slices ("z:10-20"), and the file of a case
#: that is opened again. They belong to the segmentation: another scan has another region.
REGION_ALL, REGION_SLICES, REGION_BOX, REGION_SAVED = "", "slices", "box", "saved"
REGION_ATTRIBUTE, SLICES_ATTRIBUTE, FILE_ATTRIBUTE = "TransferSeg.Judged", "TransferSeg.Slices", "TransferSeg.Mask"
#: Role of the box among the node's references.
BOX_ROLE = "TransferSegJudgedBox"
#: A slice is one of the volume's own when its normal is along an axis to within some 5 degrees.
_ALONG_AXIS = 0.996


def regionKind(segmentationNode) -> str:
    """Return how the region of a segmentation is given."""
    return (
        (segmentationNode.GetAttribute(REGION_ATTRIBUTE) or REGION_ALL) if segmentationNode is not None else REGION_ALL
    )


def setRegion(segmentationNode, kind: str, value: str = "") -> None:
    """Keep how the region is given, with the slices or the file that go with it."""
    segmentationNode.SetAttribute(REGION_ATTRIBUTE, kind)
    if kind == REGION_SLICES:
        segmentationNode.SetAttribute(SLICES_ATTRIBUTE, value)
    elif kind == REGION_SAVED:
        segmentationNode.SetAttribute(FILE_ATTRIBUTE, value)


@dataclass(frozen=True)
class AnnotatedRegion:
    """What was reviewed: slices as text ("z:10-20"), a box, or the mask in a file; without any of them everything."""

    slices: str = ""
    box: Box | None = None
    file: Path | None = None


def regionOf(segmentationNode, volumeNode) -> AnnotatedRegion:
    """Return the annotated region of a segmentation of a volume; raises RuntimeError and DatasetError."""
    kind = regionKind(segmentationNode)
    if kind == REGION_SAVED:
        saved = Path(segmentationNode.GetAttribute(FILE_ATTRIBUTE) or "")
        if not saved.is_file():
            raise RuntimeError(
                _("The region saved with the case is missing ({path}): choose another.").format(path=saved)
            )
        return AnnotatedRegion(file=saved)
    if kind == REGION_SLICES:
        return AnnotatedRegion(
            slices=slicesText(JudgedSlices.parse(segmentationNode.GetAttribute(SLICES_ATTRIBUTE) or ""))
        )
    if kind == REGION_BOX:
        return AnnotatedRegion(box=_boxIn(segmentationNode.GetNodeReference(BOX_ROLE), volumeNode))
    return AnnotatedRegion()


def shownSlice(view: str, volumeNode) -> tuple[str, int]:
    """Return the axis ('x', 'y', 'z') and number, in the volume, of the slice that a view shows; raises ValueError."""
    if not hasVoxels(volumeNode):
        raise ValueError(_("The volume '{name}' has no voxels.").format(name=volumeNode.GetName()))
    sliceToRas = slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceNode{view}").GetSliceToRAS()
    worldToIjk = worldToIjkOf(volumeNode)
    place = [sliceToRas.GetElement(row, 3) for row in range(3)]
    normal = np.array([sliceToRas.GetElement(row, 2) for row in range(3)])
    # Planes of constant index have the matrix' rows as normals, also where the voxels are sheared.
    rows = worldToIjk[:3, :3] / np.linalg.norm(worldToIjk[:3, :3], axis=1, keepdims=True)
    along = np.abs(rows @ normal)
    axis = int(np.argmax(along))
    if along[axis] < _ALONG_AXIS:
        raise ValueError(_("The view shows an oblique slice: rotate it to the volume's axes first."))
    number = round(float((worldToIjk @ np.array([*place, 1.0]))[axis]))
    if not 0 <= number < volumeNode.GetImageData().GetDimensions()[axis]:
        raise ValueError(_("The slice shown is outside of the volume."))
    return "xyz"[axis], number


def worldToIjkOf(volumeNode) -> np.ndarray:
    """Return the 4 x 4 matrix from world RAS (mm) to voxel indices (i, j, k); raises ValueError when it is none."""
    rasToIjk = vtk.vtkMatrix4x4()
    volumeNode.GetRASToIJKMatrix(rasToIjk)
    matrix = slicer.util.arrayFromVTKMatrix(rasToIjk)
    transform = volumeNode.GetParentTransformNode()
    if transform is None:
        return matrix
    worldToNode = vtk.vtkMatrix4x4()
    if not transform.IsTransformToWorldLinear() or not transform.GetMatrixTransformFromWorld(worldToNode):
        raise ValueError(_("The volume has a non-linear transform: harden the transform first."))
    return matrix @ slicer.util.arrayFromVTKMatrix(worldToNode)


def withSlice(text: str, shown: tuple[str, int]) -> str:
    """Return the marked slices with one more; raises ValueError for slices along another axis."""
    axis, number = shown
    if not text:
        return slicesText(JudgedSlices(axis, (number,)))
    marked = JudgedSlices.parse(text)
    if marked.axis != axis:
        raise ValueError(
            _(
                "The slices marked so far are along {axis}, the one shown is along {other}: clear the marks first."
            ).format(axis=marked.axis, other=axis)
        )
    return slicesText(JudgedSlices(axis, tuple(sorted({*marked.indices, number}))))


def slicesText(slices: JudgedSlices) -> str:
    """Return slices in the form that is read, e.g. 'z:10-12,20'."""
    runs: list[list[int]] = []
    for index in slices.indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return f"{slices.axis}:" + ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def boxAround(segmentationNode):
    """Return a new box (a markups ROI node) around all segments, None when they are empty."""
    bounds = [0.0] * 6
    segmentationNode.GetRASBounds(bounds)
    if bounds[0] > bounds[1]:
        return None
    name = slicer.mrmlScene.GenerateUniqueName(_("Region checked"))
    box = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
    box.CreateDefaultDisplayNodes()
    box.SetCenterWorld(*[(bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3)])
    box.SetSizeWorld(*[bounds[2 * axis + 1] - bounds[2 * axis] + 10 for axis in range(3)])
    return box


def _boxIn(box, volumeNode) -> Box:
    """Return a box (a markups ROI node) in the voxel coordinates of a volume; raises RuntimeError."""
    objectToWorld = slicer.util.arrayFromVTKMatrix(box.GetObjectToWorldMatrix())
    try:
        ijk_to_object = np.linalg.inv(worldToIjkOf(volumeNode) @ objectToWorld)
    except ValueError as error:
        raise RuntimeError(str(error)) from error
    size_mm = box.GetSize()  # along the box' own axes
    return Box(ijk_to_object, (size_mm[0] / 2, size_mm[1] / 2, size_mm[2] / 2))
