"""Saving a corrected case while the window stays alive.

It is copied out of the scene at once and written to temporary files in portions, between the window's events; a
process of its own then makes a case of them, as ``transferseg cases add`` does it.

No Python thread: in Slicer the window's thread keeps Python's lock while it waits for events (neither Slicer nor CTK
calls ``PythonQt::setEnableThreadSupport``), so a thread would stand still whenever the user does nothing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from TransferSegGui import snapshot as snapshot_program
from TransferSegGui.command_process import CommandProcess
from TransferSegGui.judged_mask import Judged
from TransferSegGui.label_map import gridOf, labelSetOf, layersOf, voxelsOf
from TransferSegGui.modality_check import dicomModality
from TransferSegGui.nodes import hasVoxels, segmentedBy
from TransferSegGui.predictions import predictionOf
from TransferSegGui.process import temporaryFolder
from TransferSegGui.snapshot import DESCRIPTION, JUDGED, LABELS, VOLUME, Snapshot
from TransferSegLib.errors import TransferSegError
from TransferSegLib.structures import LabelSet

#: Bytes that are written before the window goes on: some milliseconds' work.
_PORTION = 4_000_000
#: Between two looks whether an earlier correction is saved, ms.
_PAUSE_MS = 50
#: How long saving may take when Slicer is closed, ms.
_PATIENCE_MS = 300_000


@dataclass(frozen=True)
class Correction:
    """What is saved: the reviewed segments of a segmentation of a volume, into a project's folder.

    ``anyModality``: also if the scan is of another modality than the project's cases.
    """

    volumeNode: object
    segmentationNode: object
    reviewedIds: Sequence[str]
    project: Path
    judged: Judged = field(default_factory=Judged)
    notes: str = ""
    anyModality: bool = False


class CorrectionProcess(CommandProcess):
    """One corrected case on its way into a project; use each object once.

    >>> saving = CorrectionProcess(Correction(volume, segmentation, [segmentId], Path("my cases")))
    >>> saving.onEnd = lambda saving: print(saving.error or saving.case["id"])
    >>> saving.start()

    ``start`` copies what is saved, so the nodes may change or go away afterwards. At the end either ``case`` holds
    what ``transferseg cases list --json`` says of it and ``remarks``, or ``error`` is set; ``anotherModality`` holds
    the words for the scan's and the project's modality when that is why. Cancelled or killed, the project is as it was.
    Of two that save into one project the one that was started later is saved later.

    ``correction`` is what is saved, until ``onEnd`` was called: then it is None. PythonQt keeps what is connected to a
    signal, and so this object, for ever; the scan must not stay with it.
    """

    def __init__(self, correction: Correction) -> None:
        """Describe what is to be saved."""
        super().__init__([])
        self.onProgress: Callable[[float, str], None] = lambda fraction, message: None
        self.case: dict | None = None
        self.correction: Correction | None = correction
        self._earlier: list[CorrectionProcess] = []
        self._folder: tempfile.TemporaryDirectory | None = None
        self._portions: Iterator[None] | None = None
        self._timer = qt.QTimer()
        self._timer.connect("timeout()", self._writePortion)
        self._names: list[str] = []
        self.anotherModality: tuple[str, str] | None = None
        self._overlap: list[int] | None = None
        self._patientId = ""
        self._told = 0

    def start(self) -> None:
        """Copy what is saved, and go on between the window's events; raises RuntimeError that says what is wrong."""
        try:
            copied = self._copy()
            _makeFolder(self.correction.project.parent)
            self._folder = temporaryFolder()
            self._portions = self._write(copied, Path(self._folder.name))
        except TransferSegError as error:
            raise RuntimeError(str(error)) from error
        except MemoryError as error:
            raise RuntimeError(
                _("There is not enough memory for a copy of the scan: close other programs, and save again.")
            ) from error
        self._earlier = [each for each in self._underWay() if each.correction.project == self.correction.project]
        self._running.add(self)
        self._timer.start(0)

    @property
    def isWriting(self) -> bool:
        """Whether the process that makes a case of the copies is yet to be started."""
        return self._portions is not None

    def cancel(self) -> None:
        """Stop, and end the process with all it started if there is one; ``onEnd`` is called when that is done."""
        if self.isWriting:
            self._stopWriting()
            self.cancelled = True
            self._end(_("Cancelled."))
        else:
            super().cancel()

    def wait(self) -> None:
        """Return when it has ended; Slicer's window is kept up to date meanwhile."""
        while self.isWriting:
            slicer.app.processEvents()
        super().wait()

    def finish(self) -> None:
        """Return when the case is saved: Slicer is closing, and no correction may be lost."""
        for each in self._earlier:
            each.finish()
        self._earlier = []
        while self.isWriting:
            self._writePortion()
        if self._process is not None and not self.ended:
            self._process.waitForFinished(_PATIENCE_MS)

    @classmethod
    def finishAll(cls) -> None:
        """Return when all cases on their way are saved, those of scripts too."""
        for each in cls._underWay():
            each.finish()

    @classmethod
    def _underWay(cls) -> list[CorrectionProcess]:
        return [each for each in cls._running if isinstance(each, cls)]

    def _copy(self) -> Snapshot:
        """Copy out of the scene what is saved: only this may be done in the window's thread alone."""
        volume, segmentation = self.correction.volumeNode, self.correction.segmentationNode
        if not hasVoxels(volume):
            raise RuntimeError(_("The volume '{name}' has no voxels.").format(name=volume.GetName()))
        labelSet = labelSetOf(segmentation)
        segments = segmentation.GetSegmentation()
        self._names = [segments.GetSegment(each).GetName() for each in segments.GetSegmentIDs()]
        self._patientId = patientId(volume)
        layers = layersOf(segmentation, volume, self.correction.reviewedIds)
        return Snapshot(voxelsOf(volume), gridOf(volume), labelSet, layers, self.correction.judged.box)

    def _write(self, copied: Snapshot, folder: Path) -> Iterator[None]:
        """Return an iterator that writes the copies to files, each turn a portion."""
        description = copied.description(self._commandLine(folder, copied.labelSet))

        def portions() -> Iterator[None]:
            (folder / DESCRIPTION).write_text(description, encoding="utf-8")
            for name, array in copied.arrays():
                values = memoryview(array).cast("B")
                with (folder / name).open("xb") as stream:
                    for begin in range(0, len(values), _PORTION):
                        stream.write(values[begin : begin + _PORTION])
                        yield
            self._timer.start(_PAUSE_MS)
            while any(not each.ended for each in self._earlier):
                yield

        return portions()

    def _commandLine(self, folder: Path, labelSet: LabelSet) -> list[str]:
        """Return the words after ``transferseg``; the files are those that the process makes first."""
        correction, judged = self.correction, self.correction.judged
        segmentation = correction.segmentationNode
        ids, names = list(segmentation.GetSegmentation().GetSegmentIDs()), labelSet.names
        # One word each, or a name that begins with a dash would be taken for an option.
        reviewed = [f"--reviewed={names[ids.index(each)]}" for each in correction.reviewedIds]
        words = ["cases", "add", str(folder / VOLUME), str(folder / LABELS)]
        words += ["--project", str(correction.project), "--progress", "json", "--patient", "-"]
        words += [f"--notes={correction.notes}", f"--modality={dicomModality(correction.volumeNode)}", *reviewed]
        if correction.anyModality:
            words.append("--any-modality")
        if judged.slices:
            words += ["--judged-slices", judged.slices]
        elif judged.box is not None or judged.file is not None:
            words += ["--judged", str(judged.file or folder / JUDGED)]
        by, prediction = segmentedBy(segmentation), predictionOf(segmentation, correction.volumeNode)
        if by is not None:
            words += ["--model", by.model, "--model-version", by.version]
        if prediction is not None:
            words += ["--prediction", str(prediction)]
        return words

    def _writePortion(self) -> None:
        """Write a little; after the last portion start the process."""
        if self._portions is None:
            return
        try:
            next(self._portions)
        except StopIteration:
            self._stopWriting()
            self._launch()
        except OSError as error:
            self._stopWriting()
            text = _("{path} cannot be written: {reason}.")
            self._end(text.format(path=self._folder.name, reason=error.strerror or error))

    def _stopWriting(self) -> None:
        self._timer.stop()
        portions, self._portions = self._portions, None
        with suppress(OSError):  # a file that is given up may be too long for the disk
            portions.close()

    def _launch(self) -> None:
        """Start the process that makes a case of the files."""
        super().start()
        # The patient's id is no word of the command line, nor in a file.
        self._process.write(f"{self._patientId}\n".encode())
        self._process.closeWriteChannel()

    def _program(self) -> list[str]:
        return [str(Path(snapshot_program.__file__)), self._folder.name]

    def _read(self) -> None:
        """Take the JSON lines that are complete."""
        super()._read()
        *lines, _rest = self.output[self._told :].split("\n")
        self._told += sum(len(line) + 1 for line in lines)
        for line in lines:
            self._takeLine(line)

    def _takeLine(self, line: str) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            return
        if not isinstance(entry, dict):
            return
        if "fraction" in entry:
            self.onProgress(entry["fraction"], entry["message"])
        elif "result" in entry:
            self.case = entry["result"]
        elif "another_modality" in entry:
            found = entry["another_modality"]
            self.anotherModality = (found["scan"], found["project"])
        elif "overlap" in entry:
            self._overlap = entry["overlap"]

    def _end(self, error: str) -> None:
        """Remove the temporary files and tell that it is over; without a result nothing was saved."""
        self._folder.cleanup()
        if self._overlap is not None:
            error = self._overlapText(*self._overlap)
        if self.anotherModality is not None:
            error = _(
                "The scan is {scan} (by DICOM, or by its intensities), and the project's cases are {project}. Choose "
                "another project, or save again to mix them."
            ).format(scan=self.anotherModality[0], project=self.anotherModality[1])
        super()._end(error if error or self.case is not None else _("The process ended without a result."))
        self.correction, self._earlier, self.onEnd = None, [], lambda saving: None

    def _overlapText(self, one: int, other: int, count: int) -> str:
        """Return why segments that overlap, given by their label values, cannot be saved."""
        return _(
            "'{one}' and '{other}' share {count} voxels, and a voxel can belong to one of them only: erase them "
            "from one of the two, or tick only one."
        ).format(one=self._names[one - 1], other=self._names[other - 1], count=count)


def _makeFolder(folder: Path) -> None:
    """Make the folder in which a project will be; raises RuntimeError when it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeError(
            _("The folder {path} cannot be made: {reason}.").format(path=folder, reason=error.strerror or error)
        ) from error


def patientId(volumeNode) -> str:
    """Return the DICOM PatientID of a volume that was loaded from DICOM, empty for others."""
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    item = hierarchy.GetItemByDataNode(volumeNode) if hierarchy is not None else 0
    if not item:
        return ""
    constants = slicer.vtkMRMLSubjectHierarchyConstants
    name, level = constants.GetDICOMPatientIDAttributeName(), constants.GetDICOMLevelPatient()
    return hierarchy.GetAttributeFromItemAncestor(item, name, level) or ""
