"""A volume and a segmentation of it, copied out of the scene: its voxels, their grid, and its segments in layers."""

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
from TransferSegLib.corrections.snapshot import Grid, Layer
from TransferSegLib.structures import LabelSet

#: Slicer's name for label maps among the representations of a segmentation.
_BINARY = "Binary labelmap"

#: The first voxel (z, y, x) on the volume's grid, and the values from there on.
_Part = tuple[tuple[int, int, int], np.ndarray]


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


def layersOf(segmentationNode, volumeNode, first: Collection[str]) -> tuple[Layer, ...]:
    """Return copies of all segments, valued as in ``labelSetOf``, on the grid of a volume.

    Where segments overlap, those whose IDs are in ``first`` win over others. Segments that lie on the volume's grid
    are only copied; Slicer brings others there. Raises RuntimeError when that cannot be done.
    """
    segmentation = segmentationNode.GetSegmentation()
    if not segmentationNode.CreateBinaryLabelmapRepresentation():
        raise RuntimeError(_("'{name}' cannot be turned into a label map.").format(name=segmentationNode.GetName()))
    ids, layers = list(segmentation.GetSegmentIDs()), []
    for number in range(segmentation.GetNumberOfLayers(_BINARY)):
        inLayer = list(segmentation.GetSegmentIDsForLayer(number, _BINARY))
        part = _layerAsItIs(segmentationNode, volumeNode, number)
        stored = [segmentation.GetSegment(each).GetLabelValue() for each in inLayer]
        if part is None:
            part, stored = _layerResampled(segmentationNode, volumeNode, inLayer), range(1, len(inLayer) + 1)
        begin_zyx, values_zyx = part
        if values_zyx.size:
            labels = [(value, ids.index(each) + 1, each in first) for value, each in zip(stored, inLayer, strict=True)]
            layers.append(Layer(begin_zyx, values_zyx, tuple(labels)))
    return tuple(layers)


def voxelsOf(volumeNode) -> np.ndarray:
    """Return a copy of a volume's voxels (z, y, x, and components if there are several)."""
    scalars = volumeNode.GetImageData().GetPointData().GetScalars()
    components = scalars.GetNumberOfComponents()
    shape = _shapeOf(volumeNode) if components == 1 else (*_shapeOf(volumeNode), components)
    return np.array(vtk_to_numpy(scalars)).reshape(shape)


def gridOf(volumeNode) -> Grid:
    """Return where the voxels of a volume node lie (LPS, as files have it); its transform is left out."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    ijkToLps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ slicer.util.arrayFromVTKMatrix(matrix)
    spacing_mm = np.linalg.norm(ijkToLps[:3, :3], axis=0)
    direction = (ijkToLps[:3, :3] / spacing_mm).ravel()
    return Grid(tuple(spacing_mm.tolist()), tuple(ijkToLps[:3, 3].tolist()), tuple(direction.tolist()))


def onGridOf(volumeNode, voxels_zyx: np.ndarray) -> sitk.Image:
    """Return an array as an image on the grid of a volume node."""
    return gridOf(volumeNode).image(voxels_zyx)


def _shapeOf(volumeNode) -> tuple[int, int, int]:
    along_x, along_y, along_z = volumeNode.GetImageData().GetDimensions()
    return along_z, along_y, along_x


def _layerAsItIs(segmentationNode, volumeNode, layer: int) -> _Part | None:
    """Return a copy of a layer that lies on the volume's grid already; None for another grid."""
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
        return (0, 0, 0), np.zeros((0, 0, 0), np.uint8)
    voxels_zyx = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(tuple(reversed(image.GetDimensions())))
    begins, inside = [], []
    for first, count, size in zip((extent[4], extent[2], extent[0]), voxels_zyx.shape, shape_zyx, strict=True):
        begin = max(first, 0)
        end = max(min(first + count, size), begin)
        begins.append(begin)
        inside.append(slice(begin - first, end - first))
    return tuple(begins), np.array(voxels_zyx[tuple(inside)], order="C")


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


def _layerResampled(segmentationNode, volumeNode, segmentIds: list[str]) -> _Part:
    """Return the segments of a layer on the volume's grid, valued 1, 2, 3; Slicer applies the transforms."""
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
            _("'{name}' cannot be resampled to the voxel grid of '{volume}'.").format(
                name=segmentationNode.GetName(), volume=volumeNode.GetName()
            )
        )
    values_zyx = vtk_to_numpy(merged.GetPointData().GetScalars()).reshape(shape_zyx)
    box = _used(values_zyx)
    return tuple(along.start for along in box), values_zyx[box].astype(np.uint16)
