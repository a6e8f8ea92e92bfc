"""The states of the panel, one after another, for pictures that somebody looks at; nothing is trained for them.

    python Testing/module/panel_states.py FOLDER [STATE ...]

writes a picture of each state into a folder: the whole panel at 400 and 520 pixels, light and dark, side by side. What
is found to be cut off is printed. The texts of runs under way and of verdicts are examples.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP), str(TOP / "Testing"), str(TOP / "Testing" / "module")]
os.environ.setdefault("PYSIDE6_OPTION_PYTHON_ENUM", "2")

WIDTHS = (400, 520)
SECTIONS = ("model", "history", "moreModels", "segment", "segmentLog", "correct", "fineTune", "advanced", "fineTuneLog")
LONG_NAMES = ("right submandibular gland", "left brachiocephalic vein", "intervertebral disc L5-S1", "prostate")
VERSIONS = TOP / "Testing" / "Data" / "model_versions_1" / "clinic"


class PanelStates:
    """Brings the panel into its states; the name of each says what is in it."""

    def __init__(self, host, folder: Path) -> None:
        """Prepare: ``folder`` is for projects and files."""
        self.host, self.ui, self.folder = host, host.widget.ui, folder
        self.panel = host.widget.fineTunePanel
        self.node = None

    def every(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the states in their order; some need those before them."""
        for name in dir(self):
            if name.startswith("s") and name[1:3].isdigit():
                yield name[1:].replace("_", "-"), getattr(self, name)

    def open(self, *names: str) -> None:
        """Open these sections and close the others."""
        for name in SECTIONS:
            widget = getattr(self.ui, f"{name}CollapsibleButton", None) or getattr(self.ui, f"{name}Button")
            widget.collapsed = name not in names
        self.host.process()

    def set(self, name: str, value: str) -> None:
        """Set a parameter of the panel."""
        self.host.widget._parameterNode.SetParameter(name, value)

    # Model and Segment

    def s01_first_run(self) -> None:
        self.open("model", "segment")

    def s02_without_pytorch(self) -> None:
        ui = self.ui
        for widget in (ui.torchLabel, ui.installTorchButton):
            widget.setVisible(True)

    def s03_more_models(self) -> None:
        for widget in (self.ui.torchLabel, self.ui.installTorchButton):
            widget.setVisible(False)
        self.open("model", "moreModels")

    def s04_history(self) -> None:
        from TransferSegLib.models.locate import library_folder

        shutil.copytree(VERSIONS, library_folder() / "clinic")
        self.host.widget.enter()
        self.set("Model", "library/clinic")
        self.open("model", "history")

    def s05_segmenting(self) -> None:
        from correcting_world import add_volume

        self.set("Model", "bundled/head-neck-ct")
        add_volume("CT of the neck, arterial phase, 2 mm")
        self.open("segment")
        self.ui.segmentProgressBar.setVisible(True)
        self.ui.segmentProgressBar.setRange(0, 1000)
        self.ui.segmentProgressBar.setValue(430)
        self.say(self.ui.segmentStatusLabel, "Segmenting on CPU (float32): 43 %, 1 min 12 s left")

    def s06_segmented(self) -> None:
        import slicer
        from correcting_world import predicted
        from test_doubtful_places import entry
        from TransferSegGui.doubt_nodes import keepDoubt

        volume = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
        self.node, _labels = predicted(self.ui, volume, self.folder)
        keepDoubt(self.node, entry(("right parotid gland", (12.0, 8.0, -20.0)), ("brainstem", (3.0, -4.0, -31.0))))
        self.host.widget.doubtfulPlaces.refresh()
        self.ui.segmentProgressBar.setVisible(False)
        self.say(
            self.ui.segmentStatusLabel,
            "'CT of the neck segmentation': 5 of 7 structures found in 14 s on CPU. Not found: oesophagus, larynx. "
            "Warning: the scan shows less of the body than the scans that the model was trained on.",
        )
        self.ui.segmentLogButton.setVisible(True)
        self.ui.segmentLogText.setPlainText("reading the scan\nsegmenting, box 1 of 12")
        self.open("segment", "segmentLog")

    def s07_not_segmented(self) -> None:
        self.say(self.ui.segmentStatusLabel, "Not segmented: 'CT of the neck' has 4 axes: save one of its volumes.")
        self.open("segment")

    # Correct

    def s08_correct(self) -> None:
        self.say(self.ui.segmentStatusLabel, "")
        self.ui.projectPathLineEdit.currentPath = str(self.folder / "project")
        self.ui.scanFolderPathLineEdit.currentPath = str(self.folder)
        self.open("correct")

    def s09_long_names(self) -> None:
        from correcting_world import tick

        for name in LONG_NAMES:
            self.ui.newStructureLineEdit.text = name
            self.ui.addStructureButton.click()
        for name in (*LONG_NAMES[:2], "brainstem"):
            tick(self.ui, name)
        self.ui.nextPlaceButton.click()

    def s10_marked_slices(self) -> None:
        self.ui.regionComboBox.setCurrentIndex(1)
        self.ui.markRegionButton.click()

    def s11_a_box(self) -> None:
        self.ui.regionComboBox.setCurrentIndex(2)

    def s12_saving(self) -> None:
        self.ui.regionComboBox.setCurrentIndex(0)
        self.ui.saveCorrectionButton.click()
        self.ui.saveProgressBar.setValue(40)

    def s13_saved(self) -> None:
        self.host.waitFor(lambda: self.host.widget.correctPanel.saving is None)

    def s14_a_case_is_removed(self) -> None:
        self.ui.caseTable.selectRow(0)
        self.ui.removeCaseButton.click()
        self.ui.caseTable.selectRow(0)

    # Fine-tune

    def s15_no_cases(self) -> None:
        self.set("Project", str(self.folder / "nothing"))
        self.open("fineTune")

    def s16_planning(self) -> None:
        self.ui.restoreCaseButton.click()
        project = self.folder / "balls"
        import finetuning_world

        finetuning_world.add_cases(project, [1, 2, 3, 4, 5], reviewed=("bright", "dark"))
        self.set("Project", str(project))
        self.open("fineTune")

    def s17_planned(self) -> None:
        self.panel.plan.stop()
        self.panel.plan._say(
            "About 9 min of the 10 min given: 3 candidates are compared with the parent on patients they did not see "
            "(at most 90 s, about 163 steps of the last layers and 41 steps of all layers each). The final one, which "
            "is kept, starts from their average and gets at most 3.7 min, about 120 steps of all layers on all cases.",
            540.0,
        )

    def s18_too_little_time(self) -> None:
        self.panel.plan._say(
            "2 min is too little to learn anything from 5 cases on this machine: allow 5 min or more. Reading, "
            "predicting and comparing alone take about 32 s, a step of the last layers 0.32 s, and at least three "
            "candidates are trained. Fewer cases, or a faster device, take less.",
            None,
            5,
        )

    def s19_advanced(self) -> None:
        self.panel.plan._say("")
        self.open("fineTune", "advanced")

    def s20_running(self) -> None:
        from TransferSegGui.finetune_panel import progressText

        self.open("fineTune")
        self.panel.plan.stop()
        self.panel.plan._say("")
        self.ui.fineTuneProgressBar.setVisible(True)
        self.ui.fineTuneProgressBar.setRange(0, 1000)
        self.ui.fineTuneProgressBar.setValue(680)
        message = "Held-out comparison 2 of 3: training the last layers, loss 0.083"
        self.say(self.ui.fineTuneStatusLabel, progressText(0.68, 185.0, message))

    def s21_failed(self) -> None:
        self.ui.fineTuneProgressBar.setVisible(False)
        self.ui.fineTuneLogButton.setVisible(True)
        self.ui.fineTuneLogText.setPlainText("reading case-0001\nreading case-0002")
        self.say(
            self.ui.fineTuneStatusLabel,
            "Not fine-tuned: cases/case-0002/image.nii.gz cannot be read as a scan: the file ends early.",
        )
        self.open("fineTune", "fineTuneLog")

    def s22_better(self) -> None:
        self.verdict("better", "On 4 held-out patients the mean Dice rose from 0.650 to 0.790.", (0.65, 0.79))

    def s23_worse_with_all_cases(self) -> None:
        self.verdict("worse", "On 4 held-out patients the mean Dice fell from 0.650 to 0.500.", (0.65, 0.5))
        self.ui.verdictCasesCheckBox.checked = True

    def s24_warned_of(self) -> None:
        self.verdict("trained too short to say", "On 2 held-out patients Dice changed little.", (0.65, 0.652), True)

    def s25_the_tour(self) -> None:
        self.panel.decision.show(None, self.host.widget._parameterNode)
        self.host.widget.firstSteps._begin(4)

    def s26_the_tour_corrects(self) -> None:
        self.host.widget.firstSteps._say(
            "Step 2 of 5: look at the left parotid gland. Correct it with Paint or Erase, or say that it is right as "
            "it is.",
            "It is right",
            lambda: None,
        )
        self.ui.endGuideButton.setVisible(True)
        self.open("correct")

    def forget_history(self) -> None:
        """Remove the model whose versions are shown."""
        from TransferSegLib.models.locate import library_folder

        shutil.rmtree(library_folder() / "clinic")

    def verdict(self, word: str, reason: str, dice: tuple[float, float], warned: bool = False) -> None:
        """Show a verdict as a run leaves it, on a known structure and a new one."""
        from test_verdict_table import result

        answer = result()
        evidence = answer["evidence"]
        before, after = dice
        evidence["verdict"], evidence["reasons"] = word, [reason]
        evidence["overall"] |= {"parent": before, "candidate": after}
        evidence["method"]["rows"][0] |= {"parent": before, "candidate": after}
        evidence["structures"][0]["word"] = word
        if warned:
            evidence["warnings"] = ["larynx was not corrected, and is predicted differently than before (0.88)."]
            evidence["promotion"] = {"warned": True, "obstacles": ["Two patients are too few."]}
        answer["notes"] = ["There was time for the last layers only: with more minutes all layers are trained."]
        self.panel.decision.show(answer, self.host.widget._parameterNode)
        self.say(self.ui.fineTuneStatusLabel, "Version 1 of 'clinic' was made in 5 min 48 s.")
        self.open("fineTune")

    def say(self, label, text: str) -> None:
        """Show a status line."""
        from TransferSegGui.status_line import say

        say(label, text)


@contextmanager
def panelHost(folder: Path) -> Iterator:
    """Open the panel with a library, jobs and projects of its own."""
    import whole_loop

    whole_loop.use_folders(folder)
    os.environ["HOME"] = str(folder)  # what the panel shows of it is "~"
    from slicerhost.window import Host

    host = Host()
    host.loadModule(TOP / "TransferSeg" / "TransferSeg.py")
    try:
        yield host
    finally:
        host.close()


def variants(host, font_scale: float = 1.0) -> Iterator[tuple[str, object]]:
    """Show the panel at each width, light and dark; yields a name and the picture of the whole panel."""
    from contextlib import nullcontext

    from dark_style import darkStyle
    from narrow_panel import panel_of

    for isDark in (False, True):
        with darkStyle(host) if isDark else nullcontext():
            host.widget.fineTunePanel.decision.update()
            host.widget.paintBoxes()
            for width in WIDTHS:
                with panel_of(host, width, font_scale, isChecked=False):
                    yield f"{width} {'dark' if isDark else 'light'}", host._area.widget().grab()
    host.widget.fineTunePanel.decision.update()
    host.widget.paintBoxes()


def problems(host) -> list[str]:
    """Return what is cut off in the panel as it is shown now."""
    import qt
    from narrow_panel import cut_off

    found = [] if host._area.horizontalScrollBar().maximum == 0 else ["the panel itself is cut off"]
    for table in host._area.widget().findChildren(qt.QTableWidget):
        if table.visible and table.objectName:
            found += [f"{table.objectName}: {each}" for each in cut_off(table)]
    for label in host._area.widget().findChildren(qt.QLabel):
        if label.visible and label.text and label.heightForWidth(label.width) > label.height:
            found.append(f"{label.objectName}: {label.text}")
    for button in host._area.widget().findChildren(qt.QPushButton):
        if button.visible and button.width < button.minimumSizeHint().width():
            found.append(f"{button.objectName}: {button.text}")
    return found


def main(folder: Path, *wanted: str) -> None:
    """Take the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    scale = float(os.environ.get("TRANSFERSEG_FONT_SCALE", "1"))
    with (
        tempfile.TemporaryDirectory(prefix="TransferSeg-", ignore_cleanup_errors=True) as temporary,
        panelHost(Path(temporary)) as host,
    ):
        host.window.resize(1280, 720)
        for name, bring in PanelStates(host, Path(temporary)).every():
            bring()
            if wanted and not any(each in name for each in wanted):
                continue
            pictures = []
            for variant, picture in variants(host, scale):
                pictures.append(picture)
                for each in problems(host):
                    print(f"{name}, {variant}: {each}", flush=True)
            import qt

            sheet = qt.QPixmap(sum(each.width() for each in pictures), max(each.height() for each in pictures))
            sheet.fill(qt.QColor("#888888"))
            painter, left = qt.QPainter(sheet), 0
            for picture in pictures:
                painter.drawPixmap(left, 0, picture)
                left += picture.width()
            painter.end()
            assert sheet.save(str(folder / f"{name}.png"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
