"""The panel's section "Correct": edit a segmentation, tick what is right in it, save it as a case of the project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ctk
import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from TransferSegGui.accepting import Accepting
from TransferSegGui.annotated_region import regionOf
from TransferSegGui.button_state import enable
from TransferSegGui.case_buttons import CaseButtons
from TransferSegGui.case_names import CaseNames
from TransferSegGui.case_opening import caseOf, markAsCase
from TransferSegGui.correction_process import Correction, CorrectionProcess, patientId
from TransferSegGui.label_map import labelSetOf
from TransferSegGui.next_scan import SCAN_FOLDER, rememberSaved
from TransferSegGui.nodes import hasVoxels, referenceVolume, takeBack
from TransferSegGui.predictions import forgetPredictions
from TransferSegGui.project_choice import PROJECT, PROJECT_SETTING, defaultProject, projectFolder, readProject
from TransferSegGui.region_widgets import RegionWidgets
from TransferSegGui.reviewed_table import ReviewedTable, newStructure
from TransferSegGui.scan_order import ScanOrder
from TransferSegGui.segment_panel import INPUT_VOLUME, OUTPUT_SEGMENTATION
from TransferSegGui.status_line import StatusLines
from TransferSegLib.corrections.revisions import ProjectState
from TransferSegLib.errors import TransferSegError


class CorrectPanel(VTKObservationMixin):
    """Wires the section to the volume and segmentation of the section "Segment", and to a project of corrected cases.

    What the user chose is in the parameter node, what was ticked and marked is with the segmentation. ``status`` are
    the lines of all that goes on in the section. ``casesChanged``
    holds functions to call when the project's cases may have changed, ``buttonsUpdated`` is called when buttons were.
    """

    def __init__(self, ui, segmentPanel) -> None:
        """Connect the widgets of the .ui file; the section "Segment" segments what comes next."""
        VTKObservationMixin.__init__(self)
        self.ui = ui
        self.casesChanged: list[Callable[[], None]] = []
        self.buttonsUpdated: Callable[[], None] = lambda: None
        self.saving: CorrectionProcess | None = None
        self._parameterNode = None
        self._project: ProjectState | None = None
        self._projectProblem = ""
        #: The project that the status lines are about.
        self._told: Path | None = None
        self._names = CaseNames()
        self._segmentation, self._volume = None, None
        self._updating = False
        self._confirmedModality: tuple[str, object] | None = None
        self.status = StatusLines(ui.correctionStatusLabel)
        self.reviewed = ReviewedTable(ui.reviewedTable, ui.reviewedSearchLineEdit)
        self.region = RegionWidgets(ui)
        self.order = ScanOrder(segmentPanel.chosenModel)
        self.cases = CaseButtons(ui, self.order, segmentPanel.otherModel)
        self.cases.choose, self.cases.showStatus, self.cases.projectChanged = (
            self._choose,
            self._showStatus,
            self._readProject,
        )
        self.accepting = Accepting(ui, segmentPanel.runFor, self.order)
        self.accepting.save, self.accepting.goOn = self._onSave, self.cases.showNext
        self.accepting.segment, self.accepting.adopt = ui.segmentButton.click, segmentPanel.adopt
        self.accepting.awaited, self.accepting.failed = segmentPanel.awaitAhead, segmentPanel.showFailure
        self.accepting.invite = segmentPanel.invite
        self.accepting.showStatus, self.accepting.reportAhead = self._showStatus, self._reportAhead
        self.cases.nextShown, self.cases.showDone = self.accepting.arrived, self._showDone
        segmentPanel.onResult = self.accepting.lookAhead
        self.reviewed.changed = self.region.changed = self._updateButtons
        self.reviewed.selected, self.reviewed.refused = ui.segmentEditorWidget.setCurrentSegmentID, self._showStatus
        _hideOwnList(ui.segmentEditorWidget)
        self.ui.saveProgressBar.setVisible(False)
        self._connect()

    def _connect(self) -> None:
        for folder in (self.ui.projectPathLineEdit, self.ui.scanFolderPathLineEdit):
            folder.filters = ctk.ctkPathLineEdit.Dirs  # or its button would ask for a file
        self.ui.projectPathLineEdit.connect("currentPathChanged(QString)", self._onProjectTyped)
        self.ui.scanFolderPathLineEdit.connect("currentPathChanged(QString)", self._onScanFolderTyped)
        self.ui.segmentEditorWidget.connect("currentSegmentIDChanged(QString)", self.reviewed.select)
        self.ui.newStructureLineEdit.connect("textChanged(QString)", self._updateButtons)
        self.ui.newStructureLineEdit.connect("returnPressed()", self._onAddStructure)
        self.reviewed.drawn = lambda name: self._showStatus(_("Draw '{name}', then tick it.").format(name=name))
        for button, slot in (
            (self.ui.addStructureButton, self._onAddStructure),
            (self.ui.saveCorrectionButton, self._onSave),
            (self.ui.cancelSaveButton, self._onCancel),
        ):
            button.connect("clicked(bool)", slot)

    def refresh(self) -> None:
        """Look at the project again: a script may have changed it while another module was open."""
        self._readProject()
        self.updateFromParameterNode()

    def setParameterNode(self, parameterNode) -> None:
        """Follow another parameter node, None while there is none."""
        self._parameterNode = parameterNode
        self.cases.show(parameterNode, self._project)
        if parameterNode is None:
            self._show(None, None)
            return
        if not parameterNode.GetParameter(PROJECT):
            parameterNode.SetParameter(PROJECT, defaultProject())
        self.ui.segmentEditorWidget.setMRMLSegmentEditorNode(_editorNode())
        self.updateFromParameterNode()

    def updateFromParameterNode(self) -> None:
        """Show what the parameter node says."""
        node = self._parameterNode
        if node is None or self._updating:
            return
        self._updating = True
        self.ui.projectPathLineEdit.currentPath = node.GetParameter(PROJECT)
        self.ui.scanFolderPathLineEdit.currentPath = node.GetParameter(SCAN_FOLDER)
        self._updating = False
        folder = projectFolder(node)
        if folder != self._told:
            self._told = folder
            self.status.clear()  # they are about another project
        if self._project is None or self._project.folder != folder:
            self._readProject()
        self._show(node.GetNodeReference(OUTPUT_SEGMENTATION), node.GetNodeReference(INPUT_VOLUME))

    def stop(self) -> None:
        """Release the scene's nodes; a case that is being saved was copied, and is not affected."""
        self.accepting.ahead.stop()
        self._show(None, None)

    def enter(self) -> None:
        """Let the editor react to the mouse in views and to its shortcuts: the module is opened."""
        self.ui.segmentEditorWidget.setupViewObservations()
        self.ui.segmentEditorWidget.installKeyboardShortcuts()
        self.accepting.listen(True)

    def leave(self) -> None:
        """Deactivate the tool: another module is opened, where clicks in views must not paint."""
        self.ui.segmentEditorWidget.setActiveEffectByName("")
        self.ui.segmentEditorWidget.uninstallKeyboardShortcuts()
        self.accepting.listen(False)
        self.ui.segmentEditorWidget.removeViewObservations()

    def close(self) -> None:
        """Wait until all cases on their way are saved, and clear up: Slicer is closing, or the module is reloaded."""
        CorrectionProcess.finishAll()
        forgetPredictions()

    def _show(self, segmentation, volume) -> None:
        """Follow a segmentation and a volume, None for none."""
        if volume is not self._volume:
            self.ui.patientLineEdit.text = ""  # the next scan is of another patient until the user says otherwise
        if segmentation is not self._segmentation or volume is not self._volume:
            self.removeObservers()
            self._segmentation, self._volume = segmentation, volume
            for node in (segmentation, volume):
                if node is not None:
                    self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._onNodeModified)
        editor = self.ui.segmentEditorWidget
        if editor.mrmlSegmentEditorNode() is not None:
            editor.setSegmentationNode(segmentation)
            editor.setSourceVolumeNode(self._referenceVolume() or volume if segmentation is not None else None)
        self.reviewed.show(segmentation, self._project)
        self.reviewed.select(editor.currentSegmentID() if segmentation is not None else "")
        self.accepting.show(self._parameterNode, segmentation, volume)
        self.region.show(segmentation, volume)
        self._updateButtons()

    def _onNodeModified(self, caller, event) -> None:
        self._updateButtons()

    def _referenceVolume(self):
        """Return the volume that the segmentation was made for, None when that is not known."""
        return referenceVolume(self._segmentation) if self._segmentation is not None else None

    # The project

    def _onProjectTyped(self, path: str) -> None:
        if self._parameterNode is not None and not self._updating:
            self._parameterNode.SetParameter(PROJECT, path.strip())
            self._readProject()
            self.updateFromParameterNode()

    def _onScanFolderTyped(self, path: str) -> None:
        if self._parameterNode is not None and not self._updating:
            self._parameterNode.SetParameter(SCAN_FOLDER, path.strip())

    def _readProject(self) -> None:
        self._project, self._projectProblem = readProject(projectFolder(self._parameterNode))
        self._names = CaseNames.of(self._project)
        self.cases.show(self._parameterNode, self._project)
        self.reviewed.show(self._segmentation, self._project)
        self.status.report("project", self._projectProblem, lasts=True)
        for function in self.casesChanged:
            function()

    # Structures

    def _onAddStructure(self) -> None:
        if self._segmentation is None:
            return
        try:
            segmentId = newStructure(self._segmentation.GetSegmentation(), self.ui.newStructureLineEdit.text)
        except ValueError as error:
            self._showStatus(str(error))
            return
        self.ui.newStructureLineEdit.text = ""
        self.ui.segmentEditorWidget.setCurrentSegmentID(segmentId)
        name = self._segmentation.GetSegmentation().GetSegment(segmentId).GetName()
        self._showStatus(_("'{name}' is a new structure: draw it, then tick it.").format(name=name))

    # Saving

    def obstacle(self, needsTicks: bool = True) -> str:
        """Return why the case cannot be saved now, empty when it can; without ``needsTicks`` whatever is ticked."""
        if self.saving is not None:
            return _("A case is being saved.")
        if self._parameterNode is None or self._volume is None:
            return _("Choose an input volume in the section above.")
        if self._segmentation is None:
            return _("Segment the volume, or choose an output segmentation in the section above.")
        reference = self._referenceVolume()
        if reference is not None and reference is not self._volume:
            return _("The segmentation belongs to '{name}': choose that volume.").format(name=reference.GetName())
        if not hasVoxels(self._volume):
            return _("The volume '{name}' has no voxels.").format(name=self._volume.GetName())
        if self._segmentation.GetSegmentation().GetNumberOfSegments() == 0:
            return _("The segmentation has no structures: add one.")
        if needsTicks and not self.reviewed.reviewedIds():
            return _("Tick the structures that are correct in this scan. The model learns only from these.")
        try:
            labelSetOf(self._segmentation)
        except TransferSegError as error:
            return str(error)
        return self.region.obstacle() or self._projectProblem

    def _onSave(self) -> bool:
        """Copy what is to be saved, the rest is done in the background; returns whether the case is on its way."""
        segmentation, volume, folder = self._segmentation, self._volume, projectFolder(self._parameterNode)
        notes = self.ui.notesLineEdit.text
        # A second click after the message about the other modality confirms it.
        anyModality = self._confirmedModality == (volume.GetID(), folder)
        try:
            region = regionOf(segmentation, volume)
            saving = CorrectionProcess(
                Correction(
                    volume,
                    segmentation,
                    self.reviewed.reviewedIds(),
                    folder,
                    region,
                    notes.strip(),
                    anyModality,
                    self.ui.patientLineEdit.text.strip(),
                )
            )
            saving.onProgress = self._onProgress
            before = self._project
            saving.onEnd = lambda saving: self._onSaved(saving, before, notes)
            saving.start()
        except (RuntimeError, TransferSegError) as error:
            self.status.say("save", _notSaved(volume, error), lasts=True)
            return False
        self.status.say("save", _("Saving '{name}' ...").format(name=volume.GetName()), lasts=True)
        self.ui.saveProgressBar.setValue(0)
        self.saving = saving
        self._updateButtons()
        return True

    def _onCancel(self) -> None:
        if self.saving is not None:
            self.saving.cancel()

    def _onProgress(self, fraction: float | None, secondsLeft: float | None, message: str) -> None:
        self.ui.saveProgressBar.setValue(round(100 * (fraction or 0.0)))

    def _onSaved(self, saving: CorrectionProcess, before: ProjectState | None, notes: str) -> None:
        """Tell how saving ended, and show the case; ``before`` is what the project held when it was begun."""
        self.saving = None
        self._confirmedModality = None
        if saving.anotherModality is not None:
            self._confirmedModality = (saving.correction.volumeNode.GetID(), saving.correction.project)
        self._readProject()
        if saving.case is not None:
            self._takeSaved(saving.case, saving.correction, notes)
        else:
            self._tellNotSaved(saving, before)
        self._updateButtons()

    def _tellNotSaved(self, saving: CorrectionProcess, before: ProjectState | None) -> None:
        """Say why a case was not saved."""
        volume, segmentation = saving.correction.volumeNode, saving.correction.segmentationNode
        self.status.report("done", "")  # not all scans are cases
        if not saving.cancelled:
            text = " ".join([_notSaved(volume, saving.error), *takeBack(volume, segmentation)])
            self.status.report("save", text, lasts=True)
            if self._projectProblem and self._projectProblem in saving.error:
                self.status.report("project", "")  # it was just said
        elif readProject(saving.correction.project)[0] == before:
            self.status.report("save", _("Not saved. The project is unchanged."))
        else:
            text = _("Saving '{name}' was cancelled, but the project changed meanwhile: look for it in the table.")
            self.status.report("save", text.format(name=volume.GetName()), lasts=True)

    def _takeSaved(self, case: dict, correction: Correction, notes: str) -> None:
        """Remember which case the volume is, and show it in the table."""
        volume, folder = correction.volumeNode, correction.project
        rememberSaved(volume, folder)
        if slicer.mrmlScene.IsNodePresent(volume):
            markAsCase(volume, case["id"], folder)
        slicer.app.userSettings().setValue(PROJECT_SETTING, str(folder))
        if self.ui.notesLineEdit.text == notes:  # what was typed meanwhile is for the next case
            self.ui.notesLineEdit.text = ""
        saved, names = _("{case}, revision {number}, is saved."), self._names
        if self._parameterNode is None or projectFolder(self._parameterNode) == folder:
            self.cases.table.select(case["id"])
        else:  # another project's case of that name is another case
            saved, names = _("{case}, revision {number}, is saved in {project}."), CaseNames.of(readProject(folder)[0])
        saved = saved.format(case=names.text(case["id"]), number=case["revision"], project=folder)
        self.status.report("save", " ".join([saved, *map(names.inText, case["remarks"])]))

    def _choose(self, volume, segmentation) -> None:
        node = self._parameterNode
        wasModifying = node.StartModify()
        node.SetNodeReferenceID(INPUT_VOLUME, volume.GetID())
        node.SetNodeReferenceID(OUTPUT_SEGMENTATION, segmentation.GetID() if segmentation is not None else None)
        node.EndModify(wasModifying)
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        self.updateFromParameterNode()

    def _updateButtons(self) -> None:
        saving, obstacle = self.saving is not None, self.obstacle()
        case = caseOf(self._volume, projectFolder(self._parameterNode))
        self.ui.patientLineEdit.placeholderText = self._patientMeaning(case)
        ready = _("Keep the scan and the segmentation as a case of the project.")
        again = _("Keep the segmentation as a new revision of {case}.")
        again = again.format(case=self._names.text(case))
        enable(self.ui.saveCorrectionButton, obstacle, again if case else ready)
        self.accepting.updateButton(self.obstacle(needsTicks=False))
        enable(self.ui.cancelSaveButton, "" if saving else _("No case is being saved."), _("Stop saving."))
        self.ui.saveProgressBar.setVisible(saving)
        named = bool(self.ui.newStructureLineEdit.text.strip())
        missing = _("There is no segmentation yet.") if self._segmentation is None else _("Type a name first.")
        there = self._segmentation is not None and named
        enable(self.ui.addStructureButton, "" if there else missing, _("Add the structure, to be drawn in the editor."))
        self.cases.updateButtons()
        self.buttonsUpdated()

    def _patientMeaning(self, case: str) -> str:
        """Return what an empty field for the patient means."""
        if case:
            return _("as saved before")
        if self._volume is not None and patientId(self._volume):
            return _("as in DICOM")
        return _("a patient of its own")

    def _showStatus(self, text: str) -> None:
        self.status.say("panel", text)

    def _showDone(self, text: str) -> None:
        self.status.say("done", text)

    def _reportAhead(self, text: str) -> None:
        """Say why the scan after this one cannot be segmented ahead, empty when it can."""
        self.status.report("ahead", text, lasts=True)


def _notSaved(volume, reason: object) -> str:
    """Return why a scan was not saved; it is named, because another one may be shown by the time this is read."""
    return _("Not saved ('{name}'): {reason}").format(name=volume.GetName(), reason=reason)


def _hideOwnList(editor) -> None:
    """Hide the editor's list of segments, which the section's own takes the place of; a Slicer without it is fine."""
    for name in ("SegmentsTableResizableFrame", "SegmentsTableView"):
        child = editor.findChild(qt.QWidget, name)
        if child is not None:
            child.setVisible(False)


def _editorNode():
    """Return this module's segment editor node, made when the scene has none: other modules have their own."""
    node = slicer.mrmlScene.GetSingletonNode("TransferSeg", "vtkMRMLSegmentEditorNode")
    if node is None:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
        node.UnRegister(None)
        node.SetSingletonTag("TransferSeg")
        node = slicer.mrmlScene.AddNode(node)
    return node
