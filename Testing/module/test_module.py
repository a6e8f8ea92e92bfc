"""The real module on the real MRML scene: real clicks, a real child process, results compared with the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

TESTING = Path(__file__).resolve().parents[1]
PAROTIDS = (("right parotid gland", 3), ("left parotid gland", 4))
#: Oblique, so that a swapped axis or sign cannot go unseen: index to RAS mm.
IJK_TO_RAS = [
    [-1.9696155, 0.0, -0.4341204, 30.0],
    [0.0, -2.2, 0.0, 25.0],
    [-0.3472964, 0.0, 2.4620194, -40.0],
    [0.0, 0.0, 0.0, 1.0],
]


def ramp_zyx() -> np.ndarray:
    """Return a CT that is different in every direction: what the tiny model finds in it has no symmetry either."""
    z, y, x = np.mgrid[:20, :26, :30]
    return (40 * z + 25 * y - 30 * x).astype(np.int16)


def add_volume(name: str = "CT"):
    """Add a small oblique CT to the scene."""
    import slicer

    matrix = slicer.util.vtkMatrixFromArray(np.array(IJK_TO_RAS))
    return slicer.util.addVolumeFromArray(ramp_zyx(), ijkToRAS=matrix, name=name)


def same_volume_of_sitk(voxels_zyx: np.ndarray) -> sitk.Image:
    """Return an image on the grid of ``add_volume``, made without Slicer: LPS is RAS with two signs changed."""
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.array(IJK_TO_RAS)
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(voxels_zyx)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(to_lps[:3, 3].tolist())
    image.SetDirection((to_lps[:3, :3] / spacing).ravel().tolist())
    return image


def choose_model(host, key: str) -> None:
    """Choose a model; which others are bundled does not matter. That the list of models does so is another test's."""
    host.widget._parameterNode.SetParameter("Model", key)


def segmentations() -> list:
    import slicer

    return list(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"))


def is_idle(ui) -> bool:
    return not ui.cancelSegmentButton.enabled


def temporary_folders() -> list[str]:
    """Return what segmenting left in Slicer's temporary folder."""
    import slicer

    return [entry.name for entry in Path(slicer.app.temporaryPath).glob("TransferSeg-*")]


def labels_zyx(node, volume) -> dict[str, np.ndarray]:
    """Return a mask of each segment on the volume's grid, by name."""
    import slicer

    segmentation = node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
    return {
        segmentation.GetSegment(each).GetName(): slicer.util.arrayFromSegmentBinaryLabelmap(node, each, volume)
        for each in ids
    }


def terminology(node, index: int) -> str:
    import vtk

    entry = vtk.reference("")
    assert node.GetSegmentation().GetNthSegment(index).GetTag("TerminologyEntry", entry)
    return str(entry)


def segment_by_command_line(folder: Path) -> np.ndarray:
    """Return the label map that the command line gives for the same volume, written and read by SimpleITK."""
    sitk.WriteImage(same_volume_of_sitk(ramp_zyx()), str(folder / "scan.nrrd"))
    words = [folder / "scan.nrrd", "--output", folder / "labels.nrrd", "--model", "tiny"]
    command = [sys.executable, "-m", "TransferSegLib", "segment", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(TESTING.parent)}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labels.nrrd")))


def test_segmenting_by_click_gives_what_the_command_line_gives(host, ui, tmp_path: Path):
    volume = add_volume()
    ui.inputVolumeSelector.setCurrentNode(volume)
    choose_model(host, "library/tiny")
    seen: dict[int, str] = {}
    ui.segmentProgressBar.connect("valueChanged(int)", lambda value: seen.setdefault(value, ui.segmentStatusLabel.text))
    assert ui.segmentButton.enabled and is_idle(ui)
    ui.segmentButton.click()
    assert not ui.segmentButton.enabled and not is_idle(ui) and ui.segmentProgressBar.visible
    assert "is running" in ui.segmentButton.toolTip
    host.waitFor(lambda: is_idle(ui))
    assert seen[1000].startswith("Segmenting on CPU") and seen[1000].endswith(": 100 %, 0 s left")
    assert ui.segmentButton.enabled and not ui.segmentProgressBar.visible and temporary_folders() == []

    (node,) = segmentations()
    assert node.GetName() == "CT segmentation" and node.GetStorageNode() is None
    assert "'CT segmentation'" in ui.segmentStatusLabel.text and "on CPU" in ui.segmentStatusLabel.text
    assert node.GetNodeReference("referenceImageGeometryRef").GetID() == volume.GetID()
    assert node.GetDisplayNode() is not None
    masks = labels_zyx(node, volume)
    assert list(masks) == ["brainstem", "right parotid gland", "left parotid gland"]
    colors = [node.GetSegmentation().GetNthSegment(index).GetColor() for index in range(3)]
    np.testing.assert_allclose(np.array(colors) * 255, [[200, 60, 60], [60, 200, 60], [60, 60, 200]], atol=1e-3)
    assert "SCT^15926001^Brainstem~^^" in terminology(node, 0)
    assert "SCT^45289007^Parotid gland~SCT^7771000^Left" in terminology(node, 2)

    expected = segment_by_command_line(tmp_path)
    shown = sum((masks[name] > 0) * label for name, label in (("brainstem", 1), *PAROTIDS)).astype(np.uint8)
    # A few voxels at borders may differ: each process measures for itself in which precision it computes.
    assert (shown != expected).mean() < 0.01
    assert min((np.flip(shown, axis) != expected).mean() for axis in range(3)) > 0.1, "a mirrored one would be seen"


def test_the_volume_reaches_the_child_with_its_voxels_and_geometry(host, tmp_path: Path):
    from TransferSegGui.nodes import writeVolume

    volume = add_volume()
    writeVolume(volume, tmp_path / "volume.nrrd")
    written, expected = sitk.ReadImage(str(tmp_path / "volume.nrrd")), same_volume_of_sitk(ramp_zyx())
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), ramp_zyx())
    np.testing.assert_allclose(written.GetSpacing(), expected.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(written.GetOrigin(), expected.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(written.GetDirection(), expected.GetDirection(), atol=1e-6)
    assert volume.GetStorageNode() is None, "the node still has to be saved by the user"


def test_every_voxel_of_a_result_comes_back_in_its_place(host, tmp_path: Path):
    from TransferSegGui.nodes import readSegmentation

    from TransferSegLib.images.write import write_label_map
    from TransferSegLib.models.store import load_description

    labels = np.random.default_rng(5).choice(np.array([0, 1, 3, 4], np.uint8), (20, 26, 30))
    label_set = load_description(TESTING / "Data" / "model_format_1" / "model").label_set
    write_label_map(same_volume_of_sitk(labels), tmp_path / "a.seg.nrrd", label_set)
    volume = add_volume()
    masks = labels_zyx(readSegmentation(tmp_path / "a.seg.nrrd", volume), volume)
    for name, label in (("brainstem", 1), *PAROTIDS):
        np.testing.assert_array_equal(masks[name] > 0, labels == label, err_msg=name)


def test_the_console_waits_and_returns_the_wanted_structures(host):
    import slicer

    volume = add_volume()
    logic = slicer.util.getModuleLogic("TransferSeg")
    node = logic.segment(volume, model="tiny", device="cpu", structures=["left parotid gland"])
    assert [segment.GetID() for segment in segmentations()] == [node.GetID()]
    assert list(labels_zyx(node, volume)) == ["left parotid gland"]
    with pytest.raises(RuntimeError, match="There is no structure 'spleen' here"):
        logic.segment(volume, model="tiny", structures=["spleen"])
    assert len(segmentations()) == 1 and temporary_folders() == []


def test_nothing_in_the_current_folder_is_run(host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import slicer

    for name in ("json.py", "numpy.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\n")
    monkeypatch.chdir(tmp_path)
    logic = slicer.util.getModuleLogic("TransferSeg")
    assert logic.segment(add_volume(), model="tiny", device="cpu") is not None
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(os.name == "nt", reason="the launcher of this test is a shell script")
def test_cancel_ends_the_process_behind_the_launcher(host, ui, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """PythonSlicer only starts the real Python: killing it alone would leave that running."""
    from TransferSegLib.process_tree import descendants

    launcher = tmp_path / "PythonSlicer"
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    ui.inputVolumeSelector.setCurrentNode(add_volume())
    ui.segmentButton.click()
    launched = host.widget.segmentPanel.run.worker.processId
    host.waitFor(lambda: bool(descendants(launched)))
    (behind, *_) = descendants(launched)
    ui.cancelSegmentButton.click()
    host.waitFor(lambda: is_idle(ui))
    assert ui.segmentStatusLabel.text == "Cancelled." and ui.segmentButton.enabled
    host.waitFor(lambda: has_ended(behind))
    assert segmentations() == [] and temporary_folders() == []


def has_ended(process_id: int) -> bool:
    """Tell whether a process is gone, or dead and only not yet noticed by its new parent."""
    status = Path(f"/proc/{process_id}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_closing_the_scene_stops_the_run(host, ui):
    import slicer

    ui.inputVolumeSelector.setCurrentNode(add_volume())
    ui.segmentButton.click()
    slicer.mrmlScene.Clear(False)
    assert is_idle(ui) and ui.segmentStatusLabel.text == "Cancelled." and temporary_folders() == []
    assert ui.inputVolumeSelector.currentNode() is None
    assert not ui.segmentButton.enabled and ui.segmentButton.toolTip == "Choose an input volume."
    ui.inputVolumeSelector.setCurrentNode(add_volume())
    assert ui.segmentStatusLabel.text == "", "it was of another scene"


def test_an_error_is_told_with_the_childs_words_and_its_log(host, ui, models: Path):
    shutil.copytree(models / "tiny", models / "broken")
    try:
        (models / "broken" / "weights.pt").write_bytes(b"no weights")
        host.widget.enter()
        ui.inputVolumeSelector.setCurrentNode(add_volume())
        choose_model(host, "library/broken")
        assert host.widget._parameterNode.GetParameter("Model") == "library/broken"
        ui.segmentButton.click()
        host.waitFor(lambda: is_idle(ui))
    finally:
        shutil.rmtree(models / "broken")
        host.widget.enter()
    said = "Not segmented ('CT'): "
    assert ui.segmentStatusLabel.text.startswith(said) and "broken" in ui.segmentStatusLabel.text
    assert "\n" not in ui.segmentStatusLabel.text
    log = ui.segmentLogText.toPlainText()
    assert log.strip().endswith(ui.segmentStatusLabel.text.removeprefix(said))
    assert segmentations() == [] and temporary_folders() == [] and ui.segmentButton.enabled is False
    assert "is not on this computer" in ui.segmentButton.toolTip, "the removed model is still the scene's"


def test_a_program_that_cannot_be_started_is_told(host, ui, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from TransferSegGui import command_process

    monkeypatch.setattr(command_process, "pythonExecutable", lambda: str(tmp_path / "no-python"))
    ui.inputVolumeSelector.setCurrentNode(add_volume())
    ui.segmentButton.click()
    host.waitFor(lambda: is_idle(ui))
    assert "no-python cannot be started" in ui.segmentStatusLabel.text and temporary_folders() == []


def test_a_volume_without_voxels_is_told(host, ui):
    import slicer

    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty")
    ui.inputVolumeSelector.setCurrentNode(volume)
    ui.segmentButton.click()
    said = "Not segmented ('empty'): The volume 'empty' has no voxels."
    assert ui.segmentStatusLabel.text == said and is_idle(ui)
    assert temporary_folders() == []


def test_a_saved_scene_restores_the_panel(host, ui, models: Path, tmp_path: Path):
    import slicer
    from slicerhost.scene import openScene, saveScene

    shutil.copytree(models / "tiny", models / "another")
    try:
        host.widget.enter()
        add_volume("first")
        second, output = add_volume("second"), slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
        ui.inputVolumeSelector.setCurrentNode(second)
        ui.outputSegmentationSelector.setCurrentNode(output)
        choose_model(host, "library/tiny")
        saveScene(tmp_path / "scene.mrml")
        slicer.mrmlScene.Clear(False)
        assert ui.inputVolumeSelector.currentNode() is None
        assert host.widget._parameterNode.GetParameter("Model") != "library/tiny", "it is not the default"
        openScene(tmp_path / "scene.mrml")
        host.process()
        assert ui.inputVolumeSelector.currentNode().GetName() == "second"
        assert ui.outputSegmentationSelector.currentNode().GetName() == "mine"
        assert host.widget._parameterNode.GetParameter("Model") == "library/tiny"
    finally:
        shutil.rmtree(models / "another")
        host.widget.enter()


def test_an_existing_segmentation_is_replaced_and_shares_the_volumes_transform(host, tmp_path: Path):
    import slicer
    from TransferSegGui.nodes import readSegmentation

    from TransferSegLib.images.write import write_label_map
    from TransferSegLib.models.store import load_description

    label_set = load_description(TESTING / "Data" / "model_format_1" / "model").label_set
    labels = sitk.GetImageFromArray(np.full((4, 5, 6), 4, np.uint8))
    write_label_map(labels, tmp_path / "a.seg.nrrd", label_set)
    volume = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), np.int16), name="moved")
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    volume.SetAndObserveTransformNodeID(transform.GetID())
    mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    mine.GetSegmentation().AddEmptySegment("old", "old")
    assert readSegmentation(tmp_path / "a.seg.nrrd", volume, mine).GetID() == mine.GetID()
    assert list(labels_zyx(mine, None)) == ["brainstem", "right parotid gland", "left parotid gland"]
    assert mine.GetTransformNodeID() == transform.GetID() and len(segmentations()) == 1
    with pytest.raises(RuntimeError, match="cannot be read"):
        readSegmentation(tmp_path / "b.seg.nrrd", volume, mine)
    assert len(segmentations()) == 1 and mine.GetSegmentation().GetNumberOfSegments() == 3


def test_without_pytorch_segmenting_is_not_offered(host, ui, monkeypatch: pytest.MonkeyPatch):
    from TransferSegGui import segment_panel

    monkeypatch.setattr(segment_panel, "torchIsInstalled", lambda: False)
    add_volume()
    host.widget.enter()
    assert not ui.segmentButton.enabled and ui.segmentButton.toolTip == "PyTorch is not installed yet."
    monkeypatch.undo()
    host.widget.enter()
    assert ui.segmentButton.enabled


def test_status_lines_for_a_person(host):
    from TransferSegGui.command_process import lastLine
    from TransferSegGui.segment_panel import progressText

    assert progressText(0.405, 12.3, "on CPU (float32)") == "Segmenting on CPU (float32): 40 %, 12 s left"
    assert progressText(0.5, 185, "on CPU") == "Segmenting on CPU: 50 %, 3 min 5 s left"
    assert progressText(0.0, None, "on CPU") == "Segmenting on CPU: 0 %"
    assert progressText(0.0285, None, "on CPU") == "Segmenting on CPU: 2 %", "as the bar beside it shows it"
    assert lastLine("Traceback\nRuntimeError: bad\n\n") == "RuntimeError: bad"
    assert lastLine("note\ntransferseg: x.nrrd is empty.\n") == "x.nrrd is empty."
    assert lastLine(" \n") == ""
