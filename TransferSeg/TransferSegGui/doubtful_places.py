"""Where a result may be wrong: a button that shows one doubtful place after the other."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _

from TransferSegGui.button_state import enable
from TransferSegGui.doubt_nodes import placesOf, worldPosition
from TransferSegGui.segment_panel import OUTPUT_SEGMENTATION

#: In the parameter node: whether the next segmentation also makes a volume of its doubt.
DOUBT_VOLUME = "DoubtVolume"


class DoubtfulPlaces:
    """Follows the segmentation of the section "Segment"; the slice views go to its places, the most doubtful first."""

    def __init__(self, ui) -> None:
        """Connect the widgets of the .ui file."""
        self.ui = ui
        self._parameterNode = None
        self._shown: dict[str, int] = {}  # by segmentation, how many of its places were shown
        ui.nextPlaceButton.connect("clicked(bool)", self._onNext)
        ui.doubtVolumeCheckBox.connect("toggled(bool)", self._onVolumeToggled)

    def refresh(self) -> None:
        """Show what there is now."""
        self.updateFromParameterNode()

    def setParameterNode(self, parameterNode) -> None:
        """Follow another parameter node, None while there is none."""
        self._parameterNode = parameterNode
        self.updateFromParameterNode()

    def updateFromParameterNode(self) -> None:
        """Show what the parameter node says."""
        node = self._parameterNode
        if node is not None:
            self.ui.doubtVolumeCheckBox.checked = node.GetParameter(DOUBT_VOLUME) == "true"
        segmentation = self._segmentation()
        places, known = placesOf(segmentation)
        if segmentation is None:
            obstacle = _("There is no segmentation yet.")
        elif not known:
            obstacle = _("The doubtful places are known only of results of this module.")
        else:
            obstacle = "" if places else _("The model has no doubt about this result.")
        meaning = _("Go to the next place where the result may be wrong, the most doubtful first. Check the rest, too.")
        enable(self.ui.nextPlaceButton, obstacle, meaning)
        if segmentation is None or segmentation.GetID() not in self._shown:
            counted = _("1 place") if len(places) == 1 else _("{count} places")
            self.ui.placeLabel.text = counted.format(count=len(places)) if places else ""

    def stop(self) -> None:
        """Forget what was shown of this scene."""
        self._shown.clear()

    def _segmentation(self):
        return None if self._parameterNode is None else self._parameterNode.GetNodeReference(OUTPUT_SEGMENTATION)

    def _onVolumeToggled(self, checked: bool) -> None:
        if self._parameterNode is not None:
            self._parameterNode.SetParameter(DOUBT_VOLUME, "true" if checked else "false")

    def _onNext(self) -> None:
        segmentation = self._segmentation()
        places, _known = placesOf(segmentation)
        if not places:
            return
        number = self._shown.get(segmentation.GetID(), 0) % len(places)
        self._shown[segmentation.GetID()] = number + 1
        place = places[number]
        showPosition(worldPosition(segmentation, place))
        segmentId = segmentation.GetSegmentation().GetSegmentIdBySegmentName(place.structure)
        if segmentId:
            self.ui.segmentEditorWidget.setCurrentSegmentID(segmentId)
        self.ui.placeLabel.text = _("{number} of {count}: {structure}, doubt {doubt}").format(
            number=number + 1, count=len(places), structure=place.structure, doubt=f"{place.doubt:.2f}"
        )


def showPosition(ras_mm: list[float]) -> None:
    """Centre all slice views on a position, with the crosshair there."""
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *ras_mm, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is not None:
        crosshair.SetCrosshairRAS(ras_mm)
        crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.ShowBasic)
