"""The section "History": the versions of the chosen model, which one is used, and the way back."""

from __future__ import annotations

from collections.abc import Callable

import qt
from slicer.i18n import tr as _

from TransferSegGui.button_state import enable
from TransferSegGui.command_process import CommandProcess, runCommand, withoutPath
from TransferSegGui.model_choices import ModelChoice
from TransferSegGui.status_line import say
from TransferSegGui.table_columns import setColumns
from TransferSegLib.errors import ModelError
from TransferSegLib.models.versions.history import History, Version, read_history
from TransferSegLib.wording import before_and_after, local_time


class ModelHistory:
    """Wires ``historyTable``, ``useVersionButton`` and ``rollbackButton`` to the versions in the library.

    Where there are no versions, a line says why instead; it also tells what is damaged.

    ``onSwitched`` is called when another version has become the current one, ``onStatus`` with lines for the user.
    The versions are read and verified by a process in the background before they are used.
    """

    def __init__(self, ui) -> None:
        """Connect the widgets."""
        self.ui = ui
        self.onSwitched: Callable[[], None] = lambda: None
        self.onStatus: Callable[[str], None] = lambda text: None
        self._choice: ModelChoice | None = None
        self._history: History | None = None
        self._shown: list[Version] = []
        self._problem = ""
        self._switch: CommandProcess | None = None
        setColumns(ui.historyTable, [_("Version"), _("Verdict"), _("Dice\nchange"), _("Used")], 1)
        ui.historyTable.connect("itemSelectionChanged()", self._updateButtons)
        ui.useVersionButton.connect("clicked(bool)", self._onUse)
        ui.rollbackButton.connect("clicked(bool)", self._onRollback)

    @property
    def isSwitching(self) -> bool:
        """Whether another version is about to become the current one."""
        return self._switch is not None

    def show(self, choice: ModelChoice | None) -> None:
        """List the versions of a model; the same model is read again."""
        self._choice, self._history, self._problem = choice, None, ""
        if choice is not None and choice.isOfLibrary and choice.path.is_dir() and not choice.isCombination:
            try:
                self._history = read_history(choice.path.name, choice.path)
                self._problem = " ".join(filter(None, (self._history.state.problem, *self._history.damaged)))
            except ModelError as error:
                self._problem = str(error)
        self._fill()

    def promote(self, choice: ModelChoice, number: int, force: bool = False) -> None:
        """Make a version the one that is used; ``onSwitched`` or ``onStatus`` report the outcome."""
        args = ["models", "promote", choice.path.name, str(number), *(["--force"] if force else [])]
        self._start(args, _("Reading and verifying version {number} ...").format(number=number))

    def _fill(self) -> None:
        """Show the newest version first; the one that is used is bold and marked."""
        table = self.ui.historyTable
        self._shown = [] if self._history is None else list(reversed(self._history.versions))
        say(self.ui.historyLabel, self._obstacle() if self._history is None else self._problem)
        for widget in (table, self.ui.useVersionButton, self.ui.rollbackButton):
            widget.setVisible(bool(self._shown))
        table.setRowCount(len(self._shown))
        for row, version in enumerate(self._shown):
            details = versionDetails(version)
            for column, text in enumerate(versionCells(version)):
                item = qt.QTableWidgetItem(text)
                font = item.font()
                font.setBold(version.current)
                item.setFont(font)
                item.setToolTip(details)
                table.setItem(row, column, item)
        self._updateButtons()

    def _selected(self) -> Version | None:
        row = self.ui.historyTable.currentRow()
        isSelected = bool(self.ui.historyTable.selectedItems())
        return self._shown[row] if isSelected and 0 <= row < len(self._shown) else None

    def _obstacle(self) -> str:
        """Return why no version can be chosen at all, empty when one can."""
        if self._choice is None:
            return _("Choose a model.")
        if not self._choice.isOfLibrary:
            return _(
                "This model is included with TransferSeg and has no versions. Fine-tuning creates a model in your "
                "library."
            )
        if self._choice.isCombination:
            return _("A combination has no versions. It uses those of its models that are in use.")
        if self._switch is not None:
            return _("A version is being read.")
        if self._history is None:
            return self._problem or _("A model in a zip file has no versions.")
        return ""

    def _updateButtons(self) -> None:
        obstacle, version = self._obstacle(), self._selected()
        use = obstacle
        if not use and version is None:
            use = _("Select a version in the table.")
        if not use and version.current:
            use = _("This version is already in use.")
        record = None if version is None or version.number == 0 else version.record
        isWorse = record is not None and record.is_worse
        warning = "" if record is None else record.warning
        self.ui.useVersionButton.text = _("Use this version")
        if isWorse:
            self.ui.useVersionButton.text = _("Use it although it is worse")
        elif warning:
            self.ui.useVersionButton.text = _("Use it despite the warning")
        against = record.reasons if isWorse else warning
        enable(self.ui.useVersionButton, use, against or _("Use the selected version of the model"))
        back = obstacle
        if not back and len(self._history.state.trail) < 2:
            back = _("There is no previous version to go back to.")
        before = "" if back else str(self._history.state.trail[-2])
        enable(self.ui.rollbackButton, back, _("Go back to version {number}, in use before").format(number=before))

    def _onUse(self) -> None:
        """Use the selected version; one that is worse, or warned of, only because the button says so."""
        version = self._selected()
        record = version.record
        self.promote(self._choice, version.number, record is not None and (record.is_worse or bool(record.warning)))

    def _onRollback(self) -> None:
        self._start(["models", "rollback", self._choice.path.name], _("Reading and verifying the previous version ..."))

    def _start(self, args: list[str], text: str) -> None:
        """Switch versions in a background process: verifying one needs torch, which is not imported in Slicer."""
        self.onStatus(text)
        self._switch = runCommand(args, self._onEnd)
        self._updateButtons()

    def _onEnd(self, command: CommandProcess) -> None:
        self._switch = None
        self.onStatus(command.error or withoutPath(command.output))
        self.onSwitched()
        self._updateButtons()


def versionCells(version: Version) -> list[str]:
    """Return the texts of a version's row: number, verdict, change of the mean Dice, whether it is in use."""
    used = _("in use") if version.current else ""
    record = version.record
    if record is None or version.number == 0:
        return [str(version.number), _("original"), "", used]
    before, after = record.mean_dice
    change = "" if before is None or after is None else before_and_after(before, after, 3)[2]
    return [str(version.number), record.verdict, change, used]


def versionDetails(version: Version) -> str:
    """Return what the row has no room for, a line each: for its tooltip."""
    record = version.record
    if record is None or version.number == 0:
        if version.description.version == str(version.number):
            return _("The original model")
        return _("The original model (version {version})").format(version=version.description.version)
    before, after = ("-" if value is None else f"{value:.3f}" for value in record.mean_dice)
    made = _("Made {date} from version {parent} with {count} cases")
    lines = [
        (_("Made {date} from version {parent} with 1 case") if len(record.cases) == 1 else made).format(
            date=local_time(record.created)[:10], parent=record.parent, count=len(record.cases)
        ),
        _("Mean Dice before {before}, after {after}").format(before=before, after=after),
        record.warning,
        record.reasons,
    ]
    return "\n".join(filter(None, lines))
