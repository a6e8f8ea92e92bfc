"""``qt.QUiLoader`` for .ui files with Slicer's and CTK's own widgets, and their place in ``slicer`` and ``ctk``."""

from __future__ import annotations

import sys
import types
import xml.etree.ElementTree as ET

import slicer

from slicerhost import ctk_widgets, mrml_widgets, pythonqt, segment_editor  # noqa: F401 - they register
from slicerhost.stand_ins import STAND_INS

from PySide6 import QtCore, QtUiTools, QtWidgets  # isort: skip - after Qt's classes were changed


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
    sys.modules["qt"].QUiLoader = QUiLoader
