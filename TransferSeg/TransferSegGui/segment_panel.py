"""The panel's section "Segment": model, volume and output in, a run with progress, a segmentation out."""

from __future__ import annotations

import qt
import slicer
from slicer.i18n import tr as _

from TransferSegGui.model_choices import ModelChoice, modelChoices, noModelsMessage
from TransferSegGui.process import SegmentProcess
from TransferSegGui.torch_install import installTorch, torchIsInstalled

#: Names in the parameter node, and thereby in saved scenes.
INPUT_VOLUME, OUTPUT_SEGMENTATION, MODEL = "InputVolume", "OutputSegmentation", "Model"


class SegmentPanel:
    """Wires the section's widgets to the parameter node and to a ``SegmentProcess``.

    The parameter node is the state; the widgets follow it. Only a running process is not in it.
    """

    def __init__(self, ui) -> None:
        """Connect the widgets of the .ui file."""
        self.ui = ui
        self.run: SegmentProcess | None = None
        self._parameterNode = None
        self._updating = False
        self._choices: list[ModelChoice] = []
        self.ui.inputVolumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._saveChoices)
        self.ui.outputSegmentationSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._saveChoices)
        self.ui.modelComboBox.connect("currentIndexChanged(int)", self._saveChoices)
        self.ui.segmentButton.connect("clicked(bool)", self._onSegment)
        self.ui.cancelSegmentButton.connect("clicked(bool)", self._onCancel)
        self.ui.installTorchButton.connect("clicked(bool)", self._onInstallTorch)
        self.refresh()

    def refresh(self) -> None:
        """Look again for models and for PyTorch: either may have come while another module was open."""
        self._choices = modelChoices()
        self._updating = True
        self.ui.modelComboBox.clear()
        for choice in self._choices:
            self.ui.modelComboBox.addItem(choice.text)
        self._updating = False
        self._torchInstalled = torchIsInstalled()
        self.ui.torchLabel.setVisible(not self._torchInstalled)
        self.ui.installTorchButton.setVisible(not self._torchInstalled)
        self.updateFromParameterNode()

    def setParameterNode(self, parameterNode) -> None:
        """Follow another parameter node, None while there is none; what is not set yet gets its usual value."""
        self._parameterNode = parameterNode
        if parameterNode is not None:
            if not parameterNode.GetParameter(MODEL) and self._choices:
                parameterNode.SetParameter(MODEL, self._choices[0].key)
            if not parameterNode.GetNodeReferenceID(INPUT_VOLUME):
                volume = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
                if volume is not None:
                    parameterNode.SetNodeReferenceID(INPUT_VOLUME, volume.GetID())
        self.updateFromParameterNode()

    def updateFromParameterNode(self) -> None:
        """Show what the parameter node says."""
        if self._updating:
            return
        self._updating = True
        node = self._parameterNode
        if node is not None:
            self.ui.inputVolumeSelector.setCurrentNode(node.GetNodeReference(INPUT_VOLUME))
            self.ui.outputSegmentationSelector.setCurrentNode(node.GetNodeReference(OUTPUT_SEGMENTATION))
            keys = [choice.key for choice in self._choices]
            wanted = node.GetParameter(MODEL)
            self.ui.modelComboBox.setCurrentIndex(keys.index(wanted) if wanted in keys else -1)
        self._updating = False
        self._updateButtons()

    def stop(self) -> None:
        """End a running process and wait until it is gone; nothing happens when none runs."""
        if self.run is not None:
            self.run.stop()

    def _saveChoices(self) -> None:
        """Write what the user chose to the parameter node."""
        node = self._parameterNode
        if node is None or self._updating:
            return
        wasModifying = node.StartModify()
        node.SetNodeReferenceID(INPUT_VOLUME, self.ui.inputVolumeSelector.currentNodeID or None)
        node.SetNodeReferenceID(OUTPUT_SEGMENTATION, self.ui.outputSegmentationSelector.currentNodeID or None)
        choice = self._choice()
        if choice is not None:
            node.SetParameter(MODEL, choice.key)
        node.EndModify(wasModifying)
        self.updateFromParameterNode()

    def _choice(self) -> ModelChoice | None:
        """Return the chosen model, None when there is none."""
        index = self.ui.modelComboBox.currentIndex
        return self._choices[index] if 0 <= index < len(self._choices) else None

    def _obstacle(self) -> str:
        """Return why segmenting cannot start now, empty when it can."""
        choice = self._choice()
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
        return ""

    def _updateButtons(self) -> None:
        """Enable what can be done now; a button that is not tells why in its tooltip."""
        running = self.run is not None
        choice, obstacle = self._choice(), self._obstacle()
        self.ui.modelDetailsLabel.text = choice.details if choice is not None else obstacle
        self.ui.segmentButton.enabled = not running and not obstacle
        self.ui.segmentButton.toolTip = obstacle or (
            _("Segmenting is under way.") if running else _("Segment the volume in the background, on this computer.")
        )
        self.ui.cancelSegmentButton.enabled = running
        for chooser in (
            self.ui.modelComboBox,
            self.ui.inputVolumeSelector,
            self.ui.outputSegmentationSelector,
            self.ui.installTorchButton,
        ):
            chooser.enabled = not running
        self.ui.segmentProgressBar.setVisible(running)

    def _onSegment(self) -> None:
        """Start a run with what is chosen."""
        run = SegmentProcess(
            self.ui.inputVolumeSelector.currentNode(),
            self.ui.outputSegmentationSelector.currentNode(),
            str(self._choice().path),
        )
        run.onProgress, run.onEnd = self._onProgress, self._onEnd
        self.ui.segmentLogText.setPlainText("")
        self.ui.segmentProgressBar.setRange(0, 0)  # busy: reading the model takes a while
        self.ui.segmentStatusLabel.text = _("Starting ...")
        self.run = run
        try:
            run.start()
        except RuntimeError as error:
            self.run = None
            self.ui.segmentStatusLabel.text = str(error)
        self._updateButtons()

    def _onCancel(self) -> None:
        self.ui.segmentStatusLabel.text = _("Stopping ...")
        self.run.cancel()

    def _onProgress(self, fraction: float, secondsLeft: float | None, message: str) -> None:
        self.ui.segmentStatusLabel.text = progressText(fraction, secondsLeft, message)
        self.ui.segmentProgressBar.setRange(0, 1000)
        self.ui.segmentProgressBar.setValue(round(1000 * fraction))

    def _onEnd(self, run: SegmentProcess) -> None:
        """Show how the run ended."""
        self.run = None
        self.ui.segmentLogText.setPlainText(run.log or _("The process wrote no log."))
        if run.segmentationNode is not None:
            self.ui.segmentStatusLabel.text = resultText(run)
        elif run.cancelled:
            self.ui.segmentStatusLabel.text = _("Cancelled.")
        else:
            self.ui.segmentStatusLabel.text = _("Not segmented: {reason}").format(reason=run.error)
        self._updateButtons()

    def _onInstallTorch(self) -> None:
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            problem = installTorch()
        finally:
            qt.QApplication.restoreOverrideCursor()
        self.refresh()
        self.ui.segmentStatusLabel.text = problem or _("PyTorch is installed.")


def progressText(fraction: float, secondsLeft: float | None, message: str) -> str:
    """Return the status line of a run, e.g. 'Segmenting on CPU (float32): 40 %, 12 s left'."""
    percent = f"{100 * fraction:.0f}"
    if secondsLeft is None:
        return _("Segmenting {where}: {percent} %").format(where=message, percent=percent)
    return _("Segmenting {where}: {percent} %, {left} left").format(
        where=message, percent=percent, left=durationText(secondsLeft)
    )


def resultText(run: SegmentProcess) -> str:
    """Return the status line of a run that went well: what was found, where it is, how long it took on what."""
    volumes = run.result["volumes_ml"]
    missing = [name for name, volume in volumes.items() if not volume]
    text = _("'{name}': {found} of {count} structures found in {time} on {device}.").format(
        name=run.segmentationNode.GetName(),
        found=len(volumes) - len(missing),
        count=len(volumes),
        time=durationText(run.result["seconds"]),
        device=run.result["device"],
    )
    return text + (" " + _("Not found: {names}.").format(names=", ".join(missing)) if missing else "")


def durationText(seconds: float) -> str:
    """Return a duration for a person, e.g. '8 s' or '3 min 5 s'."""
    minutes, rest = divmod(round(seconds), 60)
    return _("{minutes} min {seconds} s").format(minutes=minutes, seconds=rest) if minutes else f"{rest} s"
