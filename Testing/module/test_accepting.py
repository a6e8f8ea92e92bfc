"""Fewer clicks: ticks follow what is drawn, one key for what is right, and on to the next scan, segmented ahead."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from correcting_world import add_volume, predicted, ras_of, rows, scan_zyx, temporary_folders, tick, write_scans
from held_jobs import HeldJobs
from test_doubtful_places import entry

sys.path.insert(0, str(Path(__file__).parent))

from TransferSegLib.corrections.project import Project


def ticked(ui) -> list[str]:
    return [texts[0] for texts in rows(ui.reviewedTable) if texts[1] == "learned"]


def press(host, keys: str) -> None:
    """Press keys in the window."""
    import qt
    from PySide6.QtTest import QTest

    host.window.activateWindow()
    host.process()
    QTest.keySequence(host.window, qt.QKeySequence(keys))
    host.process()


@pytest.fixture
def scans(host, ui, folder: Path, tmp_path: Path):
    """Choose a folder of three scans, and the tiny model."""
    place = write_scans(tmp_path / "scans", 1, 2, 3)
    ui.scanFolderPathLineEdit.currentPath = str(place)
    host.widget._parameterNode.SetParameter("Model", "library/tiny")
    yield place
    ui.scanFolderPathLineEdit.currentPath = ""
    host.widget._parameterNode.SetParameter("Model", "")


def test_what_is_drawn_is_ticked_until_the_user_says_otherwise(host, ui, folder: Path, tmp_path: Path) -> None:
    volume = add_volume()
    node, _labels = predicted(ui, volume, tmp_path)
    editor, segment = ui.segmentEditorWidget, node.GetSegmentation().GetSegmentIdBySegmentName
    assert ticked(ui) == [], "a prediction is nothing that was drawn"
    editor.setCurrentSegmentID(segment("right parotid gland"))
    editor.userPaints([ras_of(volume, (4, 12, 15))], 5.0)
    assert ticked(ui) == ["right parotid gland"]
    assert "'right parotid gland' was changed and is ticked" in ui.correctionStatusLabel.text
    tick(ui, "right parotid gland", False)
    editor.userPaints([ras_of(volume, (4, 13, 15))], 5.0)
    assert ticked(ui) == [], "the user took it away"
    editor.setActiveEffectByName("")
    import slicer

    filled_zyx = np.ones(scan_zyx().shape, np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(filled_zyx, node, segment("brainstem"), volume)
    assert ticked(ui) == [], "a script has drawn nothing by hand"


def test_a_key_ticks_a_structure_and_chooses_the_next(host, ui, folder: Path, tmp_path: Path) -> None:
    node, _labels = predicted(ui, add_volume(), tmp_path)
    editor = ui.segmentEditorWidget
    ids = list(node.GetSegmentation().GetSegmentIDs())
    editor.setCurrentSegmentID(ids[1])
    press(host, "Ctrl+Shift+R")
    assert ticked(ui) == ["right parotid gland"] and editor.currentSegmentID() == ids[2]
    press(host, "Ctrl+Shift+R")
    assert editor.currentSegmentID() == ids[0], "from the start again"
    host.widget.exit()
    press(host, "Ctrl+Shift+R")
    assert len(ticked(ui)) == 2, "another module is open"
    host.widget.enter()
    press(host, "Ctrl+Shift+R")
    assert len(ticked(ui)) == 3 and ui.correctionStatusLabel.text.startswith("All structures are ticked")


def test_every_key_is_in_a_tooltip(host, ui, folder: Path, tmp_path: Path) -> None:
    """As this computer's keyboard names it, where the button or the row is that does the same."""
    import qt

    predicted(ui, add_volume(), tmp_path)
    widgets = host._area.widget().findChildren(qt.QWidget)
    rows_of = [table for table in widgets if isinstance(table, qt.QTableWidget)]
    shown = [each.toolTip for each in widgets]
    shown += [table.item(row, 0).toolTip() for table in rows_of for row in range(table.rowCount)]
    shortcuts = ui.correctCollapsibleButton.findChildren(qt.QShortcut)
    assert len(shortcuts) == 2 and host._area.widget().findChildren(qt.QShortcut) == shortcuts
    for shortcut in shortcuts:
        keys = f"({shortcut.key.toString(qt.QKeySequence.NativeText)})"
        assert any(keys in text for text in shown), keys


def test_accept_and_next_with_a_scan_segmented_ahead(host, ui, folder: Path, scans: Path, held_jobs: HeldJobs) -> None:
    panel = host.widget.correctPanel
    ahead = panel.accepting.ahead
    assert not ui.acceptButton.enabled
    ui.nextScanButton.click()
    assert not ahead.isRunning, "nothing is corrected yet"
    held_jobs.let_one()
    ui.segmentButton.click()
    host.waitFor(lambda: not ui.cancelSegmentButton.enabled)
    assert ahead.isRunning, ui.correctionStatusLabel.text
    first, shown = ui.inputVolumeSelector.currentNode(), ui.outputSegmentationSelector.currentNode()
    held_jobs.let_one()
    host.waitFor(lambda: not ahead.isRunning)
    assert ui.inputVolumeSelector.currentNode() is first
    assert ui.outputSegmentationSelector.currentNode() is shown, "the scan that is corrected stays"
    background = host.slices["Red"].mrmlSliceCompositeNode().GetBackgroundVolumeID()
    assert background in (first.GetID(), None)

    names = [texts[0] for texts in rows(ui.reviewedTable)]
    assert ticked(ui) == [] and ui.acceptButton.enabled and "Ctrl+Return" in ui.acceptButton.toolTip
    press(host, "Ctrl+Return")
    assert panel.saving is not None and ui.inputVolumeSelector.currentNode().GetName() == "scan 2"
    second = ui.outputSegmentationSelector.currentNode()
    assert second is not None and second is not shown, "at once: it was segmented ahead"
    text = ui.segmentStatusLabel.text
    assert text.startswith(f"'{second.GetName()}': "), "what is said is said of this scan"
    assert second.GetNodeReferenceID("referenceImageGeometryRef") == ui.inputVolumeSelector.currentNode().GetID()
    assert second.GetDisplayNode().GetVisibility() and not shown.GetDisplayNode().GetVisibility()
    assert ahead.isRunning, "the third"
    host.waitFor(lambda: panel.saving is None)
    (revision,) = Project(folder).state().current
    assert list(revision.case.annotated) == names, "all that was shown"

    tick(ui, names[0])
    ui.segmentAheadCheckBox.click()
    assert not ahead.isRunning
    host.waitFor(lambda: ahead._ending == [])
    held_jobs.let_one()
    ui.acceptButton.click()
    assert ui.inputVolumeSelector.currentNode().GetName() == "scan 3"
    assert host.widget.segmentPanel.run is not None, "segmented now"
    host.waitFor(lambda: not ui.cancelSegmentButton.enabled and panel.saving is None)
    assert list(Project(folder).state().current[1].case.annotated) == names[:1], "only what is ticked"
    assert ui.outputSegmentationSelector.currentNode() is not None
    ui.segmentAheadCheckBox.click()


def scene_nodes() -> list[str]:
    import slicer

    scene = slicer.mrmlScene
    return sorted(scene.GetNthNode(index).GetID() for index in range(scene.GetNumberOfNodes()))


def test_a_scan_ahead_is_given_up_when_another_folder_is_chosen(
    host, ui, folder: Path, scans: Path, held_jobs: HeldJobs
) -> None:
    """The window does not wait until its worker has ended."""
    accepting = host.widget.correctPanel.accepting
    ahead = accepting.ahead
    ui.nextScanButton.click()
    before = scene_nodes()
    accepting.lookAhead()
    run = ahead._run
    host.waitFor(lambda: held_jobs.begun == 1)
    assert ahead.isRunning and scene_nodes() != before
    ui.notesLineEdit.text = "a note"
    ui.minutesSpinBox.setValue(31)
    assert ahead.isRunning, "its folder is chosen still"
    ui.scanFolderPathLineEdit.currentPath = ""
    assert not ahead.isRunning and run.cancelled and scene_nodes() == before
    assert not run.ended
    host.waitFor(lambda: run.ended)
    assert ahead._ending == [] and temporary_folders() == [] and scene_nodes() == before
    ui.scanFolderPathLineEdit.currentPath = str(scans)
    ui.nextScanButton.click()
    assert ui.inputVolumeSelector.currentNode().GetName() == "scan 2" and not ahead.isRunning


def test_what_was_segmented_ahead_leaves_the_scene_unless_somebody_uses_it(host, ui, folder: Path, scans: Path) -> None:
    import slicer

    accepting = host.widget.correctPanel.accepting

    def segment_ahead():
        ui.scanFolderPathLineEdit.currentPath = str(scans)
        accepting.lookAhead()
        host.waitFor(lambda: not accepting.ahead.isRunning)
        return accepting.ahead._made.segmentationNode

    ui.nextScanButton.click()
    before = scene_nodes()
    ui.doubtVolumeCheckBox.click()
    assert segment_ahead() is not None and len(scene_nodes()) > len(before)
    ui.scanFolderPathLineEdit.currentPath = ""
    assert scene_nodes() == before, "nobody has seen it"
    ui.doubtVolumeCheckBox.click()
    node = segment_ahead()
    segmentation, volume = node.GetSegmentation(), accepting.ahead._volume
    filled_zyx = np.ones(scan_zyx().shape, np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(filled_zyx, node, segmentation.GetNthSegmentID(0), volume)
    ui.scanFolderPathLineEdit.currentPath = ""
    assert all(slicer.mrmlScene.IsNodePresent(each) for each in (node, volume)), "it was changed by hand"


def test_who_is_faster_is_told_that_the_scan_is_being_segmented(
    host, ui, folder: Path, scans: Path, held_jobs: HeldJobs
) -> None:
    panel = host.widget.correctPanel
    ui.nextScanButton.click()
    held_jobs.let_one()
    ui.segmentButton.click()
    host.waitFor(lambda: not ui.cancelSegmentButton.enabled)
    assert panel.accepting.ahead.isRunning
    ui.nextScanButton.click()
    assert ui.outputSegmentationSelector.currentNode() is None
    assert "being segmented" in ui.segmentStatusLabel.text
    run = panel.accepting.ahead._run
    run.onProgress(0.4, 12.0, "on CPU")
    assert ui.segmentStatusLabel.text == "Segmenting on CPU: 40 %, 12 s left"
    held_jobs.let_one()
    host.waitFor(lambda: ui.outputSegmentationSelector.currentNode() is not None)
    assert "structures found" in ui.segmentStatusLabel.text


def test_a_scan_ahead_that_fails_is_told_to_who_waits_for_it(host, ui) -> None:
    class Failed:
        segmentationNode, error, log, crashed = None, "the disk is full.", "", False

    accepting = host.widget.correctPanel.accepting
    waiting, other = add_volume("waiting"), add_volume("other", 1)
    ui.inputVolumeSelector.setCurrentNode(waiting)
    expected = "Not segmented ('waiting'): the disk is full."
    for volume, told in ((other, False), (waiting, True)):
        ui.segmentStatusLabel.text = ""
        accepting.ahead._volume = volume
        accepting.ahead._onEnd(Failed())
        assert (ui.segmentStatusLabel.text == expected) == told


def test_a_scan_that_cannot_be_read_ahead_is_told(host, ui, folder: Path, scans: Path) -> None:
    (scans / "scan 2.nrrd").write_bytes(b"nothing")
    ui.nextScanButton.click()
    ui.segmentButton.click()
    host.waitFor(lambda: not ui.cancelSegmentButton.enabled)
    assert "scan 2.nrrd cannot be read" in ui.correctionStatusLabel.text
    assert ui.outputSegmentationSelector.currentNode() is not None
    ui.segmentAheadCheckBox.click()
    assert "cannot be read" not in ui.correctionStatusLabel.text, "none is asked for any more"
    ui.segmentAheadCheckBox.click()
    host.widget.correctPanel.accepting.lookAhead()
    assert "scan 2.nrrd cannot be read" in ui.correctionStatusLabel.text
    ui.scanFolderPathLineEdit.currentPath = ""
    assert "cannot be read" not in ui.correctionStatusLabel.text, "it is of another folder"


def test_a_scan_that_is_segmented_but_not_saved_is_not_segmented_again(
    host, ui, folder: Path, scans: Path, tmp_path: Path
) -> None:
    (scans / "scan 3.nrrd").unlink()
    panel = host.widget.correctPanel
    ui.nextScanButton.click()
    first = ui.inputVolumeSelector.currentNode()
    node, _labels = predicted(ui, first, tmp_path)
    tick(ui, "brainstem")
    ui.nextScanButton.click()
    second = ui.inputVolumeSelector.currentNode()
    assert second is not first and ui.outputSegmentationSelector.currentNode() is None
    predicted(ui, second, tmp_path)
    panel.accepting.lookAhead()
    assert not panel.accepting.ahead.isRunning, "the next one is segmented"
    tick(ui, "brainstem")
    ui.acceptButton.click()
    assert ui.inputVolumeSelector.currentNode() is first and host.widget.segmentPanel.run is None
    assert ui.outputSegmentationSelector.currentNode() is node and node.GetDisplayNode().GetVisibility()
    assert "not segmented" not in ui.segmentStatusLabel.text and "Segment it" not in ui.correctionStatusLabel.text
    assert ticked(ui) == ["brainstem"]
    host.waitFor(lambda: panel.saving is None)


def test_a_result_of_an_older_version_is_called_so(host, ui, folder: Path, scans: Path, tmp_path: Path) -> None:
    """After a promotion, Next scan showed results of the version before as if they were of the new one."""
    from TransferSegGui.nodes import VERSION_ATTRIBUTE

    ui.nextScanButton.click()
    first = ui.inputVolumeSelector.currentNode()
    node, _labels = predicted(ui, first, tmp_path)
    version = node.GetAttribute(VERSION_ATTRIBUTE)
    for number, isTold in ((version, False), ("0", True)):
        node.SetAttribute(VERSION_ATTRIBUTE, number)
        while True:
            ui.nextScanButton.click()
            told = ui.correctionStatusLabel.text
            if ui.inputVolumeSelector.currentNode() is first:
                break
            assert "Its segmentation is by" not in told, "it has none"
        assert ui.outputSegmentationSelector.currentNode() is node
        said = (
            "Its segmentation is by 'format-one', version 0. The model in the section 'Model' is 'format-one', version "
            f"{version}: segment the scan again to use that one."
        )
        assert (said in told) is isTold and ("Its segmentation" in told) is isTold


#: As long as a parent lives, its actions do; after them PySide could not tell QAction's properties any more.
_ALIVE: list = []


class _ViewMenu:
    """What Slicer has of the views' menu and the test host lacks: a plugin's parent, and the place of its lines."""

    SectionNode = 100

    @staticmethod
    def setActionPosition(action, position: float) -> None:
        assert position > _ViewMenu.SectionNode


def test_the_menu_of_the_views(host, ui, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin itself, with real actions; that Slicer shows them can only be seen in Slicer."""
    import types

    import qt
    import slicer

    base = types.ModuleType("AbstractScriptedSubjectHierarchyPlugin")
    base.AbstractScriptedSubjectHierarchyPlugin = object
    monkeypatch.setitem(sys.modules, base.__name__, base)
    monkeypatch.setattr(slicer, "qSlicerSubjectHierarchyAbstractPlugin", _ViewMenu, raising=False)
    from TransferSegGui.doubt_nodes import keepDoubt
    from TransferSegGui.TransferSegSubjectHierarchyPlugin import TransferSegSubjectHierarchyPlugin

    parent = qt.QObject()
    _ALIVE.append(parent)
    plugin = TransferSegSubjectHierarchyPlugin(parent)
    right, place, accept = plugin.viewContextMenuActions()
    plugin.showViewContextMenuActionsForItem(0, {})
    assert not any(each.visible for each in (right, place, accept)), "nothing is shown"
    node, _labels = predicted(ui, add_volume(), tmp_path)
    ui.segmentEditorWidget.setCurrentSegmentID(node.GetSegmentation().GetNthSegmentID(1))
    plugin.showViewContextMenuActionsForItem(0, {})
    assert right.visible and right.text == "'right parotid gland' is right in this scan\tCtrl+Shift+R"
    assert accept.visible and accept.text == "Accept and next scan\tCtrl+Return"
    assert "Ctrl+Return" in ui.acceptButton.toolTip and "Ctrl+Shift+R" in ui.reviewedTable.item(0, 0).toolTip()
    assert not place.visible, "of this result no doubtful places are known"
    keepDoubt(node, entry(("right parotid gland", (12.0, 8.0, -20.0))))
    host.widget.doubtfulPlaces.refresh()
    plugin.showViewContextMenuActionsForItem(0, {})
    assert place.visible and place.text == "Next doubtful place"
    place.trigger()
    assert ui.placeLabel.text == "1 of 1: right parotid gland, doubt 0.50"
    right.trigger()
    assert ticked(ui) == ["right parotid gland"]
    accept.trigger()
    assert host.widget.correctPanel.saving is not None
    host.waitFor(lambda: host.widget.correctPanel.saving is None)
    (revision,) = Project(folder).state().current
    assert revision.case.annotated == ("right parotid gland",)
