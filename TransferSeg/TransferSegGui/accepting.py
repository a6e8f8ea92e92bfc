"""Fewer clicks while correcting: ticks follow what was drawn, one key for what is right, and on to the next scan."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from TransferSegGui.button_state import enable
from TransferSegGui.next_scan import SCAN_FOLDER, loadedScan, segmentationOf
from TransferSegGui.reviewed_table import isReviewed, setReviewed, wasUnticked
from TransferSegGui.scan_ahead import ScanAhead
from TransferSegGui.scan_order import ScanOrder
from TransferSegGui.shortcut_keys import ACCEPT_KEYS, RIGHT_KEYS, keysText


class Accepting(VTKObservationMixin):
    """Wires *Accept and next*, the keys, and the scan ahead.

    ``save`` saves the case and returns whether it is on its way, ``goOn`` shows the next scan, ``segment`` segments
    the scan that is shown, ``adopt`` shows what a run has made ahead, ``awaited`` that it is not done yet, ``failed``
    why it has made nothing of a volume, ``invite`` that the user is to segment one, ``showStatus`` a status line and
    ``reportAhead`` why no scan can be segmented ahead.
    """

    def __init__(self, ui, makeRun: Callable, order: ScanOrder) -> None:
        """Connect the widgets; ``makeRun`` is that of ``ScanAhead``, ``order`` tells which scan comes next."""
        VTKObservationMixin.__init__(self)
        self.ui, self._order = ui, order
        self.save: Callable[[], bool] = lambda: False
        self.goOn: Callable[[], None] = lambda: None
        self.segment: Callable[[], None] = lambda: None
        self.adopt: Callable = lambda run: None
        self.showStatus: Callable[[str], None] = lambda text: None
        self.reportAhead: Callable[[str], None] = lambda text: None
        self.invite: Callable = lambda volume: None
        self.awaited: Callable[[ScanAhead], None] = lambda ahead: None
        self.failed: Callable = lambda run, volume: None
        self.ahead = ScanAhead(makeRun, self._onAhead)
        self.ahead.failed = self._onAheadFailed
        self._parameterNode = self._segmentation = self._volume = None
        self._isGoingOn = False
        self._folder = ""
        self._shortcuts = []
        ui.acceptButton.connect("clicked(bool)", self.accept)
        ui.segmentAheadCheckBox.connect("toggled(bool)", self._onAheadToggled)
        for keys, slot in ((ACCEPT_KEYS, self._onAcceptKeys), (RIGHT_KEYS, self.acceptStructure)):
            shortcut = qt.QShortcut(qt.QKeySequence(keys), ui.correctCollapsibleButton)
            shortcut.connect("activated()", slot)
            shortcut.enabled = False
            self._shortcuts.append(shortcut)

    def listen(self, listens: bool) -> None:
        """React to the keys, or not: only while the module is open."""
        for shortcut in self._shortcuts:
            shortcut.enabled = listens

    def show(self, parameterNode, segmentation, volume) -> None:
        """Follow a segmentation and its volume, None for none."""
        self._parameterNode, self._volume = parameterNode, volume
        self.ahead.seen(volume)
        folder = "" if parameterNode is None else parameterNode.GetParameter(SCAN_FOLDER)
        if folder != self._folder:
            self._folder = folder
            self.reportAhead("")
            if not self.ahead.isFor(volume):
                self.ahead.giveUp()  # it belongs to the previous folder
        if segmentation is not self._segmentation:
            self.removeObservers()
            self._segmentation = segmentation
            if segmentation is not None:
                event = slicer.vtkSegmentation.SourceRepresentationModified
                self.addObserver(segmentation.GetSegmentation(), event, self._onDrawn)

    def updateButton(self, obstacle: str) -> None:
        """Enable the button unless something other than missing ticks is in the way."""
        text = _(
            "Save the case, then show the next scan and segment it ({keys}). If nothing is ticked, all structures that "
            "are shown count as right."
        )
        enable(self.ui.acceptButton, obstacle, text.format(keys=keysText(ACCEPT_KEYS)))

    # Structures

    def _onDrawn(self, caller, event) -> None:
        """Tick what is drawn with a tool of the Segment Editor, unless the user took that tick away."""
        editor = self.ui.segmentEditorWidget
        node = editor.mrmlSegmentEditorNode()
        if node is None or not node.GetActiveEffectName() or not editor.currentSegmentID():
            return
        segment = self._segmentation.GetSegmentation().GetSegment(editor.currentSegmentID())
        if segment is not None and not isReviewed(segment) and not wasUnticked(segment):
            setReviewed(segment, True)
            text = _("'{name}' was changed and is ticked: untick it if it is not right yet.")
            self.showStatus(text.format(name=segment.GetName()))

    @property
    def structure(self) -> str:
        """The name of the structure that is chosen, empty when none is."""
        chosen = self.ui.segmentEditorWidget.currentSegmentID() if self._segmentation is not None else ""
        segment = self._segmentation.GetSegmentation().GetSegment(chosen) if chosen else None
        return "" if segment is None else segment.GetName()

    def acceptStructure(self) -> None:
        """Tick the structure that is chosen, and choose the next one that has no tick."""
        editor = self.ui.segmentEditorWidget
        if self._segmentation is None or not editor.currentSegmentID():
            return
        segmentation = self._segmentation.GetSegmentation()
        ids, current = list(segmentation.GetSegmentIDs()), editor.currentSegmentID()
        setReviewed(segmentation.GetSegment(current), True)
        place = ids.index(current)
        later = [each for each in ids[place + 1 :] + ids[:place] if not isReviewed(segmentation.GetSegment(each))]
        if later:
            editor.setCurrentSegmentID(later[0])
            self._jumpTo(later[0])
        else:
            self.showStatus(_("All structures are ticked: save the case."))

    def _jumpTo(self, segmentId: str) -> None:
        center = self._segmentation.GetSegmentCenterRAS(segmentId)
        if center is not None:
            slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *center)

    # Scans

    def _onAcceptKeys(self) -> None:
        if self.ui.acceptButton.enabled:
            self.accept()

    def accept(self) -> None:
        """Save the case with what is ticked, or with all that is shown, and go on to the next scan."""
        segmentation = self._segmentation.GetSegmentation()
        ids = list(segmentation.GetSegmentIDs())
        if not any(isReviewed(segmentation.GetSegment(each)) for each in ids):
            display = self._segmentation.GetDisplayNode()
            for each in ids:
                if display is None or display.GetSegmentVisibility(each):
                    setReviewed(segmentation.GetSegment(each), True)
        if not self.save():
            return  # the status line says why
        self._isGoingOn = True
        try:
            self.goOn()
        finally:
            self._isGoingOn = False

    def arrived(self, volume) -> bool:
        """Show what was segmented ahead of a scan that is shown now, and begin with the one after it.

        Returns whether nothing was, nor will be: the user is asked to segment it.
        """
        made = self.ahead.take(volume)
        if made is not None:
            self.adopt(made)
            self.lookAhead()
        elif self._segmentation is not None:
            self.lookAhead()  # it was segmented before, and is not saved yet
        elif self.ahead.isFor(volume):
            self.awaited(self.ahead)
        elif self._isGoingOn and self.ui.segmentButton.enabled:
            self.ahead.giveUp()
            self.segment()  # its result is what begins the scan after it
        else:
            self.invite(volume)
            return True
        return False

    def lookAhead(self) -> None:
        """Begin to segment the scan after this one, if scans come from a folder."""
        self.reportAhead("")
        folder = "" if self._parameterNode is None else self._parameterNode.GetParameter(SCAN_FOLDER)
        if not folder or not self.ui.segmentAheadCheckBox.checked or self.ahead.isFor(self._volume):
            return
        try:
            file = self._order.next(self._volume)
            volume = None if file is None else loadedScan(file)
            if file is not None and (volume is None or segmentationOf(volume) is None):
                self.ahead.begin(file)
        except (RuntimeError, OSError) as error:
            self.reportAhead(str(error))

    def _onAhead(self, volume) -> None:
        if volume is self._volume and self._segmentation is None:
            self.arrived(volume)  # the user was faster

    def _onAheadFailed(self, run, volume) -> None:
        if volume is self._volume and self._segmentation is None:
            self.failed(run, volume)

    def _onAheadToggled(self, checked: bool) -> None:
        if not checked:
            self.ahead.giveUp()
            self.reportAhead("")
