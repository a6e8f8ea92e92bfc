"""``slicer.app.layoutManager()``: which views are shown, by MRML's own layout logic."""

from __future__ import annotations

import slicer

from slicerhost.views import qMRMLPlotWidget, qMRMLSliceWidget, qMRMLThreeDWidget

from PySide6 import QtWidgets  # isort: skip - after Qt's classes were changed


class LayoutManager:
    """Puts the widgets of up to four views of the current layout into a grid."""

    def __init__(self, viewport: QtWidgets.QWidget) -> None:
        self._grid = QtWidgets.QGridLayout(viewport)
        self._grid.setSpacing(2)
        self.slices = {name: qMRMLSliceWidget(name) for name in ("Red", "Yellow", "Green")}
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._widgets = {f"vtkMRMLSliceNode{name}": widget for name, widget in self.slices.items()}
        self.setLayout(self.layoutLogic().GetLayoutNode().SlicerLayoutFourUpView)

    @property
    def layout(self) -> int:
        return self._logic.GetLayoutNode().GetViewArrangement()

    def setLayout(self, arrangement: int) -> None:
        self._logic.GetLayoutNode().SetViewArrangement(arrangement)
        self.arrange()

    def layoutLogic(self):
        return self._logic

    def mrmlSliceLogics(self):
        return slicer.app.applicationLogic().GetSliceLogics()

    def sliceViewNames(self) -> list[str]:
        return list(self.slices)

    def sliceWidget(self, name: str):
        return self.slices.get(name)

    @property
    def threeDViewCount(self) -> int:
        return sum(isinstance(each, qMRMLThreeDWidget) for each in self.arrange())

    def threeDWidget(self, index: int):
        found = [each for each in self._widgets.values() if isinstance(each, qMRMLThreeDWidget)]
        return found[index] if index < len(found) else None

    @property
    def plotViewCount(self) -> int:
        return sum(isinstance(each, qMRMLPlotWidget) for each in self.arrange())

    def plotWidget(self, index: int):
        self.arrange()
        found = [each for each in self._widgets.values() if isinstance(each, qMRMLPlotWidget)]
        return found[index] if index < len(found) else None

    def resetSliceViews(self) -> None:
        for widget in self.slices.values():
            widget.view.fit()

    def resetThreeDViews(self) -> None:
        if self.threeDWidget(0) is not None:
            self.threeDWidget(0).view.fit()

    def arrange(self) -> list[QtWidgets.QWidget]:
        """Bring the grid up to date with the layout node and return the widgets shown."""
        nodes = self._logic.GetViewNodes()
        shown = [self._widgetOf(nodes.GetItemAsObject(index)) for index in range(nodes.GetNumberOfItems())]
        shown = [each for each in shown if each is not None][:4]
        for widget in self._widgets.values():
            widget.setVisible(widget in shown)
        for index, widget in enumerate(shown):
            self._grid.addWidget(widget, index // 2, index % 2)
        return shown

    def draw(self) -> None:
        """Draw every view that is shown."""
        for widget in self.arrange():
            widget.draw()

    def _widgetOf(self, node):
        """Return the widget of a view node, made when it is first shown; None for views that have no stand-in."""
        if node.GetID() not in self._widgets:
            if node.IsA("vtkMRMLPlotViewNode"):
                self._widgets[node.GetID()] = qMRMLPlotWidget(node)
            elif node.IsA("vtkMRMLViewNode"):
                self._widgets[node.GetID()] = qMRMLThreeDWidget(node)
            else:
                return None
        return self._widgets[node.GetID()]
