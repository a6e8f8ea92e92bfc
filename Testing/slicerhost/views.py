"""Views as widgets: pictures that are drawn when asked."""

from __future__ import annotations

from slicerhost.slice_view import SliceView

from PySide6 import QtGui, QtWidgets  # isort: skip - after Qt's classes were changed


class SliceViewLabel(QtWidgets.QLabel):
    """A slice view as a picture, drawn when asked."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.view = SliceView(name)
        self.setMinimumSize(200, 180)

    def draw(self) -> None:
        self.view.resize(self.width, self.height)
        pixels = self.view.pixels()
        height, width, _ = pixels.shape
        picture = QtGui.QImage(pixels.tobytes(), width, height, 3 * width, QtGui.QImage.Format_RGB888)
        self.setPixmap(QtGui.QPixmap.fromImage(picture))
