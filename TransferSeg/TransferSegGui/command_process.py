"""One call of ``transferseg`` in a process of its own: what is over in seconds, but would keep the window waiting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import qt
import slicer
from slicer.i18n import tr as _

from TransferSegGui.process import childEnvironment, lastLine, pythonExecutable
from TransferSegGui.process_tree import endProcessTree


class CommandProcess:
    """A command line, its output and how it ended; use each object once.

    >>> command = CommandProcess(["models", "promote", "our-clinic", "3"])
    >>> command.onEnd = lambda command: print(command.error or command.output)
    >>> command.start()

    ``error`` says in one line why it failed, empty when it went well. ``output`` and ``log`` are what it wrote to its
    two channels.
    """

    #: Those that run: a process whose object is forgotten would be ended by Qt.
    _running: ClassVar[set[CommandProcess]] = set()

    def __init__(self, words: Sequence[str]) -> None:
        """Describe the call; ``words`` follow ``transferseg``."""
        self.onEnd: Callable[[CommandProcess], None] = lambda command: None
        self.output = ""
        self.log = ""
        self.error = ""
        self.ended = False
        self.cancelled = False
        self._words = list(words)
        self._process: qt.QProcess | None = None

    def start(self) -> None:
        """Start the process; this returns at once."""
        self._running.add(self)
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(childEnvironment())
        self._process.connect("readyReadStandardOutput()", self._read)
        self._process.connect("readyReadStandardError()", self._read)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._onFinished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._onProcessError)
        self._process.start(pythonExecutable(), ["-P", *self._program()])

    def cancel(self) -> None:
        """End the process with all it started; ``onEnd`` follows when it is gone."""
        if self._process is not None and not self.ended:
            self.cancelled = True
            endProcessTree(self._process.processId())
            self._process.kill()

    def stop(self) -> None:
        """Cancel, and return when the process is gone: Slicer is closing. ``onEnd`` is not called."""
        self.onEnd = lambda command: None
        self.cancel()
        if self._process is not None and not self.ended:
            self._process.waitForFinished(5000)

    def wait(self) -> None:
        """Return when it has ended; Slicer's window is kept up to date meanwhile."""
        while self._process is not None and not self.ended:
            self._process.waitForFinished(50)
            slicer.app.processEvents()

    def _program(self) -> list[str]:
        """Return what Python is to run."""
        return ["-m", "TransferSegLib", *self._words]

    def _read(self) -> None:
        """Take what has come on both channels."""
        self.output += self._process.readAllStandardOutput().data().decode("utf-8", errors="replace")
        self.log += self._process.readAllStandardError().data().decode("utf-8", errors="replace")

    def _onProcessError(self, error: int) -> None:
        """End a call whose program could not be started; all other errors are followed by ``finished``."""
        if int(error) == int(qt.QProcess.FailedToStart):
            self._end(
                _("{program} cannot be started: {reason}").format(
                    program=pythonExecutable(), reason=self._process.errorString()
                )
            )

    def _onFinished(self, exitCode: int, exitStatus: int) -> None:
        """Judge by the exit code, after what was still queued was read."""
        self._read()
        if exitCode == 0 and int(exitStatus) == int(qt.QProcess.NormalExit):
            self._end("")
        elif self.cancelled:
            self._end(_("Cancelled."))
        else:
            silent = _("The process ended without a word (exit code {code}).").format(code=exitCode)
            self._end(lastLine(self.log) or silent)

    def _end(self, error: str) -> None:
        self.ended, self.error = True, error
        self._running.discard(self)
        self.onEnd(self)
