"""The table of a project's cases: scan, reviewed structures, drawing effort, state; the rest is in the tooltips."""

from __future__ import annotations

import qt
from slicer.i18n import tr as _

from TransferSegGui.case_names import CaseNames
from TransferSegGui.table_columns import breakable, setColumns, structuresText
from TransferSegLib.corrections.effort_curve import metres
from TransferSegLib.corrections.revisions import ProjectState, Revision
from TransferSegLib.wording import local_time

#: The columns with the scan's name, the reviewed structures and the contour that was drawn.
_CASE, _REVIEWED, _EFFORT = 0, 1, 2


class CaseTable:
    """Shows the cases in use, then the removed ones; ``changed`` is called when another row is selected."""

    def __init__(self, table) -> None:
        """Connect a QTableWidget."""
        self.changed = lambda: None
        self._table = table
        self._revisions: list[Revision] = []
        setColumns(table, [_("Case"), _("Reviewed"), _("Effort"), _("State")], _CASE, _REVIEWED)
        table.connect("itemSelectionChanged()", lambda: self.changed())

    def show(self, project: ProjectState | None) -> None:
        """Fill the table; the case that was selected stays selected."""
        before = self.selected()
        self._revisions = [] if project is None else [*project.current, *project.removed]
        self._table.blockSignals(True)
        self._table.clearSelection()
        self._table.setRowCount(len(self._revisions))
        names = CaseNames.of(project)
        for row, revision in enumerate(self._revisions):
            for column, text in enumerate(rowOf(revision, names)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(effortDetails(revision) if column == _EFFORT else caseDetails(revision, names))
                self._table.setItem(row, column, item)
            if before is not None and revision.case.id == before.case.id:
                self._table.selectRow(row)
        self._table.blockSignals(False)
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


def rowOf(revision: Revision, names: CaseNames) -> list[str]:
    """Return the texts of a case's row."""
    return [
        breakable(names.row(revision.case.id)),
        structuresText(revision.case.annotated),
        "" if revision.effort is None else metres(revision.effort.added_path_mm),
        _("removed") if revision.removed else _("in use"),
    ]


def caseDetails(revision: Revision, names: CaseNames) -> str:
    """Return what the row has no room for, a line each; cases of one patient have the same number."""
    patient = names.patients[revision.case.id]
    lines = [
        names.text(revision.case.id),
        _("Reviewed: {names}").format(names=", ".join(revision.case.annotated) or "-"),
        _("Patient {number} of this project").format(number=patient),
        _("Revision {number}, saved {time}").format(number=revision.number, time=local_time(revision.created)),
    ]
    if revision.corrected_from is not None:
        lines.append(_("Corrected from: {model}").format(model=revision.corrected_from))
    if revision.notes:
        lines.append(_("Notes: {notes}").format(notes=revision.notes))
    return "\n".join(lines)


def effortDetails(revision: Revision) -> str:
    """Return what a case took to correct, for the tooltip of its effort: a line for each reviewed structure."""
    if revision.effort is None:
        return _(
            "Not measured: the case was saved without the segmentation that was corrected, or by an older version."
        )
    lines = [
        _("Contour drawn anew or moved: {drawn} of {whole}; slices touched: {slices}").format(
            drawn=metres(revision.effort.added_path_mm),
            whole=metres(revision.effort.path_mm),
            slices=revision.effort.slices_touched,
        )
    ]
    for name, one in revision.effort.structures.items():
        line = _("{name}: {drawn} of {whole}").format(
            name=name, drawn=metres(one.added_path_mm), whole=metres(one.path_mm)
        )
        if one.surface_dice is not None:
            line += _(", surface Dice {dice} at {tolerance} mm").format(
                dice=f"{one.surface_dice:.2f}", tolerance=f"{one.tolerance_mm:g}"
            )
        lines.append(line)
    return "\n".join(lines)
