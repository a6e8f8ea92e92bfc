"""Painting as a user does, through Slicer's real segment-editor logic: masking, overwriting and undo are Slicer's own.

The effects themselves (Paint, Erase, ...) are Qt code of Slicer that ``slicer-core`` lacks: here is a brush only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy


class SegmentBrush:
    """A brush on the segmentation and source volume of a segment editor node."""

    def __init__(self, editorNode) -> None:
        self._node = editorNode
        self._logic = slicer.vtkSlicerSegmentEditorLogic()
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._logic.SetSegmentEditorNode(editorNode)
        self._history = slicer.vtkSegmentationHistory()
        self._history.SetSegmentation(editorNode.GetSegmentationNode().GetSegmentation())
        self._logic.SetSegmentationHistory(self._history)
        self._logic.SetMaximumNumberOfUndoStates(10)

    def stroke(
        self,
        segmentId: str,
        pointsRas: Sequence[Sequence[float]],
        radiusMm: float,
        erase: bool = False,
        normalRas: Sequence[float] | None = None,
    ) -> int:
        """Paint at points (RAS of the segmentation, mm) with a sphere, or a disc one slice thick if given a normal.

        Returns the number of voxels under the brush.
        """
        logic = self._logic
        self._node.SetSelectedSegmentID(segmentId)
        logic.UpdateReferenceGeometryImage()
        logic.SaveStateForUndo()
        logic.ResetModifierLabelmapToDefault()
        modifier = logic.GetModifierLabelmap()
        touched_zyx = _underBrush(modifier, pointsRas, radiusMm, normalRas)
        shape_zyx = modifier.GetDimensions()[::-1]
        vtk_to_numpy(modifier.GetPointData().GetScalars()).reshape(shape_zyx)[touched_zyx] = 1
        modifier.Modified()
        logic.UpdateMaskLabelmap()
        mode = logic.ModificationModeRemove if erase else logic.ModificationModeAdd
        logic.ModifySegmentByLabelmap(
            self._node.GetSegmentationNode(), segmentId, modifier, mode, modifier.GetExtent(), False
        )
        return int(touched_zyx.sum())

    def saveState(self) -> None:
        self._logic.SaveStateForUndo()

    def undo(self) -> None:
        self._logic.Undo()

    def redo(self) -> None:
        self._logic.Redo()


def _underBrush(image, pointsRas, radiusMm: float, normalRas) -> np.ndarray:
    """Return the voxels of an oriented image whose centres are under the brush."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    ijkToRas = slicer.util.arrayFromVTKMatrix(matrix)
    first_i, last_i, first_j, last_j, first_k, last_k = image.GetExtent()
    k, j, i = np.mgrid[first_k : last_k + 1, first_j : last_j + 1, first_i : last_i + 1]
    ras = np.stack([i, j, k], axis=-1) @ ijkToRas[:3, :3].T + ijkToRas[:3, 3]
    touched_zyx = np.zeros(k.shape, bool)
    for point in pointsRas:
        offset = ras - np.asarray(point, float)
        squared = (offset**2).sum(axis=-1)
        if normalRas is None:
            touched_zyx |= squared <= radiusMm**2
        else:
            along = offset @ np.asarray(normalRas, float)
            thickness = float(np.abs(ijkToRas[:3, :3].T @ np.asarray(normalRas, float)).max())
            touched_zyx |= (np.abs(along) <= 0.501 * thickness) & (squared - along**2 <= radiusMm**2)
    return touched_zyx
