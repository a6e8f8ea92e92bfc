"""Learn here with real clicks: four slices are corrected, the rest gets better, undo takes it back, then Save."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import whole_loop

LARYNX = "larynx"
#: So many slices are corrected.
SLICES = 4


@pytest.fixture
def scan(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Return the part of the sample scan around the larynx, and where clinicians drew it (zyx)."""
    from TransferSegGui.self_test import writePart

    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.models.locate import bundled_sample

    dataset = read_dataset(bundled_sample())
    label = dataset.label_set.find(LARYNX).label
    file = writePart(dataset.cases[0], label, tmp_path / "part.nii.gz")
    part, whole = sitk.ReadImage(str(file)), sitk.ReadImage(str(dataset.cases[0].labels))
    return file, sitk.GetArrayFromImage(sitk.Resample(whole, part, sitk.Transform(), sitk.sitkNearestNeighbor)) == label


class Person:
    """A user who corrects slices of the larynx until they are as the clinicians drew them, and marks them."""

    def __init__(self, host, file: Path, truth_zyx: np.ndarray, project: Path) -> None:
        self.loop = whole_loop.WholeLoop(host, project, scans=[file])
        self.host, self.ui, self.truth_zyx = host, host.widget.ui, truth_zyx
        self.loop.load(file, "CT")
        self.loop.segment()
        self.ui.projectPathLineEdit.currentPath = str(project)
        self.volume, self.node = self.loop.volumes[0], self.loop.node
        self.segment_id = self.node.GetSegmentation().GetSegmentIdBySegmentName(LARYNX)
        there = np.flatnonzero(truth_zyx.any(axis=(1, 2)))
        self.slices = sorted({int(number) for number in np.rint(np.linspace(there[0], there[-1], SLICES))})

    def place(self, zyx) -> list[float]:
        import slicer
        import vtk

        matrix = vtk.vtkMatrix4x4()
        self.volume.GetIJKToRASMatrix(matrix)
        return (slicer.util.arrayFromVTKMatrix(matrix) @ [*map(float, zyx[::-1]), 1.0])[:3].tolist()

    def labels_zyx(self) -> np.ndarray:
        """Return the label map that would be saved."""
        from TransferSegGui.label_map import labelSetOf, layersOf

        from TransferSegLib.corrections.snapshot import merge_layers

        layers = layersOf(self.node, self.volume, [self.segment_id])
        return merge_layers(layers, self.truth_zyx.shape, labelSetOf(self.node))

    def larynx_zyx(self) -> np.ndarray:
        ids = list(self.node.GetSegmentation().GetSegmentIDs())
        return self.labels_zyx() == ids.index(self.segment_id) + 1

    def corrects(self) -> None:
        """Paint what is missing, erase what is too much, and mark each slice in the red view."""
        ui, editor = self.ui, self.ui.segmentEditorWidget
        self.host.widget.correctPanel.enter()
        editor.setCurrentSegmentID(self.segment_id)
        ui.regionComboBox.setCurrentIndex(1)
        ui.regionViewComboBox.setCurrentIndex(0)
        for number in self.slices:
            found, truth = self.larynx_zyx()[number], self.truth_zyx[number]
            for wrong, erase in ((truth & ~found, False), (found & ~truth, True)):
                if wrong.any():
                    points = [self.place((number, row, column)) for row, column in np.argwhere(wrong)]
                    editor.userPaints(points, 1.0, erase)
            middle = self.place((number, truth.shape[0] // 2, truth.shape[1] // 2))
            self.host.slices["Red"].view.show(self.volume, middle)
            ui.markRegionButton.click()
        assert np.array_equal(self.larynx_zyx()[self.slices], self.truth_zyx[self.slices])
        assert ui.regionSlicesLineEdit.text == "z:" + ",".join(map(str, self.slices))

    def agreement(self) -> float:
        """Return the surface Dice of the larynx at 3 mm in the slices that were not marked."""
        from TransferSegLib.evaluation.surface_distance import surface_dice

        x_mm, y_mm, z_mm = self.volume.GetSpacing()
        region = np.ones(self.truth_zyx.shape, bool)
        region[self.slices] = False
        return surface_dice(self.larynx_zyx(), self.truth_zyx, (z_mm, y_mm, x_mm), 3.0, region)

    def learns(self) -> str:
        """Click Learn here, wait, and return the status line."""
        ui = self.ui
        assert ui.learnHereButton.enabled, ui.learnHereButton.toolTip
        ui.learnHereButton.click()
        assert not ui.learnHereButton.enabled and ui.learnHereButton.toolTip == "Learn here is running."
        self.host.waitFor(lambda: self.host.widget.learnHere.running is None, whole_loop.PATIENCE_S)
        return ui.correctionStatusLabel.text


@pytest.mark.timeout(1800)
def test_four_slices_redraw_the_rest(host, scan, tmp_path: Path) -> None:
    host.widget.enter()
    host.widget._parameterNode.SetParameter("Model", whole_loop.BUNDLED)
    host.widget.ui.correctCollapsibleButton.collapsed = False
    person = Person(host, *scan, tmp_path / "cases")
    ui = person.ui
    assert not ui.learnHereButton.enabled
    person.loop.tick(LARYNX)
    assert not ui.learnHereButton.enabled and "Region checked" in ui.learnHereButton.toolTip
    person.corrects()
    before, agreed = person.labels_zyx(), person.agreement()
    assert ui.learnHereButton.enabled, ui.learnHereButton.toolTip
    ui.learnHereButton.click()  # once to see that it can be cancelled
    assert host.widget.learnHere.running is not None, ui.correctionStatusLabel.text
    assert not ui.cancelLearnHereButton.isHidden() and not ui.learnHereProgressBar.isHidden()
    ui.cancelLearnHereButton.click()
    host.waitFor(lambda: host.widget.learnHere.running is None, whole_loop.PATIENCE_S)
    assert ui.correctionStatusLabel.text.startswith("Cancelled.")
    assert np.array_equal(person.labels_zyx(), before)
    told = person.learns()
    assert told.startswith("The rest of 'CT' was redrawn") and LARYNX in told, told
    after, better = person.labels_zyx(), person.agreement()
    print(f"\nsurface Dice of the rest at 3 mm: {agreed:.3f} before, {better:.3f} after")
    assert better > agreed + 0.02
    assert np.array_equal(after[person.slices], before[person.slices])
    ui.segmentEditorWidget.undo()
    assert np.array_equal(person.labels_zyx(), before)
    ui.segmentEditorWidget.redo()
    assert np.array_equal(person.labels_zyx(), after)
    ui.saveCorrectionButton.click()
    host.waitFor(lambda: host.widget.correctPanel.saving is None, whole_loop.PATIENCE_S)
    assert "is saved." in ui.correctionStatusLabel.text, ui.correctionStatusLabel.text
    (saved,) = (tmp_path / "cases").glob("cases/*/revision-1/labels.seg.nrrd")
    judged = sitk.GetArrayFromImage(sitk.ReadImage(str(saved.with_name("judged.nrrd"))))
    assert np.flatnonzero(judged.any(axis=(1, 2))).tolist() == person.slices
    segments = host.widget.logic.learnHere(
        person.volume, person.node, [LARYNX], slices="z:" + ",".join(map(str, person.slices)), device="cpu"
    )
    assert segments["structures"][0]["name"] == LARYNX and segments["features_kept"]


def test_undo_is_promised_only_where_it_takes_the_right_thing_back(host, ui, folder: Path, tmp_path: Path) -> None:
    """With another segmentation shown, Undo was promised, and its state was saved in that one."""
    import slicer
    from correcting_world import SHAPE_ZYX, STRAIGHT, add_volume, empty_segmentation
    from TransferSegGui.annotated_region import AnnotatedRegion
    from TransferSegGui.learn_here_process import LearnHereProcess

    host.widget.correctPanel.enter()
    volume, widgets = add_volume(matrix=STRAIGHT), host.widget.learnHere
    node = empty_segmentation(ui, volume, "nodule")
    (segment,) = node.GetSegmentation().GetSegmentIDs()
    drawn_zyx = np.zeros(SHAPE_ZYX, np.uint8)
    drawn_zyx[4:8, 4:9, 4:9] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn_zyx, node, segment, volume)
    editor = ui.segmentEditorWidget

    def learned(other: bool) -> str:
        run = LearnHereProcess(volume, node, [segment], AnnotatedRegion("z:5"))
        run.saveState, run.result = lambda: widgets._saveState(node), {"structures": []}
        sitk.WriteImage(sitk.GetImageFromArray(np.ones(SHAPE_ZYX, np.uint8)), str(run.file("redrawn.nrrd")))
        run._untouched.add(node)
        if other:
            empty_segmentation(ui, volume, "other")
        assert (editor.segmentationNode() is node) is not other
        run.takeResult()
        assert slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, volume).all()
        widgets._onEnd(run)
        run.removeFiles()
        return ui.correctionStatusLabel.text

    assert "Undo takes it back." in learned(other=False)
    editor.undo()
    assert np.array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, volume), drawn_zyx)
    said = learned(other=True)
    assert "Undo takes it back" not in said and "Undo cannot take it back" in said
    editor.undo()
    assert editor.segmentationNode().GetSegmentation().GetNumberOfSegments() == 1, "nothing was saved there"


@pytest.mark.timeout(1800)
def test_what_is_drawn_meanwhile_is_not_lost(host, scan, tmp_path: Path) -> None:
    host.widget.enter()
    host.widget._parameterNode.SetParameter("Model", whole_loop.BUNDLED)
    host.widget.ui.correctCollapsibleButton.collapsed = False
    person = Person(host, *scan, tmp_path / "cases")
    person.loop.tick(LARYNX)
    person.corrects()
    person.ui.learnHereButton.click()
    person.ui.segmentEditorWidget.userPaints([person.place((1, 3, 3))], 4.0)
    drawn = person.labels_zyx()
    host.waitFor(lambda: host.widget.learnHere.running is None, whole_loop.PATIENCE_S)
    assert "changed meanwhile" in person.ui.correctionStatusLabel.text
    assert np.array_equal(person.labels_zyx(), drawn)
