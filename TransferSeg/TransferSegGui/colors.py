"""Colours that are readable in Slicer's light and dark style: they are mixed from the widget's own palette."""

from __future__ import annotations

import qt

#: What is good, bad, warned of, and neither.
GOOD, BAD, WARNED, NEUTRAL = "#2e9d42", "#d64545", "#ef8a17", "#808890"
#: How much of a tone is in a background: text stays as readable as on the bare one.
_SHARE = 0.35
#: How much of the text's colour is in that of frames, and in the colour that a dark style makes frames from.
_FRAME_SHARE = 0.55
#: The side of an icon that shows a colour, pixels.
_SQUARE = 12


def tint(widget, tone: str, share: float = _SHARE):
    """Return a background colour (QColor) for a tone: the widget's own with a share of it."""
    base, color = widget.palette.base().color(), qt.QColor(tone)
    mixed = [
        round((1 - share) * ours + share * its)
        for ours, its in (
            (base.red(), color.red()),
            (base.green(), color.green()),
            (base.blue(), color.blue()),
        )
    ]
    return qt.QColor(*mixed)


def fill(widget, color) -> None:
    """Give a widget that fills its background a colour (QColor); no style sheet, which would hold its font fast."""
    palette = widget.palette
    palette.setColor(qt.QPalette.Window, color)
    widget.setPalette(palette)
    widget.setBackgroundRole(qt.QPalette.Window)  # in a collapsible button it would be that of a button


def square(widget, color):
    """Return an icon of a colour (QColor), in a frame that is seen on the widget's ground whatever the colour is."""
    icon, painter = qt.QPixmap(_SQUARE, _SQUARE), qt.QPainter()
    icon.fill(tint(widget, widget.palette.text().color().name(), _FRAME_SHARE))
    painter.begin(icon)
    painter.fillRect(1, 1, _SQUARE - 2, _SQUARE - 2, color)
    painter.end()
    return qt.QIcon(icon)


def showUntickedBoxes(widget) -> None:
    """Let the frames of unticked boxes be seen in a dark style; ``widget`` is a check box, or a list with boxes.

    Slicer's style draws them in a darker shade of the window's colour, which is no frame on a dark ground. Of what else
    a check box or a list shows, only the grid of a table is made from that colour.
    """
    base, text = widget.palette.base().color(), widget.palette.text().color()
    isDark = base.lightness() < text.lightness()
    widget.setPalette(qt.QPalette())
    if isDark:
        fill(widget, tint(widget, text.name(), _FRAME_SHARE))
    if hasattr(widget, "showGrid"):
        widget.showGrid = not isDark


def bar(widget, share: float, tone: str, width: int):
    """Return a brush that fills this share (0 to 1) of a cell from the left: a bar behind the cell's number.

    ``width`` is that of the cell. Views move the brush's origin to the cell's corner and fill the cell: with Qt's
    coordinates relative to what is filled, the corner would count twice, and every cell be filled whole.
    """
    filled, end = tint(widget, tone), min(max(share, 0.0), 1.0)
    rest = widget.palette.base().color()
    gradient = qt.QLinearGradient(0.0, 0.0, float(max(width, 1)), 0.0)
    gradient.setColorAt(0.0, filled)
    gradient.setColorAt(end, filled)
    if end < 1.0:
        gradient.setColorAt(min(end + 1e-4, 1.0), rest)
        gradient.setColorAt(1.0, rest)
    return qt.QBrush(gradient)
