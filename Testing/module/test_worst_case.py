"""The worst case: both contours, in colours of their own, where they differ most, in a window that shows the organ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from correcting_world import SHAPE_ZYX, add_volume, ras_of


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
