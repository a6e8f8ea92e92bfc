"""The choice of the device: automatic, and what PyTorch found, which a child process is asked once.

torch is never imported in Slicer's own process; until the child has answered, automatic and the CPU can be chosen.
"""

from __future__ import annotations

import json

from slicer.i18n import tr as _

from TransferSegGui.command_process import CommandProcess, runCommand

#: Its name in the parameter node, and thereby in saved scenes.
DEVICE = "Device"
AUTO, CPU = "auto", "cpu"


def chosenDevice(parameterNode) -> str:
    """Return the device that a parameter node (None: there is none) names."""
    return (parameterNode.GetParameter(DEVICE) if parameterNode is not None else "") or AUTO


class DeviceChoice:
    """Wires ``deviceComboBox`` to the parameter node."""

    def __init__(self, ui) -> None:
        """Connect the widget; nothing is asked yet."""
        self.ui = ui
        self._parameterNode = None
        self._found: list[tuple[str, str]] = []
        self._names: list[str] = []
        self._question: CommandProcess | None = None
        self._filling = False
        self.problem = ""
        ui.deviceComboBox.connect("currentIndexChanged(int)", self._onChosen)
        self._fill()

    def ask(self, again: bool = False) -> None:
        """Ask a child process what there is, unless it was asked before; this returns at once."""
        if self._question is not None or (self._found and not again):
            return
        self._question = runCommand(["devices", "--json"], self._onAnswer)
        self._fill()

    def stop(self) -> None:
        """Ask no more: Slicer is closing."""
        if self._question is not None:
            self._question.stop()
            self._question = None

    def setParameterNode(self, parameterNode) -> None:
        """Follow another parameter node, None while there is none."""
        self._parameterNode = parameterNode
        self.updateFromParameterNode()

    def updateFromParameterNode(self) -> None:
        """Show what the parameter node says."""
        if not self._filling:
            self._fill()

    def _onAnswer(self, question: CommandProcess) -> None:
        """List what was found; a problem is shown in the tooltip."""
        self._question, self.problem = None, question.error
        try:
            found = json.loads(question.output) if not question.error else []
            self._found = [(str(each["device"]), str(each["name"])) for each in found]
        except (ValueError, KeyError, TypeError):
            self.problem = _("The list of devices cannot be read.")
        self._fill()

    def _fill(self) -> None:
        """List the choices and show the one of the parameter node, also one that is not here."""
        self._filling = True
        box, wanted = self.ui.deviceComboBox, chosenDevice(self._parameterNode)
        found = self._found or [(CPU, _("CPU"))]
        texts = {AUTO: _("Automatic: {name}").format(name=found[0][1]) if self._found else _("Automatic")}
        texts |= {device: name if device == CPU else f"{name} ({device})" for device, name in found}
        texts.setdefault(wanted, _("{device} (not found here)").format(device=wanted))
        if list(texts) != self._names or [box.itemText(index) for index in range(box.count)] != list(texts.values()):
            box.clear()
            for text in texts.values():
                box.addItem(text)
            self._names = list(texts)
        box.setCurrentIndex(self._names.index(wanted))
        box.toolTip = self._explanation()
        self._filling = False

    def _explanation(self) -> str:
        """Return what the user should know of the devices."""
        if self._question is not None:
            return _("Looking for graphics cards...")
        if self.problem:
            return _("The devices could not be listed: {reason}").format(reason=self.problem)
        if not self._found:
            return _("Device to compute on. Graphics cards are listed when PyTorch is installed.")
        if len(self._found) == 1:
            return _("No graphics card that PyTorch supports was found: the CPU is used, which takes longer.")
        return _("Device to compute on. Automatic uses {name}.").format(name=self._found[0][1])

    def _onChosen(self, index: int) -> None:
        if not self._filling and self._parameterNode is not None and 0 <= index < len(self._names):
            self._parameterNode.SetParameter(DEVICE, self._names[index])
