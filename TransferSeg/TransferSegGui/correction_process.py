"""Saving a corrected case while the window stays responsive.

It is copied out of the scene at once and written to temporary files in portions, between the window's events; a job
then makes a case of them.

No Python thread: in Slicer the window's thread keeps Python's lock while it waits for events (neither Slicer nor CTK
calls ``PythonQt::setEnableThreadSupport``), so a thread would stand still whenever the user does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import qt
import slicer
from slicer.i18n import tr as _

from TransferSegGui.annotated_region import AnnotatedRegion
from TransferSegGui.attached_job import AttachedJob
from TransferSegGui.case_names import rememberName
from TransferSegGui.case_opening import CASE_ATTRIBUTE
from TransferSegGui.label_map import gridOf, labelSetOf, layersOf, voxelsOf
from TransferSegGui.modality_check import dicomModality
from TransferSegGui.nodes import hasVoxels, segmentedBy
from TransferSegGui.predictions import predictionOf
from TransferSegLib.corrections.snapshot import DESCRIPTION, Snapshot
from TransferSegLib.errors import JobError, TransferSegError
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.save_job import DICOM_PATIENT_VARIABLE, PATIENT_VARIABLE, SaveParameters
from TransferSegLib.output_checks import why_no_folder

#: Bytes that are written before the window's next events: some milliseconds' work.
_PORTION = 4_000_000
#: Between two looks whether an earlier correction is saved, ms.
_PAUSE_MS = 50
#: How long saving may take when Slicer is closed, ms.
_PATIENCE_MS = 300_000


@dataclass(frozen=True)
class Correction:
    """What is saved: the reviewed segments of a segmentation of a volume, into a project's folder.

    ``anyModality``: also if the scan is of another modality than the project's cases. ``patient`` is any text for the
    patient, empty: as saved before, else as DICOM says. Only a pseudonym of it is kept.
    """

    volumeNode: object
    segmentationNode: object
    reviewedIds: Sequence[str]
    project: Path
    region: AnnotatedRegion = field(default_factory=AnnotatedRegion)
    notes: str = ""
    anyModality: bool = False
    patient: str = ""


class CorrectionProcess(AttachedJob):
    """One corrected case on its way into a project; use each object once.

    >>> saving = CorrectionProcess(Correction(volume, segmentation, [segmentId], Path("my cases")))
    >>> saving.onEnd = lambda saving: print(saving.error or saving.case["id"])
    >>> saving.start()

    ``start`` copies what is saved, so the nodes may change or go away afterwards. At the end either ``case`` holds
    what ``transferseg cases list --json`` says of it and ``remarks``, or ``error`` is set; ``anotherModality`` holds
    the words for the scan's and the project's modality when that is why. Cancelled or killed, the project is as it was.
    Of two that save into one project the one that was started later is saved later.

    ``correction`` is what is saved, until ``onEnd`` was called: then it is None.
    """

    #: Those that have not ended, in the order in which they were started.
    _underWay: ClassVar[list[CorrectionProcess]] = []

    def __init__(self, correction: Correction) -> None:
        """Describe what is to be saved."""
        super().__init__()
        self.case: dict | None = None
        self.correction: Correction | None = correction
        self.anotherModality: tuple[str, str] | None = None
        self._earlier: list[CorrectionProcess] = []
        self._request: JobRequest | None = None
        self._scanName, self._patient = "", {}
        self._portions: Iterator[None] | None = None
        self._writeTimer = qt.QTimer()
        self._writeTimer.connect("timeout()", self._writePortion)

    def start(self) -> None:
        """Copy what is saved; the rest is done between the window's events. Raises RuntimeError."""
        try:
            snapshot = self._copy()
            _makeFolder(self.correction.project.parent)
            self._request = JobRequest("save", self._parameters(snapshot).to_json(), "cpu")
            self._portions = self._write(snapshot)
        except TransferSegError as error:
            raise RuntimeError(str(error)) from error
        except MemoryError as error:
            raise RuntimeError(
                _("There is not enough memory for a copy of the scan: close other programs, and save again.")
            ) from error
        self._earlier = [each for each in self._underWay if each.correction.project == self.correction.project]
        self._underWay.append(self)
        self._writeTimer.start(0)

    @property
    def isWriting(self) -> bool:
        """Whether the job that makes a case of the copies is yet to be started."""
        return self._portions is not None

    def cancel(self) -> None:
        """Stop, and end the job if there is one; ``onEnd`` is called when that is done."""
        if self.isWriting:
            self._stopWriting()
            self.cancelled = True
            self.error = _("Cancelled.")
            self._finish()
        else:
            super().cancel()

    def finish(self) -> None:
        """Return when the case is saved: Slicer is closing, and no correction may be lost."""
        for each in self._earlier:
            each.finish()
        self._earlier = []
        while self.isWriting:
            self._writePortion()
        self.waitForEnd(_PATIENCE_MS)

    @classmethod
    def finishAll(cls) -> None:
        """Return when all cases on their way are saved, those of scripts too."""
        for each in list(cls._underWay):
            each.finish()

    @classmethod
    def volumesOnTheirWay(cls, project: Path) -> list:
        """Return the volumes whose cases are on their way into a project."""
        return [each.correction.volumeNode for each in cls._underWay if each.correction.project == project]

    def _copy(self) -> Snapshot:
        """Copy out of the scene what is saved: only this must be done in the window's thread."""
        volume, segmentation = self.correction.volumeNode, self.correction.segmentationNode
        if not hasVoxels(volume):
            raise RuntimeError(_("The volume '{name}' has no voxels.").format(name=volume.GetName()))
        labelSet = labelSetOf(segmentation)
        if not volume.GetAttribute(CASE_ATTRIBUTE):  # else it may be called by the number of its case in a project
            self._scanName = volume.GetName()
        typed = self.correction.patient.strip()
        self._patient = {PATIENT_VARIABLE: typed, DICOM_PATIENT_VARIABLE: patientId(volume)}
        layers = layersOf(segmentation, volume, self.correction.reviewedIds)
        return Snapshot(voxelsOf(volume), gridOf(volume), labelSet, layers, self.correction.region.box)

    def _parameters(self, snapshot: Snapshot) -> SaveParameters:
        """Return what the job is asked to do, from the nodes as they are now."""
        correction, region = self.correction, self.correction.region
        segmentation = correction.segmentationNode
        ids, names = list(segmentation.GetSegmentation().GetSegmentIDs()), snapshot.label_set.names
        by, prediction = segmentedBy(segmentation), predictionOf(segmentation, correction.volumeNode)
        return SaveParameters(
            snapshot=str(self.file("")),
            project=str(correction.project),
            reviewed=tuple(names[ids.index(each)] for each in correction.reviewedIds),
            notes=correction.notes,
            modality=dicomModality(correction.volumeNode),
            any_modality=correction.anyModality,
            slices=region.slices,
            region=None if region.file is None else str(region.file),
            prediction=None if prediction is None else str(prediction),
            model=None if by is None else by.model,
            model_version="" if by is None else by.version,
        )

    def _write(self, snapshot: Snapshot) -> Iterator[None]:
        """Write the copies to files, each turn a portion; then wait for earlier corrections of the project."""
        self.file(DESCRIPTION).write_text(snapshot.description(), encoding="utf-8")
        for name, array in snapshot.arrays():
            values = memoryview(array).cast("B")
            with self.file(name).open("xb") as stream:
                for begin in range(0, len(values), _PORTION):
                    stream.write(values[begin : begin + _PORTION])
                    yield
        self._writeTimer.start(_PAUSE_MS)
        while any(not each.ended for each in self._earlier):
            yield

    def _writePortion(self) -> None:
        """Write a little; after the last portion start the job."""
        if self._portions is None:
            return
        try:
            next(self._portions)
            return
        except StopIteration:
            self._stopWriting()
            try:
                self.begin(self._request, self._patient)
                return
            except JobError as error:
                self.error = str(error)
        except OSError as error:
            self._stopWriting()
            text = _("{path} cannot be written: {reason}.")
            self.error = text.format(path=self.temporary.name, reason=error.strerror or error)
        self._finish()

    def _stopWriting(self) -> None:
        self._writeTimer.stop()
        portions, self._portions = self._portions, None
        with suppress(OSError):  # a file that is given up may be too long for the disk
            portions.close()

    def takeResult(self) -> None:
        """Keep what was saved, and on this computer what its scan is called."""
        self.case = self.result
        rememberName(self.case["image_hash"], self._scanName)

    def _finish(self) -> None:
        """Tell that it is over; without a result nothing was saved."""
        self._underWay.remove(self)
        if self.case is None and not self.cancelled and "another_modality" in (self.result or {}):
            found = self.result["another_modality"]
            self.anotherModality = (found["scan"], found["project"])
            self.error = _(
                "The scan is {scan} (according to DICOM or its intensities), but the project's cases are {project}. "
                "Choose another project, or save again to mix them."
            ).format(scan=found["scan"], project=found["project"])
        super()._finish()

    def letGo(self) -> None:
        """Forget the scene's nodes."""
        self.correction, self._request, self._earlier = None, None, []


def _makeFolder(folder: Path) -> None:
    """Make the folder in which a project will be; raises RuntimeError when it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = _("The folder {path} cannot be created: {reason}. Choose another project folder.")
        raise RuntimeError(text.format(path=folder, reason=why_no_folder(folder, error))) from error


def patientId(volumeNode) -> str:
    """Return the DICOM PatientID of a volume that was loaded from DICOM, empty for others."""
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    item = hierarchy.GetItemByDataNode(volumeNode) if hierarchy is not None else 0
    if not item:
        return ""
    constants = slicer.vtkMRMLSubjectHierarchyConstants
    name, level = constants.GetDICOMPatientIDAttributeName(), constants.GetDICOMLevelPatient()
    return hierarchy.GetAttributeFromItemAncestor(item, name, level) or ""
