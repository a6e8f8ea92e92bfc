"""Segmenting a volume: it is written to a file, a job segments that, and the result becomes a segmentation node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import slicer
import vtk
from slicer.i18n import tr as _

from TransferSegGui.attached_job import AttachedJob
from TransferSegGui.doubt_nodes import keepDoubt, loadDoubtVolume
from TransferSegGui.modality_check import dicomModality
from TransferSegGui.nodes import NOT_FOUND_ATTRIBUTE, SegmentedBy, namesText, readSegmentation, writeVolume
from TransferSegGui.predictions import keepPrediction
from TransferSegLib.errors import TransferSegError
from TransferSegLib.jobs.events import Event
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.segment_job import ScanToSegment, SegmentParameters
from TransferSegLib.models.combined_parts import described
from TransferSegLib.models.locate import find_model


class SegmentProcess(AttachedJob):
    """One run, from a volume node to a segmentation node; use each object once.

    >>> run = SegmentProcess(volumeNode, model="head-neck-ct")
    >>> run.onProgress = lambda fraction, secondsLeft, message: ...
    >>> run.onEnd = lambda run: print(run.error or run.segmentationNode.GetName())
    >>> run.start()

    When all went well ``segmentationNode`` and ``result`` (device, seconds, volumes) are set at the end. Nodes may be
    removed or renamed meanwhile: without its volume the result has no reference geometry, and without its output it
    becomes a new segmentation.
    """

    def __init__(
        self,
        volumeNode,
        outputNode=None,
        model: str = "",
        device: str = "auto",
        structures: Sequence[str] = (),
        doubtVolume: bool = False,
    ) -> None:
        """Describe the run; ``model`` is a name or path (empty: the bundled model), ``structures`` empty: all.

        With ``doubtVolume`` the doubt becomes a volume node, too.
        """
        super().__init__()
        self._segmentationNode, self._doubtNode = vtk.vtkWeakReference(), vtk.vtkWeakReference()
        # The nodes themselves: another one may get the name or the ID of one that is removed while the process runs.
        self._volume, self._output = volumeNode, outputNode
        self._model, self._device, self._structures = model, device, list(structures)
        self._doubtVolume = doubtVolume
        self._segmentedBy: SegmentedBy | None = None

    def start(self) -> None:
        """Write the volume to a temporary folder and start the job; raises RuntimeError when it cannot be.

        The model is found now: a version that becomes the current one meanwhile changes nothing.
        """
        try:
            model = self._findModel()
            doubt = self.file("doubt.nrrd") if self._doubtVolume else None
            scan = ScanToSegment(self.file("volume.nrrd"), self.file("result.seg.nrrd"), doubt=doubt)
            writeVolume(self._volume, scan.scan)
            parameters = SegmentParameters(
                (scan,),
                str(model),
                tuple(self._structures) or None,
                modality=dicomModality(self._volume),  # the file that is written does not hold it
                places=True,
            )
            self.begin(JobRequest("segment", parameters.to_json(), self._device))
        except (TransferSegError, RuntimeError) as error:
            self.removeFiles()
            raise RuntimeError(str(error)) from error

    def namesOfFiles(self) -> dict[str, str]:
        """Return the volume's name for the file that it was written to."""
        name = "" if self._volume is None else self._volume.GetName()
        return {"volume.nrrd": _("'{name}'").format(name=name), "result.seg.nrrd": _("the segmentation")}

    @property
    def segmentationNode(self):
        """The result; None before there is one, and when it was removed."""
        return self._segmentationNode.Get()

    @property
    def doubtNode(self):
        """The volume of the doubt; None when none was asked for, before there is one, and when it was removed."""
        return self._doubtNode.Get()

    @property
    def volumeIsGone(self) -> bool:
        """Whether the volume is not in the scene any more; for ``onEnd``."""
        return _ifThere(self._volume) is None

    def progressText(self, event: Event) -> str:
        """Return where it is computed, else what is done before."""
        return event.message or (f"({event.stage[:1].lower()}{event.stage[1:]})" if event.stage else "")

    def takeResult(self) -> None:
        """Turn the file that was written into a segmentation node."""
        (self.result,) = self.result["scans"]
        self.result["notices"] = [self.withoutPaths(notice) for notice in self.result.get("notices", [])]
        file = self.file("result.seg.nrrd")
        node = readSegmentation(file, _ifThere(self._volume), _ifThere(self._output))
        self._segmentationNode.Set(node)
        self._segmentedBy.writeTo(node)
        missing = [name for name, volume in self.result["volumes_ml"].items() if not volume]
        node.SetAttribute(NOT_FOUND_ATTRIBUTE, namesText(missing))
        keepPrediction(node, file)
        keepDoubt(node, self.result.get("doubt"))
        if self._doubtVolume:
            self._doubtNode.Set(loadDoubtVolume(self.file("doubt.nrrd"), _ifThere(self._volume)))

    def letGo(self) -> None:
        """Forget the scene's nodes."""
        self._volume = self._output = None

    def _findModel(self) -> Path:
        """Return the model's path and note what to write into the result; raises TransferSegError."""
        path = find_model(self._model or None)
        description = described(path)
        label_set = description.label_set
        names = (label_set.select(self._structures) if self._structures else label_set).names
        self._segmentedBy = SegmentedBy(description.name, description.version, names)
        return path


def _ifThere(node):
    """Return a node, None when it is not in the scene (any more)."""
    return node if node is not None and slicer.mrmlScene.IsNodePresent(node) else None
