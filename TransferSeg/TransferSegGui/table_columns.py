"""Columns that fit a narrow panel: one wraps its text in the room that is left, the others are as wide as theirs."""

from __future__ import annotations

from collections.abc import Sequence

import qt
from slicer.i18n import tr as _

#: Structures that are named in a cell; of more their number is shown, and the names are in the tooltip.
_MOST_NAMES = 1


def setColumns(table, titles: Sequence[str], widest: int) -> None:
    """Give a QTableWidget its columns; ``widest`` is the number of the one that takes the room that is left.

    The table is as high as its rows; those that its maximum height leaves out are scrolled to.
    """
    table.setSizeAdjustPolicy(qt.QAbstractScrollArea.AdjustToContents)
    table.setColumnCount(len(titles))
    table.setHorizontalHeaderLabels(list(titles))
    table.setWordWrap(True)
    header = table.horizontalHeader()
    header.setStretchLastSection(False)
    header.setMinimumSectionSize(1)
    header.setHighlightSections(False)  # bold letters would take room from the column that wraps
    for column in range(len(titles)):
        header.setSectionResizeMode(
            column, qt.QHeaderView.Stretch if column == widest else qt.QHeaderView.ResizeToContents
        )
    table.verticalHeader().setVisible(False)
    table.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)


def structuresText(names: Sequence[str]) -> str:
    """Return structures for a narrow cell: the name of one, the number of several."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return _("{count} structures").format(count=len(names))
