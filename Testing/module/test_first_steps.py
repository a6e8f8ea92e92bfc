"""A first run: what is missing is one sentence and one button; the tour goes through the loop with the sample."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from correcting_world import add_volume

from TransferSegLib.corrections.project import Project
from TransferSegLib.finetuning.time_plan import Amount, Speeds


def test_without_a_scan_the_tour_is_offered(host, ui) -> None:
    import slicer

    assert ui.guideFrame.visible and ui.guideButton.text == "Try it" and not ui.endGuideButton.visible
    assert ui.guideLabel.text == "Load a scan, or try TransferSeg with a sample scan in a few minutes."
    volume = add_volume()
    assert not ui.guideFrame.visible
    slicer.mrmlScene.RemoveNode(volume)
    assert ui.guideFrame.visible


def test_without_a_model_there_is_a_way_to_one(host, ui, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from TransferSegGui import model_choices

    monkeypatch.setattr(model_choices, "bundled_models", lambda: [])
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(tmp_path))
    host.widget.enter()
    assert ui.guideLabel.text == "There is no model on this computer yet." and ui.guideButton.text == "Get a model"
    ui.guideButton.click()
    assert not ui.modelCollapsibleButton.collapsed and not ui.moreModelsCollapsibleButton.collapsed
    ui.moreModelsCollapsibleButton.collapsed = True
    monkeypatch.undo()
    host.widget.enter()
    assert ui.guideButton.text == "Try it"


def test_without_cases_the_section_correct_is_opened(host, ui, folder: Path) -> None:
    ui.correctCollapsibleButton.collapsed = True
    ui.fineTuneCollapsibleButton.collapsed = False
    assert ui.noCasesLabel.visible and ui.goToCorrectButton.visible
    ui.goToCorrectButton.click()
    assert not ui.correctCollapsibleButton.collapsed and ui.fineTuneCollapsibleButton.collapsed
    ui.correctCollapsibleButton.collapsed = True
    ui.segmentCollapsibleButton.collapsed = ui.modelCollapsibleButton.collapsed = False


def test_without_a_project_that_can_be_used_the_section_says_why(host, ui, folder: Path) -> None:
    """The field with the project is in another section, which may be closed."""
    ui.fineTuneCollapsibleButton.collapsed = False
    ui.projectPathLineEdit.currentPath = ""
    assert ui.noCasesLabel.visible and ui.noCasesLabel.text == "Choose a project folder."
    assert not ui.fineTuneCaseTable.visible and not ui.fineTuneCaseLabel.visible, "an empty table says nothing"
    assert ui.goToCorrectButton.text == "Choose a project"
    ui.goToCorrectButton.click()
    assert ui.projectPathLineEdit.visible and not ui.caseTable.visible and not ui.openCaseButton.visible
    ui.projectPathLineEdit.currentPath = str(folder)
    assert ui.goToCorrectButton.text == "Correct a scan"
    ui.correctCollapsibleButton.collapsed = True
    ui.segmentCollapsibleButton.collapsed = ui.modelCollapsibleButton.collapsed = False


def _plan(host, speeds: Speeds) -> None:
    """Let the plan be that of a computer of such a speed, and measure no more."""
    plan = host.widget.fineTunePanel.plan
    plan.stop()
    amount = Amount(1, 1, 1, 2, 0, 300, 400, 16, 0.35, 0.6)
    plan._measured = (plan._key, {"amount": amount.to_json(), "speeds": speeds.to_json(), "spent_s": 5.0})
    plan._measured[1]["warnings"] = []
    host.widget.fineTunePanel.updateFromParameterNode()


def test_the_tour(host, ui, folder: Path) -> None:
    """Its button does each step, to the start of the fine-tuning; afterwards the user's choices are back."""
    node, steps = host.widget._parameterNode, host.widget.firstSteps
    node.SetParameter("Model", "bundled/head-neck-ct")
    ui.minutesSpinBox.setValue(30)
    ui.guideButton.click()
    assert steps.isTouring and ui.endGuideButton.visible
    assert ui.guideLabel.text.startswith("Step 1 of 6: the model finds seven structures")
    volume = ui.inputVolumeSelector.currentNode()
    assert volume.GetName().startswith("CT head and neck")
    assert volume.GetDisplayNode().GetWindow() == 400, "glands are seen"
    assert ui.minutesSpinBox.value == 2 and ui.projectPathLineEdit.currentPath.endswith("tour")
    ui.guideButton.click()
    host.waitFor(lambda: not ui.guideButton.enabled)  # the step is being done
    host.waitFor(lambda: ui.guideLabel.text.startswith("Step 2"), 900)
    assert not ui.correctCollapsibleButton.collapsed and ui.segmentCollapsibleButton.collapsed
    chosen = ui.reviewedTable.item(ui.reviewedTable.currentRow(), 0).text()
    assert chosen == "left parotid gland", "what the step speaks of is what Paint and Erase change"
    assert ui.guideButton.enabled
    ui.guideButton.click()
    host.waitFor(lambda: ui.guideLabel.text.startswith("Step 3"))
    project = Path(ui.projectPathLineEdit.currentPath)
    ui.guideButton.click()
    host.waitFor(lambda: ui.guideLabel.text.startswith("Step 4"), 900)
    (revision,) = Project(project).state().current
    assert revision.case.annotated == ("left parotid gland",)
    assert not ui.fineTuneCollapsibleButton.collapsed and ui.guideButton.text == "Start"
    assert not ui.guideButton.enabled, "first it is planned"
    _plan(host, Speeds(1.0, 9.0, 1.0, 0.5, 2.0, 8.0, 1.0, 1.0))
    host.waitFor(lambda: ui.guideButton.enabled)
    assert 2 < ui.minutesSpinBox.value < 30, "on so slow a computer two minutes do not suffice"
    assert ui.guideButton.text == ui.fineTuneButton.text and "min)" in ui.guideButton.text
    ui.guideButton.click()
    assert host.widget.fineTunePanel.isRunning
    ui.cancelFineTuneButton.click()
    host.waitFor(lambda: not host.widget.fineTunePanel.isRunning)
    assert ui.guideLabel.text.startswith("Step 4"), "it was not done"
    ui.endGuideButton.click()
    assert not steps.isTouring and not ui.guideFrame.visible
    assert ui.projectPathLineEdit.currentPath == str(folder) and ui.minutesSpinBox.value == 30
    ui.fineTuneCollapsibleButton.collapsed = True
    ui.segmentCollapsibleButton.collapsed = ui.modelCollapsibleButton.collapsed = False
    node.SetParameter("Model", "")


def test_after_the_last_step_the_users_own_work_begins(host, ui, folder: Path) -> None:
    """Another tour does not take the version that an earlier one made for its own."""
    from TransferSegLib.jobs.events import JobState

    class Earlier:
        state = JobState.DONE

    steps, panel = host.widget.firstSteps, host.widget.fineTunePanel
    add_volume()
    before, panel.job = panel.job, Earlier()
    try:
        steps._begin(3)
        assert not steps._isMade(), "it was there before"
        panel.job = Earlier()
        assert steps._isMade()
        steps._begin(5)
        assert ui.guideButton.text == "Done" and not ui.endGuideButton.visible, "one way out"
    finally:
        panel.job = before
    ui.guideButton.click()
    assert not steps.isTouring and not ui.segmentCollapsibleButton.collapsed
    assert ui.fineTuneCollapsibleButton.collapsed
    ui.modelCollapsibleButton.collapsed = False


@pytest.mark.parametrize("verdict", ["better", "too few cases to say"])
def test_before_the_end_the_tour_asks_for_the_decision(host, ui, folder: Path, verdict: str) -> None:
    """The button in the tour does what the verdict says; either button of the section ends the step."""
    from test_verdict_table import result

    from TransferSegLib.models.locate import library_folder
    from TransferSegLib.models.versions.history import history
    from TransferSegLib.models.versions.versions import promote

    steps, decision, node = host.widget.firstSteps, host.widget.fineTunePanel.decision, host.widget._parameterNode
    versions = Path(__file__).resolve().parents[1] / "Data" / "model_versions_1" / "clinic"
    shutil.copytree(versions, library_folder() / "clinic")
    promote("clinic", library_folder(), 0)
    shown = result() | {"model": "clinic", "version": 1}
    shown["evidence"]["verdict"] = verdict
    add_volume()
    try:
        decision.show(shown, node)
        steps._begin(4)
        assert "Promote uses the new version" in ui.guideLabel.text and ui.guideButton.enabled
        assert ui.endGuideButton.visible, "nobody has to decide"
        button = ui.promoteButton if verdict == "better" else ui.keepOldButton
        assert ui.guideButton.text == button.text and decision.recommended is button
        ui.guideButton.click()
        host.waitFor(lambda: not decision.isPromoting)
        steps.updateFromParameterNode()
        assert ui.guideLabel.text.startswith("Step 6 of 6: this was the whole loop") and ui.guideButton.text == "Done"
        assert history("clinic", library_folder()).current == (1 if verdict == "better" else 0)
    finally:
        steps.end()
        decision.show(None, node)
        shutil.rmtree(library_folder() / "clinic")
        host.widget.enter()
