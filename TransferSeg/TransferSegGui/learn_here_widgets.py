"""The button "Learn here": redraw the rest of a scan from the part that was corrected and marked as checked."""

from __future__ import annotations

from slicer.i18n import tr as _

from TransferSegGui.annotated_region import REGION_ALL, regionKind, regionOf
from TransferSegGui.button_state import enable
from TransferSegGui.device_choice import chosenDevice
from TransferSegGui.learn_here_process import LearnHereProcess, forgetFeatures
from TransferSegGui.model_choices import chosenModel, modelChoices
from TransferSegGui.segment_panel import INPUT_VOLUME, OUTPUT_SEGMENTATION
from TransferSegLib.errors import TransferSegError


class LearnHereWidgets:
    """Wires the button, its progress and its Cancel button to the section "Correct"."""

    def __init__(self, ui, correctPanel) -> None:
        """Connect the widgets of the .ui file; the model is that of the section "Model"."""
        self.ui, self._correctPanel = ui, correctPanel
        self.running: LearnHereProcess | None = None
        self._parameterNode = None
        #: The name of the volume of the run: another one may be shown by the time that its lines are read.
        self._name = ""
        self.ui.learnHereButton.connect("clicked(bool)", self._onLearn)
        self.ui.cancelLearnHereButton.connect("clicked(bool)", self._onCancel)
        self.ui.learnHereProgressBar.setVisible(False)
        self.ui.cancelLearnHereButton.setVisible(False)
        correctPanel.buttonsUpdated = self.update
        self.update()

    def refresh(self) -> None:
        """Nothing is read from disk."""
        self.update()

    def setParameterNode(self, parameterNode) -> None:
        """Follow another parameter node, None while there is none."""
        self._parameterNode = parameterNode
        self.update()

    def updateFromParameterNode(self) -> None:
        """Show whether the button can be clicked now."""
        self.update()

    def stop(self) -> None:
        """Stop what runs: the scene is closing."""
        if self.running is not None:
            self.running.stop()

    def close(self) -> None:
        """Clear up: Slicer is closing, or the module is reloaded."""
        self.stop()
        forgetFeatures()

    def obstacle(self) -> str:
        """Return why Learn here cannot be clicked now, empty when it can."""
        if self.running is not None:
            return _("Learn here is running.")
        obstacle = self._correctPanel.obstacle()
        if obstacle or self._parameterNode is None:
            return obstacle or _("Choose an input volume in the section above.")
        if regionKind(self._parameterNode.GetNodeReference(OUTPUT_SEGMENTATION)) == REGION_ALL:
            return _("Correct some slices and mark them under 'Region checked': the rest is redrawn from them.")
        return ""

    def update(self) -> None:
        """Show whether the button can be clicked, and why not."""
        text = _("Redraw the rest of the ticked structures from the checked part. Undo takes it back.")
        enable(self.ui.learnHereButton, self.obstacle(), text)

    def _onLearn(self) -> None:
        node = self._parameterNode
        segmentation, volume = node.GetNodeReference(OUTPUT_SEGMENTATION), node.GetNodeReference(INPUT_VOLUME)
        self._name = volume.GetName()
        try:
            choice = chosenModel(modelChoices(), node)
            if choice is None:
                raise RuntimeError(_("Choose a model in the section 'Model'."))
            run = LearnHereProcess(
                volume,
                segmentation,
                self._correctPanel.reviewed.reviewedIds(),
                regionOf(segmentation, volume),
                str(choice.path),
                chosenDevice(node),
            )
            run.saveState = lambda: self._saveState(segmentation)
            run.onProgress, run.onEnd = self._onProgress, self._onEnd
            run.start()
        except (RuntimeError, TransferSegError) as error:
            self._say(self._nothingLearned(error), lasts=True)
            return
        self.running = run
        self.ui.learnHereProgressBar.setValue(0)
        self._showRunning(True)
        self._say(_("Learning in '{name}' ...").format(name=self._name), lasts=True)

    def _saveState(self, segmentation) -> bool:
        """Let Undo take back what comes next; it does so only in the segmentation that is shown."""
        editor = self.ui.segmentEditorWidget
        if editor.segmentationNode() is not segmentation:
            return False
        editor.saveStateForUndo()
        return True

    def _onCancel(self) -> None:
        if self.running is not None:
            self.running.cancel()

    def _onProgress(self, fraction: float | None, secondsLeft: float | None, message: str) -> None:
        self.ui.learnHereProgressBar.setValue(round(100 * (fraction or 0.0)))

    def _onEnd(self, run: LearnHereProcess) -> None:
        self.running = None
        self._showRunning(False)
        if run.cancelled:
            self._report(_("Cancelled. The segmentation of '{name}' is as it was.").format(name=self._name))
        elif run.error:
            self._report(self._nothingLearned(run.error), lasts=True)
        else:
            parts = [f"{one['name']}: {one['changed_voxels']}" for one in run.result["structures"]]
            text = _("The rest of '{name}' was redrawn, voxels changed: {parts}. Undo takes it back.")
            if not run.canBeUndone:
                text = _(
                    "The rest of '{name}' was redrawn, voxels changed: {parts}. Undo cannot take it back, because "
                    "another segmentation was shown."
                )
            self._report(text.format(name=self._name, parts=", ".join(parts)))

    def _nothingLearned(self, reason: object) -> str:
        return _("Nothing was learned ('{name}'): {reason}").format(name=self._name, reason=reason)

    def _showRunning(self, isRunning: bool) -> None:
        self.ui.learnHereProgressBar.setVisible(isRunning)
        self.ui.cancelLearnHereButton.setVisible(isRunning)
        self.update()

    def _say(self, text: str, lasts: bool = False) -> None:
        self._correctPanel.status.say("learnHere", text, lasts)

    def _report(self, text: str, lasts: bool = False) -> None:
        self._correctPanel.status.report("learnHere", text, lasts)
