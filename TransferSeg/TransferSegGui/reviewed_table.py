"""The list of structures: what is drawn with the Segment Editor, and which are right in this scan, so learned from."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from TransferSegGui.colors import square
from TransferSegGui.shortcut_keys import RIGHT_KEYS, keysText
from TransferSegGui.table_columns import setColumns
from TransferSegLib.anatomy import describe_structure, readable_name
from TransferSegLib.corrections.revisions import ProjectState
from TransferSegLib.display_colors import distinguishable
from TransferSegLib.images.formats.slicer_segmentation import terminology_entry
from TransferSegLib.structures import LabelSet, Structure, structure_key

#: Tag of a segment; it is saved with the segmentation and stays when the segment is renamed.
REVIEWED_TAG = "TransferSeg.Reviewed"
#: Tag of a segment whose tick was taken away.
_UNTICKED_TAG = "TransferSeg.Unticked"
#: The columns with names and ticks, with what a structure counts as, and with what is shown.
_NAME, _COUNTS, _SHOWN = 0, 1, 2
#: From so many structures on they can be searched.
_MANY = 12


class ReviewedTable(VTKObservationMixin):
    """Shows the segments of a segmentation, and the project's structures that it lacks, with a tick for each.

    It takes the place of the Segment Editor's own list: the selected structure is the one that is drawn, a double click
    renames it, the last column shows and hides it. The ticks are tags of the segments: two segmentations have two
    lists, and a scene keeps them. ``changed`` is called after a tick, and when segments come, go or are renamed,
    ``selected`` with the ID of a segment that is chosen, ``refused`` with the reason why a name was not taken,
    ``drawn`` with the name of a structure of the project that is to be drawn here, too.
    """

    def __init__(self, table, searchLineEdit) -> None:
        """Connect a QTableWidget, and the line that searches it."""
        VTKObservationMixin.__init__(self)
        self.changed: Callable[[], None] = lambda: None
        self.selected: Callable[[str], None] = lambda segmentId: None
        self.refused: Callable[[str], None] = lambda reason: None
        self.drawn: Callable[[str], None] = lambda name: None
        self._table, self._search = table, searchLineEdit
        self._display = None
        self._segmentation = None
        self._project: ProjectState | None = None
        self._rows: list[tuple[str, Structure | None]] = []
        self._updating = False
        setColumns(table, [_("Right in this scan"), _("Counts\nas"), _("Show")], _NAME)
        table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        table.setEditTriggers(qt.QAbstractItemView.DoubleClicked | qt.QAbstractItemView.EditKeyPressed)
        table.connect("itemChanged(QTableWidgetItem*)", self._onItemChanged)
        table.connect("itemSelectionChanged()", self._onSelected)
        table.connect("cellDoubleClicked(int,int)", self._onDoubleClicked)
        searchLineEdit.connect("textChanged(QString)", self._filter)

    def show(self, segmentationNode, project: ProjectState | None) -> None:
        """Follow a segmentation (None: an empty list), with the structures of a project."""
        segmentation = segmentationNode.GetSegmentation() if segmentationNode is not None else None
        display = segmentationNode.GetDisplayNode() if segmentationNode is not None else None
        self._project = project
        if segmentation is not self._segmentation or display is not self._display:
            self.removeObservers()
            self._segmentation, self._display = segmentation, display
            if segmentation is not None:
                for event in ("SegmentAdded", "SegmentRemoved", "SegmentModified", "SegmentsOrderModified"):
                    self.addObserver(segmentation, getattr(slicer.vtkSegmentation, event), self._onSegments)
            if display is not None:
                self.addObserver(display, vtk.vtkCommand.ModifiedEvent, self._onDisplay)
        self.update()

    def select(self, segmentId: str) -> None:
        """Show which segment is drawn; ``selected`` is not called."""
        ids = [each for each, _structure in self._rows]
        self._updating = True
        if segmentId in ids:
            self._table.selectRow(ids.index(segmentId))
        else:
            self._table.clearSelection()
        self._updating = False

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
        self._search.setVisible(len(self._rows) >= _MANY)
        self._filter()

    def _segmentRows(self) -> list[tuple[str, Structure | None]]:
        return [(each, None) for each in self._segmentation.GetSegmentIDs()] if self._segmentation is not None else []

    def _missingRows(self) -> list[tuple[str, Structure | None]]:
        """Return the project's structures without a segment: ticking one says that it is absent from the scan."""
        if self._segmentation is None or self._project is None:
            return []
        there = {keyOf(self._segmentation.GetSegment(each).GetName()) for each in self._segmentation.GetSegmentIDs()}
        missing = tuple(structure for structure in self._project.label_set if structure.key not in there)
        return [("", structure) for structure in _apartFromSegments(missing, self._segmentation)]

    def _fillRow(self, row: int, segmentId: str, structure: Structure | None, counts: dict[str, int]) -> None:
        if structure is None:
            segment = self._segmentation.GetSegment(segmentId)
            name, ticked = segment.GetName(), isReviewed(segment)
            color = qt.QColor.fromRgbF(*segment.GetColor())
            counted = _("learned") if ticked else _("ignored")
        else:
            name, ticked, color = structure.name, False, qt.QColor(*structure.color)
            counted = _("ignored")
        first, shown = self._item(row, _NAME), self._item(row, _SHOWN)
        first.setText(name)
        first.setCheckState(qt.Qt.Checked if ticked else qt.Qt.Unchecked)
        isSegment = structure is None
        canRename = qt.Qt.ItemIsEditable if isSegment else 0
        first.setFlags(qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | canRename)
        first.setIcon(square(self._table, color))
        font = first.font()
        font.setItalic(not isSegment)
        first.setFont(font)
        first.setToolTip(_detailsText(name, isSegment, counts.get(keyOf(name), 0)))
        self._item(row, _COUNTS).setText(counted)
        hasDisplay = isSegment and self._display is not None
        visible = hasDisplay and self._display.GetSegmentVisibility(segmentId)
        shown.setCheckState(qt.Qt.Checked if visible else qt.Qt.Unchecked)
        shown.setFlags(qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsSelectable | (qt.Qt.ItemIsEnabled if hasDisplay else 0))
        shown.setToolTip(_("Show the structure in the views"))

    def _item(self, row: int, column: int):
        item = self._table.item(row, column)
        if item is None:
            item = qt.QTableWidgetItem()
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
            self._table.setItem(row, column, item)
        return item

    def _filter(self) -> None:
        """List only structures whose names contain the words that are searched for."""
        many = len(self._rows) >= _MANY
        words = self._search.text.lower().split() if many else []
        for row in range(len(self._rows)):
            name = self._table.item(row, _NAME).text().lower()
            self._table.setRowHidden(row, not all(word in name for word in words))

    def _onSelected(self) -> None:
        rows = {item.row() for item in self._table.selectedItems()}
        if not self._updating and rows and self._rows[min(rows)][0]:
            self.selected(self._rows[min(rows)][0])

    def _onDoubleClicked(self, row: int, column: int) -> None:
        """Let a structure of the project be drawn in this scan, too."""
        if not 0 <= row < len(self._rows) or self._rows[row][1] is None:
            return
        structure = self._rows[row][1]
        self.selected(addStructure(self._segmentation, structure))
        self.drawn(structure.name)

    def _onItemChanged(self, item) -> None:
        """Keep a tick with its segment; for a structure without one an empty segment is made."""
        if self._updating or item.row() >= len(self._rows):
            return
        ticked = int(item.checkState()) == int(qt.Qt.Checked)
        segmentId, structure = self._rows[item.row()]
        if item.column() == _SHOWN and self._display is not None:
            self._display.SetSegmentVisibility(segmentId, ticked)
        if item.column() != _NAME:
            return
        if structure is not None:
            if not ticked:
                return
            segmentId = addStructure(self._segmentation, structure)
        segment = self._segmentation.GetSegment(segmentId)
        if structure is None and item.text() != segment.GetName():
            self._rename(segment, item.text())
        elif isReviewed(segment) != ticked:
            setReviewed(segment, ticked)

    def _rename(self, segment, name: str) -> None:
        """Give a segment the name that was typed, unless another one has it."""
        name = " ".join(name.split())
        others = [self._segmentation.GetSegment(each) for each in self._segmentation.GetSegmentIDs()]
        if not name:
            self.refused(_("A structure needs a name."))
        elif any(other is not segment and keyOf(other.GetName()) == keyOf(name) for other in others):
            self.refused(_("There is already a structure '{name}'.").format(name=name))
        else:
            segment.SetName(name)
        self.update()

    def _onDisplay(self, caller, event) -> None:
        self.update()

    def _onSegments(self, caller, event) -> None:
        self.update()
        self.changed()


def _detailsText(name: str, isSegment: bool, cases: int) -> str:
    """Return what a row has no room for, a line each: for its tooltip."""
    tick = _(
        "Tick it if it is right wherever it is in this scan ({keys}). The model learns only from ticked structures."
    )
    if not isSegment:
        tick = _("It is not drawn in this scan: double-click it to draw it.")
        tick += "\n" + _("Tick it if it is absent: the model learns that, too.")
    counted = _("Reviewed in 1 case of the project") if cases == 1 else _("Reviewed in {count} cases of the project")
    return "\n".join([name, tick.format(keys=keysText(RIGHT_KEYS)), counted.format(count=cases)])


def keyOf(name: str) -> str:
    """Return the form of a structure's name that is compared, with the catalogue's word for it."""
    return structure_key(readable_name(name or ""))


def isReviewed(segment) -> bool:
    """Return whether a segment is ticked."""
    return segment.HasTag(REVIEWED_TAG)


def wasUnticked(segment) -> bool:
    """Return whether a tick was taken away: then none is set but by the user."""
    return segment.HasTag(_UNTICKED_TAG)


def setReviewed(segment, reviewed: bool) -> None:
    """Tick a segment, or take the tick away."""
    if reviewed:
        segment.SetTag(REVIEWED_TAG, "1")
        segment.RemoveTag(_UNTICKED_TAG)
    elif segment.HasTag(REVIEWED_TAG):
        segment.RemoveTag(REVIEWED_TAG)
        segment.SetTag(_UNTICKED_TAG, "1")


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
    (structure,) = _apartFromSegments((describe_structure(readable_name(name), 1),), segmentation)
    return addStructure(segmentation, structure)


def _apartFromSegments(structures: tuple[Structure, ...], segmentation) -> tuple[Structure, ...]:
    """Return structures with colours that can be told from each other's, and from those of the segments."""
    if not structures:
        return ()
    colors = [segmentation.GetSegment(each).GetColor() for each in segmentation.GetSegmentIDs()]
    taken = tuple(tuple(round(255 * part) for part in color) for color in colors)
    return tuple(distinguishable(LabelSet(structures), taken))
