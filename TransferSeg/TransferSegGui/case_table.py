"""The table of a project's cases: patient, state, revision, reviewed structures, the model they started from."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from TransferSegLib.corrections.revisions import ProjectState, Revision


class CaseTable:
    """Shows the cases in use, then the removed ones; ``changed`` is called when another row is selected."""

    def __init__(self, table) -> None:
        """Connect a QTableWidget."""
        self.changed = lambda: None
        self._table = table
        self._revisions: list[Revision] = []
        header = [
            _("Case"),
            _("Patient"),
            _("State"),
            _("Revision"),
            _("Reviewed"),
            _("Started from"),
            _("Saved (UTC)"),
        ]
        table.setColumnCount(len(header))
        table.setHorizontalHeaderLabels(header)
        table.connect("itemSelectionChanged()", lambda: self.changed())

    def show(self, project: ProjectState | None) -> None:
        """Fill the table; the case that was selected stays selected."""
        before = self.selected()
        self._revisions = [] if project is None else [*project.current, *project.removed]
        self._table.blockSignals(True)
        self._table.clearSelection()
        self._table.setRowCount(len(self._revisions))
        groups = list(dict.fromkeys(revision.case.group for revision in self._revisions))
        for row, revision in enumerate(self._revisions):
            patient = groups.index(revision.case.group) + 1
            for column, text in enumerate(rowOf(revision, patient)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(revision.notes or text)
                self._table.setItem(row, column, item)
            if before is not None and revision.case.id == before.case.id:
                self._table.selectRow(row)
        self._table.blockSignals(False)
        self._table.resizeColumnsToContents()
        self.changed()

    def selected(self) -> Revision | None:
        """Return the selected case's latest revision, None when no row is selected."""
        rows = {item.row() for item in self._table.selectedItems()}
        return self._revisions[min(rows)] if rows and min(rows) < len(self._revisions) else None

    def select(self, caseId: str) -> None:
        """Select a case by its id."""
        for row, revision in enumerate(self._revisions):
            if revision.case.id == caseId:
                self._table.selectRow(row)


def rowOf(revision: Revision, patient: int) -> list[str]:
    """Return the texts of a case's row; cases of one patient have the same number."""
    return [
        revision.case.id,
        str(patient),
        _("removed") if revision.removed else _("in use"),
        str(revision.number),
        ", ".join(revision.case.annotated),
        "" if revision.corrected_from is None else str(revision.corrected_from),
        revision.created.replace("T", " ").removesuffix("Z"),
    ]
