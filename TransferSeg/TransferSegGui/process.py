"""Segmenting in a process of its own: ``transferseg segment --progress json``, followed without blocking the window."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

import TransferSegLib
from TransferSegGui.nodes import readSegmentation, writeVolume
from TransferSegGui.process_tree import endProcessTree

#: The log that is kept for the text box; what is older is dropped.
_LOG_CHARACTERS = 200_000


class SegmentProcess:
    """One run, from a volume node to a segmentation node; use each object once.

    >>> run = SegmentProcess(volumeNode, model="head-neck-ct")
    >>> run.onProgress = lambda fraction, secondsLeft, message: ...
    >>> run.onEnd = lambda run: print(run.error or run.segmentationNode.GetName())
    >>> run.start()

    At the end ``onEnd`` is called exactly once, the temporary files are gone, and either ``segmentationNode`` and
    ``result`` (device, seconds, volumes) are set, or ``cancelled`` is, or ``error`` says in one line what is wrong.
    ``log`` holds everything that the process said.
    """

    def __init__(
        self, volumeNode, outputNode=None, model: str = "", device: str = "auto", structures: Sequence[str] = ()
    ) -> None:
        """Describe the run; ``model`` is a name or path (empty: the bundled model), ``structures`` empty: all."""
        self.onProgress: Callable[[float, float | None, str], None] = lambda fraction, secondsLeft, message: None
        self.onEnd: Callable[[SegmentProcess], None] = lambda run: None
        self.segmentationNode = None
        self.result: dict | None = None
        self.error = ""
        self.cancelled = False
        self.log = ""
        # By ID: a node may be removed, or another one of its name appear, while the process runs.
        self._volumeId = volumeNode.GetID()
        self._outputId = outputNode.GetID() if outputNode is not None else ""
        self._model, self._device, self._structures = model, device, list(structures)
        self._folder: tempfile.TemporaryDirectory | None = None
        self._process: qt.QProcess | None = None
        self._queued = b""
        self._ended = False

    def start(self) -> None:
        """Write the volume to a temporary folder and start the process; raises RuntimeError when it cannot be."""
        self._folder = tempfile.TemporaryDirectory(
            prefix="TransferSeg-", dir=slicer.app.temporaryPath, ignore_cleanup_errors=True
        )
        try:
            writeVolume(slicer.mrmlScene.GetNodeByID(self._volumeId), self._file("volume.nrrd"))
        except RuntimeError:
            self._folder.cleanup()
            raise
        self._process = qt.QProcess()
        self._process.setProcessEnvironment(childEnvironment())
        self._process.connect("readyReadStandardOutput()", self._readLines)
        self._process.connect("readyReadStandardError()", self._readLog)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._onFinished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._onProcessError)
        self._process.start(pythonExecutable(), ["-P", "-m", "TransferSegLib", *self._words()])

    def cancel(self) -> None:
        """End the process with all it started; ``onEnd`` follows when it is gone."""
        if self._process is not None and not self._ended:
            self.cancelled = True
            endProcessTree(self._process.processId())
            self._process.kill()

    def stop(self) -> None:
        """Cancel, and return when the process is gone and its files are removed: Slicer or its scene is closing."""
        self.cancel()
        if self._process is not None and not self._ended:
            self._process.waitForFinished(5000)

    def wait(self) -> None:
        """Return when the run has ended; Slicer's window is kept up to date meanwhile."""
        while not self._ended:
            self._process.waitForFinished(50)
            slicer.app.processEvents()

    @property
    def ended(self) -> bool:
        """Whether the run is over, well or not."""
        return self._ended

    def _words(self) -> list[str]:
        """Return the command line after ``transferseg``."""
        words = ["segment", str(self._file("volume.nrrd")), "--output", str(self._file("result.seg.nrrd"))]
        words += ["--progress", "json", "--device", self._device]
        words += ["--model", self._model] if self._model else []
        return words + (["--structures", *self._structures] if self._structures else [])

    def _file(self, name: str) -> Path:
        return Path(self._folder.name) / name

    def _readLines(self) -> None:
        """Take the JSON lines that are complete."""
        self._queued += self._process.readAllStandardOutput().data()
        *lines, self._queued = self._queued.split(b"\n")
        for line in lines:
            self._takeLine(line.decode("utf-8", errors="replace").strip())

    def _takeLine(self, line: str) -> None:
        """Follow one line of the protocol; anything else that a package printed goes to the log."""
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            self._addToLog(line + "\n" if line else "")
        elif "fraction" in entry:
            self.onProgress(entry["fraction"], entry["seconds_left"], entry["message"])
        elif "result" in entry:
            self.result = entry["result"]
        elif "error" in entry:
            self.error = entry["error"]

    def _readLog(self) -> None:
        """Take what the process says on the other channel."""
        self._addToLog(self._process.readAllStandardError().data().decode("utf-8", errors="replace"))

    def _addToLog(self, text: str) -> None:
        self.log = (self.log + text)[-_LOG_CHARACTERS:]

    def _onProcessError(self, error: int) -> None:
        """End a run whose program could not be started; all other errors are followed by ``finished``."""
        if int(error) == int(qt.QProcess.FailedToStart):
            self.error = _("{program} cannot be started: {reason}").format(
                program=pythonExecutable(), reason=self._process.errorString()
            )
            self._end()

    def _onFinished(self, exitCode: int, exitStatus: int) -> None:
        """Judge by the exit code and the result, after what was still queued was read."""
        try:
            self._readLines()
            self._takeLine(self._queued.decode("utf-8", errors="replace").strip())
            self._readLog()
            well = exitCode == 0 and int(exitStatus) == int(qt.QProcess.NormalExit)
            if well and self.result is not None and not self.cancelled:
                self._takeResult()
            elif not self.error:
                self.error = lastLine(self.log) or _("The process ended without a word (exit code {code}).").format(
                    code=exitCode
                )
        except RuntimeError as error:
            self.error = str(error)
        finally:
            self._end()

    def _takeResult(self) -> None:
        """Turn the file that was written into a segmentation node."""
        self.segmentationNode = readSegmentation(
            self._file("result.seg.nrrd"),
            slicer.mrmlScene.GetNodeByID(self._volumeId),
            slicer.mrmlScene.GetNodeByID(self._outputId) if self._outputId else None,
        )

    def _end(self) -> None:
        """Remove the temporary files and tell that the run is over."""
        self._ended = True
        self._folder.cleanup()
        if Path(self._folder.name).exists():
            self._addToLog(_("The temporary folder {path} could not be removed.").format(path=self._folder.name))
        self.onEnd(self)


def pythonExecutable() -> str:
    """Return the Python that child processes run in: Slicer's own."""
    return shutil.which("PythonSlicer") or sys.executable


def childEnvironment() -> qt.QProcessEnvironment:
    """Return this process' environment, with the library's folder on the path and UTF-8 in and out."""
    environment = qt.QProcessEnvironment.systemEnvironment()
    folders = [str(Path(TransferSegLib.__file__).resolve().parents[1]), environment.value("PYTHONPATH")]
    environment.insert("PYTHONPATH", os.pathsep.join(folder for folder in folders if folder))
    environment.insert("PYTHONUTF8", "1")
    return environment


def lastLine(log: str) -> str:
    """Return the last line of a log that says something, without the command's name in front."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1].removeprefix("transferseg: ") if lines else ""
