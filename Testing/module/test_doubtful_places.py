"""The button "Next doubtful place": real clicks, and where the slice views are afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from correcting_world import add_volume, predicted


def entry(*places: tuple[str, tuple[float, float, float]]) -> dict:
    found = [
        {"structure": name, "position_lps_mm": [-r, -a, s], "doubt": 0.5 - 0.1 * n, "volume_ml": 1.0, "wrong_ml": None}
        for n, (name, (r, a, s)) in enumerate(places)
    ]
    return {"file": None, "calibrated": False, "places": found}


def views_show(host, ras: tuple[float, float, float]) -> bool:
    """Tell whether all three slice views are centred on a point."""
    import slicer

    centres = []
    for name in ("Red", "Yellow", "Green"):
        matrix = slicer.util.arrayFromVTKMatrix(host.slices[name].view.node.GetSliceToRAS())
        centres.append(matrix[:3, 3])
    return np.allclose(centres, [ras] * 3, atol=1e-3)


@pytest.mark.usefixtures("ui")
def test_the_views_go_from_place_to_place_and_begin_again(host, ui, tmp_path: Path):
    import slicer
    from TransferSegGui.doubt_nodes import keepDoubt

    volume = add_volume()
    assert not ui.nextPlaceButton.enabled and ui.nextPlaceButton.toolTip == "There is no segmentation yet."
    node, _ = predicted(ui, volume, tmp_path)
    assert not ui.nextPlaceButton.enabled and "only of results" in ui.nextPlaceButton.toolTip
    points = [(12.0, 8.0, -20.0), (3.0, -4.0, -31.0)]
    keepDoubt(node, entry(("right parotid gland", points[0]), ("brainstem", points[1])))
    host.widget.doubtfulPlaces.refresh()
    assert ui.nextPlaceButton.enabled and ui.placeLabel.text == "2 places"
    for number in (0, 1, 0):
        ui.nextPlaceButton.click()
        assert views_show(host, points[number])
        structure = ("right parotid gland", "brainstem")[number]
        doubt = ("0.50", "0.40")[number]
        assert ui.placeLabel.text == f"{number + 1} of 2: {structure}, doubt {doubt}"
        current = ui.segmentEditorWidget.currentSegmentID()
        assert node.GetSegmentation().GetSegment(current).GetName() == structure
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        assert np.allclose(crosshair.GetCrosshairRAS(), points[number])
    # Another segmentation has none; a damaged attribute is none.
    node.SetAttribute("TransferSeg.Doubt", "{")
    host.widget.doubtfulPlaces.refresh()
    assert not ui.nextPlaceButton.enabled
    keepDoubt(node, entry())
    host.widget.doubtfulPlaces.refresh()
    assert not ui.nextPlaceButton.enabled and "no doubt" in ui.nextPlaceButton.toolTip


@pytest.mark.usefixtures("ui")
def test_a_place_moves_with_the_transform_of_its_segmentation(host, ui, tmp_path: Path):
    import slicer
    import vtk
    from TransferSegGui.doubt_nodes import keepDoubt

    volume = add_volume()
    node, _ = predicted(ui, volume, tmp_path)
    keepDoubt(node, entry(("brainstem", (12.0, 8.0, -20.0))))
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 5.0)
    transform.SetMatrixTransformToParent(matrix)
    for one in (volume, node):
        one.SetAndObserveTransformNodeID(transform.GetID())
    host.widget.doubtfulPlaces.refresh()
    ui.nextPlaceButton.click()
    assert views_show(host, (17.0, 8.0, -20.0))


def test_a_result_has_its_places_and_if_asked_for_a_volume(host, ui):
    import slicer
    from test_segment_section import add_volume as add_ct
    from test_segment_section import choose_tiny, segment
    from TransferSegGui.doubt_nodes import placesOf

    volume = add_ct("Head")
    ui.inputVolumeSelector.setCurrentNode(volume)
    choose_tiny(host)
    assert not ui.doubtVolumeCheckBox.checked
    ui.doubtVolumeCheckBox.click()
    segment(host)
    node = ui.outputSegmentationSelector.currentNode()
    assert node is not None, ui.segmentStatusLabel.text
    places, known = placesOf(node)
    assert known and ui.nextPlaceButton.enabled == bool(places)
    doubt = slicer.util.getNode("Head doubt")
    voxels = slicer.util.arrayFromVolume(doubt)
    assert voxels.shape == slicer.util.arrayFromVolume(volume).shape and 0 <= voxels.min() < voxels.max() <= 1
    bounds = [[0.0] * 6, [0.0] * 6]
    volume.GetRASBounds(bounds[0]), doubt.GetRASBounds(bounds[1])
    assert np.allclose(*bounds, atol=1e-3)
    assert ui.inputVolumeSelector.currentNode() is volume, "the doubt is not segmented next"
