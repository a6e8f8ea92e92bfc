"""The section "Segment" around a run: where results go, what is never replaced, warnings, nodes that come and go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

TESTING = Path(__file__).resolve().parents[1]
STRUCTURES = ["brainstem", "right parotid gland", "left parotid gland"]


def add_volume(name: str = "CT", lowest: int = -1000, highest: int = 1200):
    """Add a small volume of air, much soft tissue and some bone if it is a CT, else of values between two."""
    import slicer

    voxels_zyx = np.linspace(lowest, highest, 16 * 20 * 24).reshape(16, 20, 24).astype(np.int16)
    if lowest == -1000:
        voxels_zyx[4:14] = np.linspace(-120, 100, 10 * 20 * 24).reshape(10, 20, 24)
        voxels_zyx[14:] = np.linspace(100, 700, 2 * 20 * 24).reshape(2, 20, 24)
    return slicer.util.addVolumeFromArray(voxels_zyx, name=name)


def choose_tiny(host) -> None:
    host.widget._parameterNode.SetParameter("Model", "library/tiny")


def segment(host) -> None:
    """Click Segment and wait until it is done."""
    ui = host.widget.ui
    assert ui.segmentButton.enabled, ui.segmentButton.toolTip
    ui.segmentButton.click()
    host.waitFor(lambda: not ui.cancelSegmentButton.enabled)


def segments_of(node) -> list[str]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(index).GetName() for index in range(segmentation.GetNumberOfSegments())]


def tick(ui, name: str, ticked: bool) -> None:
    import qt

    row = [ui.structureList.item(row).text() for row in range(ui.structureList.count)].index(name)
    ui.structureList.item(row).setCheckState(qt.Qt.Checked if ticked else qt.Qt.Unchecked)


@pytest.fixture(scope="module")
def a_result(host_environment, models: Path, tmp_path_factory) -> Path:
    """Return a .seg.nrrd file as the child process writes it."""
    import SimpleITK as sitk

    from TransferSegLib.images.write import write_label_map
    from TransferSegLib.models.store import load_description

    labels = np.zeros((16, 20, 24), np.uint8)
    labels[4:9, 4:9, 4:9], labels[4:9, 12:17, 4:9], labels[4:9, 4:9, 14:20] = 1, 3, 4
    file = tmp_path_factory.mktemp("result") / "a.seg.nrrd"
    write_label_map(sitk.GetImageFromArray(labels), file, load_description(models / "tiny").label_set)
    return file


def test_a_result_lies_beside_its_volume_and_remembers_its_model(host, ui):
    import slicer
    from TransferSegGui.nodes import segmentedBy

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    study = hierarchy.CreateStudyItem(patient, "Study")
    volume, other = add_volume("CT"), add_volume("CT")  # two of one name
    items = [hierarchy.CreateItem(study, node) for node in (volume, other)]
    ui.inputVolumeSelector.setCurrentNode(volume)
    choose_tiny(host)
    segment(host)
    node = ui.outputSegmentationSelector.currentNode()
    assert node is not None, ui.segmentStatusLabel.text
    made = hierarchy.GetItemByDataNode(node)
    assert hierarchy.GetItemParent(made) == study
    places = [hierarchy.GetItemPositionUnderParent(item) for item in (items[0], made, items[1])]
    assert places == [0, 1, 2], "right after its own volume"
    assert node.GetNodeReference("referenceImageGeometryRef").GetID() == volume.GetID()

    by = segmentedBy(node)
    assert (by.model, by.version, list(by.structures)) == ("format-one", "1.0", STRUCTURES)
    assert json.loads(node.GetAttribute("TransferSeg.Structures")) == STRUCTURES
    display = node.GetDisplayNode()
    ids = [node.GetSegmentation().GetNthSegmentID(index) for index in range(3)]
    assert [display.GetSegmentVisibility(each) for each in ids] == [True, True, True]
    tick(ui, "brainstem", False)
    assert [display.GetSegmentVisibility(each) for each in ids] == [False, True, True], "without segmenting again"
    tick(ui, "brainstem", True)
    assert display.GetSegmentVisibility(ids[0])

    # Another volume: its result must not replace this one, nor this one's contours lie over it.
    ui.inputVolumeSelector.setCurrentNode(other)
    assert ui.outputSegmentationSelector.currentNode() is None and not display.GetVisibility()
    ui.outputSegmentationSelector.setCurrentNode(node)
    assert display.GetVisibility()


def test_what_was_changed_by_hand_is_never_replaced(host, ui, a_result: Path):
    import slicer
    from TransferSegGui.nodes import readSegmentation
    from TransferSegGui.untouched import UntouchedSegmentations

    volume, untouched = add_volume(), UntouchedSegmentations()
    node = readSegmentation(a_result, volume)
    assert not untouched.mayBeReplaced(node), "who knows what was done to it"
    untouched.add(node)
    node.GetDisplayNode().SetVisibility(False)
    node.SetName("renamed")
    assert untouched.mayBeReplaced(node)
    segment_id = node.GetSegmentation().GetNthSegmentID(1)
    voxels = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume)
    voxels[2, 2, 2] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, node, segment_id, volume)
    assert not untouched.mayBeReplaced(node)
    untouched.add(node)
    node.GetSegmentation().AddEmptySegment("new", "new")
    assert not untouched.mayBeReplaced(node)

    ui.inputVolumeSelector.setCurrentNode(volume)
    ui.outputSegmentationSelector.setCurrentNode(node)
    choose_tiny(host)
    segment(host)
    assert segments_of(node) == [*STRUCTURES, "new"], "the one of the user is as it was"
    assert ui.outputSegmentationSelector.currentNode().GetID() != node.GetID()
    assert "'renamed' contains your edits and was kept unchanged." in ui.segmentStatusLabel.text
    made = ui.outputSegmentationSelector.currentNode()
    segment(host)
    assert ui.outputSegmentationSelector.currentNode().GetID() == made.GetID(), "one without changes is replaced"
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 2


def test_nodes_may_go_and_change_their_names_while_it_runs(host, ui):
    import slicer

    volume, output = add_volume("first"), slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    ui.inputVolumeSelector.setCurrentNode(volume)
    ui.outputSegmentationSelector.setCurrentNode(output)
    choose_tiny(host)
    ui.segmentButton.click()
    volume.SetName("renamed")
    slicer.mrmlScene.RemoveNode(output)
    taker = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")  # the removed one's name
    host.waitFor(lambda: not ui.cancelSegmentButton.enabled)
    made = ui.outputSegmentationSelector.currentNode()
    assert made.GetName() == "renamed segmentation" and segments_of(made) == STRUCTURES
    assert segments_of(taker) == []

    ui.outputSegmentationSelector.setCurrentNode(None)
    ui.segmentButton.click()
    slicer.mrmlScene.RemoveNode(volume)
    add_volume("first")
    host.waitFor(lambda: not ui.cancelSegmentButton.enabled)
    assert "Its volume was removed in the meantime." in ui.segmentStatusLabel.text
    last = ui.outputSegmentationSelector.currentNode()
    assert segments_of(last) == STRUCTURES and last.GetNodeReference("referenceImageGeometryRef") is None


def test_a_volume_of_another_kind_than_the_model_is_for_is_pointed_at(host, ui):
    import slicer
    from TransferSegGui.modality_check import modalityWarning

    choose_tiny(host)
    ct, mr = add_volume("CT"), add_volume("MR", 0, 900)
    ui.inputVolumeSelector.setCurrentNode(ct)
    assert not ui.modalityWarningLabel.visible
    ui.inputVolumeSelector.setCurrentNode(mr)
    assert ui.modalityWarningLabel.visible and ui.segmentButton.enabled, "a warning only"
    assert "'MR': The scan's intensities (0 to 900) are not those of a CT" in ui.modalityWarningLabel.text
    assert "are those of a CT" in modalityWarning(ct, "MR") and modalityWarning(mr, "MR") == ""
    # What DICOM says counts for more than intensities.
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), mr)
    hierarchy.SetItemAttribute(item, "DICOM.Modality", "CT")
    assert "Hounsfield" in modalityWarning(mr, "CT") and "MR or another" not in modalityWarning(mr, "CT")
    hierarchy.SetItemAttribute(item, "DICOM.Modality", "PT")
    assert modalityWarning(mr, "CT") == "'MR': The scan is a PT, and the model was made for CT."
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    assert modalityWarning(empty, "CT") == ""


def test_3d_is_made_on_request(host, ui, a_result: Path):
    from TransferSegGui.nodes import readSegmentation

    volume = add_volume()
    node = readSegmentation(a_result, volume)
    ui.inputVolumeSelector.setCurrentNode(volume)
    ui.outputSegmentationSelector.setCurrentNode(node)
    assert not node.GetSegmentation().ContainsRepresentation("Closed surface")
    ui.showIn3DCheckBox.checked = True
    assert node.GetSegmentation().ContainsRepresentation("Closed surface") and node.GetDisplayNode().GetVisibility3D()
    assert host.widget._parameterNode.GetParameter("ShowIn3D") == "true"
    ui.showIn3DCheckBox.checked = False
    assert not node.GetDisplayNode().GetVisibility3D()


def test_a_crash_is_told_with_the_last_lines_of_the_log(host, ui, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from TransferSegGui import command_process

    broken = tmp_path / "python"
    broken.write_text(
        "#!/bin/sh\necho 'loading' >&2\necho 'Fatal Python error: no memory' >&2\necho 'end' >&2\nexit 3\n"
    )
    broken.chmod(0o755)
    monkeypatch.setattr(command_process, "pythonExecutable", lambda: str(broken))
    ui.inputVolumeSelector.setCurrentNode(add_volume())
    choose_tiny(host)
    segment(host)
    assert ui.segmentStatusLabel.text.splitlines() == [
        "Not segmented ('CT'): end",
        "The log ends with:",
        "loading",
        "Fatal Python error: no memory",
    ]
    assert ui.segmentLogButton.visible and "Fatal Python error" in ui.segmentLogText.toPlainText()


def test_a_worker_that_is_killed_is_reported_with_the_likely_reason(host, ui):
    import signal

    from TransferSegLib.jobs.files import WORKER_FACTS, read_json

    ui.inputVolumeSelector.setCurrentNode(add_volume())
    choose_tiny(host)
    ui.segmentButton.click()
    run = host.widget.segmentPanel.run
    host.waitFor(lambda: (run.folder / WORKER_FACTS).exists())
    os.kill(read_json(run.folder / WORKER_FACTS)["pid"], signal.SIGKILL)
    host.waitFor(lambda: not ui.cancelSegmentButton.enabled)
    said = "Not segmented ('CT'): The worker was ended from outside, or memory ran out."
    assert ui.segmentStatusLabel.text.startswith(said)
    assert run.crashed and not run.file("").parent.joinpath(run.folder.name).exists()


def test_the_sample_scan_is_offered_without_any_download(host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """As Sample Data does it: the address is fetched into the cache by urllib, compared by checksum, and loaded."""
    import hashlib
    import sys
    import types
    import urllib.request

    import SimpleITK as sitk
    from TransferSegGui.sample_data import registerSampleData

    registered = []
    logic = types.SimpleNamespace(registerCustomSampleDataSource=lambda **words: registered.append(words))
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    thumbnail = TESTING.parent / "TransferSeg" / "Resources" / "Icons" / "HeadNeckCT.png"
    registerSampleData(str(thumbnail))
    (words,) = registered
    assert words["category"] == "TransferSeg" and Path(words["thumbnailFileName"]).is_file()
    assert words["uris"].startswith("file://") and words["loadFileTypes"] == "VolumeFile"
    cached = tmp_path / words["fileNames"]
    urllib.request.urlretrieve(words["uris"], cached)
    assert words["checksums"] == f"SHA256:{hashlib.sha256(cached.read_bytes()).hexdigest()}"
    assert sitk.ReadImage(str(cached)).GetSize() == (105, 64, 128)
    monkeypatch.setitem(sys.modules, "SampleData", None)  # a Slicer without that module
    registerSampleData("")


def test_a_scan_is_let_go_although_a_connection_keeps_the_object_that_segmented_it(host, ui, models: Path):
    """In Slicer a connected slot stays for ever, and its object with it: a scan a click would never be freed."""
    import gc

    import slicer
    from TransferSegGui.segment_process import SegmentProcess

    freed: list[str] = []
    volume = add_volume()
    run = SegmentProcess(volume, model="tiny")
    run.onEnd = lambda run, volume=volume: None
    run.start()
    run.wait()
    assert run.error == "" and segments_of(run.segmentationNode) == STRUCTURES
    volume.AddObserver("DeleteEvent", lambda caller, event: freed.append("volume"))
    run.segmentationNode.AddObserver("DeleteEvent", lambda caller, event: freed.append("result"))
    del volume
    slicer.mrmlScene.Clear(False)
    host.process()
    gc.collect()
    assert run.segmentationNode is None
    assert sorted(freed) == ["result", "volume"]
