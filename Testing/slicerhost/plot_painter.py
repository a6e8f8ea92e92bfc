"""A plot chart node as a picture. Slicer draws charts in C++ that ``slicer-core`` lacks: this shows the same data."""

from __future__ import annotations

from PySide6 import QtCore, QtGui

_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_TOP, _MARGIN_BOTTOM = 64, 12, 28, 40
_TITLE_HEIGHT = 20


def paintChart(chartNode, width: int, height: int) -> QtGui.QPixmap:
    """Return a picture of a vtkMRMLPlotChartNode's series as lines or points, with axes and a legend.

    None gives an empty one.
    """
    picture = QtGui.QPixmap(width, height)
    picture.fill(QtGui.QColor("white"))
    if chartNode is None:
        return picture
    painter = QtGui.QPainter(picture)
    try:
        series = [chartNode.GetNthPlotSeriesNode(index) for index in range(chartNode.GetNumberOfPlotSeriesNodes())]
        curves = [(node, seriesPoints(node)) for node in series if node is not None]
        inside = QtCore.QRectF(
            _MARGIN_LEFT,
            _MARGIN_TOP,
            width - _MARGIN_LEFT - _MARGIN_RIGHT,
            height - _MARGIN_TOP - _MARGIN_BOTTOM,
        )
        _paintFrame(painter, chartNode, inside, width, height)
        points = [point for _node, curve in curves for point in curve]
        if points:
            _paintCurves(painter, curves, inside, _boundsOf(chartNode, points))
    finally:
        painter.end()
    return picture


def seriesPoints(seriesNode) -> list[tuple[float, float]]:
    """Return the points of a series; without an x column they are numbered from 0."""
    tableNode = seriesNode.GetTableNode()
    table = tableNode.GetTable() if tableNode is not None else None
    ys = table.GetColumnByName(seriesNode.GetYColumnName()) if table is not None else None
    if ys is None:
        return []
    xs = table.GetColumnByName(seriesNode.GetXColumnName()) if seriesNode.GetXColumnName() else None
    count = ys.GetNumberOfTuples()
    return [(xs.GetTuple1(row) if xs is not None else row, ys.GetTuple1(row)) for row in range(count)]


def _boundsOf(chartNode, points) -> tuple[float, float, float, float]:
    """Return the ends of the axes: the chart's own for y, where it has fixed them."""
    left, right, bottom, top = _bounds(points)
    if not chartNode.GetYAxisRangeAuto():
        bottom, top = chartNode.GetYAxisRange()
    return left, right, bottom, top


def _bounds(points) -> tuple[float, float, float, float]:
    xs, ys = [x for x, _y in points], [y for _x, y in points if y == y]
    ys = ys or [0.0]
    left, right, bottom, top = min(xs), max(xs), min(ys), max(ys)
    return left, right if right > left else left + 1, bottom, top if top > bottom else bottom + 1


def _paintFrame(painter, chartNode, inside, width: int, height: int) -> None:
    painter.setPen(QtGui.QColor("black"))
    painter.drawRect(inside)
    center = QtCore.Qt.AlignCenter
    painter.drawText(
        QtCore.QRectF(0, 2, width, _TITLE_HEIGHT), center, chartNode.GetTitle() or chartNode.GetName() or ""
    )
    painter.drawText(QtCore.QRectF(0, height - 20, width, 18), center, chartNode.GetXAxisTitle() or "")
    painter.save()
    painter.translate(2, inside.center().y())
    painter.rotate(-90)
    along = QtCore.QRectF(-height / 2, 0, height, _TITLE_HEIGHT)
    painter.drawText(along, center, chartNode.GetYAxisTitle() or "")
    painter.restore()


def _paintCurves(painter, curves, inside, bounds) -> None:
    left, right, bottom, top = bounds
    small = painter.font()
    small.setPointSizeF(7.5)
    painter.setFont(small)
    for text, x, y in (
        (f"{left:.4g}", inside.left(), inside.bottom() + 14),
        (f"{right:.4g}", inside.right() - 24, inside.bottom() + 14),
        (f"{bottom:.3g}", _TITLE_HEIGHT + 4, inside.bottom()),
        (f"{top:.3g}", _TITLE_HEIGHT + 4, inside.top() + 8),
    ):
        painter.drawText(QtCore.QPointF(x, y), text)
    for node, curve in curves:
        color = QtGui.QColor.fromRgbF(*node.GetColor())
        painter.setPen(QtGui.QPen(color, 2))
        places = [
            QtCore.QPointF(
                inside.left() + inside.width() * (x - left) / (right - left),
                inside.bottom() - inside.height() * (y - bottom) / (top - bottom),
            )
            for x, y in curve
            if y == y  # a value that is not known yet is NaN
        ]
        if node.GetLineStyle() != node.LineStyleNone:
            painter.drawPolyline(QtGui.QPolygonF(places))
        for place in places:
            painter.drawEllipse(place, 2, 2)
    legend_x = inside.right()
    for node, _curve in reversed(curves):  # above the frame, where no curve is
        legend_x -= painter.fontMetrics().horizontalAdvance(node.GetName()) + 8
        painter.setPen(QtGui.QColor.fromRgbF(*node.GetColor()))
        painter.drawText(QtCore.QPointF(legend_x, inside.top() - 6), node.GetName())
