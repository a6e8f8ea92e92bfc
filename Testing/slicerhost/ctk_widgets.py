"""Stand-ins of CTK's widgets."""

from __future__ import annotations

from pathlib import Path

from slicerhost.stand_ins import standIn, stored

from PySide6 import QtCore, QtGui, QtWidgets  # isort: skip - after Qt's classes were changed
from PySide6.QtCore import Property, Signal  # isort: skip


@standIn
class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A section with a title that opens and closes by a click.

    As with CTK's, what is shown or hidden inside while the section is closed is so when it opens again.
    """

    contentsCollapsed = Signal(bool)
    flat = stored(bool, False)
    _TITLE_HEIGHT = 20

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        self._closed, self._working, self._hasNewChildren, self._openHeight = False, False, False, 16777215
        self._shown: dict[QtWidgets.QWidget, bool] = {}
        self.setCheckable(True)
        self.setChecked(True)
        self.setContentsMargins(4, self._TITLE_HEIGHT + 2, 4, 4)
        self.toggled.connect(lambda opened: self._setClosed(not opened))

    def _setClosed(self, closed: bool) -> None:
        if closed != self._closed:
            self._closed = closed
            self.setChecked(not closed)
            if closed:  # as CTK's: or the layout would give the room to it that its contents would need
                self._openHeight = self.maximumHeight
                self.setMaximumHeight(self.sizeHint().height())
            else:
                self.setMaximumHeight(self._openHeight)
            self._showContents()
            self.contentsCollapsed.emit(closed)

    collapsed = Property(bool, lambda self: self._closed, _setClosed)

    def _showContents(self) -> None:
        """Show what the section's owner wants to be seen, if it is open."""
        self._hasNewChildren = False
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                self._showChild(child)

    def _showChild(self, child) -> None:
        if child not in self._shown:
            self._shown[child] = not child.isHidden()
            child.installEventFilter(self)
        self._working = True
        child.setVisible(self._shown[child] and not self._closed)
        self._working = False
        # Or Qt would take a later wish to hide a child that is hidden for done, and tell nobody.
        child.setAttribute(QtCore.Qt.WA_WState_ExplicitShowHide, False)

    def childEvent(self, event) -> None:
        self._hasNewChildren = self._hasNewChildren or event.added()

    def eventFilter(self, child, event) -> bool:
        """Remember what a child's owner wants; it stays hidden while the section is closed."""
        if not self._working and event.type() in (QtCore.QEvent.ShowToParent, QtCore.QEvent.HideToParent):
            self._shown[child] = event.type() == QtCore.QEvent.ShowToParent
            if self._closed and self._hasNewChildren:
                self._showContents()
            elif self._closed:  # not all of them: a panel's update shows and hides dozens, one after another
                self._showChild(child)
        return False

    def showEvent(self, event) -> None:
        self._showContents()  # the .ui file closes a section before its children are there

    def sizeHint(self) -> QtCore.QSize:
        if self.layout() is None or self._closed:
            return QtCore.QSize(100, self._TITLE_HEIGHT + 6)
        return self.layout().totalSizeHint()

    def hitButton(self, position) -> bool:
        return position.y() < self._TITLE_HEIGHT

    def paintEvent(self, event) -> None:
        painter = QtGui.QPainter(self)
        painter.fillRect(0, 0, self.width, self._TITLE_HEIGHT, self.palette.button().color().darker(108))
        painter.drawText(6, 15, ("▸ " if self._closed else "▾ ") + self.text)
        painter.end()


@standIn
class ctkPathLineEdit(QtWidgets.QWidget):
    """A path to type; the button that opens a file dialog in Slicer does nothing here."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    Dirs, Files, Drives, NoSymLinks, AllEntries = 0x001, 0x002, 0x004, 0x008, 0x007
    Readable, Writable, Executable, NoDotAndDotDot = 0x010, 0x020, 0x040, 0x6000
    filters, settingKey, label = stored(int, 0), stored(str, ""), stored(str, "")
    nameFilters = stored("QStringList", [])
    showBrowseButton, showHistoryButton = stored(bool, True), stored(bool, True)

    def __init__(self, parent=None) -> None:
        super().__init__(parent)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._edit, button = QtWidgets.QLineEdit(), QtWidgets.QToolButton()
        button.setText("...")
        layout.addWidget(self._edit)
        layout.addWidget(button)
        self._history: list[str] = []
        self._edit.textChanged.connect(self.currentPathChanged.emit)

    def setCurrentPath(self, path: str) -> None:
        self._edit.setText(path)

    currentPath = Property(str, lambda self: self._edit.text, setCurrentPath)

    def addCurrentPathToHistory(self) -> None:
        self._history.append(self.currentPath)

    def setCurrentDirectory(self, folder: str) -> None:
        self.setCurrentPath(str(Path(folder) / Path(self.currentPath).name))
