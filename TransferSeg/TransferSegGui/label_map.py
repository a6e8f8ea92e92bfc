"""A segmentation node as a label map on a volume's voxel grid: one value for each segment."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from TransferSegLib.anatomy import describe_structure
from TransferSegLib.structures import LabelSet


def labelSetOf(segmentationNode) -> LabelSet:
    """Return the segments as structures with the label values 1, 2, 3 in their order.

    Raises TransferSegError when there are none, or two have the same name.
    """
    segmentation = segmentationNode.GetSegmentation()
    structures = []
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        red, green, blue = (round(255 * part) for part in segment.GetColor())
        structure = describe_structure((segment.GetName() or "").strip() or _("unnamed"), index + 1)
        structures.append(replace(structure, color=(red, green, blue)))
    return LabelSet(tuple(structures))


def labelMapOf(segmentationNode, volumeNode, first: Collection[str]) -> sitk.Image:
    """Return the label map of all segments, valued as in ``labelSetOf``, on the grid of a volume.

    Where segments overlap, those whose IDs are in ``first`` win over others. Raises RuntimeError when two of
    ``first`` overlap, as a voxel can have one of them only, and when the segments cannot be brought to the grid.
    """
    segmentation = segmentationNode.GetSegmentation()
    if not segmentationNode.CreateBinaryLabelmapRepresentation():
        raise RuntimeError(_("'{name}' cannot be turned into a label map.").format(name=segmentationNode.GetName()))
    ids = list(segmentation.GetSegmentIDs())
    shape_zyx = tuple(reversed(volumeNode.GetImageData().GetDimensions()))
    labels_zyx = np.zeros(shape_zyx, np.uint16)
    won_zyx = None
    for layer in range(segmentation.GetNumberOfLayers("Binary labelmap")):
        inLayer = list(segmentation.GetSegmentIDsForLayer(layer, "Binary labelmap"))
        layer_zyx = _layerOnGrid(segmentationNode, volumeNode, inLayer)
        values = np.zeros(len(inLayer) + 1, np.uint16)
        winning = np.zeros(len(inLayer) + 1, bool)
        for number, segmentId in enumerate(inLayer, start=1):
            values[number], winning[number] = ids.index(segmentId) + 1, segmentId in first
        if won_zyx is None:
            labels_zyx, won_zyx = values[layer_zyx], winning[layer_zyx]
            continue
        wins_zyx = winning[layer_zyx]
        _refuseOverlap(segmentation, ids, labels_zyx, won_zyx & wins_zyx, values[layer_zyx])
        taken_zyx = wins_zyx | ((layer_zyx > 0) & ~won_zyx)
        labels_zyx = np.where(taken_zyx, values[layer_zyx], labels_zyx)
        won_zyx |= wins_zyx
    return onGridOf(volumeNode, labels_zyx)


def onGridOf(volumeNode, voxels_zyx: np.ndarray) -> sitk.Image:
    """Return an array as an image on the grid of a volume node (LPS, as files have it); its transform is left out."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    ijkToLps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ slicer.util.arrayFromVTKMatrix(matrix)
    spacing = np.linalg.norm(ijkToLps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(voxels_zyx)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(ijkToLps[:3, 3].tolist())
    image.SetDirection((ijkToLps[:3, :3] / spacing).ravel().tolist())
    return image


def _layerOnGrid(segmentationNode, volumeNode, segmentIds: list[str]) -> np.ndarray:
    """Return segments that do not overlap as 1, 2, 3 on the volume's grid; transforms are applied."""
    wanted = vtk.vtkStringArray()
    for segmentId in segmentIds:
        wanted.InsertNextValue(segmentId)
    merged = slicer.vtkOrientedImageData()
    slicer.vtkSlicerSegmentationsModuleLogic.GenerateMergedLabelmapInReferenceGeometry(
        segmentationNode, volumeNode, wanted, slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY, merged
    )
    shape_zyx = tuple(reversed(volumeNode.GetImageData().GetDimensions()))
    if tuple(reversed(merged.GetDimensions())) != shape_zyx:
        raise RuntimeError(
            _("'{name}' cannot be brought to the voxels of '{volume}'.").format(
                name=segmentationNode.GetName(), volume=volumeNode.GetName()
            )
        )
    return vtk_to_numpy(merged.GetPointData().GetScalars()).reshape(shape_zyx).astype(np.uint16)


def _refuseOverlap(segmentation, ids: list[str], labels_zyx, both_zyx, others_zyx) -> None:
    """Raise RuntimeError, naming two segments, when there are voxels that both of them have."""
    if not both_zyx.any():
        return
    place = tuple(index[0] for index in np.nonzero(both_zyx))
    names = [segmentation.GetSegment(ids[int(each[place]) - 1]).GetName() for each in (labels_zyx, others_zyx)]
    raise RuntimeError(
        _(
            "'{one}' and '{other}' share {count} voxels: a voxel can belong to one of them only. Erase them from one "
            "of the two, or review only one."
        ).format(one=names[0], other=names[1], count=int(both_zyx.sum()))
    )
