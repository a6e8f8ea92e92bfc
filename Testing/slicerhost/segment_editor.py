"""Stand-in of the embedded Segment Editor: its interface to modules, on the real segment-editor node and logic."""

from __future__ import annotations

import slicer
import vtk

from slicerhost.mrml_widgets import qMRMLWidget
from slicerhost.segment_brush import SegmentBrush
from slicerhost.stand_ins import standIn, stored

from PySide6 import QtGui, QtWidgets  # isort: skip - after Qt's classes were changed
from PySide6.QtCore import Signal  # isort: skip

_EFFECTS = ["Threshold", "Paint", "Draw", "Erase", "Level tracing", "Grow from seeds", "Fill between slices", "Margin"]
_EFFECTS += ["Hollow", "Smoothing", "Scissors", "Islands", "Logical operators", "Mask volume"]


@standIn
class qMRMLSegmentEditorWidget(qMRMLWidget):
    """The segments in a list, to add, remove and choose; ``userPaints`` does what a user's mouse would do."""

    currentSegmentIDChanged = Signal(str)
    _volumeChanged, _segmentationChanged = Signal(object), Signal(object)
    signalNames = {  # noqa: RUF012 - never changed
        "sourceVolumeNodeChanged(vtkMRMLVolumeNode*)": "_volumeChanged",
        "segmentationNodeChanged(vtkMRMLSegmentationNode*)": "_segmentationChanged",
    }
    segmentationNodeSelectorVisible, sourceVolumeNodeSelectorVisible = stored(bool, True), stored(bool, True)
    switchToSegmentationsButtonVisible, maskingSectionVisible = stored(bool, True), stored(bool, True)
    specifyGeometryButtonVisible, show3DButtonVisible = stored(bool, True), stored(bool, True)
    addRemoveSegmentButtonsVisible, autoShowSourceVolumeNode = stored(bool, True), stored(bool, True)
    undoEnabled, readOnly = stored(bool, True), stored(bool, False)
    maximumNumberOfUndoStates, effectColumnCount = stored(int, 10), stored(int, 2)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._node, self._segmentation, self._brush, self._ids = None, None, None, []
        self._observations: list[tuple] = []
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._title = QtWidgets.QLabel("Segment Editor (stand-in)")
        self._title.setWordWrap(True)
        layout.addWidget(self._title)
        self._list = QtWidgets.QListWidget()
        self._list.setObjectName("SegmentsTableView")  # as in Slicer
        self._list.setMinimumHeight(90)
        self._list.currentRowChanged.connect(self._onRow)
        layout.addWidget(self._list)
        self._updating, self._followsMouse = False, False

    # The interface that Slicer's widget has, as far as it is used

    def mrmlSegmentEditorNode(self):
        return self._node

    def setMRMLSegmentEditorNode(self, node) -> None:
        self._node = node
        self.updateWidgetFromMRML()

    def segmentationNode(self):
        return self._node.GetSegmentationNode() if self._node is not None else None

    def segmentationNodeID(self) -> str:
        return self.segmentationNode().GetID() if self.segmentationNode() is not None else ""

    def setSegmentationNode(self, node) -> None:
        if self._node is None:
            raise RuntimeError("setSegmentationNode needs a segment editor node first: Slicer only prints this")
        if node is not self.segmentationNode():
            self._node.SetAndObserveSegmentationNode(node)
            self._segmentationChanged.emit(node)
        self.updateWidgetFromMRML()

    def sourceVolumeNode(self):
        return self._node.GetSourceVolumeNode() if self._node is not None else None

    def sourceVolumeNodeID(self) -> str:
        return self.sourceVolumeNode().GetID() if self.sourceVolumeNode() is not None else ""

    def setSourceVolumeNode(self, node) -> None:
        if self._node is None:
            raise RuntimeError("setSourceVolumeNode needs a segment editor node first: Slicer only prints this")
        if node is not self.sourceVolumeNode():
            self._node.SetAndObserveSourceVolumeNode(node)
            self._volumeChanged.emit(node)

    def currentSegmentID(self) -> str:
        return (self._node.GetSelectedSegmentID() or "") if self._node is not None else ""

    def setCurrentSegmentID(self, segmentId: str) -> None:
        if self._node is not None and segmentId != self.currentSegmentID():
            self._node.SetSelectedSegmentID(segmentId)
            self.updateWidgetFromMRML()
            self.currentSegmentIDChanged.emit(segmentId)

    def availableEffectNames(self) -> list[str]:
        return list(_EFFECTS)

    def setActiveEffectByName(self, name: str) -> None:
        if name and name not in _EFFECTS:
            raise ValueError(f"there is no effect '{name}'")
        if self._node is not None:
            self._node.SetActiveEffectName(name or "")
            self.updateWidgetFromMRML()

    def installKeyboardShortcuts(self, parent=None) -> None:
        """Nothing to install."""

    def uninstallKeyboardShortcuts(self) -> None:
        """Nothing to remove."""

    def setupViewObservations(self) -> None:
        """Follow the mouse in views: until then, as in Slicer, nobody can paint."""
        self._followsMouse = True

    def removeViewObservations(self) -> None:
        self._followsMouse = False

    def saveStateForUndo(self) -> None:
        self._currentBrush().saveState()

    def undo(self) -> None:
        self._currentBrush().undo()

    def redo(self) -> None:
        self._currentBrush().redo()

    # What the user does

    def userPaints(self, pointsRas, radiusMm: float, erase: bool = False, normalRas=None) -> int:
        """Paint or erase in the current segment, see ``SegmentBrush.stroke``."""
        if not self._followsMouse:
            raise RuntimeError("the editor does not follow the mouse: its module did not call setupViewObservations")
        effect = "Erase" if erase else "Paint"
        self.setActiveEffectByName(effect)
        return self._currentBrush().stroke(self.currentSegmentID(), pointsRas, radiusMm, erase, normalRas)

    def userAddsSegment(self, name: str) -> str:
        """Press Add and type a name; returns the segment's ID."""
        segmentId = self.segmentationNode().GetSegmentation().AddEmptySegment("", name)
        self.setCurrentSegmentID(segmentId)
        return segmentId

    # Inside

    def updateWidgetFromMRML(self) -> None:
        self._observeSegmentation()
        self._updating = True
        self._list.clear()
        self._ids = list(self._segmentation.GetSegmentIDs()) if self._segmentation is not None else []
        for segmentId in self._ids:
            segment = self._segmentation.GetSegment(segmentId)
            square = QtGui.QPixmap(12, 12)
            square.fill(QtGui.QColor.fromRgbF(*segment.GetColor()))
            self._list.addItem(QtWidgets.QListWidgetItem(QtGui.QIcon(square), segment.GetName()))
        if self._ids and self.currentSegmentID() not in self._ids:
            self._node.SetSelectedSegmentID(self._ids[0])
        if self._ids:
            self._list.setCurrentRow(self._ids.index(self.currentSegmentID()))
        effect = self._node.GetActiveEffectName() if self._node is not None else ""
        self._title.text = f"Segment Editor (stand-in), effect: {effect or 'none'}"
        self._updating = False

    def _observeSegmentation(self) -> None:
        node = self.segmentationNode()
        segmentation = node.GetSegmentation() if node is not None else None
        if segmentation is self._segmentation:
            return
        for observed, tag in self._observations:
            observed.RemoveObserver(tag)
        self._observations, self._segmentation, self._brush = [], segmentation, None
        if segmentation is not None:
            for event in ("SegmentAdded", "SegmentRemoved", "SegmentModified", "SegmentsOrderModified"):
                number = getattr(slicer.vtkSegmentation, event)
                tag = segmentation.AddObserver(number, lambda caller, event: self.updateWidgetFromMRML())
                self._observations.append((segmentation, tag))
        if self._node is not None:
            tag = self._node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._onNode())
            self._observations.append((self._node, tag))

    def _onNode(self) -> None:
        """Follow a segmentation that another part of Slicer chose, or that was removed from the scene."""
        node = self.segmentationNode()
        if (node.GetSegmentation() if node is not None else None) is not self._segmentation:
            self.updateWidgetFromMRML()

    def _onRow(self, row: int) -> None:
        if not self._updating and row >= 0:
            self.setCurrentSegmentID(self._ids[row])

    def _currentBrush(self) -> SegmentBrush:
        if self._brush is None:
            self._brush = SegmentBrush(self._node)
        return self._brush
