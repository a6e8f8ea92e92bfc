"""The table of the section "Fine-tune": the cases of the project, those with a tick are learned from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import qt
from slicer.i18n import tr as _

from TransferSegGui.case_names import CaseNames
from TransferSegGui.project_choice import readProject
from TransferSegGui.table_columns import breakable, setColumns, structuresText
from TransferSegLib.corrections.revisions import Revision
from TransferSegLib.datasets.dataset import FILE_NAME
from TransferSegLib.wording import local_time


class LearningCases:
    """Wires ``fineTuneCaseTable``; ``onToggled`` gets the ids of the cases without a tick."""

    def __init__(self, table, title) -> None:
        """Connect the table; it and its title are hidden while there are no cases."""
        self.onToggled: Callable[[tuple[str, ...]], None] = lambda leftOut: None
        self.problem = ""
        self._table, self._title = table, title
        self._read: tuple[Path | None, float] = (None, -1.0)
        self._revisions: tuple[Revision, ...] = ()
        #: What the cases are called.
        self.names = CaseNames()
        self._state = None
        self._filling = False
        setColumns(table, [_("Case"), _("Reviewed")], 0, 1)
        table.connect("itemChanged(QTableWidgetItem*)", self._onItemChanged)

    @property
    def ids(self) -> list[str]:
        """The ids of all cases that something can be learned from."""
        return [revision.case.id for revision in self._revisions if revision.case.annotated]

    @property
    def state(self) -> str:
        """Something that is another when the project or its cases have changed."""
        return str(self._read)

    def show(self, project: Path | None, leftOut: Sequence[str]) -> None:
        """Show a project's cases; it is read again only when its file has changed."""
        now = (project, _changed(project))
        if now != self._read:
            self._read = now
            state, self.problem = readProject(project)
            self._state, self._revisions = state, () if state is None else state.current
        self.names = CaseNames.of(self._state)  # a scan's name may be known a moment after its case is there
        self._fill(set(leftOut))

    def _fill(self, leftOut: set[str]) -> None:
        self._filling = True
        for widget in (self._title, self._table):
            widget.setVisible(bool(self._revisions))
        self._table.setRowCount(len(self._revisions))
        for row, revision in enumerate(self._revisions):
            case = revision.case
            none = _("none: the model cannot learn from it")
            details = "\n".join(
                [
                    self.names.text(case.id),
                    _("Reviewed: {names}").format(names=", ".join(case.annotated) or none),
                    _("Saved {time}").format(time=local_time(revision.created)),
                ]
            )
            for column, text in enumerate((breakable(self.names.row(case.id)), structuresText(case.annotated) or none)):
                item = self._table.item(row, column)
                if item is None:
                    item = qt.QTableWidgetItem()
                    self._table.setItem(row, column, item)
                item.setText(text)
                item.setToolTip(details)
            tick = self._table.item(row, 0)
            canLearn = bool(case.annotated)
            tick.setFlags(qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable | (qt.Qt.ItemIsEnabled if canLearn else 0))
            tick.setCheckState(qt.Qt.Checked if canLearn and case.id not in leftOut else qt.Qt.Unchecked)
        self._filling = False

    def _onItemChanged(self, item) -> None:
        """Tell which cases have no tick now."""
        if self._filling or item.column() != 0:
            return
        rows = [row for row, revision in enumerate(self._revisions) if revision.case.annotated]
        without = [row for row in rows if int(self._table.item(row, 0).checkState()) != int(qt.Qt.Checked)]
        self.onToggled(tuple(self._revisions[row].case.id for row in without))


def _changed(project: Path | None) -> float:
    """Return when a project was last changed, 0 when there is none (any more)."""
    try:
        return 0.0 if project is None else (project / FILE_NAME).stat().st_mtime
    except OSError:
        return 0.0
