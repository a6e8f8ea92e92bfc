"""The section "Correct": real painting, ticks and clicks on the real scene; what arrives in the project is compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from correcting_world import (
    add_volume,
    empty_segmentation,
    labels_of,
    predicted,
    ras_of,
    rows,
    save,
    scan_zyx,
    segment_zyx,
    sitk_grid,
    temporary_folders,
    tick,
    write_scans,
)

from TransferSegLib.corrections.project import Project


def test_a_correction_is_painted_ticked_saved_and_saved_again(host, ui, folder: Path, tmp_path: Path):
    import slicer

    volume = add_volume()
    node, labels_zyx = predicted(ui, volume, tmp_path)
    assert ui.segmentEditorWidget.segmentationNode() is node
    assert ui.segmentEditorWidget.sourceVolumeNode() is volume
    assert [texts[:2] for texts in rows(ui.reviewedTable)] == [
        ["brainstem", "ignored"],
        ["right parotid gland", "ignored"],
        ["left parotid gland", "ignored"],
    ]
    assert not ui.saveCorrectionButton.enabled and "Tick the structures" in ui.saveCorrectionButton.toolTip

    ui.segmentEditorWidget.setCurrentSegmentID(node.GetSegmentation().GetSegmentIdBySegmentName("right parotid gland"))
    assert ui.segmentEditorWidget.userPaints([ras_of(volume, (4, 12, 15))], 5.0) > 20
    painted_zyx = segment_zyx(node, "right parotid gland", volume) > 0
    assert painted_zyx[4, 12, 15] and painted_zyx.sum() > (labels_zyx == 3).sum() + 20
    tick(ui, "right parotid gland")
    assert rows(ui.reviewedTable)[1][1] == "learned"
    ui.notesLineEdit.text = "lower pole redrawn"
    assert save(host).startswith("CT (case-0001), revision 1, is saved.")
    assert "Ignored, because not reviewed: brainstem" in ui.correctionStatusLabel.text
    assert "Empty, and ignored, because not reviewed: left parotid gland." in ui.correctionStatusLabel.text
    assert temporary_folders() == []

    (revision,) = Project(folder).state().current
    assert revision.case.annotated == ("right parotid gland",) and revision.notes == "lower pole redrawn"
    assert str(revision.corrected_from) == "format-one 1.0"
    names = {one.name: one.label for one in Project(folder).state().label_set}
    saved_zyx = labels_of(revision.case.labels)
    np.testing.assert_array_equal(saved_zyx == names["right parotid gland"], painted_zyx)
    np.testing.assert_array_equal(saved_zyx == names["brainstem"], (labels_zyx == 1) & ~painted_zyx)
    kept_zyx = labels_of(revision.prediction)
    np.testing.assert_array_equal(kept_zyx == names["right parotid gland"], labels_zyx == 3)
    image = sitk.ReadImage(str(revision.case.image))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), scan_zyx())
    np.testing.assert_allclose(image.GetDirection(), sitk_grid(volume).GetDirection(), atol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), sitk_grid(volume).GetOrigin(), atol=1e-5)
    (case_row,) = rows(ui.caseTable)
    assert (case_row[:2], case_row[3]) == (["CT", "right parotid gland"], "in use")
    details = ui.caseTable.item(0, 0).toolTip().splitlines()
    assert details[:3] == ["CT (case-0001)", "Reviewed: right parotid gland", "Patient 1 of this project"]
    assert details[3].startswith("Revision 1, saved 2") and details[4] == "Corrected from: format-one 1.0"
    assert details[5:] == ["Notes: lower pole redrawn"]
    assert "Reviewed in 1 case of the project" in ui.reviewedTable.item(1, 0).toolTip()

    tick(ui, "brainstem")
    node.GetSegmentation().GetNthSegment(1).SetName("Parotis rechts")
    assert rows(ui.reviewedTable)[1][:2] == ["Parotis rechts", "learned"], "a renamed segment keeps its tick"
    assert "case-0001" in ui.saveCorrectionButton.toolTip
    slicer.mrmlScene.RemoveNode(slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationDisplayNode"))
    assert save(host).startswith("CT (case-0001), revision 2, is saved.")
    (revision,) = Project(folder).state().current
    assert revision.number == 2 and set(revision.case.annotated) == {"brainstem", "Parotis rechts"}
    assert len(Project(folder).revisions("case-0001")) == 2


def test_opening_a_case_gives_its_ticks_its_region_and_todays_names(host, ui, folder: Path, tmp_path: Path):
    import slicer
    from TransferSegGui.annotated_region import REGION_SLICES

    from TransferSegLib.corrections.structure_changes import rename_structure

    volume = add_volume()
    predicted(ui, volume, tmp_path)
    tick(ui, "brainstem")
    ui.regionComboBox.setCurrentIndex(1)
    assert not ui.saveCorrectionButton.enabled and "Mark the slices" in ui.saveCorrectionButton.toolTip
    ui.regionSlicesLineEdit.text = "z: 2-4, 9"
    ui.regionSlicesLineEdit.editingFinished.emit()
    save(host)
    (revision,) = Project(folder).state().current
    region_zyx = labels_of(revision.case.judged)
    assert sorted(set(np.nonzero(region_zyx)[0])) == [2, 3, 4, 9]
    rename_structure(Project(folder), "brainstem", "stem")

    slicer.mrmlScene.Clear(False)
    ui.projectPathLineEdit.currentPath = str(folder)
    host.widget.enter()
    ui.caseTable.clearSelection()
    assert not ui.openCaseButton.enabled and ui.openCaseButton.toolTip == "Select a case first."
    ui.caseTable.selectRow(0)
    ui.openCaseButton.click()
    assert "revision 2" in ui.correctionStatusLabel.text
    node, opened = ui.outputSegmentationSelector.currentNode(), ui.inputVolumeSelector.currentNode()
    assert opened.GetStorageNode() is None and node.GetStorageNode() is None, "a saved scene must not write there"
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(opened), scan_zyx())
    ticks = {texts[0]: texts[1] for texts in rows(ui.reviewedTable)}
    assert ticks == {"stem": "learned", "right parotid gland": "ignored"}
    assert ui.regionComboBox.currentText == "The region saved with the case"
    assert ui.segmentEditorWidget.sourceVolumeNode() is opened
    assert save(host).startswith("CT (case-0001), revision 2, is saved.")
    (revision,) = Project(folder).state().current
    assert revision.case.annotated == ("stem",) and str(revision.corrected_from) == "format-one 1.0"
    np.testing.assert_array_equal(labels_of(revision.case.judged), region_zyx)
    assert revision.prediction is not None
    ui.regionComboBox.setCurrentIndex(1)
    assert node.GetAttribute("TransferSeg.Judged") == REGION_SLICES

    assert not ui.restoreCaseButton.enabled
    ui.removeCaseButton.click()
    assert rows(ui.caseTable)[0][3] == "removed" and Project(folder).state().current == ()
    assert not ui.openCaseButton.enabled and "removed" in ui.openCaseButton.toolTip
    ui.restoreCaseButton.click()
    assert rows(ui.caseTable)[0][3] == "in use" and len(Project(folder).state().current) == 1


def test_new_structures_and_structures_that_are_absent(host, ui, folder: Path):
    volume = add_volume()
    ui.inputVolumeSelector.setCurrentNode(volume)
    assert not ui.addStructureButton.enabled and "no segmentation" in ui.addStructureButton.toolTip
    node = empty_segmentation(ui, volume)
    assert "has no structures" in ui.saveCorrectionButton.toolTip
    assert not ui.addStructureButton.enabled and "name" in ui.addStructureButton.toolTip
    ui.newStructureLineEdit.text = "parotid left"
    ui.addStructureButton.click()
    assert [texts[0] for texts in rows(ui.reviewedTable)] == [
        "left parotid gland"
    ] and ui.newStructureLineEdit.text == ""
    segment = node.GetSegmentation().GetNthSegment(0)
    assert ui.segmentEditorWidget.currentSegmentID() == node.GetSegmentation().GetNthSegmentID(0)
    import vtk

    entry = vtk.reference("")
    assert segment.GetTag("TerminologyEntry", entry) and "SCT^45289007^Parotid gland~SCT^7771000" in str(entry)
    ui.newStructureLineEdit.text = "LeftParotid"
    ui.addStructureButton.click()
    assert "already" in ui.correctionStatusLabel.text and node.GetSegmentation().GetNumberOfSegments() == 1
    ui.newStructureLineEdit.text = "nodule"
    ui.newStructureLineEdit.returnPressed.emit()
    ui.segmentEditorWidget.userPaints([ras_of(volume, (7, 9, 11))], 4.0)
    tick(ui, "nodule")
    tick(ui, "left parotid gland")
    text = save(host)
    assert "'left parotid gland' was reviewed and has no voxel" in text

    other = add_volume("other", seed=1)
    second = empty_segmentation(ui, other, "larynx")
    assert [texts[:2] for texts in rows(ui.reviewedTable)] == [
        ["larynx", "ignored"],
        ["left parotid gland", "ignored"],
        ["nodule", "ignored"],
    ]
    fonts = [ui.reviewedTable.item(row, 0).font().italic() for row in range(3)]
    assert fonts == [False, True, True] and "absent" in ui.reviewedTable.item(1, 0).toolTip()
    ui.reviewedTable.cellDoubleClicked.emit(1, 0)
    drawn = second.GetSegmentation().GetSegmentIdBySegmentName("left parotid gland")
    assert drawn and ui.segmentEditorWidget.currentSegmentID() == drawn, "it can be drawn in this scan, too"
    assert ui.correctionStatusLabel.text == "Draw 'left parotid gland', then tick it."
    assert [texts[1] for texts in rows(ui.reviewedTable)] == ["ignored"] * 3
    second.GetSegmentation().RemoveSegment(drawn)
    tick(ui, "nodule")
    assert second.GetSegmentation().GetSegmentIdBySegmentName("nodule"), "an empty segment says that it is absent"
    assert [texts[:2] for texts in rows(ui.reviewedTable)][1] == ["nodule", "learned"]
    ui.outputSegmentationSelector.setCurrentNode(node)
    assert {texts[0] for texts in rows(ui.reviewedTable) if texts[1] == "learned"} == {
        "nodule",
        "left parotid gland",
    }, "each segmentation has its own ticks"
    assert "belongs to 'CT'" in ui.saveCorrectionButton.toolTip, "the chosen volume is the other one"


def test_the_next_scan_comes_from_a_folder_or_from_what_is_loaded(host, ui, folder: Path, tmp_path: Path):
    scans = write_scans(tmp_path / "scans", 1, 2, 10, ending="nii.gz")
    (scans / "scan 3.seg.nrrd").touch()
    (scans / "notes.txt").touch()
    ui.scanFolderPathLineEdit.currentPath = str(scans)
    ui.nextScanButton.click()
    first = ui.inputVolumeSelector.currentNode()
    assert first.GetName().startswith("scan 1") and "3 scans in the folder" in ui.correctionStatusLabel.text
    assert ui.outputSegmentationSelector.currentNode() is None
    drawn = empty_segmentation(ui, first, "nodule")
    tick(ui, "nodule")
    save(host)
    assert drawn.GetDisplayNode().GetVisibility()
    ui.nextScanButton.click()
    assert ui.inputVolumeSelector.currentNode().GetName().startswith("scan 2")
    assert not drawn.GetDisplayNode().GetVisibility(), "contours of one patient over the scan of another mislead"
    ui.nextScanButton.click()
    assert ui.inputVolumeSelector.currentNode().GetName().startswith("scan 10"), "2 comes before 10"
    ui.nextScanButton.click()
    assert ui.inputVolumeSelector.currentNode().GetName().startswith("scan 2"), "the first is saved"
    import slicer

    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 3, "none is loaded twice"
    assert str(tmp_path) not in (folder / "dataset.json").read_text(), "a project keeps no names of files"

    ui.scanFolderPathLineEdit.currentPath = ""
    names = set()
    for _turn in range(3):
        ui.nextScanButton.click()
        names.add(ui.inputVolumeSelector.currentNode().GetName().split(".")[0])
    assert names == {"scan 2", "scan 10"}
    (scans / "scan 10.nii.gz").write_bytes(b"no scan")
    for place, why in (
        (tmp_path / "nothing", "There is no folder"),
        (scans / "notes.txt", "There is no folder"),
        (tmp_path, "There is no NIfTI, NRRD or MetaImage file in"),
    ):
        ui.scanFolderPathLineEdit.currentPath = str(place)
        ui.nextScanButton.click()
        assert ui.correctionStatusLabel.text.startswith(f"{why} {place}")


def test_a_scan_that_cannot_be_read_does_not_stop_the_others(host, ui, folder: Path, tmp_path: Path, monkeypatch):
    scans = write_scans(tmp_path / "scans", 1, 3)
    (scans / "scan 2.nrrd").write_bytes(b"no scan")
    monkeypatch.setenv("HOME", str(tmp_path))
    ui.scanFolderPathLineEdit.currentPath = "~/scans"
    ui.nextScanButton.click()
    assert ui.inputVolumeSelector.currentNode().GetName() == "scan 1"
    ui.nextScanButton.click()
    assert ui.inputVolumeSelector.currentNode().GetName() == "scan 3"
    text = ui.correctionStatusLabel.text
    assert text.startswith(f"{scans / 'scan 2.nrrd'} cannot be read as a scan. 'scan 3' is next. 2 scans in the folder")
    sitk.WriteImage(sitk.GetImageFromArray(scan_zyx(2)), str(scans / "scan 2.nrrd"))
    ui.nextScanButton.click()
    ui.nextScanButton.click()
    assert ui.inputVolumeSelector.currentNode().GetName().startswith("scan 2"), "it was mended"


def test_a_scan_that_is_being_saved_is_not_counted_nor_offered_again(host, ui, folder: Path, tmp_path: Path):
    scans = write_scans(tmp_path / "scans", 1, 2, ending="nii.gz")
    ui.scanFolderPathLineEdit.currentPath = str(scans)
    ui.nextScanButton.click()
    assert "2 scans in the folder" in ui.correctionStatusLabel.text
    empty_segmentation(ui, ui.inputVolumeSelector.currentNode(), "nodule")
    tick(ui, "nodule")
    ui.saveCorrectionButton.click()
    assert host.widget.correctPanel.saving is not None
    ui.nextScanButton.click()
    second = ui.inputVolumeSelector.currentNode()
    assert second.GetName().startswith("scan 2") and "1 scan in the folder" in ui.correctionStatusLabel.text
    for place in (str(scans), ""):
        ui.scanFolderPathLineEdit.currentPath = place
        ui.nextScanButton.click()
        assert "There is no other scan" in ui.correctionStatusLabel.text and host.widget.correctPanel.saving is not None
        assert ui.inputVolumeSelector.currentNode() is second
    host.widget.correctPanel.saving.cancel()
    host.waitFor(lambda: host.widget.correctPanel.saving is None)
    ui.nextScanButton.click()
    assert ui.inputVolumeSelector.currentNode().GetName().startswith("scan 1"), "it was not saved"


def test_scene_changes_while_a_case_is_saved_and_afterwards(host, ui, folder: Path, tmp_path: Path):
    import slicer
    from slicerhost.scene import openScene, saveScene

    volume = add_volume()
    node, _labels = predicted(ui, volume, tmp_path)
    tick(ui, "brainstem")
    ui.saveCorrectionButton.click()
    slicer.mrmlScene.Clear(False)
    assert host.widget.correctPanel.saving is not None, "a case on its way is not given up"
    host.waitFor(lambda: host.widget.correctPanel.saving is None)
    assert "is saved" in ui.correctionStatusLabel.text and len(Project(folder).state().current) == 1
    assert ui.reviewedTable.rowCount == 0 and not ui.saveCorrectionButton.enabled
    assert ui.segmentEditorWidget.segmentationNode() is None

    ui.projectPathLineEdit.currentPath = str(folder)
    add_volume("CT")
    volume = add_volume("CT", seed=1)  # two volumes of one name
    node, _labels = predicted(ui, volume, tmp_path)
    tick(ui, "right parotid gland")
    ui.scanFolderPathLineEdit.currentPath = str(tmp_path)
    saveScene(tmp_path / "scene.mrml")
    slicer.mrmlScene.RemoveNode(node)
    host.process()
    assert ui.reviewedTable.rowCount == 0 and "Segment the volume" in ui.saveCorrectionButton.toolTip
    slicer.mrmlScene.Clear(False)
    host.process()
    assert ui.projectPathLineEdit.currentPath == str(folder), "the one used last"
    ui.projectPathLineEdit.currentPath = str(tmp_path / "another")
    openScene(tmp_path / "scene.mrml")
    host.process()
    assert ui.projectPathLineEdit.currentPath == str(folder) and ui.caseTable.rowCount == 1
    assert ui.scanFolderPathLineEdit.currentPath == str(tmp_path)


def test_ticks_are_saved_with_the_segmentation(host, ui, folder: Path, tmp_path: Path):
    import slicer
    from TransferSegGui.reviewed_table import isReviewed

    node, _labels = predicted(ui, add_volume(), tmp_path)
    tick(ui, "brainstem")
    assert slicer.util.saveNode(node, str(tmp_path / "saved.seg.nrrd"))
    read = slicer.util.loadSegmentation(str(tmp_path / "saved.seg.nrrd")).GetSegmentation()
    ticked = {read.GetNthSegment(index).GetName(): isReviewed(read.GetNthSegment(index)) for index in range(3)}
    assert ticked == {"brainstem": True, "right parotid gland": False, "left parotid gland": False}
    tick(ui, "brainstem", False)
    assert not ui.saveCorrectionButton.enabled


def test_cancelled_and_refused_cases_leave_the_project_as_it_was(host, ui, folder: Path, tmp_path: Path):
    volume = add_volume()
    node, _labels = predicted(ui, volume, tmp_path)
    tick(ui, "brainstem")
    ui.saveCorrectionButton.click()
    ui.cancelSaveButton.click()
    host.waitFor(lambda: host.widget.correctPanel.saving is None)
    assert ui.correctionStatusLabel.text == "Not saved. The project is unchanged." and temporary_folders() == []
    assert not (folder / "dataset.json").exists()

    node.GetSegmentation().GetNthSegment(1).SetName("Brainstem")
    assert not ui.saveCorrectionButton.enabled and "share the name brainstem" in ui.saveCorrectionButton.toolTip
    node.GetSegmentation().GetNthSegment(1).SetName("right parotid gland")
    folder.mkdir(exist_ok=True)
    (folder / "dataset.json").write_text("{")
    host.widget.enter()
    assert not ui.saveCorrectionButton.enabled and "dataset.json" in ui.saveCorrectionButton.toolTip
    ui.projectPathLineEdit.currentPath = "somewhere"
    assert "absolute path" in ui.saveCorrectionButton.toolTip
    ui.projectPathLineEdit.currentPath = ""
    assert ui.saveCorrectionButton.toolTip == "Choose a project folder."


def test_scans_of_a_dicom_patient_are_one_group_without_the_id(host, ui, folder: Path):
    import slicer

    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    constants = slicer.vtkMRMLSubjectHierarchyConstants
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Doe^Jane")
    hierarchy.SetItemAttribute(patient, constants.GetDICOMPatientIDAttributeName(), "MRN-4711")
    for seed in range(2):
        volume = add_volume(f"scan {seed}", seed)
        study = hierarchy.CreateStudyItem(patient, f"study {seed}")
        hierarchy.CreateItem(study, volume)
        empty_segmentation(ui, volume, "nodule")
        tick(ui, "nodule")
        save(host)
    one, two = Project(folder).state().current
    assert one.case.group == two.case.group != one.case.id
    written = "".join(each.read_text(errors="replace") for each in folder.rglob("*") if each.is_file())
    assert "4711" not in written and "Doe" not in written and json.loads((folder / "dataset.json").read_text())
