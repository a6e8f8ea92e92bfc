"""Slicer's views as widgets: pictures that are drawn when asked, so that a test waits for none."""

from __future__ import annotations

import slicer

from slicerhost.plot_painter import paintChart
from slicerhost.slice_view import SliceView
from slicerhost.stand_ins import standIn
from slicerhost.three_d_view import ThreeDView

from PySide6 import QtGui, QtWidgets  # isort: skip - after Qt's classes were changed


class _Picture(QtWidgets.QLabel):
    """A label that shows the picture of an offscreen view."""

    def __init__(self, view) -> None:
        super().__init__()
        self._view = view
        self.setMinimumSize(200, 180)

    #: The real view; only for tests, Slicer's widgets have nothing of that name.
    view = property(lambda self: self._view)

    def draw(self) -> None:
        self.view.resize(self.width, self.height)
        pixels = self.view.pixels()
        height, width, _ = pixels.shape
        picture = QtGui.QImage(pixels.tobytes(), width, height, 3 * width, QtGui.QImage.Format_RGB888)
        self.setPixmap(QtGui.QPixmap.fromImage(picture))


@standIn
class qMRMLSliceWidget(_Picture):
    """A slice view: ``view`` is the real one."""

    def __init__(self, name: str) -> None:
        super().__init__(SliceView(name))

    def mrmlSliceNode(self):
        return self.view.node

    def mrmlSliceCompositeNode(self):
        return self.view.logic.GetSliceCompositeNode()

    def sliceLogic(self):
        return self.view.logic

    def fitSliceToBackground(self) -> None:
        self.view.fit()


@standIn
class qMRMLThreeDWidget(_Picture):
    """A 3D view: ``view`` is the real one."""

    def __init__(self, node) -> None:
        super().__init__(ThreeDView(node))

    def mrmlViewNode(self):
        return self.view.node

    def threeDView(self):
        return self

    def resetFocalPoint(self) -> None:
        self.view.fit()

    def resetCamera(self) -> None:
        self.view.fit()

    def draw(self) -> None:
        self.view.pixels()  # only now are the surfaces there
        self.view.fit()
        super().draw()


@standIn
class qMRMLPlotWidget(QtWidgets.QLabel):
    """A plot view: the chart of the real plot view node, drawn simply."""

    def __init__(self, node) -> None:
        super().__init__()
        self._node = node
        self.setMinimumSize(200, 180)

    def mrmlPlotViewNode(self):
        return self._node

    def plotView(self):
        return self

    def fitToContent(self) -> None:
        """Do nothing: the drawing always fits."""

    def draw(self) -> None:
        chartId = self._node.GetPlotChartNodeID()
        chart = slicer.mrmlScene.GetNodeByID(chartId) if chartId else None
        self.setPixmap(paintChart(chart, self.width, self.height))
