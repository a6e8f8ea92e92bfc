"""A segmentation node as a label map on a volume's voxel grid: one value for each segment."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from TransferSegLib.anatomy import describe_structure
from TransferSegLib.structures import LabelSet

#: Slicer's name for label maps among the representations of a segmentation.
_BINARY = "Binary labelmap"


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
    labels_zyx = np.zeros(_shapeOf(volumeNode), np.uint8 if len(ids) < 256 else np.uint16)
    won_zyx = np.zeros(labels_zyx.shape, bool)
    for layer in range(segmentation.GetNumberOfLayers(_BINARY)):
        inLayer = list(segmentation.GetSegmentIDsForLayer(layer, _BINARY))
        part = _layerAsItIs(segmentationNode, volumeNode, layer) or _layerResampled(
            segmentationNode, volumeNode, inLayer
        )
        values = np.zeros(int(part.values_zyx.max(initial=0)) + 1, labels_zyx.dtype)
        winning = np.zeros(values.size, bool)
        for number, segmentId in enumerate(inLayer, start=1):
            value = segmentation.GetSegment(segmentId).GetLabelValue() if part.asStored else number
            if value < values.size:
                values[value], winning[value] = ids.index(segmentId) + 1, segmentId in first
        _merge(segmentation, ids, labels_zyx[part.place], won_zyx[part.place], values, winning, part.values_zyx)
    return onGridOf(volumeNode, labels_zyx)


@dataclass(frozen=True)
class _Layer:
    """Segments that do not overlap: where on the volume's grid they are, with one value for each segment.

    The values are the segments' own (``asStored``), or 1, 2, 3 in the order of the layer's segments.
    """

    place: tuple[slice, slice, slice]
    values_zyx: np.ndarray
    asStored: bool


def _merge(segmentation, ids, labels_zyx, won_zyx, values, winning, layer_zyx) -> None:
    """Write a layer over label values, in place; where a winning segment is already, others do not go.

    ``values`` and ``winning`` tell for each value of the layer which label value it gets, and whether it wins.
    """
    wins_zyx = winning[layer_zyx]
    both_zyx = won_zyx & wins_zyx
    if both_zyx.any():
        place = tuple(index[0] for index in np.nonzero(both_zyx))
        numbers = (labels_zyx[place], values[layer_zyx[place]])
        names = [segmentation.GetSegment(ids[int(number) - 1]).GetName() for number in numbers]
        raise RuntimeError(
            _(
                "'{one}' and '{other}' share {count} voxels, and a voxel can belong to one of them only: erase them "
                "from one of the two, or tick only one."
            ).format(one=names[0], other=names[1], count=int(both_zyx.sum()))
        )
    goes_zyx = wins_zyx | ((values[layer_zyx] > 0) & ~won_zyx)
    labels_zyx[goes_zyx] = values[layer_zyx][goes_zyx]
    won_zyx |= wins_zyx


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


def _shapeOf(volumeNode) -> tuple[int, int, int]:
    """Return a volume's number of voxels along z, y and x."""
    along_x, along_y, along_z = volumeNode.GetImageData().GetDimensions()
    return along_z, along_y, along_x


def _layerAsItIs(segmentationNode, volumeNode, layer: int) -> _Layer | None:
    """Return a layer that lies on the volume's grid already, which takes no time; None for another grid."""
    image = segmentationNode.GetSegmentation().GetLayerDataObject(layer, _BINARY)
    if segmentationNode.GetParentTransformNode() is not volumeNode.GetParentTransformNode():
        return None
    ijkToRas, imageToRas = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(ijkToRas)
    image.GetImageToWorldMatrix(imageToRas)
    ours, its = slicer.util.arrayFromVTKMatrix(ijkToRas), slicer.util.arrayFromVTKMatrix(imageToRas)
    shape_zyx = _shapeOf(volumeNode)
    # No voxel of the volume may be off by more than a hundredth of a millimetre.
    corners = np.array([[x, y, z, 1] for x in (0, shape_zyx[2]) for y in (0, shape_zyx[1]) for z in (0, shape_zyx[0])])
    if np.abs((ours - its) @ corners.T).max() > 0.01:
        return None
    extent = image.GetExtent()
    if image.GetPointData().GetScalars() is None or extent[0] > extent[1]:
        return _Layer((slice(0, 0),) * 3, np.zeros((0, 0, 0), np.uint8), True)
    voxels_zyx = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(tuple(reversed(image.GetDimensions())))
    place, inside = [], []
    for first, used, size in zip((extent[4], extent[2], extent[0]), _used(voxels_zyx), shape_zyx, strict=True):
        begin = max(first + used.start, 0)
        end = max(min(first + used.stop, size), begin)
        place.append(slice(begin, end))
        inside.append(slice(begin - first, end - first))
    return _Layer(tuple(place), voxels_zyx[tuple(inside)], True)


def _used(voxels_zyx: np.ndarray) -> tuple[slice, slice, slice]:
    """Return the smallest box with all voxels that are not 0: most of a layer is empty."""
    box = [slice(0, 0)] * 3
    for axis in range(3):
        rest = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(voxels_zyx[tuple(box[:axis])].any(axis=rest))
        if not found.size:
            return (slice(0, 0),) * 3
        box[axis] = slice(int(found[0]), int(found[-1]) + 1)
    return tuple(box)


def _layerResampled(segmentationNode, volumeNode, segmentIds: list[str]) -> _Layer:
    """Return the segments of a layer on the volume's grid; Slicer applies the transforms."""
    wanted = vtk.vtkStringArray()
    for segmentId in segmentIds:
        wanted.InsertNextValue(segmentId)
    merged = slicer.vtkOrientedImageData()
    slicer.vtkSlicerSegmentationsModuleLogic.GenerateMergedLabelmapInReferenceGeometry(
        segmentationNode, volumeNode, wanted, slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY, merged
    )
    shape_zyx = _shapeOf(volumeNode)
    if tuple(reversed(merged.GetDimensions())) != shape_zyx:
        raise RuntimeError(
            _("'{name}' cannot be brought to the voxels of '{volume}'.").format(
                name=segmentationNode.GetName(), volume=volumeNode.GetName()
            )
        )
    values_zyx = vtk_to_numpy(merged.GetPointData().GetScalars()).reshape(shape_zyx)
    box = _used(values_zyx)
    return _Layer(box, values_zyx[box].astype(np.uint16), False)
