"""Python in a process of its own: a call of ``transferseg`` that would keep the window waiting, or a job's worker."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import qt
import slicer
from slicer.i18n import tr as _

from TransferSegLib.jobs.launch import worker_environment
from TransferSegLib.process_tree import end_process_tree

#: How many lines of the log a message about an error holds.
LAST_LINES = 3


class CommandProcess:
    """A command line, its output and how it ended; use each object once.

    >>> command = CommandProcess(["models", "promote", "our-clinic", "3"])
    >>> command.onEnd = lambda command: print(command.error or command.output)
    >>> command.start()

    ``error`` says in one line why it failed, empty when it went well. ``output`` and ``log`` are what it wrote to
    standard output and standard error.
    """

    #: Those that run: a process whose object is forgotten would be ended by Qt.
    _running: ClassVar[set[CommandProcess]] = set()

    def __init__(
        self, args: Sequence[str], module: str = "TransferSegLib", environment: Mapping[str, str] | None = None
    ) -> None:
        """Describe the call of a Python module; ``environment`` is added to that of Slicer."""
        self.onEnd: Callable[[CommandProcess], None] = lambda command: None
        self.output = ""
        self.log = ""
        self.error = ""
        self.ended = False
        self.cancelled = False
        # -P: a file called like a module, in the folder the process runs in, is not taken for it.
        self._args = ["-P", "-m", module, *args]
        self._environment = worker_environment() | dict(environment or {})
        self._process: qt.QProcess | None = None

    def start(self) -> None:
        """Start the process; this returns at once."""
        self._running.add(self)
        self._process = qt.QProcess()
        environment = qt.QProcessEnvironment.systemEnvironment()
        for name, value in self._environment.items():
            environment.insert(name, value)
        self._process.setProcessEnvironment(environment)
        self._process.connect("readyReadStandardOutput()", self._read)
        self._process.connect("readyReadStandardError()", self._read)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._onFinished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._onProcessError)
        self._process.start(pythonExecutable(), self._args)

    @property
    def processId(self) -> int:
        """The id of the process, or of the launcher that started it; 0 while there is none."""
        return 0 if self._process is None else self._process.processId()

    def cancel(self) -> None:
        """End the process with all it started; ``onEnd`` is called when it has ended."""
        if self._process is not None and not self.ended:
            self.cancelled = True
            end_process_tree(self.processId)
            self._process.kill()

    def stop(self) -> None:
        """Cancel, and return when the process has ended: Slicer is closing. ``onEnd`` is not called."""
        self.onEnd = lambda command: None
        self.cancel()
        self.waitForEnd(5000)

    def wait(self) -> None:
        """Return when it has ended; Slicer's window is kept up to date meanwhile."""
        while self._process is not None and not self.ended:
            self._process.waitForFinished(50)
            slicer.app.processEvents()

    def waitForEnd(self, longest_ms: int) -> None:
        """Return when it has ended, without the window: its events are not processed meanwhile."""
        if self._process is not None and not self.ended:
            self._process.waitForFinished(longest_ms)

    def _read(self) -> None:
        self.output += self._process.readAllStandardOutput().data().decode("utf-8", errors="replace")
        self.log += self._process.readAllStandardError().data().decode("utf-8", errors="replace")

    def _onProcessError(self, error: int) -> None:
        """End a call whose program could not be started; all other errors are followed by ``finished``."""
        if int(error) == int(qt.QProcess.FailedToStart):
            text = _("{program} cannot be started: {reason}")
            text = text.format(program=pythonExecutable(), reason=self._process.errorString())
            qt.QTimer.singleShot(0, lambda: self._end(text))  # Windows reports it before ``start`` returns

    def _onFinished(self, exitCode: int, exitStatus: int) -> None:
        """Decide by the exit code, after what was still queued was read."""
        self._read()
        if exitCode == 0 and int(exitStatus) == int(qt.QProcess.NormalExit):
            self._end("")
        elif self.cancelled:
            self._end(_("Cancelled."))
        else:
            silent = _("The process ended without a message (exit code {code}).").format(code=exitCode)
            self._end(lastLine(self.log) or silent)

    def _end(self, error: str) -> None:
        self.ended, self.error = True, error
        self._running.discard(self)
        self.onEnd(self)


def runCommand(args: Sequence[str], onEnd: Callable[[CommandProcess], None]) -> CommandProcess:
    """Start ``transferseg`` with arguments and return the process; this returns at once."""
    command = CommandProcess(args)
    command.onEnd = onEnd
    command.start()
    return command


def pythonExecutable() -> str:
    """Return the Python that child processes run in: Slicer's own."""
    return shutil.which("PythonSlicer") or sys.executable


def lastLine(log: str) -> str:
    """Return the last line of a log that is not empty, without the command's name in front."""
    return (lastLines(log, 1) or [""])[0].removeprefix("transferseg: ")


def lastLines(log: str, count: int = LAST_LINES) -> list[str]:
    """Return the last lines of a log that are not empty."""
    return [line.strip() for line in log.splitlines() if line.strip()][-count:]


def withoutPath(output: str) -> str:
    """Return what a command printed for a person, without the path that ends it: the panel's user needs none."""
    text = output.strip()
    words, _comma, last = text.rpartition(", ")
    return f"{words}." if words and Path(last).is_absolute() else text
