"""The panel's section "Model": which model, on which device, the model's versions, and more models."""

from __future__ import annotations

from collections.abc import Callable

import qt
from slicer.i18n import tr as _

from TransferSegGui.device_choice import DeviceChoice
from TransferSegGui.model_choices import MODEL, ModelChoice, chosenModel, modelChoices, noModelsMessage
from TransferSegGui.model_files import ModelFiles
from TransferSegGui.model_history import ModelHistory
from TransferSegGui.package_install import installTorch, torchIsInstalled
from TransferSegGui.status_line import say
from TransferSegLib.errors import ModelError


class ModelPanel:
    """Wires the section's widgets to the parameter node, which is the state, and to the library of models.

    ``onModelsChanged`` is called when models, versions or PyTorch have come, so that other sections look again.
    """

    def __init__(self, ui) -> None:
        """Connect the widgets of the .ui file."""
        self.ui = ui
        self.onModelsChanged: Callable[[], None] = lambda: None
        self._parameterNode = None
        self._updating = False
        self._choices: list[ModelChoice] = []
        self._problem = ""
        self._shown: ModelChoice | None = None
        self._torchInstalled = False
        self.devices = DeviceChoice(ui)
        self.history = ModelHistory(ui)
        self.files = ModelFiles(ui)
        self.history.onStatus = self.files.onStatus = self._showStatus
        self.history.onSwitched, self.files.onAdded = self.lookAgain, self.choose
        self._showStatus("")
        ui.modelComboBox.connect("currentIndexChanged(int)", self._onChosen)
        self.refresh()

    def refresh(self) -> None:
        """Look again for models, devices and packages: they may have come while another module was open."""
        try:
            choices, self._problem = modelChoices(), ""
        except ModelError as error:
            choices, self._problem = [], str(error)
        self._choices = choices
        self._updating = True
        self.ui.modelComboBox.clear()
        for choice in choices:
            self.ui.modelComboBox.addItem(choice.text)
            self.ui.modelComboBox.setItemData(self.ui.modelComboBox.count - 1, choice.details, qt.Qt.ToolTipRole)
        self._updating = False
        self._torchInstalled = torchIsInstalled()
        self._goOn()
        self.updateFromParameterNode()

    def _goOn(self) -> None:
        """Ask for the devices once, and follow a model that is being fetched: scenes come and go meanwhile."""
        if self._torchInstalled:
            self.devices.ask()
        self.files.refresh()

    def setParameterNode(self, parameterNode) -> None:
        """Follow another parameter node, None while there is none; without a model the first one is chosen."""
        self._parameterNode = parameterNode
        if parameterNode is not None and not parameterNode.GetParameter(MODEL) and self._choices:
            parameterNode.SetParameter(MODEL, self._choices[0].key)
        self.devices.setParameterNode(parameterNode)
        if parameterNode is not None:
            self._goOn()
        self.updateFromParameterNode()

    def updateFromParameterNode(self) -> None:
        """Show what the parameter node says."""
        if self._updating:
            return
        self._updating = True
        choice = self.choice
        self.ui.modelComboBox.setCurrentIndex(-1 if choice is None else self._choices.index(choice))
        self.ui.modelComboBox.enabled = bool(self._choices)
        self.ui.modelDetailsLabel.text = choice.details if choice is not None else self._obstacle()
        self.ui.modelDetailsLabel.toolTip = choice.toolTip if choice is not None else ""
        self._updating = False
        self.devices.updateFromParameterNode()
        if choice is not self._shown:  # choices are made anew when the library may have changed
            self._shown = choice
            self.history.show(choice)
            self.files.show(choice)

    def stop(self) -> None:
        """Follow nothing any more: the scene or Slicer is closing. A model that is being fetched comes all the same."""
        self.devices.stop()
        self.files.stop()

    @property
    def choice(self) -> ModelChoice | None:
        """The model that the parameter node names, None when it is not here."""
        return chosenModel(self._choices, self._parameterNode)

    def _obstacle(self) -> str:
        if self._problem:
            return self._problem
        if not self._choices:
            return noModelsMessage()
        wanted = "" if self._parameterNode is None else self._parameterNode.GetParameter(MODEL)
        if wanted:
            return _("The model '{name}' is not on this computer: choose another one.").format(name=wanted)
        return _("Choose a model.")

    def _showStatus(self, text: str) -> None:
        say(self.ui.modelStatusLabel, text)

    def _onChosen(self, index: int) -> None:
        if not self._updating and self._parameterNode is not None and 0 <= index < len(self._choices):
            self._parameterNode.SetParameter(MODEL, self._choices[index].key)
            self.updateFromParameterNode()

    def choose(self, key: str) -> None:
        """Choose a model that has come into the library, or has another version now."""
        if key and self._parameterNode is not None:
            self._parameterNode.SetParameter(MODEL, key)
        self.lookAgain()

    def lookAgain(self) -> None:
        """Show what is in the library now, and tell the other sections to do so."""
        self.refresh()
        self.onModelsChanged()

    def installTorch(self) -> None:
        """Install PyTorch: the user agrees by pressing the button at the top of the panel."""
        qt.QApplication.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            problem = installTorch()
        finally:
            qt.QApplication.restoreOverrideCursor()
        self._showStatus(problem or _("PyTorch is installed."))
        self.lookAgain()
