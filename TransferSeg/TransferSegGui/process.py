"""Segmenting in a process of its own: ``transferseg segment --progress json``, followed without blocking the window."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import qt
import slicer
import vtk
from slicer.i18n import tr as _

import TransferSegLib
from TransferSegGui.modality_check import dicomModality
from TransferSegGui.nodes import SegmentedBy, readSegmentation, writeVolume
from TransferSegGui.predictions import keepPrediction
from TransferSegGui.process_tree import endProcessTree
from TransferSegLib.errors import TransferSegError
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_description
from TransferSegLib.models.versions.state import version_name

#: The log that is kept for the text box; what is older is dropped.
_LOG_CHARACTERS = 200_000
#: How many lines of the log a message about an error holds.
LAST_LINES = 3


class SegmentProcess:
    """One run, from a volume node to a segmentation node; use each object once.

    >>> run = SegmentProcess(volumeNode, model="head-neck-ct")
    >>> run.onProgress = lambda fraction, secondsLeft, message: ...
    >>> run.onEnd = lambda run: print(run.error or run.segmentationNode.GetName())
    >>> run.start()

    At the end ``onEnd`` is called exactly once, the temporary files are gone, and either ``segmentationNode`` and
    ``result`` (device, seconds, volumes) are set, or ``cancelled`` is, or ``error`` says in one line what is wrong.
    ``log`` holds everything that the process said. Nodes may be removed or renamed meanwhile: without its volume the
    result has no reference geometry, and without its output it becomes a new segmentation.
    """

    #: Those that run: a process whose object is forgotten, by a script, would be ended by Qt.
    _running: ClassVar[set[SegmentProcess]] = set()

    def __init__(
        self, volumeNode, outputNode=None, model: str = "", device: str = "auto", structures: Sequence[str] = ()
    ) -> None:
        """Describe the run; ``model`` is a name or path (empty: the bundled model), ``structures`` empty: all."""
        self.onProgress: Callable[[float, float | None, str], None] = lambda fraction, secondsLeft, message: None
        self.onEnd: Callable[[SegmentProcess], None] = lambda run: None
        self._segmentationNode = vtk.vtkWeakReference()
        self.result: dict | None = None
        self.error = ""
        self.cancelled = False
        #: The process ended without saying why: ``error`` is made from what else is known.
        self.crashed = False
        self.log = ""
        # The nodes themselves: another one may get the name or the ID of one that is removed while the process runs.
        self._volume, self._output = volumeNode, outputNode
        self._model, self._device, self._structures = model, device, list(structures)
        self._path: Path | None = None
        self._segmentedBy: SegmentedBy | None = None
        self._folder: tempfile.TemporaryDirectory | None = None
        self._process: qt.QProcess | None = None
        self._queued = b""
        self._ended = False

    def start(self) -> None:
        """Write the volume to a temporary folder and start the process; raises RuntimeError when it cannot be.

        The model is found now: a version that becomes the current one meanwhile changes nothing.
        """
        self._findModel()
        self._folder = temporaryFolder()
        try:
            writeVolume(self._volume, self._file("volume.nrrd"))
        except RuntimeError:
            self._folder.cleanup()
            raise
        self._running.add(self)
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

    @property
    def segmentationNode(self):
        """The result; None before there is one, and when it was removed."""
        return self._segmentationNode.Get()

    @property
    def volumeIsGone(self) -> bool:
        """Whether the volume is not in the scene any more; for ``onEnd``."""
        return _ifThere(self._volume) is None

    def _findModel(self) -> None:
        """Find the model's files and what to write into the result; raises RuntimeError when it cannot be used."""
        try:
            self._path = find_model(self._model or None)
            description = load_description(self._path)
            label_set = description.label_set
            names = (label_set.select(self._structures) if self._structures else label_set).names
        except TransferSegError as error:
            raise RuntimeError(str(error)) from error
        self._segmentedBy = SegmentedBy(description.name, version_name(self._path, description.version), names)

    def _words(self) -> list[str]:
        """Return the command line after ``transferseg``."""
        words = ["segment", str(self._file("volume.nrrd")), "--output", str(self._file("result.seg.nrrd"))]
        words += ["--progress", "json", "--device", self._device]
        words += ["--model", str(self._path)]
        modality = dicomModality(self._volume)
        if modality:  # the file that is written does not hold it
            words += ["--modality", modality]
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
                self.crashed = True
                self.error = lastLine(self.log) or _("The process ended without a word (exit code {code}).").format(
                    code=exitCode
                )
        except RuntimeError as error:
            self.error = str(error)
        finally:
            self._end()

    def _takeResult(self) -> None:
        """Turn the file that was written into a segmentation node."""
        node = readSegmentation(self._file("result.seg.nrrd"), _ifThere(self._volume), _ifThere(self._output))
        self._segmentationNode.Set(node)
        self._segmentedBy.writeTo(node)
        keepPrediction(node, self._file("result.seg.nrrd"))

    def _end(self) -> None:
        """Remove the temporary files and tell that the run is over."""
        self._ended = True
        self._running.discard(self)
        self._folder.cleanup()
        if Path(self._folder.name).exists():
            self._addToLog(_("The temporary folder {path} could not be removed.").format(path=self._folder.name))
        self.onEnd(self)
        # PythonQt keeps what is connected to a signal, and so this object, for ever: the scan must not stay with it.
        self._volume = self._output = None
        self.onEnd = lambda run: None


def temporaryFolder() -> tempfile.TemporaryDirectory:
    """Return a new folder for a child's files among Slicer's temporary ones; raises RuntimeError when it cannot be."""
    try:
        return tempfile.TemporaryDirectory(
            prefix="TransferSeg-", dir=slicer.app.temporaryPath, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise RuntimeError(
            _("No folder can be made in Slicer's temporary folder {path}: {reason}.").format(
                path=slicer.app.temporaryPath, reason=error.strerror or error
            )
        ) from error


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
    return (lastLines(log, 1) or [""])[0].removeprefix("transferseg: ")


def lastLines(log: str, count: int = LAST_LINES) -> list[str]:
    """Return the last lines of a log that say something."""
    return [line.strip() for line in log.splitlines() if line.strip()][-count:]


def _ifThere(node):
    """Return a node, None when it is not in the scene (any more)."""
    return node if node is not None and slicer.mrmlScene.IsNodePresent(node) else None
