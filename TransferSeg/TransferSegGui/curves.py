"""The curves of a training as MRML nodes: tables, series and a chart, which Slicer's plot views show."""

from __future__ import annotations

import slicer
import vtk
from slicer.i18n import tr as _

#: How the parameter node refers to the chart, and thereby to all other nodes.
CHART = "FineTuneChart"
#: A curve with more points than this is thinned out: a screen shows no more.
_MOST_POINTS = 2000
#: The loss of a single step tells more of its patch than of the training: a running average is shown.
_WEIGHT_OF_NEW = 0.2
_ROLES = {"loss": "FineTuneLoss", "dice": "FineTuneDice"}


class TrainingCurves:
    """Loss (a running average) and held-out Dice over the training steps of all candidates, one after another.

    >>> curves = TrainingCurves(parameterNode)
    >>> curves.add("Final training: training all layers", 12, 0.43, None)
    >>> curves.draw()

    ``add`` is cheap and changes no node; ``draw`` brings the nodes up to date, which makes views draw.
    """

    def __init__(self, parameterNode) -> None:
        """Begin with no points; the nodes of earlier curves in the scene are used again."""
        self._parameterNode = parameterNode
        self._loss: list[tuple[float, float]] = []
        self._dice: list[tuple[float, float]] = []
        self._stage, self._before, self._last = "", 0, 0
        self._every, self._skipped = 1, 0
        self._average = 0.0
        self._isDrawn = True

    @property
    def isEmpty(self) -> bool:
        """Whether there is nothing to show yet."""
        return not self._loss and not self._dice

    def add(self, stage: str, step: int | None, loss: float | None, dice: float | None) -> None:
        """Take a point; the steps of a further stage follow those of the one before."""
        self._isDrawn = False
        if loss is not None and step is not None:
            if stage != self._stage:
                self._stage, self._before, self._average = stage, self._last, loss
            self._last = self._before + step
            self._average += _WEIGHT_OF_NEW * (loss - self._average)
            self._addLoss(float(self._last), self._average)
        if dice is not None:
            self._dice.append((float(self._last), dice))

    def draw(self) -> None:
        """Bring the nodes up to date, if there is anything new."""
        if self._isDrawn or self.isEmpty or self._parameterNode.GetScene() is None:
            return
        self._isDrawn = True
        for name, title, points in (("loss", _("Loss"), self._loss), ("dice", _("Held-out Dice"), self._dice)):
            if points:
                self._fill(self._table(name), title, points)
        self._chart()

    def show(self) -> None:
        """Show the chart in Slicer's views: the layout gets a plot view if it has none."""
        self.draw()
        chart = self._parameterNode.GetNodeReference(CHART)
        if chart is not None:
            slicer.modules.plots.logic().ShowChartInLayout(chart)

    def _addLoss(self, step: float, loss: float) -> None:
        """Keep a point of the loss; of very many every second, every fourth and so on."""
        self._skipped += 1
        if self._skipped < self._every:
            return
        self._skipped = 0
        self._loss.append((step, loss))
        if len(self._loss) > _MOST_POINTS:
            del self._loss[::2]
            self._every *= 2

    def _table(self, name: str):
        """Return the table node of a curve, made when it is not there, with its series."""
        table = self._parameterNode.GetNodeReference(_ROLES[name])
        if table is None:
            title = _("Fine-tuning loss") if name == "loss" else _("Fine-tuning Dice")
            table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", title)
            self._parameterNode.SetNodeReferenceID(_ROLES[name], table.GetID())
        return table

    @staticmethod
    def _fill(tableNode, title: str, points: list[tuple[float, float]]) -> None:
        table = vtk.vtkTable()
        for column, label in enumerate((_("Step"), title)):
            values = vtk.vtkDoubleArray()
            values.SetName(label)
            values.SetNumberOfValues(len(points))
            for index, point in enumerate(points):
                values.SetValue(index, point[column])
            table.AddColumn(values)
        tableNode.SetAndObserveTable(table)

    def _chart(self):
        """Return the chart node, made when it is not there, with a series for each table."""
        chart = self._parameterNode.GetNodeReference(CHART)
        if chart is None:
            chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", _("Fine-tuning curves"))
            chart.SetTitle(_("Fine-tuning"))
            chart.SetXAxisTitle(_("Training step, all candidates one after another"))
            chart.SetYAxisTitle(_("Loss, and Dice on held-out cases"))
            self._parameterNode.SetNodeReferenceID(CHART, chart.GetID())
        for name, role in _ROLES.items():
            table = self._parameterNode.GetNodeReference(role)
            if table is not None and not _hasSeriesOf(chart, table):
                chart.AddAndObservePlotSeriesNodeID(_newSeries(name, table).GetID())
        return chart


def _hasSeriesOf(chart, table) -> bool:
    series = (chart.GetNthPlotSeriesNode(index) for index in range(chart.GetNumberOfPlotSeriesNodes()))
    return any(each is not None and each.GetTableNodeID() == table.GetID() for each in series)


def _newSeries(name: str, table):
    """Return a series node for a curve's table: a line for the loss, points with a line for Dice."""
    title = table.GetTable().GetColumnName(1)
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", title)
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(table.GetTable().GetColumnName(0))
    series.SetYColumnName(title)
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    if name == "loss":
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
        series.SetColor(0.85, 0.35, 0.1)
    else:
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
        series.SetColor(0.1, 0.4, 0.8)
    return series
