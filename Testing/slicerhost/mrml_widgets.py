"""Stand-ins of Slicer's widgets that know the scene."""

from __future__ import annotations

from slicerhost.stand_ins import standIn, stored

from PySide6 import QtWidgets  # isort: skip - after Qt's classes were changed
from PySide6.QtCore import Property, Signal  # isort: skip


@standIn
class qMRMLWidget(QtWidgets.QWidget):
    """A widget that knows the scene and hands it on."""

    _sceneChanged = Signal(object)
    signalNames = {"mrmlSceneChanged(vtkMRMLScene*)": "_sceneChanged"}  # noqa: RUF012 - never changed

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._scene = None

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene) -> None:
        if scene is not self._scene:
            self._scene = scene
            self._sceneChanged.emit(scene)


@standIn
class qMRMLNodeComboBox(QtWidgets.QWidget):
    """A choice among the scene's nodes of some classes, kept up to date with the scene."""

    _nodeChanged = Signal(object)
    signalNames = {"currentNodeChanged(vtkMRMLNode*)": "_nodeChanged"}  # noqa: RUF012 - never changed
    nodeTypes = stored("QStringList", [])
    showChildNodeTypes, noneEnabled = stored(bool, True), stored(bool, False)
    addEnabled, removeEnabled = stored(bool, True), stored(bool, True)
    noneDisplay = stored(str, "None")

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._scene, self._ids, self._currentId = None, [], ""
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._box = QtWidgets.QComboBox()
        self._box.setMinimumContentsLength(8)
        self._box.activated.connect(lambda index: self._select(self._ids[index]))
        layout.addWidget(self._box)

    def setMRMLScene(self, scene) -> None:
        if scene is self._scene:
            return
        self._scene = scene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndBatchProcessEvent):
            scene.AddObserver(event, lambda caller, event: self._refresh())
        self._refresh()

    def currentNode(self):
        return self._scene.GetNodeByID(self._currentId) if self._currentId else None

    def setCurrentNode(self, node) -> None:
        self._refresh()
        self._select(node.GetID() if node is not None else "")

    def setCurrentNodeID(self, nodeId: str) -> None:
        self._select(nodeId)

    currentNodeID = Property(str, lambda self: self._currentId, setCurrentNodeID)

    def _offered(self, node) -> bool:
        if node.GetHideFromEditors():
            return False
        return any(
            node.IsA(each) if self.showChildNodeTypes else node.GetClassName() == each for each in self.nodeTypes
        )

    def _refresh(self) -> None:
        """Fill the list again; without "None" the first node is chosen, as Slicer does."""
        every = [self._scene.GetNthNode(index) for index in range(self._scene.GetNumberOfNodes())]
        nodes = [node for node in every if self._offered(node)]
        self._box.clear()
        self._ids = ([""] if self.noneEnabled else []) + [node.GetID() for node in nodes]
        for nodeId in self._ids:
            self._box.addItem(self._scene.GetNodeByID(nodeId).GetName() if nodeId else self.noneDisplay)
        fallback = "" if self.noneEnabled or not self._ids else self._ids[0]
        self._select(self._currentId if self._currentId in self._ids else fallback)

    def _select(self, nodeId: str) -> None:
        if nodeId in self._ids:
            self._box.setCurrentIndex(self._ids.index(nodeId))
        elif nodeId:
            return
        if nodeId != self._currentId:
            self._currentId = nodeId
            self._nodeChanged.emit(self.currentNode())
