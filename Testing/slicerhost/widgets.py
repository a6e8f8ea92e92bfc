"""Stand-ins of the ctk and qMRML widgets that the .ui file names, on the real MRML scene, and its loader."""

from __future__ import annotations

import sys
import types
import xml.etree.ElementTree as ET

import slicer

from slicerhost import pythonqt

qt = pythonqt.install()

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets  # noqa: E402 - after their classes were changed
from PySide6.QtCore import Property, Signal  # noqa: E402

STAND_INS: dict[str, type] = {}


def standIn(aClass: type) -> type:
    """Register a class under the name it has in .ui files."""
    STAND_INS[aClass.__name__] = pythonqt.cpp(aClass)
    return aClass


def stored(kind, default) -> Property:
    """Return a Qt property that is only kept."""
    key = object()

    def get(self):
        return self.__dict__.setdefault("_stored", {}).get(key, default)

    def put(self, value):
        self.__dict__.setdefault("_stored", {})[key] = value

    return Property(kind, get, put)


@standIn
class ctkCollapsibleButton(QtWidgets.QWidget):
    """A section with a title that opens and closes; the content's children are hidden while it is closed."""

    contentsCollapsed = Signal(bool)
    _TITLE_HEIGHT = 20

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._title, self._closed = "", False
        self.setContentsMargins(4, self._TITLE_HEIGHT + 2, 4, 4)

    def _setTitle(self, title: str) -> None:
        self._title = title
        self.update()

    def _setClosed(self, closed: bool) -> None:
        if closed != self._closed:
            self._closed = closed
            self._hideChildren()
            self.contentsCollapsed.emit(closed)

    def _hideChildren(self) -> None:
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                child.setVisible(not self._closed)

    text = Property(str, lambda self: self._title, _setTitle)
    collapsed = Property(bool, lambda self: self._closed, _setClosed)

    def showEvent(self, event) -> None:
        if self._closed:  # the .ui file closes it before its children are there
            self._hideChildren()

    def paintEvent(self, event) -> None:
        painter = QtGui.QPainter(self)
        painter.fillRect(0, 0, self.width, self._TITLE_HEIGHT, self.palette.button().color().darker(108))
        painter.drawText(6, 15, ("▸ " if self._closed else "▾ ") + self._title)
        painter.end()

    def mousePressEvent(self, event) -> None:
        if event.position().y() < self._TITLE_HEIGHT:
            self._setClosed(not self._closed)


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


class SliceViewLabel(QtWidgets.QLabel):
    """A slice view as a picture, drawn when asked."""

    def __init__(self, name: str) -> None:
        super().__init__()
        from slicerhost.slice_view import SliceView

        self.view = SliceView(name)
        self.setMinimumSize(200, 180)

    def draw(self) -> None:
        self.view.resize(self.width, self.height)
        pixels = self.view.pixels()
        height, width, _ = pixels.shape
        picture = QtGui.QImage(pixels.tobytes(), width, height, 3 * width, QtGui.QImage.Format_RGB888)
        self.setPixmap(QtGui.QPixmap.fromImage(picture))


class QUiLoader(QtUiTools.QUiLoader):
    """Builds .ui files with the stand-ins; a class, property or connection that does not exist is an error."""

    def createWidget(self, className, parent=None, name=""):
        try:
            widget = self._create(className, parent, name)
        except Exception as error:  # must not pass through Qt's C++: load() raises it
            self._error = self._error or error
            widget = QtWidgets.QWidget(parent)
        self._kept.append(widget)
        return widget

    def _create(self, className, parent, name):
        if className in STAND_INS:
            widget = STAND_INS[className](parent)
            widget.setObjectName(name)
            return widget
        if className not in self._known:
            raise RuntimeError(f"the .ui file uses {className}: the test host has no stand-in")
        return super().createWidget(className, parent, name)

    def load(self, device, parent=None):
        root = ET.fromstring(bytes(device.readAll().data()))  # a file of this project
        connections = self._takeConnections(root)
        _checkProperties(root)
        content = QtCore.QBuffer()
        content.setData(ET.tostring(root))
        content.open(QtCore.QIODevice.ReadOnly)
        self._kept, self._error = [], None
        self._known = set(self.availableWidgets())
        top = super().load(content, parent)
        if self._error is not None:
            raise self._error
        for sender, signal, receiver, slot in connections:
            sending, receiving = _byName(top, sender), _byName(top, receiver)
            pythonqt.connect(sending, signal, getattr(receiving, slot.split("(")[0]))
        return top

    @staticmethod
    def _takeConnections(root) -> list[list[str]]:
        """Return sender, signal, receiver, slot of each connection, removed from the file: Qt knows no stand-ins."""
        found = []
        for group in root.findall("connections"):
            words = ("sender", "signal", "receiver", "slot")
            found += [[each.findtext(word) for word in words] for each in group.findall("connection")]
            root.remove(group)
        return found


def _checkProperties(root) -> None:
    """Raise RuntimeError for a property that a stand-in, and so the real widget, may not have."""
    for widget in root.iter("widget"):
        aClass = STAND_INS.get(widget.get("class"))
        for each in widget.findall("property") if aClass else ():
            if aClass.staticMetaObject.indexOfProperty(each.get("name")) < 0:
                raise RuntimeError(f"{widget.get('class')} has no property '{each.get('name')}' in the test host")


def _byName(top, name: str):
    return top if top.objectName == name else top.findChild(QtCore.QObject, name)


def install() -> None:
    """Put the stand-ins where Slicer has them: ``ctk``, ``slicer`` and ``qt.QUiLoader``."""
    ctk = sys.modules["ctk"] = types.ModuleType("ctk")
    for name, aClass in STAND_INS.items():
        setattr(ctk if name.startswith("ctk") else slicer, name, aClass)
    qt.QUiLoader = QUiLoader
