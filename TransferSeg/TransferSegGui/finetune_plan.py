"""What a fine-tuning will do in its time, shown before it is started; measured in a process of its own."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import qt
from slicer.i18n import tr as _

from TransferSegGui.command_process import CommandProcess, runCommand
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.rounds import first_minutes, rounds_text
from TransferSegLib.finetuning.time_plan import MOST_FOLDS, Amount, Speeds, TimePlan, TooLittleTime, plan_time

#: Milliseconds without a change after which speeds are measured: not at every key.
_WAIT_MS = 800


class FineTunePlan:
    """Fills ``fineTunePlanLabel``. Speeds are measured once for a model, cases and device; minutes are planned at once.

    ``onTotal`` is called with the seconds that a start would take in all, None while they are not known.

    >>> plan = FineTunePlan(ui)
    >>> plan.show(request, "auto", "state of the project")    # None: there is nothing to plan
    """

    def __init__(self, ui) -> None:
        """Wait for something to plan."""
        self.onTotal: Callable[[float | None], None] = lambda seconds: None
        #: Gives the library's sentences the names of the cases.
        self.inText: Callable[[str], str] = lambda text: text
        #: Where the minutes do not suffice: the whole minutes that would.
        self.neededMinutes: int | None = None
        self._title, self._label = ui.fineTunePlanTitleLabel, ui.fineTunePlanLabel
        self._wanted: tuple[FineTuneRequest, str] | None = None
        self._key = ""
        self._measured: tuple[str, dict] | None = None
        self._failed: tuple[str, str] | None = None
        self._command: CommandProcess | None = None
        self._commandKey = ""
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(_WAIT_MS)
        self._timer.connect("timeout()", self._measure)

    def show(self, request: FineTuneRequest | None, device: str = "auto", state: str = "") -> None:
        """Show the plan of a request, or none; ``state`` tells whether the project is still the one measured."""
        if request is None:
            self._wanted, self._key = None, ""
            self.stop()
            self._say("")
            return
        self._wanted, self._key = (request, device), _keyOf(request, device, state)
        if self._measured is not None and self._measured[0] == self._key:
            self._tell(request)
        elif self._failed is not None and self._failed[0] == self._key:
            self._say(self._failed[1])
        else:
            self._say(_("Planning: measuring the speed of this computer..."))
            if self._command is None or self._commandKey != self._key:
                self._end()
                self._timer.start()

    @property
    def isMeasuring(self) -> bool:
        """Whether a plan is on its way."""
        return self._command is not None or self._timer.isActive()

    def stop(self) -> None:
        """Measure no more."""
        self._timer.stop()
        self._end()

    def _end(self) -> None:
        """End the process that measures for something else."""
        if self._command is not None:
            command, self._command = self._command, None
            command.cancel()

    def _measure(self) -> None:
        if self._wanted is None:
            return
        request, device = self._wanted
        with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False, encoding="utf-8") as stream:
            json.dump(request.configuration.to_json(), stream)
        settings, key = Path(stream.name), self._key
        args = planArgs(request, device, settings)
        self._commandKey = key
        self._command = runCommand(args, lambda ended: self._onEnd(ended, key, settings))

    def _onEnd(self, command: CommandProcess, key: str, settings: Path) -> None:
        """Take what was measured; a plan that is refused (exit code 2) comes with its reasons, too."""
        with suppress(OSError):
            settings.unlink()
        if command is not self._command:
            return  # another one is wanted by now
        self._command = None
        try:
            self._measured = (key, json.loads(command.output))
        except ValueError:
            self._failed = (key, _("Not planned: {reason}").format(reason=command.error))
        if self._wanted is not None and key == self._key:
            request = self._wanted[0]
            if self._measured is not None and self._measured[0] == key:
                self._tell(request)
            else:
                self._say(self._failed[1])

    def _tell(self, request: FineTuneRequest) -> None:
        """Show the plan of a request from what was measured."""
        measured = self._measured[1]
        self._say(planText(measured, request), totalSeconds(measured, request), neededMinutes(measured, request))

    def _say(self, text: str, seconds: float | None = None, needed: int | None = None) -> None:
        """Show a text, or no line where there is none, and tell what a start would take."""
        self.neededMinutes = needed
        self.onTotal(seconds)
        self._label.text = self.inText(text)
        for label in (self._title, self._label):
            label.setVisible(bool(text))


def planArgs(request: FineTuneRequest, device: str, settings: Path) -> list[str]:
    """Return the call of the command line that plans a request; ``settings`` is the file of its configuration."""
    args = ["finetune", "--plan", "--json", "--project", str(request.project), "--minutes", f"{request.minutes:g}"]
    args += ["--configuration", str(settings), "--device", device]
    args += [] if request.model is None else ["--model", request.model]
    args += [] if request.name is None else ["--name", request.name]
    args += [] if request.most_folds is None else ["--folds", str(request.most_folds)]
    return args + ([] if request.cases is None else ["--cases", *request.cases])


def planText(measured: dict, request: FineTuneRequest) -> str:
    """Return the plan of a request from what was measured, possibly for other minutes, and what cannot be."""
    try:
        text = _planOf(measured, request).text
        if request.until_converged:
            text = "\n".join([rounds_text(request.minutes), _("First round: {plan}").format(plan=text)])
    except TooLittleTime as error:
        text = str(error)
    return "\n".join([text, *measured["warnings"]])


def totalSeconds(measured: dict, request: FineTuneRequest) -> float | None:
    """Return what a fine-tuning would take in all, None where it would be refused, or where its end is not known."""
    if request.until_converged:
        return None
    try:
        return _planOf(measured, request).total_s
    except TooLittleTime:
        return None


def neededMinutes(measured: dict, request: FineTuneRequest) -> int | None:
    """Return the whole minutes that a fine-tuning needs where those of the request do not suffice, else None."""
    try:
        _planOf(measured, request)
    except TooLittleTime as error:
        return math.ceil(error.minutes)
    return None


def _planOf(measured: dict, request: FineTuneRequest) -> TimePlan:
    amount = replace(Amount(**measured["amount"]), most_folds=request.most_folds or MOST_FOLDS)
    speeds, spent_s, minutes = Speeds(**measured["speeds"]), measured["spent_s"], request.minutes
    if request.until_converged:
        minutes = first_minutes(minutes, amount, speeds, spent_s)
    return plan_time(minutes, amount, speeds, spent_s)


def _keyOf(request: FineTuneRequest, device: str, state: str) -> str:
    """Return what must be the same for speeds to be used again: everything but minutes, rounds and folds."""
    asked = replace(request, minutes=0.0, until_converged=False, most_folds=None).to_json()
    return json.dumps([asked, device, state], sort_keys=True)
