"""The section "Correct" where grids matter: annotated slices and boxes, overlaps, transforms, other grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from correcting_world import (
    IJK_TO_RAS,
    SHAPE_ZYX,
    STRAIGHT,
    add_volume,
    empty_segmentation,
    labels_of,
    merged_zyx,
    predicted,
    ras_of,
    save,
    temporary_folders,
    tick,
)

from TransferSegLib.corrections.project import Project


def test_after_hardening_a_transform_only_the_record_of_the_prediction_is_lost(host, ui, folder: Path, tmp_path: Path):
    import slicer
    from TransferSegGui.predictions import predictionOf

    volume = add_volume()
    node, _labels = predicted(ui, volume, tmp_path)
    assert predictionOf(node, volume) is not None
    moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    shift = np.eye(4)
    shift[:3, 3] = 10.0, -5.0, 3.0
    moved.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(shift))
    for each in (volume, node):
        each.SetAndObserveTransformNodeID(moved.GetID())
    assert predictionOf(node, volume) is not None, "nothing was changed yet"
    for each in (volume, node):
        each.HardenTransform()
    assert predictionOf(node, volume) is None
    tick(ui, "brainstem")
    assert save(host).startswith("CT (case-0001), revision 1, is saved.")
    (revision,) = Project(folder).state().current
    assert revision.prediction is None and str(revision.corrected_from) == "format-one 1.0"


def test_marking_the_slice_that_a_view_shows(host, ui, folder: Path):
    volume = add_volume(matrix=STRAIGHT)
    empty_segmentation(ui, volume, "nodule")
    tick(ui, "nodule")
    ui.regionComboBox.setCurrentIndex(1)
    for number in (5, 6, 2):
        host.slices["Red"].view.show(volume, ras_of(volume, (number, 9, 11)))
        ui.markRegionButton.click()
    assert ui.regionSlicesLineEdit.text == "z:2,5-6" and ui.saveCorrectionButton.enabled
    host.slices["Green"].view.show(volume, ras_of(volume, (5, 9, 11)))
    ui.regionViewComboBox.setCurrentIndex(2)
    ui.markRegionButton.click()
    assert "along y: clear the marks first" in ui.saveCorrectionButton.toolTip
    ui.clearRegionButton.click()
    ui.markRegionButton.click()
    assert ui.regionSlicesLineEdit.text == "y:9" and ui.saveCorrectionButton.enabled
    ui.regionSlicesLineEdit.text = "middle"
    ui.regionSlicesLineEdit.editingFinished.emit()
    assert not ui.saveCorrectionButton.enabled and "'middle' does not name slices" in ui.saveCorrectionButton.toolTip
    ui.regionSlicesLineEdit.text = "z:14"
    ui.regionSlicesLineEdit.editingFinished.emit()
    assert save(host) == "Not saved ('CT'): The image has no slice 14 along z: they count from 0 to 13."
    assert temporary_folders() == [] and not folder.exists()

    oblique = add_volume("oblique")
    empty_segmentation(ui, oblique, "nodule")
    assert ui.regionComboBox.currentIndex == 0, "another scan has another region"
    ui.regionComboBox.setCurrentIndex(1)
    ui.regionViewComboBox.setCurrentIndex(0)
    ui.markRegionButton.click()
    tick(ui, "nodule")
    assert "rotate it to the volume's axes" in ui.saveCorrectionButton.toolTip


def test_a_box_that_was_looked_at_becomes_a_mask(host, ui, folder: Path):
    import slicer
    from TransferSegGui.annotated_region import regionOf

    volume = add_volume(matrix=STRAIGHT)
    node = empty_segmentation(ui, volume, "nodule")
    tick(ui, "nodule")
    ui.regionComboBox.setCurrentIndex(2)
    assert "Choose the box" in ui.saveCorrectionButton.toolTip
    ui.markRegionButton.click()
    assert "Nothing is segmented yet" in host.widget.correctPanel.region.problem
    ui.segmentEditorWidget.userPaints([ras_of(volume, (7, 9, 11))], 4.0)
    ui.markRegionButton.click()
    box = ui.regionBoxSelector.currentNode()
    assert box is not None and ui.saveCorrectionButton.enabled, ui.saveCorrectionButton.toolTip
    box.SetCenterWorld(*ras_of(volume, (7, 9, 11)))
    box.SetSizeWorld(2 * 2.5 * 2, 2 * 1.5 * 2, 2 * 3.5 * 3)
    expected = np.zeros(SHAPE_ZYX, np.uint8)
    expected[4:11, 8:11, 9:14] = 1
    for transformed in (False, True):
        if transformed:
            moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
            moved.SetMatrixTransformToParent(
                slicer.util.vtkMatrixFromArray(np.array([[0, -1, 0, 5], [1, 0, 0, 7], [0, 0, 1, 9], [0, 0, 0, 1.0]]))
            )
            for each in (volume, node, box):
                each.SetAndObserveTransformNodeID(moved.GetID())
        np.testing.assert_array_equal(regionOf(node, volume).box.mask(SHAPE_ZYX), expected)
    assert "is saved." in save(host)
    (revision,) = Project(folder).state().current
    np.testing.assert_array_equal(labels_of(revision.case.judged), expected)
    slicer.mrmlScene.RemoveNode(box)
    host.process()
    assert not ui.saveCorrectionButton.enabled and "Choose the box" in ui.saveCorrectionButton.toolTip


def test_overlaps_and_transforms_in_the_label_map(host, ui, folder: Path):
    import slicer

    volume = add_volume()
    node = empty_segmentation(ui, volume, "one", "two")
    one, two = node.GetSegmentation().GetSegmentIDs()
    first_zyx, second_zyx = np.zeros(SHAPE_ZYX, np.uint8), np.zeros(SHAPE_ZYX, np.uint8)
    first_zyx[2:8, 2:8, 2:8], second_zyx[6:12, 6:12, 6:12] = 1, 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(first_zyx, node, one, volume)
    slicer.util.updateSegmentBinaryLabelmapFromArray(second_zyx, node, two, volume)
    for winner, expected in (
        (one, np.where(first_zyx, 1, 2 * second_zyx)),
        (two, np.where(second_zyx, 2, first_zyx)),
    ):
        np.testing.assert_array_equal(merged_zyx(node, volume, [winner]), expected)
    tick(ui, "one")
    tick(ui, "two")
    assert save(host).startswith("Not saved ('CT'): 'one' and 'two' share 8 voxels, and a voxel can belong to one")
    assert not folder.exists() and temporary_folders() == []

    # Under one transform they move together: nothing changes. Under another one the segments are brought back.
    moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    shift = np.eye(4)
    shift[:3, 3] = 3 * IJK_TO_RAS[:3, 0]  # three voxels along x
    moved.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(shift))
    before = merged_zyx(node, volume, [one])
    volume.SetAndObserveTransformNodeID(moved.GetID())
    node.SetAndObserveTransformNodeID(moved.GetID())
    np.testing.assert_array_equal(merged_zyx(node, volume, [one]), before)
    volume.SetAndObserveTransformNodeID(None)
    there = merged_zyx(node, volume, [one])
    np.testing.assert_array_equal(there, np.roll(before, 3, axis=2))


def test_segments_on_another_grid_are_resampled(host, ui):
    import slicer

    volume = add_volume(matrix=STRAIGHT)
    fine = slicer.util.addVolumeFromArray(
        np.zeros((28, 36, 44), np.int16), ijkToRAS=slicer.util.vtkMatrixFromArray(np.diag([1.0, 1.0, 1.5, 1.0]))
    )
    node = empty_segmentation(ui, fine, "one")
    mask_zyx = np.zeros((28, 36, 44), np.uint8)
    mask_zyx[4:12, 6:20, 8:30] = 1
    (segment,) = node.GetSegmentation().GetSegmentIDs()
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask_zyx, node, segment, fine)
    expected = np.zeros(SHAPE_ZYX, np.uint8)
    expected[2:6, 3:10, 4:15] = 1
    np.testing.assert_array_equal(merged_zyx(node, volume, [segment]), expected)
