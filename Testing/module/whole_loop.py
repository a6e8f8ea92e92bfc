"""The whole loop as a user clicks it, step by step: for the test that asserts, and for the tutorial's pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from window_watch import WindowWatch

TOP = Path(__file__).resolve().parents[2]
CASES = TOP / "Testing" / "Data" / "head_neck_ct"
STRUCTURE = "left parotid gland"
#: What the model does not know, and the pictured user teaches it.
NEW_STRUCTURE = "vertebrae"
BUNDLED = "bundled/head-neck-ct"
#: Bone, and how far from the spinal cord it belongs to a vertebra.
BONE_HU, FROM_CORD_MM = 100, 25.0
#: Waiting is for a machine that has other things to do as well.
PATIENCE_S = 1800.0


def use_folders(folder: Path) -> None:
    """Let models, jobs, projects and measurements of this process and its children go below a folder."""
    for name, part in (("MODELS", "models"), ("JOBS", "jobs"), ("PROJECTS", "projects"), ("CACHE", "cache")):
        os.environ[f"TRANSFERSEG_{name}"] = str(folder / part)


def real_cases(others: Sequence[str] = ("pt_22", "pt_120")):
    """Return the sample and cases of other patients."""
    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.models.locate import bundled_sample

    every = {case.id: case for case in read_dataset(CASES).cases}
    return [read_dataset(bundled_sample()).cases[0], *(every[each] for each in others)]


def real_scans() -> list[Path]:
    return [case.image for case in real_cases()]


def parts_of_scans(folder: Path) -> list[Path]:
    """Write the surroundings of the structure that is corrected, of the same scans, which take a part of the time."""
    from TransferSegGui.self_test import writePart

    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.models.locate import bundled_sample

    label = read_dataset(bundled_sample()).label_set.find(STRUCTURE).label
    return [writePart(case, label, folder / f"part_{number}.nii.gz") for number, case in enumerate(real_cases())]


class WholeLoop:
    """A user at work in the test host; ``steps`` clicks on and yields the name of each step when it is done."""

    def __init__(
        self,
        host,
        project: Path,
        minutes: int = 30,
        settings: dict[str, int] | None = None,
        scans: Sequence[Path] | None = None,
        references: Sequence = (),
    ) -> None:
        """Prepare: ``settings`` of few steps end a fine-tuning before its minutes are up, on a computer of any speed.

        ``scans``: those to correct (None: three whole ones), of which the first is the sample or a part of it. With
        ``references``, the scans' cases of a dataset, a new structure is drawn in each: the vertebrae.
        """
        self.references = list(references)
        scans = [case.image for case in self.references] or scans
        self.scans = real_scans() if scans is None else list(scans)
        self.host, self.ui, self.project = host, host.widget.ui, project
        self.minutes, self.settings = minutes, settings or {}
        self.watch = WindowWatch()
        self.volumes: list = []
        self.scan: Path | None = None
        #: By which the views are enlarged about what they show.
        self.zoom = 1.0
        #: What is done, of 1, when a run is called under way: 0 as soon as it is, for runs that take a moment.
        self.midway = 0.0
        self.result = None
        #: States of the fine-tuning's job as they were seen.
        self.job_states: list[str] = []

    def steps(self) -> Iterator[str]:
        """Go once through the loop."""
        self.load(self.scans[0], "CT head and neck")
        yield "loaded"
        yield from self.segmented()
        for number in range(len(self.scans)):
            if number:
                self.load(self.scans[number], f"CT {number + 1}")
                self.segment()
            yield from self.corrected(first=number == 0)
        yield from self.fine_tuned()
        yield from self.decided()

    # Segment

    def load(self, image: Path, name: str) -> None:
        """Load a scan and choose it."""
        import slicer

        self.scan = image
        volume = slicer.modules.volumes.logic().AddArchetypeVolume(str(image), name, 0)
        volume.GetDisplayNode().AutoWindowLevelOff()
        volume.GetDisplayNode().SetWindowLevel(400, 40)
        self.volumes.append(volume)
        self.ui.inputVolumeSelector.setCurrentNode(volume)
        self._show(volume, (0.0, 0.0, 0.0), fit=True)

    def segment(self) -> None:
        """Click Segment and wait for the result."""
        assert self.ui.segmentButton.enabled, self.ui.segmentButton.toolTip
        self.ui.segmentButton.click()
        self.host.waitFor(lambda: not self.ui.cancelSegmentButton.enabled, PATIENCE_S)
        assert self.node is not None, self.ui.segmentStatusLabel.text
        self.show_structure()

    def segmented(self) -> Iterator[str]:
        """Segment the sample: cancel once, then let it be done."""
        ui = self.ui
        ui.segmentButton.click()
        ui.cancelSegmentButton.click()
        self.host.waitFor(lambda: not ui.cancelSegmentButton.enabled, PATIENCE_S)
        assert ui.segmentStatusLabel.text == "Cancelled."
        with self.watch:
            ui.segmentButton.click()
            self.host.waitFor(lambda: ui.segmentStatusLabel.text.startswith("Segmenting"), PATIENCE_S)
            self.wait_midway(ui.segmentProgressBar, ui.cancelSegmentButton)
        yield "segmenting"
        with self.watch:
            self.host.waitFor(lambda: not ui.cancelSegmentButton.enabled, PATIENCE_S)
        assert self.node is not None, ui.segmentStatusLabel.text
        self.show_structure()
        ui.showIn3DCheckBox.checked = True
        yield "segmented"

    # Correct

    def corrected(self, first: bool) -> Iterator[str]:
        """Paint at the side of the structure, tick it and another one, and save the case."""
        ui = self.ui
        ui.projectPathLineEdit.currentPath = str(self.project)
        names = [NEW_STRUCTURE] if self.references else [STRUCTURE, "mandible"]
        if self.references:
            self.add_vertebrae()
            self.draw_vertebrae(part=0.5)
        else:
            place = self.paint()
        if first:
            self._show(self.volumes[-1], tuple(self.middle_of(NEW_STRUCTURE) if self.references else place))
            yield "painted"
        if self.references:
            self.draw_vertebrae()
            self.show_structure()
        for name in names:
            self.tick(name)
        if first:
            yield "reviewed"
        assert ui.saveCorrectionButton.enabled, ui.saveCorrectionButton.toolTip
        ui.saveCorrectionButton.click()
        self.host.waitFor(lambda: ui.cancelSaveButton.enabled is False, PATIENCE_S)
        assert "is saved." in ui.correctionStatusLabel.text, ui.correctionStatusLabel.text
        if first:
            yield "saved"

    def paint(self) -> np.ndarray:
        """Paint at the side of the structure; returns the place (RAS, mm)."""
        from TransferSegGui.self_test import rimOf

        segment_id = self.node.GetSegmentation().GetSegmentIdBySegmentName(STRUCTURE)
        editor = self.ui.segmentEditorWidget
        editor.setCurrentSegmentID(segment_id)
        before = self.voxels(segment_id)
        place = rimOf(self.node, segment_id, self.volumes[-1])
        touched = editor.userPaints([place, place + np.array([0.0, 0.0, 5.0])], 8.0)
        assert touched > 0 and self.voxels(segment_id) > before
        return place

    def add_vertebrae(self) -> None:
        """Add the new structure, and choose a tool to draw it with."""
        self.ui.newStructureLineEdit.text = NEW_STRUCTURE
        self.ui.addStructureButton.click()
        self.ui.segmentEditorWidget.setActiveEffectByName("Threshold")

    def draw_vertebrae(self, part: float = 1.0) -> None:
        """Draw the new structure as with Threshold and Islands: bone near the spinal cord, in one piece.

        ``part``: only in so many of its slices, from the top.
        """
        import slicer
        from scipy import ndimage

        volume = self.volumes[-1]
        cord_zyx = self.reference_zyx("spinal cord")
        distance_mm = ndimage.distance_transform_edt(~cord_zyx, sampling=volume.GetSpacing()[::-1])
        bone_zyx = (slicer.util.arrayFromVolume(volume) > BONE_HU) & (distance_mm <= FROM_CORD_MM)
        bone_zyx &= cord_zyx.any(axis=(1, 2))[:, None, None]
        bone_zyx = ndimage.binary_closing(bone_zyx) & (self.labels_zyx() == 0)
        pieces_zyx, count = ndimage.label(bone_zyx)
        sizes = ndimage.sum(bone_zyx, pieces_zyx, range(1, count + 1))
        mask_zyx = (pieces_zyx == 1 + int(np.argmax(sizes))).astype(np.uint8)
        slices = np.flatnonzero(mask_zyx.any(axis=(1, 2)))
        mask_zyx[: slices[round((1 - part) * (len(slices) - 1))]] = 0
        segment_id = self.node.GetSegmentation().GetSegmentIdBySegmentName(NEW_STRUCTURE)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask_zyx, self.node, segment_id, volume)
        if self.ui.showIn3DCheckBox.checked:
            self.node.CreateClosedSurfaceRepresentation()

    def middle_of(self, name: str) -> np.ndarray:
        """Return the middle (RAS, mm) of a structure."""
        segment_id = self.node.GetSegmentation().GetSegmentIdBySegmentName(name)
        return np.array(self.node.GetSegmentCenterRAS(segment_id))

    def tick(self, name: str) -> None:
        """Tick a structure as right in this scan."""
        import qt

        table = self.ui.reviewedTable
        rows = {table.item(row, 0).text(): row for row in range(table.rowCount)}
        table.item(rows[name], 0).setCheckState(qt.Qt.Checked)

    def reference_zyx(self, name: str) -> np.ndarray:
        """Return where clinicians drew a structure in the scan that is shown."""
        from TransferSegLib.datasets.dataset import read_dataset
        from TransferSegLib.models.locate import bundled_sample

        label_set = read_dataset(CASES if self.scans.index(self.scan) else bundled_sample()).label_set
        return self.labels_zyx() == label_set.find(name).label

    def labels_zyx(self) -> np.ndarray:
        """Return what clinicians drew in the scan that is shown."""
        import SimpleITK as sitk

        return sitk.GetArrayFromImage(sitk.ReadImage(str(self.references[self.scans.index(self.scan)].labels)))

    def voxels(self, segment_id: str) -> int:
        import slicer

        voxels_zyx = slicer.util.arrayFromSegmentBinaryLabelmap(self.node, segment_id, self.volumes[-1])
        return int(np.count_nonzero(voxels_zyx))

    # Fine-tune

    def fine_tuned(self) -> Iterator[str]:
        """Start, cancel, resume, see curves and the verdict."""
        ui, panel = self.ui, self.host.widget.fineTunePanel
        ui.minutesSpinBox.setValue(self.minutes)
        self.host.widget._parameterNode.SetParameter(
            "FineTuneKnobs", json.dumps(self.settings) if self.settings else ""
        )
        assert ui.fineTuneButton.enabled, ui.fineTuneButton.toolTip
        yield "ready to fine-tune"
        with self.watch:
            ui.fineTuneButton.click()
            self.host.waitFor(lambda: "running" in self._note(panel), PATIENCE_S)
            ui.cancelFineTuneButton.click()
            self.host.waitFor(lambda: not ui.cancelFineTuneButton.enabled, PATIENCE_S)
            self._note(panel)
            assert ui.resumeFineTuneButton.enabled, ui.fineTuneStatusLabel.text
        yield "cancelled"
        with self.watch:
            ui.resumeFineTuneButton.click()
            self.host.waitFor(lambda: ui.showLossButton.enabled or not ui.cancelFineTuneButton.enabled, PATIENCE_S)
            self.wait_midway(ui.fineTuneProgressBar, ui.cancelFineTuneButton)
            (ui.showDiceButton if ui.showDiceButton.enabled else ui.showLossButton).click()
            self.host.process(1500)
        yield "fine-tuning"
        with self.watch:
            self.host.waitFor(lambda: not ui.cancelFineTuneButton.enabled, PATIENCE_S)
        self._note(panel)
        self.result = panel.job.result
        assert self.result is not None, ui.fineTuneStatusLabel.text + "\n" + panel.job.log()
        yield "verdict"

    def wait_midway(self, bar, cancelButton) -> None:
        """Wait until a run is midway, or over."""
        if self.midway:
            self.host.waitFor(
                lambda: not cancelButton.enabled or bar.value >= self.midway * max(bar.maximum, 1), PATIENCE_S
            )

    def _note(self, panel) -> str:
        """Note the job's state and return it, '' before there is a job."""
        state = str(panel.job.state) if panel.job is not None else ""
        if state and state not in self.job_states[-1:]:
            self.job_states.append(state)
        return state

    # Decide

    def decided(self) -> Iterator[str]:
        """Promote the new version (whatever its verdict), segment with it, go back to the old one."""
        ui = self.ui
        if ui.promoteButton.enabled:
            ui.promoteButton.click()
        self.host.waitFor(lambda: self.chosen_model() == f"library/{self.result['model']}", PATIENCE_S)
        yield "promoted"
        ui.inputVolumeSelector.setCurrentNode(self.volumes[0])
        ui.outputSegmentationSelector.setCurrentNode(None)
        self.segment()
        yield "segmented with the new version"
        self.host.waitFor(lambda: ui.rollbackButton.enabled, PATIENCE_S)
        ui.rollbackButton.click()
        self.host.waitFor(lambda: "version 0" in ui.modelStatusLabel.text.lower(), PATIENCE_S)
        yield "rolled back"

    def chosen_model(self) -> str:
        return self.host.widget._parameterNode.GetParameter("Model")

    # What is shown

    @property
    def node(self):
        """The segmentation that is shown and corrected."""
        return self.ui.outputSegmentationSelector.currentNode()

    def show_structure(self) -> None:
        """Let the views show the middle of the structure that is corrected."""
        segmentation = self.node.GetSegmentation()
        segment_id = segmentation.GetSegmentIdBySegmentName(NEW_STRUCTURE)
        segment_id = segment_id or segmentation.GetSegmentIdBySegmentName(STRUCTURE)
        self._show(self.ui.inputVolumeSelector.currentNode(), self.node.GetSegmentCenterRAS(segment_id))

    def _show(self, volume, center_ras, fit: bool = False) -> None:
        bounds = [0.0] * 6
        volume.GetRASBounds(bounds)
        middle = tuple((bounds[2 * axis] + bounds[2 * axis + 1]) / 2 for axis in range(3))
        for view in self.host.slices.values():
            view.view.show(volume, middle if fit else center_ras)
            if not fit and self.zoom != 1.0:
                width, height, depth = view.view.node.GetFieldOfView()
                view.view.node.SetFieldOfView(width / self.zoom, height / self.zoom, depth)
                view.view.node.JumpSliceByCentering(*center_ras)
