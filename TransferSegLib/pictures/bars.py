"""A plain bar chart: one bar for each case, in colours by group, with values, an axis and the groups' names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from TransferSegLib.pictures.drawing import Canvas, write_png
from TransferSegLib.pictures.layout import BACKGROUND, QUIET, TEXT, WHITE
from TransferSegLib.pictures.legend import luminous
from TransferSegLib.pictures.text import shortened, text_width
from TransferSegLib.structures import default_color

_WIDTH, _PLOT_HEIGHT = 960, 320
_EDGE, _TITLE, _TEXT, _SMALL = 28, 15.0, 11.0, 9.5
#: Columns left of the bars for the numbers of the axis, and rows between the parts.
_AXIS_WIDTH, _GAP = 52, 16
_LINE = round(2.2 * _TEXT)
_GRID = (48, 52, 60)
#: Bars are at most this wide, and fill this part of their place.
_WIDEST, _FILLED = 64, 0.7


@dataclass(frozen=True)
class Bar:
    """One bar: what stands below it, its value (None: not known, from 0 up), its value as text, and its group."""

    name: str
    value: float | None
    text: str
    group: str


def draw_bars(bars: Sequence[Bar], title: str, axis: str, path: Path) -> None:
    """Write a bar chart as a PNG file; ``axis`` says what the values are, with the unit.

    Raises ScanError when the file cannot be written, ValueError without bars or for a value below 0.
    """
    if not bars or any(bar.value is not None and bar.value < 0 for bar in bars):
        raise ValueError("A bar chart needs bars with values from 0 up.")
    groups = list(dict.fromkeys(bar.group for bar in bars))
    top = _EDGE + round(_TITLE) + 2 * _GAP + round(_TEXT)
    bottom = top + _PLOT_HEIGHT
    canvas = Canvas.blank(bottom + 2 * _LINE + _LINE * len(groups) + _EDGE, _WIDTH, BACKGROUND)
    canvas.text(_EDGE, _EDGE + _TITLE, shortened(title, _TITLE, _WIDTH - 2 * _EDGE), _TITLE, WHITE, bold=True)
    canvas.text(_EDGE, _EDGE + _TITLE + _GAP + _TEXT, axis, _SMALL, QUIET)
    step = axis_step(max((bar.value or 0.0 for bar in bars), default=0.0))
    largest = step * max(1, math.ceil(max(bar.value or 0.0 for bar in bars) / step - 1e-9))
    left, right = _EDGE + _AXIS_WIDTH, _WIDTH - _EDGE
    for number in range(round(largest / step) + 1):
        row = bottom - round(_PLOT_HEIGHT * number * step / largest)
        canvas.box(row, left, 1, right - left, _GRID)
        canvas.text(left - 8, row + _SMALL / 2, f"{number * step:g}", _SMALL, QUIET, align="right")
    place = (right - left) / len(bars)
    width = max(1, round(min(_WIDEST, _FILLED * place)))
    for number, bar in enumerate(bars):
        middle = left + place * (number + 0.5)
        height = 0 if bar.value is None else round(_PLOT_HEIGHT * bar.value / largest)
        canvas.box(bottom - height, round(middle - width / 2), height, width, group_color(groups.index(bar.group)))
        if text_width(bar.text, _SMALL) <= place:
            canvas.text(middle, bottom - height - 5, bar.text, _SMALL, TEXT, align="center")
        if text_width(bar.name, _SMALL) <= place or number % _every(bars, place) == 0:
            canvas.text(middle, bottom + _LINE * 0.8, bar.name, _SMALL, TEXT, align="center")
    for number, group in enumerate(groups):
        row = bottom + 2 * _LINE + _LINE * number
        canvas.box(row, left, round(_TEXT), round(_TEXT), group_color(number))
        canvas.text(left + 2 * _TEXT, row + _TEXT, shortened(group, _TEXT, right - left), _TEXT, TEXT)
    write_png(canvas, path)


def axis_step(largest: float) -> float:
    """Return a round distance (1, 2 or 5 times a power of ten) that divides an axis up to a value in 3 to 6 parts."""
    if largest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest / 3))
    return next(factor * power for factor in (1, 2, 5, 10) if largest / (factor * power) <= 6)


def group_color(number: int) -> tuple[int, int, int]:
    """Return the colour of a group."""
    return luminous(default_color(number + 1))


def _every(bars: Sequence[Bar], place: float) -> int:
    """Return of how many bars only one can have its name below it."""
    return max(1, math.ceil((max(text_width(bar.name, _SMALL) for bar in bars) + 4) / place))
