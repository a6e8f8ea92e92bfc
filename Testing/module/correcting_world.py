"""Scans, segmentations and clicks for the tests of the section "Correct"."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.images.write import write_label_map
from TransferSegLib.models.store import load_description

TESTING = Path(__file__).resolve().parents[1]
SHAPE_ZYX = (14, 18, 22)
#: Oblique, so that a swapped axis or sign cannot go unseen: index to RAS mm.
IJK_TO_RAS = np.array(
    [
        [-1.9696155, 0.0, -0.4341204, 30.0],
        [0.0, -2.2, 0.0, 25.0],
        [-0.3472964, 0.0, 2.4620194, -40.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
STRAIGHT = np.diag([2.0, 2.0, 3.0, 1.0])


def scan_zyx(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-500, 500, SHAPE_ZYX).astype(np.int16)


def write_scans(folder: Path, *numbers: int, ending: str = "nrrd") -> Path:
    """Write scans ("scan 1.nrrd") into a folder, which may be a new one, and return it."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        sitk.WriteImage(sitk.GetImageFromArray(scan_zyx(number)), str(folder / f"scan {number}.{ending}"))
    return folder


def add_volume(name: str = "CT", seed: int = 0, matrix: np.ndarray = IJK_TO_RAS):
    import slicer

    return slicer.util.addVolumeFromArray(scan_zyx(seed), ijkToRAS=slicer.util.vtkMatrixFromArray(matrix), name=name)


def predicted(ui, volume, tmp_path: Path):
    """Return a segmentation as a run of the model leaves it: read from a file, with the model and the prediction."""
    from TransferSegGui.nodes import SegmentedBy, readSegmentation
    from TransferSegGui.predictions import keepPrediction

    label_set = load_description(TESTING / "Data" / "model_format_1" / "model").label_set
    labels_zyx = np.zeros(SHAPE_ZYX, np.uint8)
    labels_zyx[2:6, 3:8, 4:12], labels_zyx[8:12, 9:15, 10:18] = 1, 3
    image = sitk.GetImageFromArray(labels_zyx)
    image.CopyInformation(sitk_grid(volume))
    write_label_map(image, tmp_path / "result.seg.nrrd", label_set)
    node = readSegmentation(tmp_path / "result.seg.nrrd", volume)
    SegmentedBy("format-one", "1.0", tuple(label_set.names)).writeTo(node)
    keepPrediction(node, tmp_path / "result.seg.nrrd")
    ui.inputVolumeSelector.setCurrentNode(volume)
    ui.outputSegmentationSelector.setCurrentNode(node)
    return node, labels_zyx


def sitk_grid(volume) -> sitk.Image:
    from TransferSegGui.label_map import onGridOf

    return onGridOf(volume, np.zeros(SHAPE_ZYX, np.uint8))


def empty_segmentation(ui, volume, *names: str):
    """Return a segmentation with empty segments, made as the user makes it."""
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    ui.inputVolumeSelector.setCurrentNode(volume)
    ui.outputSegmentationSelector.setCurrentNode(node)
    for name in names:
        ui.newStructureLineEdit.text = name
        ui.addStructureButton.click()
    return node


def ras_of(volume, zyx: tuple[int, int, int]) -> list[float]:
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return (slicer.util.arrayFromVTKMatrix(matrix) @ [*zyx[::-1], 1.0])[:3].tolist()


def rows(table) -> list[list[str]]:
    return [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]


def tick(ui, name: str, ticked: bool = True) -> None:
    import qt

    (row,) = [row for row, texts in enumerate(rows(ui.reviewedTable)) if texts[0] == name]
    ui.reviewedTable.item(row, 0).setCheckState(qt.Qt.Checked if ticked else qt.Qt.Unchecked)


def save(host) -> str:
    """Press Save, wait, and return the status line."""
    ui, panel = host.widget.ui, host.widget.correctPanel
    assert ui.saveCorrectionButton.enabled, ui.saveCorrectionButton.toolTip
    ui.saveCorrectionButton.click()
    assert panel.saving is not None and ui.correctionStatusLabel.text.startswith("Saving '"), (
        ui.correctionStatusLabel.text
    )
    assert not ui.saveCorrectionButton.enabled and ui.saveCorrectionButton.toolTip == "A case is being saved."
    assert ui.cancelSaveButton.enabled
    host.waitFor(lambda: panel.saving is None)
    assert not ui.cancelSaveButton.enabled
    return ui.correctionStatusLabel.text


def segment_zyx(node, name: str, volume) -> np.ndarray:
    import slicer

    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName(name)
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume)


def merged_zyx(node, volume, first: list[str]) -> np.ndarray:
    """Return the label map that would be saved."""
    from TransferSegGui.label_map import labelSetOf, layersOf

    from TransferSegLib.corrections.snapshot import merge_layers

    return merge_layers(layersOf(node, volume, first), SHAPE_ZYX, labelSetOf(node))


def labels_of(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def temporary_folders() -> list[str]:
    import slicer

    return [each.name for each in Path(slicer.app.temporaryPath).glob("TransferSeg-*")]
