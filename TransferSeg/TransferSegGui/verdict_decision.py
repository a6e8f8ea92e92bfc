"""The verdict: what came of a fine-tuning, and the user's decision whether the new version is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from TransferSegGui.button_state import enable
from TransferSegGui.case_names import CaseNames
from TransferSegGui.colors import fill, tint
from TransferSegGui.command_process import CommandProcess, runCommand
from TransferSegGui.model_choices import libraryKey
from TransferSegGui.status_line import say
from TransferSegGui.verdict_card import (
    isWarnedOf,
    obstacles,
    verdictDetails,
    verdictTableNode,
    verdictText,
    verdictTone,
    worstCaseText,
)
from TransferSegGui.verdict_rows import worstRow
from TransferSegGui.verdict_table import VerdictTable
from TransferSegLib.errors import ModelError
from TransferSegLib.models.locate import find_library_model, library_folder
from TransferSegLib.models.versions.history import history
from TransferSegLib.models.versions.record import BETTER, WORSE

#: In the parameter node: the version that the user has decided not to use.
KEPT_OLD = "FineTuneKeptOld"


class VerdictDecision:
    """Wires ``verdictLabel``, ``verdictTable``, the worst case, ``promoteButton`` and ``keepOldButton``.

    ``onPromoted`` gets the key of the model whose new version is used now, ``onShowCase`` the result, a held-out
    case and the structure to look at in it. Nothing is promoted but by the button, and of a version that is worse, or
    not usable, the button says so.
    """

    def __init__(self, ui) -> None:
        """Connect the widgets."""
        self.ui = ui
        self.onPromoted: Callable[[str], None] = lambda key: None
        self.onShowCase: Callable[[dict[str, Any], str, str], None] = lambda result, case, structure: None
        #: Returns what the cases are called.
        self.caseNames: Callable[[], CaseNames] = CaseNames
        self._parameterNode = None
        self._result: dict[str, Any] | None = None
        self._command: CommandProcess | None = None
        self.table = VerdictTable(ui.verdictTable, ui.verdictCasesCheckBox)
        ui.showWorstCaseButton.connect("clicked(bool)", self._onShowWorstCase)
        ui.promoteButton.connect("clicked(bool)", self._onPromote)
        ui.keepOldButton.connect("clicked(bool)", self._onKeepOld)
        self.show(None, None)

    @property
    def isPromoting(self) -> bool:
        """Whether the new version is being read and verified."""
        return self._command is not None

    @property
    def recommended(self):
        """The button that does what the verdict says."""
        isBetter = self._result is not None and self._result["evidence"]["verdict"] == BETTER
        return self.ui.promoteButton if isBetter else self.ui.keepOldButton

    @property
    def isDecided(self) -> bool:
        """Whether the version of the verdict is in use, or the user has decided to keep the old one."""
        return self._result is not None and (self._isUsed() or self._isKept())

    def show(self, result: dict[str, Any] | None, parameterNode) -> None:
        """Show the result of a job, or that there is none."""
        self._result, self._parameterNode = result, parameterNode
        names = self.table.names = self.caseNames()
        worst = "" if result is None else names.inText(worstCaseText(result))
        self.ui.worstCaseLabel.text = worst
        self.ui.verdictDetailsLabel.text = "" if result is None else names.inText(verdictDetails(result))
        for widget in (self.ui.verdictLabel, self.ui.verdictTable, self.ui.verdictDetailsButton):
            widget.setVisible(result is not None)
        for widget in (self.ui.worstCaseLabel, self.ui.showWorstCaseButton):
            widget.setVisible(bool(worst))
        self.table.show(result)
        if result is not None and parameterNode is not None:
            verdictTableNode(parameterNode, result)
        self.update()

    def _paint(self) -> None:
        """Give the verdict its colours, mixed from those of Slicer's present style."""
        result, table = self._result, self.ui.verdictTable
        if result is not None:
            fill(self.ui.verdictLabel, tint(table, verdictTone(result)))
        self.table.paint()

    def update(self) -> None:
        """Enable what can be decided now; a disabled button gives the reason in its tooltip."""
        self.ui.verdictLabel.text = ""
        if self._result is not None:
            text = verdictText(self._result, self._isUsed(), self._isKept())
            self.ui.verdictLabel.text = self.table.names.inText(text)
        self._paint()
        isWarned = self._result is not None and isWarnedOf(self._result)
        promote, keep = self._obstacles()
        self.ui.promoteButton.text = _("Promote") if self._command is None else _("Promoting ...")
        use = _("Use the new version from now on. You can roll back to the old one.")
        if isWarned and self._command is None:
            isWorse = self._result["evidence"]["verdict"] == WORSE
            self.ui.promoteButton.text = _("Promote although it is worse") if isWorse else _("Promote anyway")
            use = _("Not recommended. {why}").format(why=obstacles(self._result)) if obstacles(self._result) else use
        enable(self.ui.promoteButton, promote, use)
        enable(self.ui.keepOldButton, keep, _("Keep using the old version. The new one stays in the history."))

    def _isUsed(self) -> bool:
        """Return whether the new version is in use."""
        try:
            return history(self._result["model"], library_folder()).current == self._result["version"]
        except ModelError:
            return False

    def _isKept(self) -> bool:
        """Return whether the user has decided not to use the new version."""
        return self._parameterNode is not None and self._parameterNode.GetParameter(KEPT_OLD) == self._name()

    def _obstacles(self) -> tuple[str, str]:
        """Return why the new version cannot be promoted, and why the old one cannot be kept."""
        if self._result is None:
            return (_("There is no verdict yet."),) * 2
        if self._command is not None:
            return (_("The new version is being read and verified."),) * 2
        number = self._result["version"]
        try:
            found = history(self._result["model"], library_folder())
            found.find(number)
        except ModelError as error:
            return (str(error),) * 2
        if found.current == number:
            used = _("Version {number} is already in use.").format(number=number)
            return used, used + " " + _("To go back, use Roll back in the section Model.")
        if self._isKept():
            return "", _("The old version is kept.")
        return "", ""

    def _onShowWorstCase(self) -> None:
        row = worstRow(self._result)
        self.onShowCase(self._result, row.case, row.structure)

    def _name(self) -> str:
        return f"{self._result['model']}@{self._result['version']}"

    def _onPromote(self) -> None:
        """Verify the new version in a background process and make it the current one."""
        args = ["models", "promote", self._result["model"], str(self._result["version"])]
        args += ["--force"] if isWarnedOf(self._result) else []
        say(self.ui.fineTuneStatusLabel, _("Verifying version {number} ...").format(number=self._result["version"]))
        self._command = runCommand(args, self._onPromoted)
        self.update()

    def _onPromoted(self, command: CommandProcess) -> None:
        self._command = None
        used = _("Version {number} of '{name}' is in use now. Segment a scan again to see what has changed.")
        if self._result is not None:
            used = used.format(number=self._result["version"], name=self._result["model"])
        say(self.ui.fineTuneStatusLabel, command.error or used)
        self.update()
        if not command.error and self._result is not None:
            path = find_library_model(self._result["model"]) or Path(self._result["model"])
            self.onPromoted(libraryKey(path))

    def _onKeepOld(self) -> None:
        """Remember that the old version stays; nothing else has to be done for it."""
        if self._parameterNode is not None:
            self._parameterNode.SetParameter(KEPT_OLD, self._name())
        text = _("The old version is kept. The new one is in the history of '{name}'.")
        say(self.ui.fineTuneStatusLabel, text.format(name=self._result["model"]))
        self.update()
