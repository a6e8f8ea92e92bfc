"""What goes wrong around the panel: files and folders that vanish or cannot be used, volumes without voxels."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

TESTING = Path(__file__).resolve().parents[1]
VERSIONS = TESTING / "Data" / "model_versions_1" / "clinic"


def add_volume(name: str = "CT"):
    import slicer

    voxels_zyx = np.linspace(-1000, 1200, 16 * 20 * 24).reshape(16, 20, 24).astype(np.int16)
    return slicer.util.addVolumeFromArray(voxels_zyx, name=name)


def add_segmentation(volume, name: str = "left parotid gland"):
    """Add a segmentation of a volume with one segment, ticked."""
    import slicer
    from TransferSegGui.reviewed_table import setReviewed

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "ours")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment_id = node.GetSegmentation().AddEmptySegment("", name)
    if volume.GetImageData() is not None:
        voxels_zyx = np.zeros((16, 20, 24), np.uint8)
        voxels_zyx[4:9, 4:9, 4:9] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(voxels_zyx, node, segment_id, volume)
    setReviewed(node.GetSegmentation().GetSegment(segment_id), True)
    return node


def choose(host, volume, segmentation=None, model: str = "library/tiny") -> None:
    host.widget._parameterNode.SetParameter("Model", model)
    host.widget.ui.inputVolumeSelector.setCurrentNode(volume)
    host.widget.ui.outputSegmentationSelector.setCurrentNode(segmentation)


def test_a_model_that_vanishes_between_choice_and_click(host, ui, models: Path):
    shutil.copytree(models / "tiny", models / "fleeting")
    host.widget.enter()
    try:
        choose(host, add_volume(), model="library/fleeting")
        assert ui.segmentButton.enabled
    finally:
        shutil.rmtree(models / "fleeting")
    ui.segmentButton.click()
    assert "There is no model" in ui.segmentStatusLabel.text and "\n" not in ui.segmentStatusLabel.text
    assert not ui.cancelSegmentButton.enabled and not ui.segmentProgressBar.visible
    ui.exportModelPathLineEdit.setCurrentPath("/nowhere/model.zip")
    ui.exportModelButton.click()
    host.waitFor(lambda: host.widget.modelPanel.files._command is None)
    assert ui.modelStatusLabel.text.startswith("Not written: ")
    ui.exportModelPathLineEdit.setCurrentPath("")
    host.widget.enter()
    assert ui.modelDetailsLabel.text == "The model 'library/fleeting' is not on this computer: choose another one."


def test_the_version_is_called_as_in_the_history(host, ui, models: Path):
    """Version 0 is a copy of what its maker called 1.0: choice, segmentation and saved case say 0."""
    import slicer
    from TransferSegGui import console
    from TransferSegGui.nodes import segmentedBy

    from TransferSegLib.models.store import load_description
    from TransferSegLib.models.versions.versions import promote

    shutil.copytree(VERSIONS, models / "clinic")
    try:
        host.widget.enter()
        promote("clinic", models, 0)
        assert load_description(models / "clinic").version == "1.0", "or this test shows nothing"
        host.widget.enter()
        choose(host, add_volume(), model="library/clinic")
        name = ui.modelComboBox.currentText.rpartition(", ")[0]
        assert ui.modelComboBox.currentText == f"{name}, version 0"
        used = [row for row in range(ui.historyTable.rowCount) if ui.historyTable.item(row, 3).text() == "in use"]
        assert [ui.historyTable.item(row, 0).text() for row in used] == ["0"]
        assert ui.historyTable.item(used[0], 0).toolTip() == "The original model (version 1.0)"
        assert next(each.version for each in console.models() if each.path.name == "clinic") == "0"
        ui.segmentButton.click()
        host.waitFor(lambda: not ui.cancelSegmentButton.enabled)
        node = ui.outputSegmentationSelector.currentNode()
        assert segmentedBy(node).version == node.GetAttribute("TransferSeg.ModelVersion") == "0"
    finally:
        shutil.rmtree(models / "clinic")
        slicer.mrmlScene.Clear(False)
        host.widget.enter()


@pytest.mark.parametrize("kind", ["no image", "image without values", "no voxels"])
def test_a_volume_without_voxels(host, ui, kind: str):
    import slicer
    import vtk

    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    if kind != "no image":
        image = vtk.vtkImageData()
        image.SetDimensions(*((4, 4, 4) if kind == "image without values" else (0, 0, 0)))
        if kind == "no voxels":
            image.AllocateScalars(vtk.VTK_SHORT, 1)
        volume.SetAndObserveImageData(image)
    choose(host, volume)
    ui.segmentButton.click()
    assert ui.segmentStatusLabel.text == "Not segmented ('empty'): The volume 'empty' has no voxels."
    assert not ui.cancelSegmentButton.enabled
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "ours")
    node.GetSegmentation().AddEmptySegment("", "brainstem")
    choose(host, volume, node)
    ui.regionComboBox.setCurrentIndex(1)
    ui.markRegionButton.click()
    assert not ui.saveCorrectionButton.enabled
    assert ui.saveCorrectionButton.toolTip == "The volume 'empty' has no voxels."


def test_slicers_temporary_folder_is_gone(host, ui, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import slicer

    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path / "gone"))
    volume = add_volume()
    choose(host, volume)
    ui.segmentButton.click()
    assert ui.segmentStatusLabel.text.startswith(
        "Not segmented ('CT'): No folder can be created in Slicer's temporary folder"
    )
    choose(host, volume, add_segmentation(volume))
    ui.projectPathLineEdit.currentPath = str(tmp_path / "cases")
    assert ui.saveCorrectionButton.enabled, ui.saveCorrectionButton.toolTip
    ui.saveCorrectionButton.click()
    assert ui.correctionStatusLabel.text.startswith("Not saved ('CT'): No folder can be created")
    assert ui.saveCorrectionButton.enabled and not ui.cancelSaveButton.enabled


def test_project_folders_that_cannot_be_used(host, ui, tmp_path: Path):
    volume = add_volume()
    choose(host, volume, add_segmentation(volume))
    file = tmp_path / "file"
    file.write_text("no folder")
    for path in (file, file / "cases", file / "deeper" / "cases"):
        ui.projectPathLineEdit.currentPath = str(path)
        said = f"{path} cannot be a project folder: {file} is a file, not a folder. Choose another folder."
        assert ui.correctionStatusLabel.text == said
        assert not ui.saveCorrectionButton.enabled and ui.saveCorrectionButton.toolTip == said
        assert not ui.fineTuneButton.enabled and ui.fineTuneButton.toolTip == said
    for path, reason in (
        ("~nobody-of-this-name/cases", "absolute path"),
        ("cases", "absolute path"),
        (str(tmp_path / ("x" * 300)), "cannot be read"),
    ):
        ui.projectPathLineEdit.currentPath = path
        assert not ui.saveCorrectionButton.enabled and reason in ui.saveCorrectionButton.toolTip
        assert not ui.fineTuneButton.enabled and reason in ui.fineTuneButton.toolTip
        ui.nextScanButton.click()
    ui.projectPathLineEdit.currentPath = str(tmp_path / "cases")
    ui.scanFolderPathLineEdit.currentPath = str(tmp_path / ("x" * 300))
    ui.nextScanButton.click()
    assert ui.correctionStatusLabel.text
    ui.scanFolderPathLineEdit.currentPath = ""


def test_a_project_folder_that_cannot_be_made(host, ui, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """It could be when it was chosen: a file came in its way, or a permission went; the segmentation stays."""
    volume = add_volume()
    choose(host, volume, add_segmentation(volume))
    ui.projectPathLineEdit.currentPath = str(tmp_path / "new" / "cases")
    assert ui.saveCorrectionButton.enabled, ui.saveCorrectionButton.toolTip
    (tmp_path / "new").write_text("no folder")
    said = f"Not saved ('CT'): The folder {tmp_path / 'new'} cannot be created: "
    ui.saveCorrectionButton.click()
    reason = f"{tmp_path / 'new'} is a file, not a folder. Choose another project folder."
    assert ui.correctionStatusLabel.text == said + reason
    (tmp_path / "new").unlink()

    def refuse(*args, **more):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as denied:
        denied.setattr(os, "mkdir", refuse)
        denied.setattr(os, "access", lambda *args, **more: False)
        ui.saveCorrectionButton.click()
    reason = f"you have no permission to write in {tmp_path}. Choose another project folder."
    assert ui.correctionStatusLabel.text == said + reason
    ui.saveCorrectionButton.click()
    host.waitFor(lambda: not ui.cancelSaveButton.enabled)
    assert "is saved." in ui.correctionStatusLabel.text


def test_a_project_that_is_deleted_while_it_is_shown(host, ui, tmp_path: Path):
    volume, project = add_volume(), tmp_path / "cases"
    choose(host, volume, add_segmentation(volume))
    ui.projectPathLineEdit.currentPath = str(project)
    ui.saveCorrectionButton.click()
    host.waitFor(lambda: not ui.cancelSaveButton.enabled)
    assert ui.caseTable.rowCount == 1, ui.correctionStatusLabel.text
    shutil.rmtree(project)
    ui.caseTable.selectRow(0)
    for button in (ui.openCaseButton, ui.removeCaseButton):
        ui.correctionStatusLabel.text = ""
        button.click()
        assert str(project) in ui.correctionStatusLabel.text, button.text
    if ui.fineTuneButton.enabled:
        ui.fineTuneButton.click()
        host.waitFor(lambda: not ui.cancelFineTuneButton.enabled)
        assert "Not fine-tuned" in ui.fineTuneStatusLabel.text
    ui.saveCorrectionButton.click()
    host.waitFor(lambda: not ui.cancelSaveButton.enabled)
    assert "is saved." in ui.correctionStatusLabel.text, "a correction is never lost: the project is made anew"


def test_a_job_whose_folder_is_deleted_while_it_is_followed(host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from TransferSegGui.finetune_panel import endText
    from TransferSegGui.job_process import JobProcess

    from TransferSegLib.jobs.request import JobRequest

    monkeypatch.setenv("TRANSFERSEG_JOBS", str(tmp_path / "jobs"))
    job = JobProcess.create(JobRequest("fetch-model", {"name": "x"}, "cpu", "fetch x"))
    ended: list[str] = []
    job.onEnd = lambda job: ended.append(endText(job))
    job.follow()
    host.process(100)
    shutil.rmtree(job.folder)
    host.waitFor(lambda: bool(ended), 20)
    host.process(1500)
    assert len(ended) == 1 and not job.isFollowed
    assert ended[0].startswith("Not fine-tuned: ") and job.log() == "" and job.lastLines() == []
    job.cancel()
    job.resume()
    host.waitFor(lambda: len(ended) == 2, 60)
    assert "\n" not in ended[1] and str(job.folder) in ended[1]
