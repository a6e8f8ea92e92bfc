"""The panel's section "Segment": volume, output and structures in, a run with progress, a segmentation out."""

from __future__ import annotations

from collections.abc import Callable

import slicer
import vtk
from slicer.i18n import tr as _

from TransferSegGui.button_state import enable
from TransferSegGui.device_choice import chosenDevice
from TransferSegGui.modality_check import modalityWarning
from TransferSegGui.model_choices import MODEL, ModelChoice, chosenModel, modelChoices, noModelsMessage
from TransferSegGui.nodes import hideOthers, referenceVolume, segmentedBy, showIn3D
from TransferSegGui.package_install import torchIsInstalled
from TransferSegGui.segment_process import SegmentProcess
from TransferSegGui.segment_words import (
    errorText,
    firstOf,
    notFoundText,
    notSegmented,
    otherModelText,
    progressText,
    resultText,
)
from TransferSegGui.status_line import StatusLines, reveal
from TransferSegGui.structure_choice import StructureChoice
from TransferSegGui.untouched import UntouchedSegmentations
from TransferSegLib.errors import ModelError
from TransferSegLib.models.combined_parts import Described, described

#: Names in the parameter node, and thereby in saved scenes.
INPUT_VOLUME, OUTPUT_SEGMENTATION = "InputVolume", "OutputSegmentation"
SHOW_3D = "ShowIn3D"


class SegmentPanel:
    """Wires the section's widgets to the parameter node and to a ``SegmentProcess``.

    The parameter node is the state; the widgets follow it. Only a running process is not in it. The model and the
    device are chosen in the section "Model" and read from the parameter node here.
    """

    def __init__(self, ui) -> None:
        """Connect the widgets of the .ui file."""
        self.ui = ui
        self.run: SegmentProcess | None = None
        #: The lines of the run, of a scan that is awaited, of what is shown, and of a choice of structures.
        self.status = StatusLines(ui.segmentStatusLabel)
        self._results: list[tuple] = []
        self._shown: tuple = (None, None)
        self._runVolume = None
        self._parameterNode = None
        self._updating = False
        self._choices: list[ModelChoice] = []
        self._untouched = UntouchedSegmentations()
        self._description: Described | None = None
        self._torchInstalled = False
        #: An output that the present run does not replace, because it was changed by hand.
        self._kept = None
        self._warned: tuple | None = None
        #: Called when there is a new result.
        self.onResult: Callable[[], None] = lambda: None
        self.structures = StructureChoice(ui)
        self.structures.onChanged = self._onStructuresChosen
        self.ui.inputVolumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onInputChosen)
        self.ui.outputSegmentationSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._saveChoices)
        self.ui.showIn3DCheckBox.connect("toggled(bool)", self._onShow3DToggled)
        self.ui.segmentButton.connect("clicked(bool)", self._onSegment)
        self.ui.cancelSegmentButton.connect("clicked(bool)", self._onCancel)
        self.ui.segmentLogButton.setVisible(False)
        self.refresh()

    def refresh(self) -> None:
        """Look again for models and for PyTorch: either may have come while another module was open."""
        try:
            self._choices = modelChoices()
        except ModelError:  # the section "Model" tells why the library cannot be read
            self._choices = []
        self._torchInstalled = torchIsInstalled()
        self.updateFromParameterNode()

    def setParameterNode(self, parameterNode) -> None:
        """Follow another parameter node, None while there is none; without an input the first volume is chosen."""
        self._parameterNode = parameterNode
        if parameterNode is not None and not parameterNode.GetNodeReferenceID(INPUT_VOLUME):
            volume = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
            if volume is not None:
                parameterNode.SetNodeReferenceID(INPUT_VOLUME, volume.GetID())
        self.updateFromParameterNode()

    def updateFromParameterNode(self) -> None:
        """Show what the parameter node says."""
        if self._updating:
            return
        self._updating = True
        try:
            node = self._parameterNode
            if node is not None:
                self.ui.inputVolumeSelector.setCurrentNode(node.GetNodeReference(INPUT_VOLUME))
                self.ui.outputSegmentationSelector.setCurrentNode(node.GetNodeReference(OUTPUT_SEGMENTATION))
                self.ui.showIn3DCheckBox.checked = node.GetParameter(SHOW_3D) == "true"
            self._description = self._describeModel()
            labelSet = None if self._description is None else self._description.label_set
            self.structures.show(node, "" if node is None else node.GetParameter(MODEL), labelSet)
            self._showWarning()
            self._showResultLine()
        finally:
            self._updating = False
        self._updateButtons()

    def stop(self) -> None:
        """End a running process and wait until it is gone: the scene is closing."""
        wasRunning = self.run is not None
        if wasRunning:
            self.run.stop()
        self.status.clear()
        self._shown = (None, None)  # nothing is shown any more: the line stays until something is again
        self.status.report("run", _("Cancelled.") if wasRunning else "")

    # The choices

    def _onInputChosen(self) -> None:
        """Save the choice; a result of another volume is not to be replaced by one of this volume."""
        node = self._parameterNode
        if node is None or self._updating:
            return
        volume, output = self.ui.inputVolumeSelector.currentNode(), self.ui.outputSegmentationSelector.currentNode()
        if volume is not None and output is not None:
            reference = referenceVolume(output)
            if reference is not None and reference.GetID() != volume.GetID():
                self._updating = True
                self.ui.outputSegmentationSelector.setCurrentNode(None)
                self._updating = False
        if volume is not None:
            hideOthers(volume)
        self._saveChoices()

    def _saveChoices(self) -> None:
        node = self._parameterNode
        if node is None or self._updating:
            return
        output = self.ui.outputSegmentationSelector.currentNode()
        if output is not None and output.GetDisplayNode() is not None:
            output.GetDisplayNode().SetVisibility(True)
        wasModifying = node.StartModify()
        node.SetNodeReferenceID(INPUT_VOLUME, self.ui.inputVolumeSelector.currentNodeID or None)
        node.SetNodeReferenceID(OUTPUT_SEGMENTATION, self.ui.outputSegmentationSelector.currentNodeID or None)
        node.EndModify(wasModifying)
        self.updateFromParameterNode()

    def _showResultLine(self) -> None:
        """Show what is known of the segmentation that is chosen now: another one's line must not stay."""
        node = self._parameterNode
        references = (INPUT_VOLUME, OUTPUT_SEGMENTATION)
        shown = (None, None) if node is None else tuple(map(node.GetNodeReferenceID, references))
        if shown == self._shown:
            return
        self._shown = shown
        output = None if node is None else node.GetNodeReference(OUTPUT_SEGMENTATION)
        known = [text for made, text in self._results if output is not None and made.Get() is output]
        line = known[-1] if known else "" if output is None else notFoundText(output)
        self.status.report("ahead", "")
        self.status.say("result", line, lasts=True)

    def chosenModel(self) -> ModelChoice | None:
        """Return the model that is chosen, None when it is not on this computer."""
        return chosenModel(self._choices, self._parameterNode)

    def _describeModel(self) -> Described | None:
        """Return what the chosen model's files say, None when there is none that can be used."""
        choice = self.chosenModel()
        try:
            return None if choice is None or choice.problem else described(choice.path)
        except ModelError:
            return None

    # The structures

    def _onStructuresChosen(self, names: list[str]) -> None:
        """Show or hide structures in the result that is there; tell which ones it has not."""
        output = self.ui.outputSegmentationSelector.currentNode()
        self._applyVisibility(output)
        by = None if output is None else segmentedBy(output)
        missing = [] if by is None else [name for name in names if name not in by.structures]
        missing = [name for name in missing if name in self.structures.names]
        text = _("Not in the result yet: {names}. Segment again.").format(names=firstOf(missing)) if missing else ""
        self.status.report("structures", text)
        self._updateButtons()

    def _applyVisibility(self, segmentationNode) -> None:
        """Show in a result of ours the structures with a tick, hide the others."""
        if segmentationNode is None or segmentedBy(segmentationNode) is None:
            return
        segmentation, display = segmentationNode.GetSegmentation(), segmentationNode.GetDisplayNode()
        listed = [] if self._description is None else self._description.label_set.names
        ticked = self.structures.names
        for index in range(segmentation.GetNumberOfSegments() if display is not None else 0):
            name = segmentation.GetNthSegment(index).GetName()
            if name in listed:
                display.SetSegmentVisibility(segmentation.GetNthSegmentID(index), name in ticked)

    def _onShow3DToggled(self, checked: bool) -> None:
        """Show the result that is there in 3D, or not, and those to come alike."""
        if self._updating or self._parameterNode is None:
            return
        self._parameterNode.SetParameter(SHOW_3D, "true" if checked else "false")
        segmentationNode = self.ui.outputSegmentationSelector.currentNode()
        if segmentationNode is not None:
            showIn3D(segmentationNode, checked)

    # What can be done now

    def _showWarning(self) -> None:
        """Warn when the volume may not be what the model is for; checked once for each volume and model."""
        volume = self.ui.inputVolumeSelector.currentNode()
        if volume is None or self._description is None:
            self._warned, text = None, ""
        else:
            looked = (volume.GetID(), volume.GetName(), volume.GetMTime(), self._description.modality)
            if self._warned is not None and self._warned[0] == looked:
                return
            text = modalityWarning(volume, self._description.modality)
            self._warned = (looked, text)
        self.ui.modalityWarningLabel.text = text
        self.ui.modalityWarningLabel.setVisible(bool(text))

    def _obstacle(self) -> str:
        """Return why segmenting cannot start now, empty when it can."""
        choice = self.chosenModel()
        if self._parameterNode is None:
            return _("There is no scene.")
        if not self._torchInstalled:
            return _("PyTorch is not installed yet.")
        if not self._choices:
            return noModelsMessage()
        if choice is None:
            wanted = self._parameterNode.GetParameter(MODEL)
            return _("The model '{name}' is not on this computer: choose another one.").format(name=wanted)
        if choice.problem:
            return choice.problem
        if self.ui.inputVolumeSelector.currentNode() is None:
            return _("Choose an input volume.")
        return self.structures.obstacle()

    def _updateButtons(self) -> None:
        running = self.run is not None
        obstacle = self._obstacle()
        busy = _("Segmentation is running.") if running else ""
        enable(self.ui.segmentButton, obstacle or busy, _("Segment the volume in the background, on this computer."))
        idle = "" if running else _("Nothing is being segmented.")
        enable(self.ui.cancelSegmentButton, idle, _("Stop segmenting. The scene is not changed."))
        self.ui.inputVolumeSelector.enabled = self.ui.outputSegmentationSelector.enabled = not running
        self.ui.segmentProgressBar.setVisible(running)

    # A run

    def _onSegment(self) -> None:
        output = self.ui.outputSegmentationSelector.currentNode()
        self._kept = output if output is not None and not self._untouched.mayBeReplaced(output) else None
        run = SegmentProcess(
            self.ui.inputVolumeSelector.currentNode(),
            None if self._kept is not None else output,
            str(self.chosenModel().path),
            chosenDevice(self._parameterNode),
            self.structures.wanted,
            self.ui.doubtVolumeCheckBox.checked,
        )
        run.onProgress, run.onEnd = self._onProgress, self._onEnd
        self._showLog("")
        self.ui.segmentProgressBar.setRange(0, 0)  # busy: reading the model takes a while
        self._runVolume = self.ui.inputVolumeSelector.currentNode()
        self.status.clear()
        self.status.say("run", _("Starting ..."), lasts=True)
        self.run = run
        try:
            run.start()
        except RuntimeError as error:
            self.run = None
            self.status.report("run", notSegmented(self._runVolume.GetName(), error), lasts=True)
        self._updateButtons()

    def _onCancel(self) -> None:
        self.status.report("run", _("Stopping ..."), lasts=True)
        self.run.cancel()

    def _onProgress(self, fraction: float | None, secondsLeft: float | None, message: str) -> None:
        if fraction is None:
            return
        self.status.report("run", progressText(fraction, secondsLeft, message, self._nameIfAnother()), lasts=True)
        self.ui.segmentProgressBar.setRange(0, 1000)
        self.ui.segmentProgressBar.setValue(round(1000 * fraction))

    def _onEnd(self, run: SegmentProcess) -> None:
        self.run = None
        self._showLog(run.log)
        if run.segmentationNode is not None:
            self.status.report("run", "")
            self.takeResult(run.segmentationNode, resultText(run, self._kept))
            self.onResult()
        elif run.cancelled:
            self.status.report("run", _("Cancelled."))
        else:
            self.status.report("run", errorText(run, self._runVolume.GetName()), lasts=True)
        self._runVolume = None
        self._updateButtons()

    def _nameIfAnother(self) -> str:
        """Return the name of the volume that is being segmented, empty where it is the one that is shown."""
        volume, shown = self._runVolume, self.ui.inputVolumeSelector.currentNode()
        isShown = volume is None or (shown is not None and shown.GetID() == volume.GetID())
        return "" if isShown else volume.GetName()

    def runFor(self, volumeNode) -> SegmentProcess | None:
        """Return a run, yet to be started, for another volume with what is chosen; None when nothing can run."""
        choice = self.chosenModel()
        if choice is None or choice.problem or not self._torchInstalled or self.structures.obstacle():
            return None
        device = chosenDevice(self._parameterNode)
        return SegmentProcess(
            volumeNode, None, str(choice.path), device, self.structures.wanted, self.ui.doubtVolumeCheckBox.checked
        )

    def otherModel(self, segmentationNode) -> str:
        """Return that a segmentation is not by the model and version that are chosen, empty where it is."""
        return otherModelText(segmentationNode, self._describeModel())

    def adopt(self, run: SegmentProcess) -> None:
        """Show what a run that was started elsewhere has made of the volume."""
        self._showLog(run.log)
        # The model may have got another version since the run began.
        text = " ".join([resultText(run), self.otherModel(run.segmentationNode)])
        self.takeResult(run.segmentationNode, text.rstrip())

    def awaitAhead(self, ahead) -> None:
        """Show that the volume is being segmented already, and how far it is; see ``ScanAhead``."""
        self.status.report("ahead", _("This scan is being segmented in the background ..."), lasts=True)
        shown = self._shown
        ahead.follow(lambda *progress: self._onAheadProgress(shown, *progress))

    def _onAheadProgress(self, shown: tuple, fraction: float | None, secondsLeft: float | None, message: str) -> None:
        """Show how far a scan is that the user waits for, as long as it is the one that is shown."""
        if fraction is not None and shown == self._shown:
            self.status.report("ahead", progressText(fraction, secondsLeft, message), lasts=True)

    def showFailure(self, run: SegmentProcess, volumeNode) -> None:
        """Say why a run that the user waited for has made nothing of a volume."""
        self.status.report("ahead", errorText(run, volumeNode.GetName()), lasts=True)

    def invite(self, volumeNode) -> None:
        """Say that a volume is to be segmented next, and bring the button for it into view."""
        text = _("'{name}' is not segmented yet.").format(name=volumeNode.GetName())
        self.status.report("result", text, lasts=True)
        self.ui.segmentCollapsibleButton.collapsed = False
        reveal(self.ui.segmentButton)

    def takeResult(self, segmentationNode, text: str = "") -> None:
        """Show a segmentation that a run has made of the volume, and correct it from now on; ``text`` tells of it.

        If the user has gone on to another volume meanwhile, it stays hidden until it is chosen.
        """
        made = vtk.vtkWeakReference()  # an ID may be that of another node one day
        made.Set(segmentationNode)
        others = [(each, line) for each, line in self._results if each.Get() not in (None, segmentationNode)]
        self._results = [*others, (made, text)]
        volume = self.ui.inputVolumeSelector.currentNode()
        reference = referenceVolume(segmentationNode)
        if None not in (volume, reference) and reference.GetID() != volume.GetID():
            self._untouched.add(segmentationNode)
            if segmentationNode.GetDisplayNode() is not None:
                segmentationNode.GetDisplayNode().SetVisibility(False)
            self.status.report("run", text)
            return
        if segmentationNode.GetDisplayNode() is not None:
            segmentationNode.GetDisplayNode().SetVisibility(True)
        self._untouched.add(segmentationNode)
        if volume is not None:
            hideOthers(volume, segmentationNode)
        self._applyVisibility(segmentationNode)
        if self.ui.showIn3DCheckBox.checked:
            showIn3D(segmentationNode, True)
        if self._parameterNode is not None:
            self._parameterNode.SetNodeReferenceID(OUTPUT_SEGMENTATION, segmentationNode.GetID())
            self.updateFromParameterNode()
        self.status.report("ahead", "")
        self.status.say("result", text, lasts=True)  # also where the same segmentation was filled anew

    def _showLog(self, log: str) -> None:
        self.ui.segmentLogText.setPlainText(log)
        self.ui.segmentLogButton.setVisible(bool(log))
        if not log:
            self.ui.segmentLogButton.collapsed = True
