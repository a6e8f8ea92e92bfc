"""The worst case: both contours, in colours of their own, where they differ most, in a window that shows the organ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from correcting_world import SHAPE_ZYX, add_volume, predicted, ras_of, save, tick
from held_jobs import HeldJobs


@pytest.fixture
def volume(host):
    import slicer

    node = add_volume("case-0001")
    node.CreateDefaultDisplayNodes()
    yield node
    slicer.mrmlScene.RemoveNode(node)


def segmentation(volume, mask_zyx: np.ndarray, name: str = "liver"):
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "of the test")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = node.GetSegmentation().AddEmptySegment("", name)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask_zyx.astype(np.uint8), node, segment, volume)
    return node


def box(*slices: slice) -> np.ndarray:
    mask_zyx = np.zeros(SHAPE_ZYX, bool)
    mask_zyx[slices] = True
    return mask_zyx


def test_the_views_go_to_where_the_contours_differ_most(host, volume) -> None:
    from TransferSegGui.worst_case import jumpToDifference

    correction = segmentation(volume, box(slice(2, 9), slice(4, 9), slice(4, 9)))
    found = box(slice(2, 9), slice(4, 9), slice(4, 9))
    found[3, 4, 4] = False  # one voxel in slice 3, a corner of 3 x 3 in slice 7
    found[7, 6:9, 6:9] = False
    node = host.slices["Red"].mrmlSliceNode()
    assert jumpToDifference(correction, segmentation(volume, found), "liver", volume)
    to_ras = node.GetSliceToRAS()
    shown = [to_ras.GetElement(row, 3) for row in range(3)]
    assert shown[2] == pytest.approx(ras_of(volume, (7, 7, 7))[2], abs=1e-3)
    assert not jumpToDifference(correction, correction, "liver", volume)
    assert jumpToDifference(correction, correction, "liver", volume) is False
    assert jumpToDifference(correction, segmentation(volume, found, "spleen"), "liver", volume), "it found no liver"
    same = segmentation(volume, box(slice(2, 9), slice(4, 9), slice(4, 9)), "Liver ")
    assert not jumpToDifference(correction, same, "liver", volume), "the same structure, spelled differently"


def test_the_new_versions_contour_has_another_colour(volume) -> None:
    from TransferSegGui.worst_case import _paint

    correction, found = (segmentation(volume, box(slice(2, 9))) for _number in range(2))
    for color in ((1.0, 0.5, 0.0), (0.0, 0.8, 1.0), (0.9, 0.0, 0.9), (0.2, 0.6, 0.2)):
        correction.GetSegmentation().GetNthSegment(0).SetColor(*color)
        _paint(found, correction, "liver")
        painted = np.array(found.GetSegmentation().GetNthSegment(0).GetColor())
        assert np.linalg.norm(painted - color) > 0.8
    display = found.GetDisplayNode()
    assert display.GetVisibility2DOutline() and not display.GetVisibility2DFill(), "the correction shows through"


def test_the_scan_is_shown_as_it_was_before(volume, tmp_path: Path) -> None:
    import slicer
    from TransferSegGui.case_opening import markAsCase
    from TransferSegGui.worst_case import useWindow

    display = volume.GetDisplayNode()
    markAsCase(volume, "case-0001", tmp_path)
    useWindow(volume, "head-neck-ct")
    assert (display.GetWindow(), display.GetLevel()) == (400, 40), "of a model for CT"
    earlier = add_volume("as it was loaded")
    earlier.CreateDefaultDisplayNodes()
    markAsCase(earlier, "case-0001", tmp_path)
    earlier.GetDisplayNode().AutoWindowLevelOff()
    earlier.GetDisplayNode().SetWindowLevel(1500, 300)
    useWindow(volume, "head-neck-ct")
    assert (display.GetWindow(), display.GetLevel()) == (1500, 300)
    markAsCase(volume, "case-0002", tmp_path)
    display.SetWindowLevel(7, 8)
    useWindow(volume, "no such model")
    assert (display.GetWindow(), display.GetLevel()) == (7, 8)
    slicer.mrmlScene.RemoveNode(earlier)


STRUCTURE = "brainstem"


@pytest.fixture
def show(host, ui, folder: Path, tmp_path: Path):
    """Return what shows the saved case of patient A with a new version; the scan of patient B is loaded, too."""
    predicted(ui, add_volume("patient A"), tmp_path)
    tick(ui, STRUCTURE)
    assert "is saved." in save(host)
    add_volume("patient B", 1)
    worst, result = host.widget.fineTunePanel.worstCase, {"model": "tiny", "version": 0}
    yield lambda: worst.show(host.widget._parameterNode, result, "case-0001", STRUCTURE)
    worst.stop()


def shown_at(host) -> list[float]:
    matrix = host.slices["Red"].mrmlSliceNode().GetSliceToRAS()
    return [matrix.GetElement(row, 3) for row in range(3)]


def made(host):
    """Wait for what the new version makes of the scan, and return it."""
    import slicer

    host.waitFor(lambda: not host.widget.fineTunePanel.worstCase.isSegmenting)
    names = slicer.util.getNodes("case-0001 by version 0*", useLists=True)
    return [node for name in sorted(names) for node in names[name]][-1]


def test_a_contour_never_comes_over_the_scan_of_somebody_else(host, ui, show, held_jobs: HeldJobs) -> None:
    import slicer

    show()
    assert host.widget.fineTunePanel.worstCase.isSegmenting, ui.fineTuneStatusLabel.text
    ui.nextScanButton.click()
    assert ui.inputVolumeSelector.currentNode().GetName() == "patient B"
    before = shown_at(host)
    held_jobs.let_one()
    node = made(host)
    display = node.GetDisplayNode()
    assert not display.GetVisibility() and shown_at(host) == before
    said = ui.fineTuneStatusLabel.text
    assert said.endswith("is segmented by version 0. The result is hidden, because another scan is shown now.")
    host.widget.fineTunePanel.worstCase.stop()
    assert not any(slicer.mrmlScene.IsNodePresent(each) for each in (node, display)), "nobody has touched it"


def test_what_the_new_version_made_goes_unless_somebody_edited_it(host, ui, show) -> None:
    import slicer

    show()
    node = made(host)
    assert node.GetDisplayNode().GetVisibility()
    assert "The views show where they differ most." in ui.fineTuneStatusLabel.text
    volume, segment = ui.inputVolumeSelector.currentNode(), node.GetSegmentation().GetNthSegmentID(0)
    slicer.util.updateSegmentBinaryLabelmapFromArray(box(slice(1, 4)).astype(np.uint8), node, segment, volume)
    host.widget.fineTunePanel.worstCase.stop()
    assert slicer.mrmlScene.IsNodePresent(node)


def test_a_structure_that_was_renamed_meanwhile_differs_from_nothing(host, ui, show) -> None:
    import slicer

    show()
    segmentation = ui.outputSegmentationSelector.currentNode().GetSegmentation()
    segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName(STRUCTURE)).SetName("medulla")
    node = made(host)
    assert node.GetDisplayNode().GetVisibility()
    assert f"has no structure '{STRUCTURE}' any more" in ui.fineTuneStatusLabel.text
    assert "differ" not in ui.fineTuneStatusLabel.text
    ui.outputSegmentationSelector.setCurrentNode(node)
    host.widget.fineTunePanel.worstCase.stop()
    assert slicer.mrmlScene.IsNodePresent(node), "it is what is corrected now"
