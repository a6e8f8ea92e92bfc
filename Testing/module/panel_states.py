"""The states of the panel, one after another, and what is cut off in them; nothing is trained for them.

``state_pictures.py`` takes pictures of them. The texts of runs under way and of verdicts are examples.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

TOP = Path(__file__).resolve().parents[2]

WIDTHS = (400, 520)
SECTIONS = ("model", "history", "moreModels", "segment", "segmentLog", "correct", "fineTune", "advanced", "fineTuneLog")
SECTIONS += ("verdictDetails",)
LONG_NAMES = ("right submandibular gland", "left brachiocephalic vein", "intervertebral disc L5-S1", "prostate")
VERSIONS = TOP / "Testing" / "Data" / "model_versions_1" / "clinic"
NUMBERS = "Over 4 patients the mean Dice rose; in other patients -0.03 to +0.05 is to be expected (90 % interval)."


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
        from TransferSegGui import first_steps, segment_panel

        with (
            mock.patch.object(first_steps, "torchIsInstalled", lambda: False),
            mock.patch.object(segment_panel, "torchIsInstalled", lambda: False),
        ):
            self.host.widget.enter()

    def s02b_without_a_model(self) -> None:
        from TransferSegGui import model_choices

        with mock.patch.object(model_choices, "bundled_models", lambda: []):
            self.host.widget.enter()

    def s03_more_models(self) -> None:
        self.host.widget.enter()
        self.open("model", "moreModels")

    def s03b_no_history(self) -> None:
        self.open("model", "history")

    def s04_history(self) -> None:
        from TransferSegLib.models.locate import library_folder

        shutil.copytree(VERSIONS, library_folder() / "clinic")
        self.host.widget.enter()
        self.set("Model", "library/clinic")
        self.open("model", "history")

    def s04b_many_structures(self) -> None:
        """Show the structures of a model of TotalSegmentator's kind: they are searched, by name and group."""
        from TransferSegLib.anatomy import describe_structure
        from TransferSegLib.structures import LabelSet

        names = [f"{side} {rib}" for side in ("left", "right") for rib in (f"rib {n}" for n in range(1, 13))]
        names += ["heart", "spleen", "left kidney", "right kidney", "left autochthonous back muscle", "urinary bladder"]
        every = tuple(describe_structure(name, number) for number, name in enumerate(names, start=1))
        choice = self.host.widget.segmentPanel.structures
        choice.show(self.host.widget._parameterNode, "library/clinic", LabelSet(every))
        self.open("segment")

    def s05_segmenting(self) -> None:
        from correcting_world import add_volume

        self.set("Model", "bundled/head-neck-ct")
        volume = add_volume("CT of the neck, arterial phase, 2 mm")
        self.ui.inputVolumeSelector.setCurrentNode(volume)
        self.open("segment")
        self.host.widget.segmentPanel.run = SimpleNamespace(stop=lambda: None)
        self.host.widget.segmentPanel._updateButtons()
        self.ui.segmentProgressBar.setVisible(True)
        self.ui.segmentProgressBar.setRange(0, 1000)
        self.ui.segmentProgressBar.setValue(430)
        self.say(self.ui.segmentStatusLabel, "Segmenting on CPU (float32): 43 %, 1 min 12 s left")

    def s06_segmented(self) -> None:
        import slicer
        from correcting_world import predicted
        from test_doubtful_places import entry
        from TransferSegGui.doubt_nodes import keepDoubt

        self.host.widget.segmentPanel.run = None
        volume = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
        self.node, _labels = predicted(self.ui, volume, self.folder)
        keepDoubt(self.node, entry(("right parotid gland", (12.0, 8.0, -20.0)), ("brainstem", (3.0, -4.0, -31.0))))
        self.host.widget.doubtfulPlaces.refresh()
        self.host.widget.segmentPanel._updateButtons()
        self.say(
            self.ui.segmentStatusLabel,
            "'CT of the neck segmentation': 5 of 7 structures found in 14 s on CPU. Not found: oesophagus, larynx. "
            "Warning: the scan shows less of the body than the scans that the model was trained on.",
        )
        self.ui.segmentLogButton.setVisible(True)
        self.ui.segmentLogText.setPlainText("reading the scan\nsegmenting, box 1 of 12")
        self.open("segment", "segmentLog")

    def s07_not_segmented(self) -> None:
        self.say(
            self.ui.segmentStatusLabel,
            "Not segmented ('CT of the neck'): it has 4 axes (64 x 64 x 30 x 20): several volumes.",
        )
        self.open("segment")

    # Correct

    def s08_correct(self) -> None:
        self.say(self.ui.segmentStatusLabel, "")
        self.ui.projectPathLineEdit.currentPath = str(self.folder / "project")
        self.ui.scanFolderPathLineEdit.currentPath = str(self.folder)
        self.open("correct")

    def s08b_ranking(self) -> None:
        ranking = self.host.widget.ranking
        ranking.running = SimpleNamespace(scans=range(24), cancelled=False, stop=lambda: None)
        ranking._of = (ranking._order.folder, ranking._order.project)
        ranking.update()
        ranking._onProgress(0.4, 312.0, "scan 10")

    def s08c_ranked(self) -> None:
        ranking = self.host.widget.ranking
        ranking.running = None
        ranking.update()
        self.say(self.ui.orderLabel, "Most doubtful and unusual first, by head-neck-ct, version 3.")

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

    def s11b_learning_here(self) -> None:
        learn = self.host.widget.learnHere
        self.ui.regionComboBox.setCurrentIndex(1)
        learn.running = SimpleNamespace(stop=lambda: None)
        learn._showRunning(True)
        learn._onProgress(0.4, 3.0, "")
        learn._say("Learning in 'CT of the neck' ...")

    def s11c_learned_here(self) -> None:
        learn = self.host.widget.learnHere
        learn.running = None
        learn._showRunning(False)
        changed = [("right submandibular gland", 2310), ("left brachiocephalic vein", 801), ("brainstem", 0)]
        structures = [{"name": name, "changed_voxels": count} for name, count in changed]
        ended = SimpleNamespace(cancelled=False, error=None, canBeUndone=False, result={"structures": structures})
        learn._name = "CT of the neck"
        learn._onEnd(ended)  # the longer of its two sentences

    def s11d_a_result_of_another_version(self) -> None:
        """Show what *Next scan* says of a result that the version in use did not make."""
        from TransferSegGui.nodes import SegmentedBy, segmentedBy

        node = self.host.widget._parameterNode.GetNodeReference("OutputSegmentation")
        made = segmentedBy(node)
        SegmentedBy("head-neck-ct", "17", ()).writeTo(node)
        told = self.host.widget.segmentPanel.otherModel(node)
        self.say(self.ui.correctionStatusLabel, f"'CT of the neck' is next. {told}")
        if made is not None:
            made.writeTo(node)

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
            "About 9 min of the 10 min given. 3 candidates learn from some of the patients and are tested on the "
            "others (each at most 90 s, about 163 steps of the last layers and 41 steps of all layers). The final one, "
            "which is kept, starts from their average and learns from all cases (at most 3.7 min, about 120 steps of "
            "all layers).",
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
        self.job(isFollowed=True)
        self.panel.plan._say("")
        self.ui.fineTuneProgressBar.setRange(0, 1000)
        self.ui.fineTuneProgressBar.setValue(680)
        message = "Comparison 2 of 3 on cases left out of training: training the last layers, loss 0.083"
        self.say(self.ui.fineTuneStatusLabel, progressText(0.68, 185.0, message))

    def s21_failed(self) -> None:
        self.job(isFollowed=False)
        self.ui.fineTuneLogText.setPlainText("reading case-0001\nreading case-0002")
        self.say(
            self.ui.fineTuneStatusLabel,
            "Not fine-tuned: cases/case-0002/image.nii.gz cannot be read as a scan: the file ends early.",
        )
        self.open("fineTune", "fineTuneLog")

    def s22_better(self) -> None:
        self.verdict("better", (0.65, 0.79))

    def s23_worse_with_all_cases(self) -> None:
        self.verdict("worse", (0.65, 0.5))
        self.ui.verdictCasesCheckBox.checked = True

    def s24_warned_of(self) -> None:
        self.verdict("trained too short to say", (0.65, 0.652), True)
        self.open("fineTune", "verdictDetails")

    def s24b_no_clear_difference(self) -> None:
        self.verdict("no clear difference", (0.65, 0.66))

    def s24ba_too_few_cases(self) -> None:
        """Show the longest verdict: new structures, and an old version that had learned from some of the scans."""
        from TransferSegLib.finetuning.parent_cases import ParentCases

        note = ParentCases(frozenset({"a", "b"})).note(("a", "b", "c", "d", "e"))
        self.verdict("looks usable, not certain yet", (0.65, 0.652), new=LONG_NAMES[:3], note=note)

    def s24c_promoted(self) -> None:
        self.verdict("worse", (0.65, 0.5))
        self.ui.promoteButton.click()
        self.host.waitFor(lambda: not self.panel.decision.isPromoting)
        said = self.ui.fineTuneStatusLabel.text
        self.verdict("worse", (0.65, 0.5))
        self.say(self.ui.fineTuneStatusLabel, said or "Version 2 of 'clinic' is in use now.")

    def s24d_promoted_in_the_history(self) -> None:
        self.open("model", "history")

    def s24e_rolled_back(self) -> None:
        self.ui.rollbackButton.click()
        self.host.waitFor(lambda: self.host.widget.modelPanel.history._switch is None)

    def s25_the_tour(self) -> None:
        self.set("Model", "bundled/head-neck-ct")
        self.verdict("better", (0.65, 0.79))
        self.host.widget.firstSteps._begin(4)

    def s26_the_tour_corrects(self) -> None:
        self.host.widget.firstSteps._say(
            "Step 2 of 6: look at the left parotid gland. Correct it with Paint or Erase, or say that it is right as "
            "it is.",
            "It is right",
            lambda: None,
        )
        self.ui.endGuideButton.setVisible(True)
        self.open("correct")

    def job(self, isFollowed: bool) -> None:
        """Let the section follow a job that runs, or was interrupted."""
        from TransferSegLib.jobs.events import JobState

        self.panel.plan.stop()
        self.panel.job = SimpleNamespace(
            id="",
            isFollowed=isFollowed,
            state=JobState.RUNNING if isFollowed else JobState.FAILED,
            request=SimpleNamespace(title="fine-tune head-neck-ct on balls", parameters={}),
            leave=lambda: None,
            log=lambda: "reading case-0001\nreading case-0002",
        )
        self.panel._updateButtons()

    def forget_history(self) -> None:
        """Remove the model whose versions are shown."""
        from TransferSegLib.models.locate import library_folder

        shutil.rmtree(library_folder() / "clinic")

    def verdict(
        self, word: str, dice: tuple[float, float], warned: bool = False, new: tuple[str, ...] = (), note: str = ""
    ) -> None:
        """Show a verdict as a run leaves it, on a known structure and a new one.

        ``new``: structures of which its first sentences speak; ``note`` ends these.
        """
        from test_verdict_table import result

        self.panel.job = None
        self.panel._updateButtons()
        answer = result() | {"model": "clinic", "version": 2}
        evidence = answer["evidence"]
        before, after = dice
        evidence["verdict"], evidence["reasons"] = word, [f"{headlineOf(word, dice, new)} {note}".strip(), NUMBERS]
        evidence["overall"] |= {"parent": before, "candidate": after}
        evidence["method"]["rows"][0] |= {"parent": before, "candidate": after}
        evidence["structures"][0]["word"] = "no clear difference" if new else word
        if new:
            evidence["new"][0]["word"] = word
        if warned:
            evidence["warnings"] = ["larynx was not corrected, and is predicted differently than before (0.88)."]
            evidence["promotion"] = {"warned": True, "obstacles": ["Two patients are too few."]}
        answer["notes"] = ["There was time for the last layers only: with more minutes all layers are trained."]
        self.panel.decision.show(answer, self.host.widget._parameterNode)
        self.say(self.ui.fineTuneStatusLabel, "Version 2 of 'clinic' was made in 5 min 48 s.")
        self.open("fineTune")

    def say(self, label, text: str) -> None:
        """Show a status line."""
        from TransferSegGui.status_line import say

        say(label, text)


def headlineOf(word: str, dice: tuple[float, float], new: tuple[str, ...] = ()) -> str:
    """Return the first sentences of a verdict on five patients: the mean before and after, and these new structures."""
    from TransferSegLib.evaluation.verdict import Answer, Change, NewStructure, Training, VerdictRule
    from TransferSegLib.evaluation.verdict_advice import headline
    from TransferSegLib.evaluation.verdict_rule import Usability

    before, after = dice
    mean = Change(None, 5, before, after, after - before, -0.1, 0.1, Answer(word))
    rows = [NewStructure(name, 5, 0.72, 0.6, word=Usability.LOOKS_USABLE, more_patients=12) for name in new]
    return headline(Answer(word), mean, [], rows, [], VerdictRule(), Training(10), more_patients=12).text()


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
    for line in host._area.widget().findChildren(qt.QLineEdit):
        if line.visible and line.placeholderText:
            room, width = placeholderRoom(line), line.fontMetrics().horizontalAdvance(line.placeholderText)
            if width > room:
                found.append(f"{line.objectName}: {line.placeholderText} ({width} px in {room} px)")
    for button in host._area.widget().findChildren(qt.QPushButton):
        if button.visible and button.width < button.minimumSizeHint().width():
            found.append(f"{button.objectName}: {button.text}")
    return found


def placeholderRoom(line) -> int:
    """Return how wide a placeholder may be in a QLineEdit before it is elided, pixels."""
    import qt

    option = qt.QStyleOptionFrame()
    line.initStyleOption(option)
    inside = line.style().subElementRect(qt.QStyle.SE_LineEditContents, option, line)
    margins = line.textMargins()
    return inside.width() - margins.left() - margins.right() - 2 * 2  # Qt's own margin on each side
