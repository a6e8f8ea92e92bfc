"""Saving a case keeps no click waiting, and whatever happens meanwhile, what was there at the click is saved.

Nothing is measured by the clock: after the click no file is written yet, and the event loop turns before the case is.
"""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.corrections.project import Project

#: Some portions' worth of voxels.
SHAPE_ZYX = (24, 300, 310)


@pytest.fixture
def correction(host, ui, tmp_path: Path):
    """Choose a project, a volume, and a segmentation with one ticked structure, as the user does."""
    import slicer
    from TransferSegGui.reviewed_table import setReviewed

    voxels_zyx = np.random.default_rng(3).integers(-500, 500, SHAPE_ZYX).astype(np.int16)
    volume = slicer.util.addVolumeFromArray(voxels_zyx, name="CT")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "ours")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for name in ("mandible", "larynx"):
        segment_id = node.GetSegmentation().AddEmptySegment(name, name)
    draw(node, volume, "mandible", 4)
    setReviewed(node.GetSegmentation().GetSegment("mandible"), True)
    assert segment_id == "larynx"
    ui.inputVolumeSelector.setCurrentNode(volume)
    ui.outputSegmentationSelector.setCurrentNode(node)
    ui.projectPathLineEdit.currentPath = str(tmp_path / "project")
    ui.notesLineEdit.text = "as clicked"
    ui.correctCollapsibleButton.collapsed = False
    yield volume, node, voxels_zyx, tmp_path / "project"
    host.widget.ui.correctCollapsibleButton.collapsed = True
    host.widget.ui.notesLineEdit.text = ""


def draw(node, volume, segment_id: str, begin: int) -> np.ndarray:
    import slicer

    mask_zyx = np.zeros(SHAPE_ZYX, np.uint8)
    mask_zyx[begin : begin + 3, 20:40, 30:60] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask_zyx, node, segment_id, volume)
    return mask_zyx


def files_written() -> list[Path]:
    import slicer

    return [each for folder in Path(slicer.app.temporaryPath).glob("TransferSeg-*") for each in folder.iterdir()]


def saved_files(project: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels and the label map of the only case."""
    (revision,) = Project(project).state().current
    image, labels = (sitk.ReadImage(str(file)) for file in (revision.case.image, revision.case.labels))
    return sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(labels)


def test_the_click_copies_and_the_rest_is_done_between_events(host, ui, correction):
    import qt
    import slicer
    from TransferSegGui.reviewed_table import setReviewed

    volume, node, voxels_zyx, project = correction
    drawn_zyx = draw(node, volume, "mandible", 4)
    turns: list[tuple[bool, bool]] = []
    timer = qt.QTimer()
    panel = host.widget.correctPanel
    timer.connect("timeout()", lambda: turns.append((panel.saving is None or panel.saving.isWriting, project.exists())))
    ui.saveCorrectionButton.click()
    assert files_written() == [] and not project.exists() and panel.saving.isWriting, "the click wrote nothing"
    assert ui.correctionStatusLabel.text == "Saving 'CT' ..." and ui.saveProgressBar.visible
    assert not ui.saveCorrectionButton.enabled and ui.saveCorrectionButton.toolTip == "A case is being saved."

    # The user goes on at once: another stroke, other ticks, other voxels, another note.
    draw(node, volume, "mandible", 12)
    setReviewed(node.GetSegmentation().GetSegment("larynx"), True)
    setReviewed(node.GetSegmentation().GetSegment("mandible"), False)
    slicer.util.arrayFromVolume(volume)[:] = 0
    slicer.util.arrayFromVolumeModified(volume)
    ui.notesLineEdit.text = "of the next one"
    assert not ui.saveCorrectionButton.enabled
    timer.start(0)
    host.waitFor(lambda: panel.saving is None)
    timer.stop()
    writing = [written for written, _there in turns]
    assert writing.count(True) >= 1 and writing.count(False) >= 1, "the loop turned while files were written, and after"
    assert turns[0] == (True, False), "the loop turned before there was anything of the case"

    assert ui.correctionStatusLabel.text.startswith("CT (case-0001), revision 1, is saved."), (
        ui.correctionStatusLabel.text
    )
    (revision,) = Project(project).state().current
    assert revision.case.annotated == ("mandible",) and revision.notes == "as clicked"
    scan_zyx, labels_zyx = saved_files(project)
    np.testing.assert_array_equal(scan_zyx, voxels_zyx)
    np.testing.assert_array_equal(labels_zyx > 0, drawn_zyx > 0)
    ticked = [node.GetSegmentation().GetSegment(each).HasTag("TransferSeg.Reviewed") for each in ("mandible", "larynx")]
    assert ticked == [False, True] and ui.notesLineEdit.text == "of the next one", "what the user did meanwhile stays"
    assert ui.saveCorrectionButton.enabled and files_written() == []


def test_errors_of_the_library_and_of_the_disk_are_shown(host, ui, correction):
    _volume, _node, _voxels, project = correction
    panel = host.widget.correctPanel
    ui.saveCorrectionButton.click()
    project.mkdir()
    (project / "dataset.json").write_text("{")
    host.waitFor(lambda: panel.saving is None)
    text = ui.correctionStatusLabel.text
    assert text.startswith("Not saved ('CT'): ") and str(project / "dataset.json") in text and "\n" not in text
    assert files_written() == [] and not ui.cancelSaveButton.enabled and not ui.saveProgressBar.visible

    shutil.rmtree(project)
    host.widget.enter()
    assert ui.saveCorrectionButton.enabled, ui.saveCorrectionButton.toolTip
    ui.saveCorrectionButton.click()
    gone = Path(panel.saving.temporary.name)
    shutil.rmtree(gone)
    host.waitFor(lambda: panel.saving is None)
    said = f"Not saved ('CT'): {gone} cannot be written: No such file or directory."
    assert ui.correctionStatusLabel.text == said
    assert ui.saveCorrectionButton.enabled and not project.exists() and ui.notesLineEdit.text == "as clicked"


@pytest.mark.parametrize("begun", [False, True], ids=["while files are written", "while the process runs"])
def test_closing_the_panel_waits_for_the_case(host, ui, correction, begun: bool):
    _volume, _node, voxels_zyx, project = correction
    ui.saveCorrectionButton.click()
    saving = host.widget.correctPanel.saving
    if begun:
        host.waitFor(lambda: not saving.isWriting)
    assert not saving.ended
    try:
        host.widget.cleanup()
        assert saving.ended and saving.error == "" and saving.case["id"] == "case-0001"
        np.testing.assert_array_equal(saved_files(project)[0], voxels_zyx)
    finally:
        host.openPanel()


def test_a_script_gets_the_case_and_quitting_waits_for_the_one_it_left(host, ui, correction):
    import slicer

    volume, node, voxels_zyx, project = correction
    logic = slicer.util.getModuleLogic("TransferSeg")
    case = logic.saveCorrection(volume, node, ["mandible"], project=project)
    assert (case["id"], case["revision"], case["reviewed"]) == ("case-0001", 1, ["mandible"])
    again = logic.saveCorrection(volume, node, ["mandible"], project=project, wait=False)
    assert again.isWriting and not again.ended
    slicer.mrmlScene.Clear(False)
    slicer.app.aboutToQuit()
    assert again.ended and again.error == "" and again.case["revision"] == 2
    np.testing.assert_array_equal(saved_files(project)[0], voxels_zyx)


def refuse(project: Path) -> None:
    """Let every case that is added fail: the project is damaged."""
    project.mkdir(exist_ok=True)
    (project / "dataset.json").write_text("{")


@pytest.mark.parametrize("gone", ["scene", "segmentation"])
def test_a_correction_that_could_not_be_saved_comes_back_when_its_scene_was_closed(host, ui, correction, gone: str):
    import slicer
    from TransferSegGui.reviewed_table import isReviewed

    volume, node, voxels_zyx, project = correction
    drawn_zyx = draw(node, volume, "mandible", 4)
    ui.saveCorrectionButton.click()
    refuse(project)
    if gone == "scene":
        slicer.mrmlScene.Clear(False)
    else:
        slicer.mrmlScene.RemoveNode(node)
    other = slicer.util.addVolumeFromArray(np.zeros((3, 4, 5), np.int16), name="CT")
    host.waitFor(lambda: host.widget.correctPanel.saving is None)
    text = ui.correctionStatusLabel.text
    assert text.startswith("Not saved ('CT'): ") and text.endswith("'ours' was added to the scene again."), text
    (back,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    reference = back.GetNodeReference("referenceImageGeometryRef")
    assert reference is not other and slicer.mrmlScene.IsNodePresent(reference)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(reference), voxels_zyx)
    mandible_zyx = slicer.util.arrayFromSegmentBinaryLabelmap(back, "mandible", reference)
    np.testing.assert_array_equal(mandible_zyx, drawn_zyx)
    assert isReviewed(back.GetSegmentation().GetSegment("mandible")) and back.GetDisplayNode() is not None

    (project / "dataset.json").unlink()
    host.widget.enter()
    ui.projectPathLineEdit.currentPath = str(project)  # that of the closed scene
    ui.inputVolumeSelector.setCurrentNode(reference)
    ui.outputSegmentationSelector.setCurrentNode(back)
    ui.saveCorrectionButton.click()
    host.waitFor(lambda: host.widget.correctPanel.saving is None)
    assert "is saved." in ui.correctionStatusLabel.text
    np.testing.assert_array_equal(saved_files(project)[1] > 0, drawn_zyx > 0)


def test_what_was_cancelled_is_never_called_saved_because_somebody_else_saved(host, ui, correction):
    _volume, _node, voxels_zyx, project = correction
    ui.saveCorrectionButton.click()
    scan = sitk.GetImageFromArray(voxels_zyx[:8] + 1)
    labels = sitk.GetImageFromArray(np.ones((8, *SHAPE_ZYX[1:]), np.uint8))
    Project(project, create=True).add_case(scan, labels, "all", structures={1: "liver"})
    ui.cancelSaveButton.click()
    host.waitFor(lambda: host.widget.correctPanel.saving is None)
    text = ui.correctionStatusLabel.text
    assert text == "Saving 'CT' was cancelled, but the project changed meanwhile: look for it in the table."
    assert [one.case.annotated for one in Project(project).state().current] == [("liver",)]


def test_another_project_is_shown_and_the_scene_is_closed_before_the_case_is_saved(host, ui, correction, tmp_path):
    import slicer
    from TransferSegGui.next_scan import savedScans

    volume, _node, voxels_zyx, project = correction
    scan = sitk.GetImageFromArray(voxels_zyx[:8] + 1)
    labels = sitk.GetImageFromArray(np.ones((8, *SHAPE_ZYX[1:]), np.uint8))
    Project(tmp_path / "other", create=True).add_case(scan, labels, "all", structures={1: "liver"})
    volume.SetAttribute("TransferSeg.ScanFile", str(tmp_path / "scan.nii.gz"))
    ui.saveCorrectionButton.click()
    slicer.mrmlScene.Clear(False)
    host.process()
    ui.projectPathLineEdit.currentPath = str(tmp_path / "other")
    ui.caseTable.clearSelection()
    host.waitFor(lambda: host.widget.correctPanel.saving is None)
    assert ui.correctionStatusLabel.text.startswith(f"CT (case-0001), revision 1, is saved in {project}.")
    assert host.widget.correctPanel.cases.table.selected() is None, "case-0001 of this project is another one"
    assert savedScans(project) == {str(tmp_path / "scan.nii.gz")}, "the scan is not offered again as the next"


def test_of_two_corrections_of_a_scan_the_later_one_is_the_later_revision(host, ui, correction):
    import slicer

    volume, node, _voxels, project = correction
    logic = slicer.util.getModuleLogic("TransferSeg")
    first = logic.saveCorrection(volume, node, ["mandible"], project=project, wait=False)
    drawn_zyx = draw(node, volume, "mandible", 12)
    second = logic.saveCorrection(volume, node, ["mandible"], project=project, wait=False)
    second.finish()
    first.finish()
    assert (first.case["revision"], second.case["revision"]) == (1, 2)
    np.testing.assert_array_equal(saved_files(project)[1] > 0, drawn_zyx > 0)

    first = logic.saveCorrection(volume, node, ["mandible"], project=project, wait=False)
    second = logic.saveCorrection(volume, node, ["mandible"], project=project, wait=False)
    first.cancel()
    second.wait()
    assert first.cancelled and second.case["revision"] == 3, "one that was cancelled keeps no other waiting"


def test_too_little_memory_for_the_copy_is_told(host, ui, correction, monkeypatch):
    from TransferSegGui import correction_process

    def tooMuch(volume):
        raise MemoryError

    monkeypatch.setattr(correction_process, "voxelsOf", tooMuch)
    ui.saveCorrectionButton.click()
    assert ui.correctionStatusLabel.text.startswith("Not saved ('CT'): There is not enough memory")
    assert ui.saveCorrectionButton.enabled and host.widget.correctPanel.saving is None


def test_segments_with_any_name_are_saved(host, ui, correction):
    from TransferSegGui.reviewed_table import setReviewed

    volume, node, _voxels, project = correction
    for segmentId, name in (("mandible", "-left"), ("larynx", "")):
        node.GetSegmentation().GetSegment(segmentId).SetName(name)
        setReviewed(node.GetSegmentation().GetSegment(segmentId), True)
    draw(node, volume, "larynx", 9)
    ui.saveCorrectionButton.click()
    host.waitFor(lambda: host.widget.correctPanel.saving is None)
    assert "is saved." in ui.correctionStatusLabel.text, ui.correctionStatusLabel.text
    (revision,) = Project(project).state().current
    assert revision.case.annotated == ("-left", "unnamed")


def test_nodes_are_let_go_although_a_connection_keeps_the_object_that_saved_them(host, ui, correction):
    """In Slicer a slot that is connected stays for ever, and its object with it: a scan a case would never be freed."""
    import slicer

    freed: list[str] = []

    def save() -> object:
        volume, node, *_rest = _small(freed)
        logic = slicer.util.getModuleLogic("TransferSeg")
        return logic.saveCorrection(
            volume,
            node,
            ["mandible"],
            project=correction[3],
            wait=False,
            onEnd=lambda saving: freed.append(volume.GetName()),
        )

    saving = save()
    host.waitFor(lambda: saving.ended)
    assert saving.case is not None and freed == ["small"], "onEnd was called once, and nothing is gone yet"
    slicer.mrmlScene.Clear(False)
    host.process()
    gc.collect()
    assert sorted(freed[1:]) == ["vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode"]


def _small(freed: list[str]):
    import slicer

    volume = slicer.util.addVolumeFromArray(np.arange(24 * 30 * 31, dtype=np.int16).reshape(24, 30, 31), name="small")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "of small")
    node.GetSegmentation().AddEmptySegment("mandible", "mandible")
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.ones((24, 30, 31), np.uint8), node, "mandible", volume)
    volume.AddObserver("DeleteEvent", lambda caller, event: freed.append("vtkMRMLScalarVolumeNode"))
    node.AddObserver("DeleteEvent", lambda caller, event: freed.append("vtkMRMLSegmentationNode"))
    return volume, node


def test_another_modality_is_saved_only_by_a_second_click(host, ui, correction) -> None:
    import slicer

    volume, _node, voxels_zyx, folder = correction
    project = Project(folder, create=True)
    ct = sitk.GetImageFromArray(np.random.default_rng(1).integers(-1000, 1000, (3, 4, 5)).astype(np.int16))
    labels = sitk.GetImageFromArray(np.ones((3, 4, 5), np.uint8))
    project.add_case(ct, labels, "all", structures={1: "mandible"})
    slicer.util.updateVolumeFromArray(volume, np.abs(voxels_zyx))
    ui.saveCorrectionButton.click()
    host.waitFor(lambda: host.widget.correctPanel.saving is None)
    assert "Not saved ('CT'): The scan is MR" in ui.correctionStatusLabel.text
    assert len(project.dataset()) == 1
    ui.saveCorrectionButton.click()
    host.waitFor(lambda: host.widget.correctPanel.saving is None)
    assert "(case-0002), revision 1, is saved." in ui.correctionStatusLabel.text
