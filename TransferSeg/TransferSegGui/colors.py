"""Colours that are readable in Slicer's light and dark style: they are mixed from the widget's own palette."""

from __future__ import annotations

import qt

#: What is good, bad, warned of, and neither.
GOOD, BAD, WARNED, NEUTRAL = "#2e9d42", "#d64545", "#ef8a17", "#808890"
#: How much of a tone is in a background: text stays as readable as on the bare one.
_SHARE = 0.35


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


def frameStyle(widget, tone: str) -> str:
    """Return the style sheet of a label in a frame of a tone, on a background of it; its text keeps its colour."""
    return f"border: 2px solid {tone}; padding: 4px; background-color: {tint(widget, tone, 0.15).name()};"


def bar(widget, share: float, tone: str):
    """Return a brush that fills this share (0 to 1) of a cell from the left: a bar behind the cell's number."""
    filled, end = tint(widget, tone), min(max(share, 0.0), 1.0)
    rest = widget.palette.base().color()
    gradient = qt.QLinearGradient(0.0, 0.0, 1.0, 0.0)
    gradient.setCoordinateMode(qt.QGradient.ObjectBoundingMode)
    gradient.setColorAt(0.0, filled)
    gradient.setColorAt(end, filled)
    if end < 1.0:
        gradient.setColorAt(min(end + 1e-4, 1.0), rest)
        gradient.setColorAt(1.0, rest)
    return qt.QBrush(gradient)
