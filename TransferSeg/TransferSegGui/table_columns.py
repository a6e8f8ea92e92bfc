"""Columns that fit a narrow panel: some wrap their text in the room that is left, the others are as wide as theirs."""

from __future__ import annotations

import re
from collections.abc import Sequence

import qt
from slicer.i18n import tr as _

#: Structures that are named in a cell; of more their number is shown, and the names are in the tooltip.
_MOST_NAMES = 1
#: Words of more letters are broken after a sign, where they have one.
_LONG_WORD = 12


def setColumns(table, titles: Sequence[str], *widest: int) -> None:
    """Give a QTableWidget its columns; ``widest`` are the numbers of those that share the room that is left.

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
            column, qt.QHeaderView.Stretch if column in widest else qt.QHeaderView.ResizeToContents
        )
    table.verticalHeader().setVisible(False)
    table.verticalHeader().setSectionResizeMode(qt.QHeaderView.ResizeToContents)


def structuresText(names: Sequence[str]) -> str:
    """Return structures for a narrow cell: the name of one, the number of several."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return _("{count} structures").format(count=len(names))


def breakable(name: str) -> str:
    """Return a name that a cell can wrap, such as 'pt_012_ct_neck': with invisible spaces of no width in it."""
    words = (
        re.sub(r"(?<=[^\W_])([_.-]+)(?=[^\W_])", "\\1\u200b", w) if len(w) > _LONG_WORD else w for w in name.split(" ")
    )
    return " ".join(words)
