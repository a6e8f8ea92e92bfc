"""The project's cases in their table, the buttons below it, and "Next scan": what is corrected next."""

from __future__ import annotations

from collections.abc import Callable

from slicer.i18n import tr as _

from TransferSegGui.button_state import enable
from TransferSegGui.case_names import CaseNames
from TransferSegGui.case_opening import caseOf, openCase
from TransferSegGui.case_table import CaseTable
from TransferSegGui.correction_process import CorrectionProcess
from TransferSegGui.next_scan import loadScan, nextVolume, remainingVolumes, scanFiles, segmentationOf, whyNoScan
from TransferSegGui.nodes import hideOthers, showStructure
from TransferSegGui.project_choice import projectFolder
from TransferSegGui.scan_order import ScanOrder
from TransferSegGui.segment_panel import INPUT_VOLUME, OUTPUT_SEGMENTATION
from TransferSegLib.corrections.project import Project
from TransferSegLib.corrections.revisions import ProjectState, Revision
from TransferSegLib.errors import DatasetError


class CaseButtons:
    """Opens, removes and restores cases of a project, and shows the next scan in the order of a ``ScanOrder``.

    ``choose`` gets the volume and the segmentation (None: there is none yet) to work on next, ``showStatus`` a status
    line, ``showDone`` that no scan is left; ``projectChanged`` is called when cases were removed or restored,
    ``nextShown`` with the next scan's volume: it returns whether the user is to segment that.
    """

    def __init__(self, ui, order: ScanOrder, otherModel: Callable[[object], str] = lambda segmentation: "") -> None:
        """Connect the widgets; ``otherModel`` tells whether a segmentation is not by the model that is chosen."""
        self.choose: Callable = lambda volume, segmentation: None
        self.showStatus: Callable[[str], None] = lambda text: None
        self.projectChanged: Callable[[], None] = lambda: None
        self.showDone: Callable[[str], None] = lambda text: None
        self.nextShown: Callable[[object], bool] = lambda volume: False
        self.ui, self._order, self._otherModel = ui, order, otherModel
        self.table = CaseTable(ui.caseTable)
        self.table.changed = self.updateButtons
        self._parameterNode = None
        self._project: ProjectState | None = None
        self.ui.openCaseButton.connect("clicked(bool)", self._onOpen)
        self.ui.removeCaseButton.connect("clicked(bool)", self._onRemove)
        self.ui.restoreCaseButton.connect("clicked(bool)", self._onRestore)
        self.ui.nextScanButton.connect("clicked(bool)", self.showNext)
        self.ui.caseTable.connect("cellDoubleClicked(int,int)", self._onOpen)

    def show(self, parameterNode, project: ProjectState | None) -> None:
        """Show the cases of a project (None: there is none yet)."""
        self._parameterNode, self._project = parameterNode, project
        self.table.show(project)
        hasCases = project is not None and bool(project.current or project.removed)
        ui = self.ui
        buttons = (ui.openCaseButton, ui.removeCaseButton, ui.restoreCaseButton)
        for widget in (ui.caseTableLabel, ui.caseTable, *buttons):
            widget.setVisible(hasCases)

    def _onOpen(self) -> None:
        selected = self.table.selected()
        if selected is not None and not selected.removed:
            self.open(selected.case.id)

    def open(self, case: str, structure: str = "") -> str:
        """Open a case, and show the middle of a structure in the slice views; returns the status line."""
        held = [] if self._project is None else self._project.current
        # One of two parts of a scan that was divided for a test is called "case-0001 part 2".
        revision = next((each for each in held if case in (each.case.id, *_partsOf(each.case.id))), None)
        if revision is None:
            text = _("{case} is not in the project any more.").format(case=case)
        else:
            text = self._open(revision, structure)
        self.showStatus(text)
        return text

    def _open(self, revision: Revision, structure: str) -> str:
        try:
            volume, segmentation = openCase(self._project, revision)
        except RuntimeError as error:
            return str(error)
        self._leaveScan(volume)
        self.choose(volume, segmentation)
        if structure:
            showStructure(segmentation, structure)
        text = _("{case} is open. Saving it creates revision {number}.")
        return text.format(case=self._nameOf(revision.case.id), number=revision.number + 1)

    def _nameOf(self, case: str) -> str:
        """Return what a sentence calls a case."""
        return CaseNames.of(self._project).text(case)

    def _onRemove(self) -> None:
        self._change(lambda project, case: project.remove_case(case), _("{case} is removed. It can be restored."))

    def _onRestore(self) -> None:
        self._change(lambda project, case: project.restore_case(case), _("{case} is restored."))

    def _change(self, change: Callable, text: str) -> None:
        selected = self.table.selected()
        if selected is None:
            return
        try:
            change(Project(self._project.folder, timeout_s=1.0), selected.case.id)
        except DatasetError as error:
            self.showStatus(str(error))
            return
        self.projectChanged()
        self.showStatus(text.format(case=self._nameOf(selected.case.id)))

    def showNext(self) -> None:
        """Show the next scan that is not yet in the project."""
        folder, unreadable = self._order.folder, []
        current = self._parameterNode.GetNodeReference(INPUT_VOLUME)
        try:
            if folder is not None:
                volume, unreadable = self._nextOfFolder(current)
                why = whyNoScan(folder)
            else:
                volume = nextVolume(projectFolder(self._parameterNode), current)
                why = _("There is no other scan in the loaded volumes to correct.")
        except (RuntimeError, OSError) as error:
            self.showStatus(str(error))
            return
        if volume is None:
            done = self._allDone()
            show = self.showDone if done else self.showStatus
            show(" ".join([*unreadable, done or why]))
            return
        self._order.shown(volume)
        self._leaveScan(volume)
        made = segmentationOf(volume)
        if made is not None and made.GetDisplayNode() is not None:
            made.GetDisplayNode().SetVisibility(True)
        self.choose(volume, made)
        text = " ".join([*unreadable, _("'{name}' is next.").format(name=volume.GetName())])
        if folder is not None:
            count = len(self._order.remaining())
            left = _("{count} scans in the folder are not saved as cases yet.")
            left = _("1 scan in the folder is not saved as a case yet.") if count == 1 else left
            text += " " + left.format(count=count)
        other = "" if made is None else self._otherModel(made)
        text += f" {other}" if other else ""
        self.showStatus(text)
        if self.nextShown(volume):
            section = self.ui.segmentCollapsibleButton.text
            self.showStatus(text + " " + _("Segment it: section '{name}', above.").format(name=section))

    def _allDone(self) -> str:
        """Return that all scans are saved and what comes next, empty while scans are left, and without any case."""
        folder, project = self._order.folder, projectFolder(self._parameterNode)
        left = remainingVolumes(project) if folder is None else self._order.remaining()
        onTheirWay = [each for each in CorrectionProcess.volumesOnTheirWay(project) if not caseOf(each, project)]
        count = len(onTheirWay) + (0 if self._project is None else len(self._project.current))
        if left or not count or (folder is not None and not scanFiles(folder)):
            return ""
        done = _("All loaded volumes are done.") if folder is None else _("All scans of the folder are done.")
        ready = _("1 case is ready.") if count == 1 else _("{count} cases are ready.").format(count=count)
        following = _("Next comes the section '{name}', below.").format(name=self.ui.fineTuneCollapsibleButton.text)
        return " ".join([done, ready, following])

    def _leaveScan(self, volume) -> None:
        """Hide what was made of other scans, and the segmentation that was chosen: ``volume`` is shown from now on."""
        hideOthers(volume)
        chosen = self._parameterNode.GetNodeReference(OUTPUT_SEGMENTATION)
        if chosen is not None and chosen.GetDisplayNode() is not None:
            chosen.GetDisplayNode().SetVisibility(False)

    def _nextOfFolder(self, current) -> tuple[object, list[str]]:
        """Return the volume of the folder's next scan (None: there is none), and a line on each that cannot be read."""
        self._order.look()
        unreadable = []
        while (file := self._order.next(current)) is not None:
            try:
                return loadScan(file), unreadable
            except RuntimeError as error:
                self._order.leaveOut(file)
                unreadable.append(str(error))
        return None, unreadable

    def updateButtons(self) -> None:
        """Enable what can be done now; a disabled button gives the reason in its tooltip."""
        selected = self.table.selected()
        none = _("Select a case first.") if selected is None else ""
        removed = selected is not None and bool(selected.removed)
        gone = _("The case is removed: restore it first.") if removed else ""
        there = "" if removed else _("The case is not removed.")
        enable(self.ui.openCaseButton, none or gone, _("Load the scan and its corrections, to continue."))
        enable(self.ui.removeCaseButton, none or gone, _("Stop using the case. Its files are kept."))
        enable(self.ui.restoreCaseButton, none or there, _("Use the case again."))
        noScene = _("There is no scene.") if self._parameterNode is None else ""
        enable(self.ui.nextScanButton, noScene, _("Show the next scan that is not yet in the project."))


def _partsOf(case: str) -> tuple[str, str]:
    return f"{case} part 1", f"{case} part 2"
