"""The curves of a training as MRML nodes: tables, series and charts, which Slicer's plot views show.

Loss and Dice have a chart each: they are measured on different scales, and one should fall, the other rise.
"""

from __future__ import annotations

import slicer
import vtk
from slicer.i18n import tr as _

LOSS, DICE = "loss", "dice"
#: A curve with more points than this is thinned out: a screen shows no more.
_MOST_POINTS = 2000
#: The loss of a single step tells more of its patch than of the training: a running average is shown.
_WEIGHT_OF_NEW = 0.2
#: How the parameter node refers to the tables, and to the charts.
_TABLES = {LOSS: "FineTuneLoss", DICE: "FineTuneDice"}
CHARTS = {LOSS: "FineTuneLossChart", DICE: "FineTuneDiceChart"}


class TrainingCurves:
    """Loss (a running average) and held-out Dice over the training steps of all candidates, one after another.

    The Dice are single points: each is of another case, and of the candidate that was trained without it.

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
        return not any(map(self.has, (LOSS, DICE)))

    def has(self, curve: str) -> bool:
        """Return whether a curve has points."""
        return bool(self._loss if curve == LOSS else self._dice)

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
        for curve, title, points in ((LOSS, _("Loss"), self._loss), (DICE, _("Dice"), self._dice)):
            if points:
                self._fill(self._table(curve), title, points)
                self._chart(curve)

    def show(self, curve: str) -> None:
        """Show the chart of a curve in Slicer's views: the layout gets a plot view if it has none."""
        self.draw()
        chart = self._parameterNode.GetNodeReference(CHARTS[curve])
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

    def _table(self, curve: str):
        """Return the table node of a curve, made when it is not there."""
        table = self._parameterNode.GetNodeReference(_TABLES[curve])
        if table is None:
            table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", _titleOf(curve))
            self._parameterNode.SetNodeReferenceID(_TABLES[curve], table.GetID())
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

    def _chart(self, curve: str) -> None:
        """Make the chart of a curve, when it is not there, with a series for the curve's table."""
        chart = self._parameterNode.GetNodeReference(CHARTS[curve])
        if chart is None:
            chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", _titleOf(curve))
            chart.SetTitle(_titleOf(curve))
            chart.SetLegendVisibility(False)
            chart.SetXAxisTitle(_("Training step, all networks one after another"))
            chart.SetYAxisTitle(_("Loss (falls)") if curve == LOSS else _("Dice on cases left out of training"))
            if curve == DICE:
                chart.SetYAxisRangeAuto(False)
                chart.SetYAxisRange(0.0, 1.0)
            self._parameterNode.SetNodeReferenceID(CHARTS[curve], chart.GetID())
        table = self._parameterNode.GetNodeReference(_TABLES[curve])
        if not _hasSeriesOf(chart, table):
            chart.AddAndObservePlotSeriesNodeID(_newSeries(curve, table).GetID())


def _titleOf(curve: str) -> str:
    return _("Fine-tuning loss") if curve == LOSS else _("Fine-tuning Dice")


def _hasSeriesOf(chart, table) -> bool:
    series = (chart.GetNthPlotSeriesNode(index) for index in range(chart.GetNumberOfPlotSeriesNodes()))
    return any(each is not None and each.GetTableNodeID() == table.GetID() for each in series)


def _newSeries(curve: str, table):
    """Return a series node for a curve's table: a line for the loss, points that nothing joins for Dice."""
    title = table.GetTable().GetColumnName(1)
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", title)
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(table.GetTable().GetColumnName(0))
    series.SetYColumnName(title)
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    if curve == LOSS:
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
        series.SetColor(0.85, 0.35, 0.1)
    else:
        series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleCircle)
        series.SetLineStyle(slicer.vtkMRMLPlotSeriesNode.LineStyleNone)
        series.SetColor(0.1, 0.4, 0.8)
    return series
