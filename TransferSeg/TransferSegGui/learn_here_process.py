"""Learn here in the background: the scan and its segments are copied, a job redraws what was not judged.

The result replaces the segments in one step that the segment editor can undo, and only if nobody drew meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from TransferSegGui.annotated_region import AnnotatedRegion
from TransferSegGui.attached_job import AttachedJob
from TransferSegGui.label_map import gridOf, labelSetOf, layersOf, voxelsOf
from TransferSegGui.nodes import hasVoxels
from TransferSegGui.untouched import UntouchedSegmentations
from TransferSegLib.corrections.snapshot import DESCRIPTION, Snapshot
from TransferSegLib.errors import TransferSegError
from TransferSegLib.jobs.learn_here_job import LearnHereParameters
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.own_files import is_link, make_private_folder

#: The folder of kept features among Slicer's temporary files.
_FEATURES = "TransferSegFeatures"


class LearnHereProcess(AttachedJob):
    """One run of Learn here; use each object once.

    >>> run = LearnHereProcess(volume, segmentation, [segmentId], AnnotatedRegion("z:10,20,30"), "head-neck-ct")
    >>> run.onEnd = lambda run: print(run.error or run.result["seconds"])
    >>> run.start()

    ``saveState`` is called before the segments are replaced, so that this can be undone; it returns whether it can.
    """

    def __init__(
        self,
        volumeNode,
        segmentationNode,
        segmentIds: Sequence[str],
        region: AnnotatedRegion,
        model: str = "",
        device: str = "auto",
    ) -> None:
        """Describe the run; ``model`` is a name or path (empty: the bundled model)."""
        super().__init__()
        self.saveState: Callable[[], bool] = lambda: False
        self.canBeUndone = False
        self._volume, self._segmentation, self._segmentIds = volumeNode, segmentationNode, list(segmentIds)
        self._region, self._model, self._device = region, model, device
        self._untouched = UntouchedSegmentations()

    def start(self) -> None:
        """Copy the scan and its segments to a temporary folder and start the job; raises RuntimeError."""
        try:
            if not hasVoxels(self._volume):
                raise RuntimeError(_("The volume '{name}' has no voxels.").format(name=self._volume.GetName()))
            labelSet = labelSetOf(self._segmentation)
            layers = layersOf(self._segmentation, self._volume, self._segmentIds)
            snapshot = Snapshot(voxelsOf(self._volume), gridOf(self._volume), labelSet, layers, self._region.box)
            self.file(DESCRIPTION).write_text(snapshot.description(), encoding="utf-8")
            for name, array in snapshot.arrays():
                self.file(name).write_bytes(memoryview(array).cast("B"))
            ids = list(self._segmentation.GetSegmentation().GetSegmentIDs())
            parameters = LearnHereParameters(
                str(self.file("")),
                str(self.file("redrawn.nrrd")),
                tuple(labelSet.names[ids.index(each)] for each in self._segmentIds),
                self._region.slices,
                None if self._region.file is None else str(self._region.file),
                self._model or None,
                _featuresFile(self._volume),
            )
            self._untouched.add(self._segmentation)
            self.begin(JobRequest("learn-here", parameters.to_json(), self._device))
        except (TransferSegError, RuntimeError, OSError, MemoryError) as error:
            self.removeFiles()
            raise RuntimeError(str(error) or _("There is not enough memory.")) from error

    def takeResult(self) -> None:
        """Replace the segments; raises RuntimeError when they were changed or removed meanwhile."""
        segmentation = self._segmentation
        if not slicer.mrmlScene.IsNodePresent(segmentation) or not slicer.mrmlScene.IsNodePresent(self._volume):
            raise RuntimeError(_("The scan or the segmentation was removed meanwhile."))
        if not self._untouched.mayBeReplaced(segmentation):
            raise RuntimeError(_("The segmentation was changed meanwhile, and is left as it is. Learn here again."))
        labels_zyx = sitk.GetArrayFromImage(sitk.ReadImage(str(self.file("redrawn.nrrd"))))
        ids = list(segmentation.GetSegmentation().GetSegmentIDs())
        self.canBeUndone = self.saveState()
        wasModifying = segmentation.StartModify()
        for segmentId in self._segmentIds:
            mask_zyx = (labels_zyx == ids.index(segmentId) + 1).astype("uint8")
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask_zyx, segmentation, segmentId, self._volume)
        segmentation.EndModify(wasModifying)

    def letGo(self) -> None:
        """Forget the scene's nodes."""
        self._volume = self._segmentation = None


def forgetFeatures() -> None:
    """Remove the features that were kept in this session: Slicer is closing."""
    import shutil

    shutil.rmtree(Path(slicer.app.temporaryPath) / _FEATURES, ignore_errors=True)


def _featuresFile(volumeNode) -> str | None:
    """Return the file for a volume's features, None where there is no place for it: they are computed each time then.

    Whether they belong to the scan and the model is checked when they are read.
    """
    folder = Path(slicer.app.temporaryPath) / _FEATURES
    try:
        if is_link(folder):
            return None
        make_private_folder(folder, parents=True, exist_ok=True)
    except OSError:
        return None
    return str(folder / f"{hashlib.sha256(volumeNode.GetID().encode()).hexdigest()[:16]}.features")
