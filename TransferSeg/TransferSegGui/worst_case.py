"""The case that came out worst: its scan, the correction, and beside it what the new version makes of the scan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from TransferSegGui.case_opening import CASE_ATTRIBUTE, PROJECT_ATTRIBUTE
from TransferSegGui.device_choice import chosenDevice
from TransferSegGui.duration import percentText
from TransferSegGui.nodes import isUsed, removeNode, showStructure
from TransferSegGui.reviewed_table import keyOf
from TransferSegGui.segment_panel import INPUT_VOLUME, OUTPUT_SEGMENTATION
from TransferSegGui.segment_process import SegmentProcess
from TransferSegGui.untouched import UntouchedSegmentations
from TransferSegLib.errors import ModelError
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_description

#: Colours that the new version's contour may have (RGB): the one that is least like the correction's is taken.
_COLORS = ((1.0, 0.55, 0.0), (0.0, 0.75, 1.0), (1.0, 0.0, 1.0))
#: Window and level (HU) in which soft tissue is seen in CT.
_SOFT_TISSUE = (400, 40)
#: How thick the contours are, pixels.
_THICK = 3


class WorstCase:
    """Opens a case, segments its scan with the new version in the background, and shows where the two differ most.

    ``openCase`` opens a case at a structure and returns a status line, ``say`` shows one. The correction stays what is
    worked on; what the new version makes of the scan is a segmentation of its own, which nothing saves. It is removed
    when the next case is shown, unless somebody edited or chose it.
    """

    def __init__(self, openCase: Callable[[str, str], str], say: Callable[[str], None]) -> None:
        """Nothing is opened yet."""
        self._openCase, self._say = openCase, say
        self._run: SegmentProcess | None = None
        self._shown = vtk.vtkWeakReference()
        self._untouched = UntouchedSegmentations()

    @property
    def isSegmenting(self) -> bool:
        """Whether the new version is at work."""
        return self._run is not None

    def show(self, parameterNode, result: Mapping[str, Any], case: str, structure: str) -> None:
        """Show a case of the project with its structure; ``result`` is that of the job that made the new version."""
        self.stop()
        before = parameterNode.GetNodeReferenceID(INPUT_VOLUME)
        text = self._openCase(case, structure)
        volume, correction = map(parameterNode.GetNodeReference, (INPUT_VOLUME, OUTPUT_SEGMENTATION))
        if volume is None or correction is None or volume.GetID() == before:
            self._say(text)  # why it is not opened
            return
        version = f"{result['model']}@{result['version']}"
        useWindow(volume, version)
        run = SegmentProcess(volume, None, version, chosenDevice(parameterNode), [structure])
        run.onProgress = lambda fraction, secondsLeft, message: self._onProgress(result, case, fraction)
        run.onEnd = lambda run: self._onEnd(run, result, case, structure, volume, correction, parameterNode)
        self._run = run
        self._onProgress(result, case, None)
        try:
            run.start()
        except RuntimeError as error:
            self._run = None
            self._say(f"{text} {error}")

    def stop(self) -> None:
        """End what the new version is doing, and wait until it is gone.

        What it has made of an earlier case is removed, if it is still as it was made and nothing uses it.
        """
        run, self._run = self._run, None
        if run is not None:
            run.onEnd = lambda run: None
            run.stop()
        earlier = self._shown.Get()
        isThere = earlier is not None and slicer.mrmlScene.IsNodePresent(earlier)
        if isThere and self._untouched.mayBeReplaced(earlier) and not isUsed(earlier):
            removeNode(earlier)
        self._shown.Set(None)

    def _onProgress(self, result: Mapping[str, Any], case: str, fraction: float | None) -> None:
        text = _("{case} is open. Version {number} is segmenting it to show the difference ...")
        text = text.format(case=case, number=result["version"])
        self._say(text if fraction is None else f"{text} {percentText(fraction)}")

    def _onEnd(self, run: SegmentProcess, result, case, structure, volume, correction, parameterNode) -> None:
        self._run, found = None, run.segmentationNode
        number = result["version"]
        if found is None:
            text = _("Version {number} could not segment {case}: {reason}")
            self._say(text.format(number=number, case=case, reason=run.error))
            return
        self._shown.Set(found)
        self._untouched.add(found)
        name = _("{case} by version {number}").format(case=case, number=number)
        found.SetName(slicer.mrmlScene.GenerateUniqueName(name))
        if not all(slicer.mrmlScene.IsNodePresent(node) for node in (volume, correction)):
            found.GetDisplayNode().SetVisibility(False)
            self._say(_("The case was removed from the scene in the meantime."))
            return
        _paint(found, correction, structure)
        if parameterNode.GetNodeReference(INPUT_VOLUME) is not volume:  # a contour of one patient over another's scan
            found.GetDisplayNode().SetVisibility(False)
            text = _(
                "{case} is segmented by version {number}. The result is hidden, because another scan is shown now."
            )
            self._say(text.format(number=number, case=case))
            return
        if not _segmentId(correction, structure):
            showStructure(found, structure)
            text = _(
                "Your correction of {case} has no structure '{structure}' any more: only version {number} is shown."
            )
            self._say(text.format(case=case, structure=structure, number=number))
            return
        differs = jumpToDifference(correction, found, structure, volume)
        lines = [
            _("{structure} in {case}: filled, your correction; thick line, version {number}.").format(
                structure=structure, case=case, number=number
            ),
            _("The views show where they differ most.") if differs else _("They are the same in this scan."),
            _(
                "This version has learned from the case since its Dice was measured, so it may be closer to your "
                "correction now."
            ),
        ]
        self._say(" ".join(lines))


def useWindow(volume, model: str) -> None:
    """Show the scan of a case as it was shown before, else in the window for soft tissue where the model is for CT."""
    display = volume.GetDisplayNode()
    if display is None:
        return
    for other in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        isSame = all(other.GetAttribute(key) == volume.GetAttribute(key) for key in (CASE_ATTRIBUTE, PROJECT_ATTRIBUTE))
        if isSame and other.GetID() != volume.GetID() and other.GetDisplayNode() is not None:
            window, level = other.GetDisplayNode().GetWindow(), other.GetDisplayNode().GetLevel()
            break
    else:
        try:
            isCT = load_description(find_model(model)).modality == "CT"
        except ModelError:
            isCT = False
        if not isCT:
            return  # Slicer's own choice
        window, level = _SOFT_TISSUE
    display.AutoWindowLevelOff()
    display.SetWindowLevel(window, level)


def jumpToDifference(correction, found, structure: str, volume) -> bool:
    """Let the slice views show where two segmentations of a structure differ most; returns whether they differ."""
    masks_zyx = [_mask(node, structure, volume) for node in (correction, found)]
    differs_zyx = masks_zyx[0] != masks_zyx[1]
    if not differs_zyx.any():
        return False
    z = int(differs_zyx.sum(axis=(1, 2)).argmax())
    places_yx = np.argwhere(differs_zyx[z])
    # The middle may lie between two places, where nothing differs.
    y, x = places_yx[((places_yx - places_yx.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    matrix, transform = vtk.vtkMatrix4x4(), vtk.vtkGeneralTransform()
    volume.GetIJKToRASMatrix(matrix)
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(volume.GetParentTransformNode(), None, transform)
    position = transform.TransformPoint(matrix.MultiplyPoint((float(x), float(y), float(z), 1.0))[:3])
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *position)
    return True


def _segmentId(segmentationNode, structure: str) -> str:
    """Return the segment of a structure, however its name is spelled; empty if there is none."""
    segmentation = segmentationNode.GetSegmentation()
    ids = segmentation.GetSegmentIDs()
    return next((each for each in ids if keyOf(segmentation.GetSegment(each).GetName()) == keyOf(structure)), "")


def _mask(segmentationNode, structure: str, volume) -> np.ndarray:
    """Return where a structure is (zyx, booleans) on the grid of a volume; nowhere if there is no such segment."""
    segmentId = _segmentId(segmentationNode, structure)
    if not segmentId:
        return np.zeros(tuple(reversed(volume.GetImageData().GetDimensions())), bool)
    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, segmentId, volume) > 0


def _paint(found, correction, structure: str) -> None:
    """Show a segmentation as a thick line in a colour that is not the correction's."""
    segmentId = _segmentId(correction, structure)
    taken = correction.GetSegmentation().GetSegment(segmentId).GetColor() if segmentId else (1.0, 1.0, 1.0)
    color = max(_COLORS, key=lambda each: sum((a - b) ** 2 for a, b in zip(each, taken, strict=True)))
    own = found.GetSegmentation()
    for each in own.GetSegmentIDs():
        own.GetSegment(each).SetColor(*color)
    display = found.GetDisplayNode()
    display.SetVisibility2DFill(False)
    display.SetVisibility2DOutline(True)
    display.SetSliceIntersectionThickness(_THICK)
