"""The panel as narrow as Slicer's is at first, also with a large font, and what is cut off in its tables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: A folder for pictures of what is checked, to look at.
PICTURES = os.environ.get("TRANSFERSEG_PICTURES", "")
#: Slicer's default, pixels.
WIDTH = 400


@contextmanager
def panel_of(host, width: int = WIDTH, font_scale: float = 1.0, isChecked: bool = True) -> Iterator[None]:
    """Make the dock with the panel this wide, with letters so much larger, for a while; the panel has to fit in it."""
    import qt

    font = qt.QApplication.font()
    large = qt.QFont(font)
    large.setPointSizeF(font.pointSizeF() * font_scale)
    dock, before = host._dock, host._dock.minimumWidth
    try:
        qt.QApplication.setFont(large)
        dock.setFixedWidth(width)
        for _ in range(10):  # until what depends on the width is laid out
            host.process(100)
            if dock.width == width and host._area.horizontalScrollBar().maximum == 0:
                break
        host.process(100)
        assert dock.width == width
        assert not isChecked or host._area.horizontalScrollBar().maximum == 0, "the panel itself is cut off"
        if PICTURES:
            host.screenshot(Path(PICTURES) / f"{len(list(Path(PICTURES).iterdir())):02d}.png")
        yield
    finally:
        qt.QApplication.setFont(font)
        dock.setMinimumWidth(before)
        dock.setMaximumWidth(16777215)
        host.process(100)


def cut_off(table) -> list[str]:
    """Return the texts of a QTableWidget's header and cells that its columns are too narrow for, and its scroll bar."""
    import qt

    problems = ["horizontal scroll bar"] if table.horizontalScrollBar().maximum else []
    style, metrics = table.style(), table.fontMetrics()
    margin = 2 * (style.pixelMetric(qt.QStyle.PM_FocusFrameHMargin, None, table) + 1)
    tick = style.pixelMetric(qt.QStyle.PM_IndicatorWidth, None, table) + margin
    for column in range(table.columnCount):
        width = table.columnWidth(column)
        title = table.horizontalHeaderItem(column).text()
        if max(map(table.horizontalHeader().fontMetrics().horizontalAdvance, title.split("\n"))) > width:
            problems.append(f"{title} ({width} px)")
        for row in (each for each in range(table.rowCount) if not table.isRowHidden(each)):
            item = table.item(row, column)
            bold = qt.QFontMetrics(item.font()) if item.font().bold() else metrics
            room = width - margin - (tick if item.data(qt.Qt.CheckStateRole) is not None else 0)
            room -= 0 if item.icon().isNull() else item.icon().actualSize(qt.QSize(16, 16)).width() + margin
            word = max(map(bold.horizontalAdvance, item.text().split() or [""]))
            room -= int(table.showGrid)
            box = bold.boundingRect(0, 0, room, 10000, qt.Qt.AlignLeft | qt.Qt.TextWordWrap, item.text())
            if word > room:
                problems.append(f"{item.text()} (a word of {word} px in {room} px)")
            elif box.width() > room or box.height() > table.rowHeight(row):
                problems.append(f"{item.text()} ({box.width()} x {box.height()} in {room} x {table.rowHeight(row)} px)")
    return problems
