"""The checklist of structures: which of them are right wherever they are in this scan, and so are learned from."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from TransferSegGui.table_columns import setColumns
from TransferSegLib.anatomy import describe_structure, readable_name
from TransferSegLib.corrections.revisions import ProjectState
from TransferSegLib.images.formats.slicer_segmentation import terminology_entry
from TransferSegLib.structures import Structure, structure_key

#: Tag of a segment; it is saved with the segmentation and stays when the segment is renamed.
REVIEWED_TAG = "TransferSeg.Reviewed"


class ReviewedTable(VTKObservationMixin):
    """Shows the segments of a segmentation, and the project's structures that it lacks, with a tick for each.

    The ticks are tags of the segments: two segmentations have two lists, and a scene keeps them. ``changed`` is called
    after a tick, and when segments come, go or are renamed.
    """

    def __init__(self, table) -> None:
        """Connect a QTableWidget."""
        VTKObservationMixin.__init__(self)
        self.changed = lambda: None
        self._table = table
        self._segmentation = None
        self._project: ProjectState | None = None
        self._rows: list[tuple[str, Structure | None]] = []
        self._updating = False
        setColumns(table, [_("Correct in this scan"), _("Counts as"), _("Cases")], 0)
        table.connect("itemChanged(QTableWidgetItem*)", self._onItemChanged)

    def show(self, segmentationNode, project: ProjectState | None) -> None:
        """Follow a segmentation (None: an empty list), with the structures of a project."""
        segmentation = segmentationNode.GetSegmentation() if segmentationNode is not None else None
        self._project = project
        if segmentation is not self._segmentation:
            self.removeObservers()
            self._segmentation = segmentation
            if segmentation is not None:
                for event in ("SegmentAdded", "SegmentRemoved", "SegmentModified", "SegmentsOrderModified"):
                    self.addObserver(segmentation, getattr(slicer.vtkSegmentation, event), self._onSegments)
        self.update()

    def reviewedIds(self) -> list[str]:
        """Return the IDs of the segments that are ticked."""
        if self._segmentation is None:
            return []
        return [each for each in self._segmentation.GetSegmentIDs() if isReviewed(self._segmentation.GetSegment(each))]

    def update(self) -> None:
        """Bring the rows up to date, in place: one of them may be the one that was just clicked."""
        self._rows = self._segmentRows() + self._missingRows()
        counts = self._project.to_dataset().annotated_counts() if self._project is not None else {}
        counts = {structure_key(name): count for name, count in counts.items()}
        self._updating = True
        self._table.setRowCount(len(self._rows))
        for row, (segmentId, structure) in enumerate(self._rows):
            self._fillRow(row, segmentId, structure, counts)
        self._updating = False

    def _segmentRows(self) -> list[tuple[str, Structure | None]]:
        return [(each, None) for each in self._segmentation.GetSegmentIDs()] if self._segmentation is not None else []

    def _missingRows(self) -> list[tuple[str, Structure | None]]:
        """Return the project's structures without a segment: ticking one says that it is absent from the scan."""
        if self._segmentation is None or self._project is None:
            return []
        there = {keyOf(self._segmentation.GetSegment(each).GetName()) for each in self._segmentation.GetSegmentIDs()}
        return [("", structure) for structure in self._project.label_set if structure.key not in there]

    def _fillRow(self, row: int, segmentId: str, structure: Structure | None, counts: dict[str, int]) -> None:
        if structure is None:
            segment = self._segmentation.GetSegment(segmentId)
            name, ticked = segment.GetName(), isReviewed(segment)
            color = qt.QColor.fromRgbF(*segment.GetColor())
            counted = _("learned from") if ticked else _("unknown")
        else:
            name, ticked, color = structure.name, False, qt.QColor(*structure.color)
            counted = _("unknown (no segment)")
        first = self._item(row, 0)
        first.setText(name)
        first.setCheckState(qt.Qt.Checked if ticked else qt.Qt.Unchecked)
        first.setFlags(qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
        square = qt.QPixmap(12, 12)
        square.fill(color)
        first.setIcon(qt.QIcon(square))
        self._item(row, 1).setText(counted)
        self._item(row, 2).setText(str(counts.get(keyOf(name), 0)))

    def _item(self, row: int, column: int):
        item = self._table.item(row, column)
        if item is None:
            item = qt.QTableWidgetItem()
            self._table.setItem(row, column, item)
        return item

    def _onItemChanged(self, item) -> None:
        """Keep a tick with its segment; for a structure without one an empty segment is made."""
        if self._updating or item.column() != 0 or item.row() >= len(self._rows):
            return
        ticked = int(item.checkState()) == int(qt.Qt.Checked)
        segmentId, structure = self._rows[item.row()]
        if structure is not None:
            if not ticked:
                return
            segmentId = addStructure(self._segmentation, structure)
        setReviewed(self._segmentation.GetSegment(segmentId), ticked)

    def _onSegments(self, caller, event) -> None:
        self.update()
        self.changed()


def keyOf(name: str) -> str:
    """Return the form of a structure's name that is compared, with the catalogue's word for it."""
    return structure_key(readable_name(name or ""))


def isReviewed(segment) -> bool:
    """Return whether a segment is ticked."""
    return segment.HasTag(REVIEWED_TAG)


def setReviewed(segment, reviewed: bool) -> None:
    """Tick a segment, or take the tick away."""
    if reviewed:
        segment.SetTag(REVIEWED_TAG, "1")
    else:
        segment.RemoveTag(REVIEWED_TAG)


def addStructure(segmentation, structure: Structure) -> str:
    """Add an empty segment for a structure, with its colour and terminology; returns its ID."""
    segmentId = segmentation.AddEmptySegment("", structure.name, [part / 255 for part in structure.color])
    segment = segmentation.GetSegment(segmentId)
    segment.SetNameAutoGenerated(False)
    segment.SetColorAutoGenerated(False)
    segment.SetTag("TerminologyEntry", terminology_entry(structure))
    return segmentId


def newStructure(segmentation, name: str) -> str:
    """Add an empty segment for a structure that is new; returns its ID, raises ValueError that says why not."""
    name = " ".join(name.split())
    if not name:
        raise ValueError(_("Type the structure's name first."))
    for each in segmentation.GetSegmentIDs():
        if keyOf(segmentation.GetSegment(each).GetName()) == keyOf(name):
            raise ValueError(_("There is already a structure '{name}'.").format(name=name))
    return addStructure(segmentation, describe_structure(readable_name(name), 1))
