"""The line at the top of the panel: what is missing to begin, and a tour through the loop with the sample scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import qt
import slicer
from slicer.i18n import tr as _

from TransferSegGui.case_opening import caseOf, readVolume
from TransferSegGui.finetune_request import MINUTES
from TransferSegGui.nodes import showStructure
from TransferSegGui.package_install import torchIsInstalled
from TransferSegGui.project_choice import PROJECT, PROJECT_SETTING, projectFolder
from TransferSegGui.reviewed_table import setReviewed
from TransferSegGui.segment_panel import INPUT_VOLUME, OUTPUT_SEGMENTATION
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.errors import TransferSegError
from TransferSegLib.jobs.events import JobState
from TransferSegLib.models.locate import bundled_sample
from TransferSegLib.user_folders import data_folder

#: The structure that the tour is about, and the minutes of its fine-tuning.
_STRUCTURE, _MINUTES = "left parotid gland", 2
#: Window and level (HU) in which glands are seen in CT.
_SOFT_TISSUE = (400, 40)
#: Milliseconds between two looks at what is done.
_LOOK_MS = 300
#: Its cases are kept apart from the user's.
_TOUR_PROJECT = "tour"


@dataclass(frozen=True)
class _Step:
    """A step of the tour: what it says, its button, what that does, whether it is done, and whether it can be now."""

    text: str
    button: Callable[[], str]
    act: Callable[[], None]
    isDone: Callable[[], bool]
    section: str
    isReady: Callable[[], bool] = lambda: True


class FirstSteps:
    """Wires ``guideFrame``: a sentence and a button for each state in which nothing can be done yet, and the tour.

    The tour loads the sample, and its button does what each step says; what the user does by hand counts as well. Its
    case goes to a project of its own; afterwards project and minutes are as they were.
    """

    def __init__(self, ui, fineTunePanel) -> None:
        """Connect the widgets of the .ui file."""
        self.ui, self._fineTune = ui, fineTunePanel
        #: Installs PyTorch.
        self.installTorch: Callable[[], None] = lambda: None
        self._torchInstalled = torchIsInstalled()
        self._parameterNode = None
        self._act: Callable[[], None] = lambda: None
        self._step: int | None = None
        self._jobBefore = None  # of an earlier tour
        self._before: dict[str, str] = {}
        self._lastProject = None
        self._steps = self._tour()
        self._timer = qt.QTimer()
        self._timer.setInterval(_LOOK_MS)
        self._timer.connect("timeout()", self.updateFromParameterNode)
        ui.guideButton.connect("clicked(bool)", lambda: self._act())
        ui.endGuideButton.connect("clicked(bool)", self.end)
        ui.goToCorrectButton.connect("clicked(bool)", lambda: self._open("correct"))

    @property
    def isTouring(self) -> bool:
        """Whether the tour is on."""
        return self._step is not None

    def refresh(self) -> None:
        """Look again at what is missing."""
        self._torchInstalled = torchIsInstalled()
        self.updateFromParameterNode()

    def setParameterNode(self, parameterNode) -> None:
        """Follow another parameter node, None while there is none; the tour ends with its scene."""
        if parameterNode is not self._parameterNode:
            self._leaveTour()
        self._parameterNode = parameterNode
        self.updateFromParameterNode()

    def stop(self) -> None:
        """End the tour: the scene or Slicer is closing."""
        self._leaveTour()

    def updateFromParameterNode(self) -> None:
        """Show the step of the tour, else what is missing."""
        self._showWhyNoCases()
        if self.isTouring:
            while self._step < len(self._steps) - 1 and self._steps[self._step].isDone():
                self._begin(self._step + 1)
            self._showButton()
            return
        if not self._torchInstalled:
            text = _(
                "TransferSeg needs PyTorch, which is not installed yet. The extension 'PyTorch' installs it once "
                "(download: about 1 GB) and asks you first."
            )
            self._say(text, _("Install PyTorch"), self._onInstallTorch)
        elif self.ui.modelComboBox.count == 0:
            self._say(_("There is no model on this computer yet."), _("Get a model"), self._onGetModel)
        elif slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode") is None:
            text = _("Load a scan, or try TransferSeg with a sample scan in a few minutes.")
            self._say(text, _("Try it"), self.begin)
        else:
            self.ui.guideFrame.setVisible(False)

    def _showWhyNoCases(self) -> None:
        """Say in the section Fine-tune that there is nothing to learn from, with a way to change that."""
        problem = self._fineTune.cases.problem
        missing = bool(problem) or not self._fineTune.cases.ids
        self.ui.noCasesLabel.text = problem or _("There are no corrected cases in this project yet.")
        self.ui.goToCorrectButton.text = _("Choose a project") if problem else _("Correct a scan")
        for widget in (self.ui.noCasesLabel, self.ui.goToCorrectButton):
            widget.setVisible(missing)

    def _say(self, text: str, button: str, act: Callable[[], None]) -> None:
        self._act = act
        self.ui.guideLabel.text, self.ui.guideButton.text = text, button
        self.ui.guideButton.enabled = True
        self.ui.guideFrame.setVisible(True)
        isUnderWay = self._step is not None and self._step < len(self._steps) - 1
        self.ui.endGuideButton.setVisible(isUnderWay)

    def _onInstallTorch(self) -> None:
        self.ui.modelCollapsibleButton.collapsed = False  # there it is told how it went
        self.installTorch()

    def _onGetModel(self) -> None:
        self._open("model")
        self.ui.moreModelsCollapsibleButton.collapsed = False

    def _open(self, section: str) -> None:
        for name in ("model", "segment", "correct", "fineTune"):
            getattr(self.ui, f"{name}CollapsibleButton").collapsed = name != section

    # The tour

    def begin(self) -> None:
        """Load the sample scan and begin the tour."""
        node = self._parameterNode
        if node is None:
            return
        try:
            volume = readVolume(read_dataset(bundled_sample()).cases[0].image, _("CT head and neck"))
        except (RuntimeError, TransferSegError) as error:
            self.ui.guideLabel.text = str(error)
            return
        self._before = {name: node.GetParameter(name) for name in (PROJECT, MINUTES)}
        self._lastProject = slicer.app.userSettings().value(PROJECT_SETTING)
        if volume.GetDisplayNode() is not None:
            volume.GetDisplayNode().AutoWindowLevelOff()
            volume.GetDisplayNode().SetWindowLevel(*_SOFT_TISSUE)
        project = data_folder("Projects", "TRANSFERSEG_PROJECTS") / _TOUR_PROJECT
        wasModifying = node.StartModify()
        node.SetParameter(PROJECT, str(project))
        node.SetParameter(MINUTES, str(_MINUTES))
        node.SetNodeReferenceID(INPUT_VOLUME, volume.GetID())
        node.SetNodeReferenceID(OUTPUT_SEGMENTATION, None)
        node.EndModify(wasModifying)
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        self._begin(0)
        self._timer.start()

    def _begin(self, number: int) -> None:
        self._step, step = number, self._steps[number]
        self._open(step.section)
        self._jobBefore = self._fineTune.job
        if step.section == "correct":
            showStructure(self._segmentation(), _STRUCTURE)
            segmentId = self._segmentation().GetSegmentation().GetSegmentIdBySegmentName(_STRUCTURE)
            self.ui.segmentEditorWidget.setCurrentSegmentID(segmentId)  # what Paint and Erase change
        text = _("Step {number} of {count}: {text}")
        text = text.format(number=number + 1, count=len(self._steps), text=step.text)
        self._say(text, step.button(), step.act)
        self._showButton()

    def _showButton(self) -> None:
        """Let the button do a step only when it can be done, and give a fine-tuning the minutes that it needs here."""
        step, plan = self._steps[self._step], self._fineTune.plan
        isTooShort = plan.neededMinutes is not None and self._parameterNode is not None
        if step.section == "fineTune" and isTooShort and not self._fineTune.isRunning:
            self._parameterNode.SetParameter(MINUTES, str(plan.neededMinutes))
        self.ui.guideButton.text, self.ui.guideButton.enabled = step.button(), step.isReady()

    def end(self) -> None:
        """End the tour, and choose the user's project again."""
        node = self._parameterNode
        self._leaveTour()
        if node is not None:
            for name, value in self._before.items():
                node.SetParameter(name, value)
        self.updateFromParameterNode()

    def _onDone(self) -> None:
        """End the tour where the user's own work begins."""
        self.end()
        self._open("segment")

    def _leaveTour(self) -> None:
        if self.isTouring:
            slicer.app.userSettings().setValue(PROJECT_SETTING, self._lastProject or "")
        self._step = None
        self._timer.stop()

    def _segmentation(self):
        return self._parameterNode.GetNodeReference(OUTPUT_SEGMENTATION)

    def _tour(self) -> list[_Step]:
        ui = self.ui
        return [
            _Step(
                _("the model finds seven structures in the sample scan."),
                lambda: _("Segment"),
                ui.segmentButton.click,
                lambda: self._segmentation() is not None,
                "segment",
                lambda: ui.segmentButton.enabled,
            ),
            _Step(
                _("look at the left parotid gland. Correct it with Paint or Erase, or say that it is right as it is."),
                lambda: _("It is right"),
                self._tick,
                lambda: ui.saveCorrectionButton.enabled,
                "correct",
            ),
            _Step(
                _("save the scan as a corrected case."),
                lambda: _("Save"),
                ui.saveCorrectionButton.click,
                self._isSaved,
                "correct",
                lambda: ui.saveCorrectionButton.enabled,
            ),
            _Step(
                _("make a new version of the model from the case. It takes as long as the button Start says."),
                lambda: ui.fineTuneButton.text,
                ui.fineTuneButton.click,
                self._isMade,
                "fineTune",
                lambda: ui.fineTuneButton.enabled and not self._fineTune.plan.isMeasuring,
            ),
            _Step(
                _(
                    "read the first lines of the verdict, and decide with a button below it: Promote uses the new "
                    "version from now on, Keep the old one does not. The button here does what the verdict says."
                ),
                lambda: self._fineTune.decision.recommended.text,
                lambda: self._fineTune.decision.recommended.click(),
                lambda: self._fineTune.decision.isDecided,
                "fineTune",
                lambda: self._fineTune.decision.recommended.enabled,
            ),
            _Step(
                _(
                    "this was the whole loop. History, in the section Model, has all versions and a way back. For a "
                    "clear verdict, correct scans of three or more patients. They go to a project of your own, not to "
                    "that of this tour."
                ),
                lambda: _("Done"),
                self._onDone,
                lambda: False,
                "fineTune",
            ),
        ]

    def _tick(self) -> None:
        segmentation = self._segmentation().GetSegmentation()
        segment = segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName(_STRUCTURE))
        if segment is not None:
            setReviewed(segment, True)

    def _isMade(self) -> bool:
        job = self._fineTune.job
        return job is not None and job is not self._jobBefore and job.state == JobState.DONE

    def _isSaved(self) -> bool:
        volume = self._parameterNode.GetNodeReference(INPUT_VOLUME)
        return bool(caseOf(volume, projectFolder(self._parameterNode)))
