"""Stand-in of Slicer's table view: a table node's cells, columns as in the node."""

from __future__ import annotations

import vtk

from slicerhost.stand_ins import standIn, stored

from PySide6 import QtGui, QtWidgets  # isort: skip - after Qt's classes were changed
from PySide6.QtCore import Signal  # isort: skip


@standIn
class qMRMLTableView(QtWidgets.QTableView):
    """Shows a vtkMRMLTableNode and follows its changes."""

    _sceneChanged = Signal(object)
    signalNames = {"mrmlSceneChanged(vtkMRMLScene*)": "_sceneChanged"}  # noqa: RUF012 - never changed
    transposed, firstRowLocked, firstColumnLocked = stored(bool, False), stored(bool, False), stored(bool, False)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._scene, self._node, self._tag = None, None, 0
        self._cells = QtGui.QStandardItemModel(self)
        self.setModel(self._cells)
        self.setEditTriggers(QtWidgets.QAbstractItemView.NoEditTriggers)

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene) -> None:
        self._scene = scene
        self._sceneChanged.emit(scene)

    def mrmlTableNode(self):
        return self._node

    def setMRMLTableNode(self, node) -> None:
        if self._node is not None:
            self._node.RemoveObserver(self._tag)
        self._node = node
        if node is not None:
            self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._fill())
        self._fill()

    def _fill(self) -> None:
        self._cells.clear()
        if self._node is None or self._node.GetTable() is None:
            return
        columns = self._node.GetNumberOfColumns()
        self._cells.setHorizontalHeaderLabels([self._node.GetColumnName(index) for index in range(columns)])
        for row in range(self._node.GetNumberOfRows()):
            self._cells.appendRow(
                [QtGui.QStandardItem(self._node.GetCellText(row, column)) for column in range(columns)]
            )
        self.resizeColumnsToContents()
