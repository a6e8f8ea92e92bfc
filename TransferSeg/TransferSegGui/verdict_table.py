"""The table of a verdict: a row for each structure, with bars; its cases are folded away below it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import qt
from slicer.i18n import tr as _

from TransferSegGui.case_names import CaseNames
from TransferSegGui.colors import BAD, GOOD, NEUTRAL, bar, tint
from TransferSegGui.table_columns import breakable, setColumns
from TransferSegGui.verdict_rows import (
    VerdictRow,
    caseRows,
    changeText,
    detailsText,
    numberText,
    structureText,
    summaryRows,
)

#: A change that is 0 with so many decimals has no colour: it does not matter.
_COLOURED_FROM = 2
#: Signs before a structure whose cases are folded away or listed, and the room before a case.
_FOLDED, _OPEN, _INDENT = "▸ ", "▾ ", "  "


class VerdictTable:
    """Wires a QTableWidget: *Structure | Before | After | Change*.

    A click on a structure lists its cases and folds them away again, ``allCases`` (a check box) does so for all. A
    table and no tree, because its rows become as high as their wrapped texts need.
    """

    def __init__(self, table, allCases) -> None:
        """Connect the widgets."""
        self._table, self._allCases = table, allCases
        #: What the cases are called.
        self.names = CaseNames()
        self._rows: list[VerdictRow] = []
        self._open: set[str] = set()
        setColumns(table, [_("Structure"), _("Before"), _("After"), _("Change")], 0)
        table.horizontalHeader().connect("sectionResized(int,int,int)", self._onResized)
        table.connect("cellClicked(int,int)", self._onClicked)
        allCases.connect("toggled(bool)", self._onAllCases)

    def show(self, result: Mapping[str, Any] | None) -> None:
        """Show the result of a ``finetune`` job, or nothing."""
        self._rows = [] if result is None else _ordered(result)
        self._open = set()
        self._table.setRowCount(len(self._rows))
        for row in range(len(self._rows)):
            self._fill(row)
        self._allCases.checked = False
        self._fold()

    def _fill(self, number: int) -> None:
        row, table = self._rows[number], self._table
        details = self.names.inText(detailsText(row))
        numbers = (numberText(row.before), numberText(row.after), changeText(row))
        for column, text in enumerate(("", *numbers)):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(details)
            if column:
                item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
            if not row.case:
                font = item.font()
                font.setBold(not row.structure)
                item.setFont(font)
            table.setItem(number, column, item)

    def paint(self) -> None:
        """Give the numbers their bars and colours, mixed from those of Slicer's present style."""
        table = self._table
        for number, row in enumerate(self._rows):
            tone = _toneOf(row)
            if row.before is not None:
                table.item(number, 1).setBackground(bar(table, row.before, NEUTRAL, table.columnWidth(1)))
            if row.after is not None:
                table.item(number, 2).setBackground(bar(table, row.after, tone, table.columnWidth(2)))
            if tone != NEUTRAL:
                table.item(number, 3).setBackground(qt.QBrush(tint(table, tone)))

    def _onResized(self, column: int, before: int, now: int) -> None:
        """Draw the bars anew: they are as long as their column is wide."""
        isFilled = bool(self._rows) and self._table.item(len(self._rows) - 1, 3) is not None
        if column in (1, 2) and isFilled:
            self.paint()

    def _fold(self) -> None:
        """Hide the cases of structures that are not open, and mark each structure accordingly."""
        withCases = {row.structure for row in self._rows if row.case}
        for number, row in enumerate(self._rows):
            self._table.setRowHidden(number, bool(row.case) and row.structure not in self._open)
            item = self._table.item(number, 0)
            if row.case:
                item.setText(_INDENT + breakable(self.names.row(row.case)))
            else:
                sign = _OPEN if row.structure in self._open else _FOLDED
                words = structureText(row)
                if row.word and row.structure:
                    words = _("{structure}: {word}").format(structure=words, word=row.word)
                item.setText((sign if row.structure in withCases else "") + words)
        self._allCases.setVisible(bool(withCases))
        self._table.resizeRowsToContents()

    def _onClicked(self, number: int, column: int) -> None:
        if 0 <= number < len(self._rows) and not self._rows[number].case:
            self._open ^= {self._rows[number].structure}
            self._fold()

    def _onAllCases(self, checked: bool) -> None:
        self._open = {row.structure for row in self._rows if row.case} if checked else set()
        self._fold()


def _toneOf(row: VerdictRow) -> str:
    """Return the colour of a row's change, grey for one that does not matter."""
    change = 0.0 if row.change is None else round(row.change, _COLOURED_FROM)
    return NEUTRAL if not change else GOOD if change > 0 else BAD


def _ordered(result: Mapping[str, Any]) -> list[VerdictRow]:
    """Return the mean, and each structure followed by its cases."""
    cases = list(caseRows(result))
    ordered = []
    for row in summaryRows(result):
        ordered.append(row)
        ordered += [each for each in cases if row.structure and each.structure == row.structure]
    return ordered
