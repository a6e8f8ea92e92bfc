"""What the panel says between two scans: what comes next, and nothing that is overwritten by something else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from correcting_world import add_volume, predicted, tick, write_scans
from held_jobs import HeldJobs
from test_structure_choice import tick as tick_structure

STRUCTURES = ["brainstem", "right parotid gland", "left parotid gland"]


@pytest.fixture
def scans(host, ui, folder: Path, tmp_path: Path):
    """Choose a folder of two scans, and the tiny model; nothing is segmented ahead."""
    place = write_scans(tmp_path / "scans", 1, 2)
    ui.scanFolderPathLineEdit.currentPath = str(place)
    host.widget._parameterNode.SetParameter("Model", "library/tiny")
    ui.segmentAheadCheckBox.checked = False
    yield place
    ui.segmentAheadCheckBox.checked = True
    ui.scanFolderPathLineEdit.currentPath = ""
    host.widget._parameterNode.SetParameter("Model", "")


def sees(host, widget) -> bool:
    """Whether a widget is in the part of the panel that is scrolled to."""
    import qt

    port = host._area.viewport()
    corners = (widget.rect.topLeft(), widget.rect.bottomRight())
    return widget.visible and all(
        port.rect.contains(widget.mapTo(port, qt.QPoint(*corner.toTuple()))) for corner in corners
    )


def test_next_scan_says_that_it_is_to_be_segmented_and_shows_where(host, ui, folder: Path, scans: Path) -> None:
    ui.segmentCollapsibleButton.collapsed, ui.correctCollapsibleButton.collapsed = True, False
    host.process()
    host._area.ensureWidgetVisible(ui.nextScanButton)
    ui.nextScanButton.click()
    host.process()
    assert "'scan 1' is next." in ui.correctionStatusLabel.text
    assert ui.correctionStatusLabel.text.endswith("Segment it: section '2. Segment', above.")
    assert ui.segmentStatusLabel.text == "'scan 1' is not segmented yet."
    assert not ui.segmentCollapsibleButton.collapsed and ui.segmentButton.enabled and sees(host, ui.segmentButton)
    ui.correctCollapsibleButton.collapsed = True


def test_after_the_last_scan_fine_tuning_is_what_comes_next(host, ui, folder: Path, scans: Path, tmp_path: Path):
    (scans / "scan 2.nrrd").unlink()
    ui.nextScanButton.click()
    predicted(ui, ui.inputVolumeSelector.currentNode(), tmp_path)
    tick(ui, "brainstem")
    ui.acceptButton.click()
    done = "All scans of the folder are done. 1 case is ready. Next comes the section '4. Fine-tune', below."
    assert ui.correctionStatusLabel.text.splitlines() == ["Saving 'scan 1' ...", done]
    host.waitFor(lambda: host.widget.correctPanel.saving is None)
    lines = ui.correctionStatusLabel.text.splitlines()
    assert len(lines) == 2 and lines[0] == done and lines[1].startswith("scan 1 (case-0001), revision 1, is saved.")
    assert "Empty, and ignored, because not reviewed: left parotid gland." in lines[1]
    ui.nextScanButton.click()
    assert ui.correctionStatusLabel.text == done, "there is nothing else to do here"


def test_saving_that_was_cancelled_leaves_something_to_do(host, ui, folder: Path, scans: Path, tmp_path: Path):
    (scans / "scan 2.nrrd").unlink()
    ui.nextScanButton.click()
    predicted(ui, ui.inputVolumeSelector.currentNode(), tmp_path)
    tick(ui, "brainstem")
    ui.acceptButton.click()
    assert "All scans of the folder are done." in ui.correctionStatusLabel.text
    ui.cancelSaveButton.click()
    host.waitFor(lambda: host.widget.correctPanel.saving is None)
    assert ui.correctionStatusLabel.text == "Not saved. The project is unchanged."


def test_a_doubt_volume_is_no_scan(host, ui, folder: Path) -> None:
    host.widget._parameterNode.SetParameter("Model", "library/tiny")
    ui.inputVolumeSelector.setCurrentNode(add_volume("scan"))
    ui.doubtVolumeCheckBox.click()
    try:
        ui.segmentButton.click()
        host.waitFor(lambda: not ui.cancelSegmentButton.enabled)
        import slicer

        assert slicer.mrmlScene.GetFirstNodeByName("scan doubt") is not None
        ui.acceptButton.click()
        assert "All loaded volumes are done." in ui.correctionStatusLabel.text
        host.waitFor(lambda: host.widget.correctPanel.saving is None)
        ui.nextScanButton.click()
        assert ui.inputVolumeSelector.currentNode().GetName() == "scan"
    finally:
        ui.doubtVolumeCheckBox.click()
        host.widget._parameterNode.SetParameter("Model", "")


def test_why_nothing_was_learned_names_the_scan(host, ui, folder: Path, tmp_path: Path) -> None:
    predicted(ui, add_volume(), tmp_path)
    tick(ui, "brainstem")
    ui.regionComboBox.setCurrentIndex(1)
    ui.regionSlicesLineEdit.text = "z:4"
    ui.regionSlicesLineEdit.editingFinished.emit()
    host.widget._parameterNode.SetParameter("Model", "library/no such model")
    try:
        assert ui.learnHereButton.enabled, ui.learnHereButton.toolTip
        ui.learnHereButton.click()
        said = "Nothing was learned ('CT'): Choose a model in the section 'Model'."
        assert ui.correctionStatusLabel.text == said
    finally:
        host.widget._parameterNode.SetParameter("Model", "")


def test_why_a_case_was_not_saved_stays_until_one_is_saved_again(host, ui, folder: Path, scans: Path, tmp_path: Path):
    panel = host.widget.correctPanel
    ui.nextScanButton.click()
    first = ui.inputVolumeSelector.currentNode()
    node, _labels = predicted(ui, first, tmp_path)
    panel._showDone("All scans of the folder are done.")
    correction = SimpleNamespace(volumeNode=first, segmentationNode=node, project=folder)
    failed = SimpleNamespace(case=None, cancelled=False, anotherModality=None, error="the disk is full.")
    failed.correction = correction
    panel._onSaved(failed, None, "")
    said = "Not saved ('scan 1'): the disk is full."
    assert ui.correctionStatusLabel.text == said
    ui.nextScanButton.click()
    assert "'scan 2' is next." in ui.correctionStatusLabel.text
    assert said in ui.correctionStatusLabel.text, "another scan is shown"
    predicted(ui, ui.inputVolumeSelector.currentNode(), tmp_path)
    tick(ui, "brainstem")
    ui.saveCorrectionButton.click()
    assert ui.correctionStatusLabel.text == "Saving 'scan 2' ..."
    host.waitFor(lambda: panel.saving is None)
    assert ui.correctionStatusLabel.text.startswith("scan 2 (case-0001), revision 1, is saved.")


def test_a_run_of_a_scan_that_was_left_says_so_and_its_result_stays_off_the_next(
    host, ui, folder: Path, scans: Path, held_jobs: HeldJobs
) -> None:
    ui.nextScanButton.click()
    first = ui.inputVolumeSelector.currentNode()
    ui.segmentButton.click()
    ui.nextScanButton.click()
    second = ui.inputVolumeSelector.currentNode()
    assert second is not first
    host.widget.segmentPanel.run.onProgress(0.4, 12.0, "on CPU")
    lines = ui.segmentStatusLabel.text.splitlines()
    assert "Segmenting 'scan 1' on CPU: 40 %, 12 s left" in lines and "'scan 2' is not segmented yet." in lines
    held_jobs.let_one()
    host.waitFor(lambda: not ui.cancelSegmentButton.enabled)
    import slicer

    (made,) = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert made.GetNodeReferenceID("referenceImageGeometryRef") == first.GetID()
    assert not made.GetDisplayNode().GetVisibility() and ui.outputSegmentationSelector.currentNode() is None
    assert "'scan 1 segmentation': " in ui.segmentStatusLabel.text
    ui.inputVolumeSelector.setCurrentNode(first)
    ui.outputSegmentationSelector.setCurrentNode(made)
    assert ui.segmentStatusLabel.text.startswith("'scan 1 segmentation': ") and made.GetDisplayNode().GetVisibility()


def test_what_was_not_found_is_said_whatever_else_is(host, ui, folder: Path, tmp_path: Path) -> None:
    from TransferSegGui.nodes import namesText

    host.widget._parameterNode.SetParameter("Model", "library/tiny")
    try:
        volume = add_volume()
        node, _labels = predicted(ui, volume, tmp_path)
        node.SetAttribute("TransferSeg.NotFound", namesText(["left parotid gland"]))
        ui.outputSegmentationSelector.setCurrentNode(None)
        assert not ui.segmentStatusLabel.text
        ui.outputSegmentationSelector.setCurrentNode(node)
        missing = f"'{node.GetName()}': Not found: left parotid gland."
        assert ui.segmentStatusLabel.text == missing, "of an earlier day"
        node.SetAttribute("TransferSeg.Structures", namesText(STRUCTURES[1:]))
        tick_structure(ui, "brainstem", False)
        tick_structure(ui, "brainstem", True)
        assert ui.segmentStatusLabel.text.splitlines() == [missing, "Not in the result yet: brainstem. Segment again."]
        tick_structure(ui, "right parotid gland", False)
        assert ui.segmentStatusLabel.text == missing
        ui.inputVolumeSelector.setCurrentNode(add_volume("other", 5))
        assert ui.segmentStatusLabel.text == "", "it is not of this scan"
    finally:
        host.widget._parameterNode.SetParameter("LeftOutStructures", "")
        host.widget._parameterNode.SetParameter("Model", "")


def test_activities_share_a_label(host) -> None:
    import qt
    from TransferSegGui.status_line import StatusLines

    label = qt.QLabel()
    lines = StatusLines(label)
    assert label.text == "" and not label.isVisibleTo(None)
    lines.say("save", "Saving ...", lasts=True)
    lines.say("scans", "2 is next.")
    assert label.text == "Saving ...\n2 is next."
    lines.report("save", "1 is saved.")
    assert label.text == "2 is next.\n1 is saved."
    lines.report("ahead", "3 cannot be read.", lasts=True)
    lines.say("scans", "3 is next.")
    assert label.text == "3 cannot be read.\n3 is next.", "what has served makes room, an error does not"
    lines.report("ahead", "")
    assert label.text == "3 is next." and lines.has("scans") and not lines.has("ahead")
    lines.clear()
    assert label.text == ""


def test_the_minutes_grow_in_sensible_steps(host, ui) -> None:
    ui.minutesSpinBox.setValue(13)
    values = []
    for _step in range(4):
        ui.minutesSpinBox.stepUp()
        values.append(ui.minutesSpinBox.value)
    assert values == [14, 15, 20, 25]
    ui.minutesSpinBox.setValue(60)
    ui.minutesSpinBox.stepUp()
    assert ui.minutesSpinBox.value == 75
    ui.minutesSpinBox.setValue(30)
