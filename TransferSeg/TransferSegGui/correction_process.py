"""Saving a corrected case in a process of its own: ``transferseg cases add``, as a script would call it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from TransferSegGui.command_process import CommandProcess
from TransferSegGui.label_map import labelMapOf, labelSetOf
from TransferSegGui.nodes import segmentedBy, writeVolume
from TransferSegGui.predictions import predictionOf
from TransferSegGui.process import temporaryFolder
from TransferSegLib.errors import TransferSegError
from TransferSegLib.scans.write import write_label_map


@dataclass(frozen=True)
class Correction:
    """What is saved: the reviewed segments of a segmentation of a volume, into a project's folder.

    ``judged`` writes the mask of what was looked at into a file and returns False when that was everything.
    """

    volumeNode: object
    segmentationNode: object
    reviewedIds: Sequence[str]
    project: Path
    judged: Callable[[Path], bool] = lambda file: False
    notes: str = ""


class CorrectionProcess(CommandProcess):
    """One corrected case on its way into a project; use each object once.

    >>> saving = CorrectionProcess(Correction(volume, segmentation, [segmentId], Path("my cases")))
    >>> saving.onEnd = lambda saving: print(saving.error or saving.case["id"])
    >>> saving.start()

    ``start`` writes the nodes to temporary files, so they may change or go away afterwards. At the end either ``case``
    holds what ``transferseg cases list --json`` says of it and ``remarks``, or ``error`` is set. Cancelled or killed,
    the project is as it was.
    """

    def __init__(self, correction: Correction) -> None:
        """Describe what is to be saved."""
        super().__init__([])
        self.onProgress: Callable[[float, str], None] = lambda fraction, message: None
        self.case: dict | None = None
        self._correction = correction
        self._folder: tempfile.TemporaryDirectory | None = None
        self._told = 0

    def start(self) -> None:
        """Write the files and start the process; raises RuntimeError that says what is wrong."""
        self._folder = temporaryFolder()
        try:
            self._words = self._write(Path(self._folder.name))
        except (TransferSegError, OSError) as error:
            self._folder.cleanup()
            raise RuntimeError(str(error)) from error
        except RuntimeError:
            self._folder.cleanup()
            raise
        super().start()
        # The patient's id is no word of the command line, which other users of the computer could read.
        self._process.write(f"{patientId(self._correction.volumeNode)}\n".encode())
        self._process.closeWriteChannel()

    def finish(self) -> None:
        """Return when the case is saved: Slicer is closing, and no correction may be lost."""
        if self._process is not None and not self.ended:
            self._process.waitForFinished(300_000)

    def _write(self, folder: Path) -> list[str]:
        """Write the files and return the command line after ``transferseg``."""
        correction = self._correction
        volume, segmentation = correction.volumeNode, correction.segmentationNode
        labelSet = labelSetOf(segmentation)
        reviewed = [segmentation.GetSegmentation().GetSegment(each).GetName() for each in correction.reviewedIds]
        writeVolume(volume, folder / "volume.nrrd")
        labelMap = labelMapOf(segmentation, volume, correction.reviewedIds)
        write_label_map(labelMap, folder / "labels.seg.nrrd", labelSet, compress=False)
        _makeFolder(correction.project.parent)
        words = ["cases", "add", str(folder / "volume.nrrd"), str(folder / "labels.seg.nrrd")]
        words += ["--project", str(correction.project), "--progress", "json", "--patient", "-"]
        words += [f"--notes={correction.notes}", "--reviewed", *reviewed]
        if correction.judged(folder / "judged.nrrd"):
            words += ["--judged", str(folder / "judged.nrrd")]
        by, prediction = segmentedBy(segmentation), predictionOf(segmentation, volume)
        if by is not None:
            words += ["--model", by.model, "--model-version", by.version]
        if prediction is not None:
            words += ["--prediction", str(prediction)]
        return words

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
        if "fraction" in entry:
            self.onProgress(entry["fraction"], entry["message"])
        elif "result" in entry:
            self.case = entry["result"]

    def _end(self, error: str) -> None:
        """Remove the temporary files and tell that it is over; without a result nothing was saved."""
        self._folder.cleanup()
        super()._end(error if error or self.case is not None else _("The process ended without a result."))


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
