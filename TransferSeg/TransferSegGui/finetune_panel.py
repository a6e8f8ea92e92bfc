"""The panel's section "Fine-tune": corrected cases in, a job with curves, a verdict, and the user's decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import qt
from slicer.i18n import tr as _

from TransferSegGui.button_state import enable
from TransferSegGui.case_names import CaseNames
from TransferSegGui.curves import DICE, LOSS, TrainingCurves
from TransferSegGui.device_choice import chosenDevice
from TransferSegGui.duration import durationText, percentText, roundText
from TransferSegGui.finetune_plan import FineTunePlan
from TransferSegGui.finetune_request import JOB, FineTuneWishes
from TransferSegGui.job_process import JobProcess, jobsOf
from TransferSegGui.learning_cases import LearningCases
from TransferSegGui.model_choices import ModelChoice, chosenModel, modelChoices
from TransferSegGui.package_install import torchIsInstalled
from TransferSegGui.project_choice import projectFolder
from TransferSegGui.status_line import say
from TransferSegGui.verdict_decision import VerdictDecision
from TransferSegGui.worst_case import WorstCase
from TransferSegLib.errors import ModelError, TransferSegError
from TransferSegLib.finetuning.parent_model import model_name
from TransferSegLib.finetuning.strategies import AUTO, STRATEGIES
from TransferSegLib.jobs.events import JobState
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.models.locate import library_folder

#: Milliseconds between two drawings of the curves.
_DRAW_MS = 1000

#: Before so much is done, of 1, the time that is left is a wild guess.
_KNOWN_FROM = 0.01
#: What the list of strategies offers, in its order.
_STRATEGIES = (*STRATEGIES, AUTO)


class FineTunePanel:
    """Wires the section's widgets to the parameter node and to a job, which outlives the scene, the module and Slicer.

    The parameter node is the state, the id of the job included: a scene that is opened again finds its job, and a new
    scene the one that runs for its project. ``onMade`` is called when a new version is in the library, ``onPromoted``
    with the key of a model whose new version is used now. ``showCase`` opens a case at a structure and returns a
    status line.
    """

    def __init__(self, ui) -> None:
        """Connect the widgets of the .ui file."""
        self.ui = ui
        self.job: JobProcess | None = None
        self.curves: TrainingCurves | None = None
        self.onPromoted: Callable[[str], None] = lambda key: None
        self.onMade: Callable[[], None] = lambda: None
        self.showCase: Callable[[str, str], str] = lambda case, structure: ""
        self._parameterNode = None
        self._updating = False
        self._choices: list[ModelChoice] = []
        self._torchInstalled = True
        self._searched: tuple | None = None
        self.plan = FineTunePlan(ui)
        self.plan.onTotal = self._onTotal
        self.decision = VerdictDecision(ui)
        self.decision.onPromoted = lambda key: self.onPromoted(key)
        self.worstCase = WorstCase(lambda *where: self.showCase(*where), self._sayOfCase)
        self.decision.onShowCase = lambda *case: self.worstCase.show(self._parameterNode, *case)
        self.cases = LearningCases(ui.fineTuneCaseTable, ui.fineTuneCaseLabel)
        self.decision.caseNames = self._caseNames
        self.plan.inText = lambda text: self.cases.names.inText(text)
        self.cases.onToggled = lambda leftOut: self._save(leftOut=leftOut)
        self._drawTimer = qt.QTimer()
        self._drawTimer.setInterval(_DRAW_MS)
        self._drawTimer.connect("timeout()", self._onDraw)
        for word in _STRATEGIES:
            ui.strategyComboBox.addItem(strategyText(word))
        ui.minutesSpinBox.connect("valueChanged(int)", lambda value: self._save(minutes=value))
        ui.untilConvergedCheckBox.connect("toggled(bool)", lambda checked: self._save(untilConverged=checked))
        ui.strategyComboBox.connect("currentIndexChanged(int)", self._onStrategy)
        ui.candidateNameLineEdit.connect("textChanged(QString)", lambda text: self._save(name=text))
        ui.foldsSpinBox.connect("valueChanged(int)", lambda value: self._save(folds=value))
        ui.seedSpinBox.connect("valueChanged(int)", lambda value: self._save(seed=value))
        ui.fineTuneButton.connect("clicked(bool)", self._onStart)
        ui.cancelFineTuneButton.connect("clicked(bool)", self._onCancel)
        ui.resumeFineTuneButton.connect("clicked(bool)", self._onResume)
        ui.showLossButton.connect("clicked(bool)", lambda: self.curves.show(LOSS))
        ui.showDiceButton.connect("clicked(bool)", lambda: self.curves.show(DICE))
        ui.fineTuneCollapsibleButton.connect("contentsCollapsed(bool)", lambda collapsed: self._showPlan())
        ui.fineTuneLogButton.connect("contentsCollapsed(bool)", self._onLogOpened)
        ui.fineTuneProgressBar.setRange(0, 1000)
        self.refresh()

    def refresh(self) -> None:
        """Look again for models, PyTorch, cases and jobs: they may have come while another module was open."""
        try:
            self._choices = modelChoices()
        except ModelError:
            self._choices = []  # the section "Model" says why
        self._torchInstalled = torchIsInstalled()
        self._searched = None
        self.decision.update()
        self.updateFromParameterNode()

    def setParameterNode(self, parameterNode) -> None:
        """Follow another parameter node, None while there is none, and the job it names, or its project's."""
        if parameterNode is not self._parameterNode:
            self._leave()
        self._parameterNode, self._searched = parameterNode, None
        self.updateFromParameterNode()

    def updateFromParameterNode(self) -> None:
        """Show what the parameter node says."""
        if self._updating:
            return
        self._updating = True
        try:
            if self._parameterNode is not None:
                wishes = FineTuneWishes.of(self._parameterNode)
                self.ui.minutesSpinBox.setValue(wishes.minutes)
                self.ui.minutesSpinBox.singleStep = minutesStep(wishes.minutes)
                self.ui.untilConvergedCheckBox.setChecked(wishes.untilConverged)
                self.ui.foldsSpinBox.setValue(wishes.folds)
                self.ui.seedSpinBox.setValue(wishes.seed)
                strategies = list(_STRATEGIES)
                self.ui.strategyComboBox.setCurrentIndex(
                    strategies.index(wishes.strategy) if wishes.strategy in strategies else -1
                )
                if self.ui.candidateNameLineEdit.text != wishes.name:
                    self.ui.candidateNameLineEdit.setText(wishes.name)
                self.cases.show(projectFolder(self._parameterNode), wishes.leftOut)
            self._findJob()
        finally:
            self._updating = False
        self._updateButtons()

    def stop(self) -> None:
        """Stop following the job: it keeps running, and is found again."""
        self.plan.stop()
        self._leave()

    # The wishes

    def _save(self, **changes) -> None:
        if self._parameterNode is not None and not self._updating:
            replace(FineTuneWishes.of(self._parameterNode), **changes).writeTo(self._parameterNode)
            self.updateFromParameterNode()

    def _onStrategy(self, index: int) -> None:
        if 0 <= index < len(_STRATEGIES):
            self._save(strategy=_STRATEGIES[index])

    def _choice(self) -> ModelChoice | None:
        return chosenModel(self._choices, self._parameterNode)

    def _request(self):
        """Return what to fine-tune, and the name of the model that gets the version; raises TransferSegError."""
        choice, wishes = self._choice(), FineTuneWishes.of(self._parameterNode)
        request = wishes.request(projectFolder(self._parameterNode), choice, self.cases.ids)
        return request, model_name(request, choice.path, library_folder())

    def _obstacle(self) -> str:
        if self._parameterNode is None:
            return _("There is no scene.")
        if not self._torchInstalled:
            return _("PyTorch is not installed yet.")
        choice = self._choice()
        if choice is None or choice.problem:
            return choice.problem if choice is not None else _("Choose a model to start from.")
        if choice.isCombination:
            return _("A combination of models cannot be fine-tuned: choose one of its models.")
        if self.cases.problem:
            return self.cases.problem
        if not self.cases.ids:
            return _("Save corrected cases first.")
        if self.isRunning:
            return _("Fine-tuning is running.")
        if set(self.cases.ids) <= set(FineTuneWishes.of(self._parameterNode).leftOut):
            return _("Tick at least one case to learn from.")
        try:
            self._request()
        except TransferSegError as error:
            return str(error)
        return ""

    @property
    def isRunning(self) -> bool:
        """Whether a job is followed that has not ended."""
        return self.job is not None and self.job.isFollowed

    def _caseNames(self) -> CaseNames:
        """Return what the cases of the job are called: none of another project's is called as one of this."""
        isOfProject = self.job is not None and _isOf(self.job, projectFolder(self._parameterNode))
        return self.cases.names if isOfProject else CaseNames()

    def _sayOfCase(self, text: str) -> None:
        say(self.ui.fineTuneStatusLabel, self.decision.caseNames().inText(text))

    def _updateButtons(self) -> None:
        obstacle, choice, ui = self._obstacle(), self._choice(), self.ui
        ui.fineTuneModelLabel.text = choice.text if choice is not None else _("no model selected")
        if choice is not None and not obstacle:
            ui.fineTuneModelLabel.text += _("; creates a new version of '{name}'").format(name=self._request()[1])
        idle = "" if self.isRunning else _("Nothing is running.")
        enable(ui.cancelFineTuneButton, idle, _("Stop. The work done so far is kept and can be resumed."))
        canResume = self.job is not None and not self.isRunning and self.job.state != JobState.DONE
        title = self.job.request.title if canResume else ""
        none = "" if canResume else _("There is no interrupted job.")
        enable(ui.resumeFineTuneButton, none, _("Resume what was interrupted: {title}").format(title=title))
        for button, curve, toolTip in (
            (ui.showLossButton, LOSS, _("Show the training error, which should fall, in a plot view")),
            (
                ui.showDiceButton,
                DICE,
                _("Show the overlap with your corrections on cases left out of training, in a view"),
            ),
        ):
            isThere = self.curves is not None and self.curves.has(curve)
            enable(button, "" if isThere else _("There is no curve yet."), toolTip)
        ui.fineTuneProgressBar.setVisible(self.isRunning)
        ui.fineTuneLogButton.setVisible(self.job is not None)
        isMade = self.job is not None and self.job.state == JobState.DONE
        ui.fineTunePlanTitleLabel.text = _("Next run:") if isMade else _("Plan:")  # above a verdict it is not of
        self._showPlan()

    def _showPlan(self) -> None:
        """Show what would be done in the time, where the section is open and could start."""
        if self.ui.fineTuneCollapsibleButton.collapsed or self._obstacle():
            self.plan.show(None)
            return
        request = self._request()[0]
        isMade = self.job is not None and self.job.state == JobState.DONE
        if isMade and self.job.request.parameters == request.to_json():
            self.plan.show(None)  # the verdict is to be seen, and the same is not asked for again
            return
        self.plan.show(request, chosenDevice(self._parameterNode), self.cases.state)

    def _onTotal(self, seconds: float | None) -> None:
        """Say on the button what a start would take in all; it is disabled where the time would not suffice."""
        start = _("Start") if seconds is None else _("Start ({time})").format(time=roundText(seconds))
        self.ui.fineTuneButton.text = start
        needed = self.plan.neededMinutes
        tooShort = "" if needed is None else _("Too little time: allow at least {count} min.").format(count=needed)
        meaning = _("Fine-tune the model on the ticked cases, in the background")
        enable(self.ui.fineTuneButton, self._obstacle() or tooShort, meaning)

    # The job

    def _findJob(self) -> None:
        """Follow the job that the parameter node names, else the project's running or last one; looked for once."""
        node = self._parameterNode
        if node is None:
            return
        wanted, project = node.GetParameter(JOB), projectFolder(node)
        if self._searched == (wanted, project):
            return
        self._searched = (wanted, project)
        if self.job is not None and (self.isRunning or (self.job.id == wanted and _isOf(self.job, project))):
            return
        job = JobProcess.find(wanted)
        # The node still names the job of the project that was chosen before: over, it is not this project's to resume.
        if job is not None and job.state.ended and not _isOf(job, project):
            job = None
        if job is None and project is not None:
            every = jobsOf("finetune", project=str(project.absolute()))
            job = next((each for each in every if not each.state.ended), every[0] if every else None)
        self._leave()
        if job is not None:
            self._attach(job)
            node.SetParameter(JOB, job.id)
            self._searched = (job.id, project)
            job.follow()

    def _attach(self, job: JobProcess) -> None:
        """Receive what a job reports, with new curves and no verdict yet."""
        self.job = job
        job.onProgress, job.onPoint, job.onEnd = self._onProgress, self._onPoint, self._onEnd
        self.curves = TrainingCurves(self._parameterNode)
        self.decision.show(None, self._parameterNode)
        self.ui.fineTuneLogText.setPlainText("")
        self.ui.fineTuneProgressBar.setRange(0, 0)
        self._drawTimer.start()

    def _leave(self) -> None:
        self._drawTimer.stop()
        self.worstCase.stop()
        if self.job is not None:
            self.job.leave()
        self.job = self.curves = None
        self.decision.show(None, self._parameterNode)
        say(self.ui.fineTuneStatusLabel, "")

    def _onStart(self) -> None:
        try:
            request, name = self._request()
            title = _("fine-tune {name} on {project}").format(name=name, project=request.project.name)
            device = chosenDevice(self._parameterNode)
            job = JobProcess.create(JobRequest("finetune", request.to_json(), device, title))
        except TransferSegError as error:
            say(self.ui.fineTuneStatusLabel, str(error))
            return
        self._leave()
        self._attach(job)
        self._searched = (job.id, projectFolder(self._parameterNode))
        self._parameterNode.SetParameter(JOB, job.id)
        self._begin(job.start)

    def _onResume(self) -> None:
        self._drawTimer.start()
        self.ui.fineTuneProgressBar.setRange(0, 0)
        self._begin(self.job.resume)

    def _begin(self, start: Callable[[], None]) -> None:
        say(self.ui.fineTuneStatusLabel, _("Starting ..."))
        start()
        self._updateButtons()

    def _onCancel(self) -> None:
        say(self.ui.fineTuneStatusLabel, _("Stopping ..."))
        self.job.cancel()

    def _onProgress(self, fraction: float | None, secondsLeft: float | None, message: str) -> None:
        say(self.ui.fineTuneStatusLabel, progressText(fraction, secondsLeft, self._caseNames().inText(message)))
        self.ui.fineTuneProgressBar.setRange(0, 0 if fraction is None else 1000)
        self.ui.fineTuneProgressBar.setValue(0 if fraction is None else round(1000 * fraction))

    def _onPoint(self, stage: str, step: int | None, loss: float | None, dice: float | None) -> None:
        had = [self.curves.has(curve) for curve in (LOSS, DICE)]
        self.curves.add(stage, step, loss, dice)
        if had != [self.curves.has(curve) for curve in (LOSS, DICE)]:
            self._updateButtons()

    def _onDraw(self) -> None:
        """Draw the new points: not for each one, that would keep the window busy."""
        if self.curves is not None:
            self.curves.draw()

    def _onLogOpened(self, collapsed: bool) -> None:
        if not collapsed and self.job is not None:
            self.ui.fineTuneLogText.setPlainText(self.job.log() or _("The process wrote no log."))

    def _onEnd(self, job: JobProcess) -> None:
        self._drawTimer.stop()
        self.curves.draw()
        say(self.ui.fineTuneStatusLabel, self._caseNames().inText(endText(job)))
        self._onLogOpened(self.ui.fineTuneLogButton.collapsed)
        if job.state == JobState.DONE and job.result is not None:
            self.decision.show(job.result, self._parameterNode)
            self.onMade()
        self._updateButtons()


def minutesStep(minutes: int) -> int:
    """Return by how many minutes the arrows beside so many change them: a minute of few, more of many."""
    return 1 if minutes < 15 else 5 if minutes < 60 else 15 if minutes < 240 else 60


def strategyText(word: str) -> str:
    """Return one of the library's strategies for a person."""
    return {
        "finetune": _("Default (last layers first)"),
        "vanilla": _("All layers at once"),
        "scratch": _("From random weights"),
        "auto": _("Try all and use the best"),
    }.get(word) or STRATEGIES[word].summary.capitalize()


def progressText(fraction: float | None, secondsLeft: float | None, message: str) -> str:
    """Return the status line of a running job, e.g. '40 %, 3 min 5 s left: Final training, loss 0.310'."""
    if fraction is None:
        return message or _("Starting ...")
    text = percentText(fraction)
    if secondsLeft is not None and fraction >= _KNOWN_FROM:
        text += _(", {left} left").format(left=durationText(secondsLeft))
    return f"{text}: {message}" if message else text


def endText(job: JobProcess) -> str:
    """Return the status line of a job that has ended: the reason, and the log's last lines where they say more."""
    if job.state == JobState.DONE and job.result is not None:
        return _("Version {number} of '{name}' was made in {time}.").format(
            number=job.result["version"], name=job.result["model"], time=durationText(job.result["seconds"])
        )
    if job.state == JobState.CANCELLED:
        return _("Cancelled. Resume continues from here.")
    text, lines = _("Not fine-tuned: {reason}").format(reason=job.error), job.lastLines()
    if not lines or any(job.error in line for line in lines):
        return text  # the log says the same
    return "\n".join([text, _("The log ends with:"), *lines])


def _isOf(job: JobProcess, project: Path | None) -> bool:
    """Return whether a job learns from this project's cases."""
    return project is not None and job.request.parameters.get("project") == str(project.absolute())
