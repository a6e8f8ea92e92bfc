"""The section "Fine-tune": real clicks, real jobs in the background, curves, verdicts, and the decision about them."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import finetuning_world as world
from window_watch import WindowWatch

#: How long the window's thread may compute at a stretch, in units of ``window_watch.reference_s``.
MOST_REFERENCES = 15

#: So many steps that there is time to click before they are over.
LONG = {"tail_steps": 2, "steps": 4000, "patches_per_case": 1, "report_cases": 0, "checkpoint_every": 1}


def has_tone(ui, tone: str) -> bool:
    """Return whether the verdict is on a ground of this tone."""
    from TransferSegGui.colors import tint

    return ui.verdictLabel.palette.window().color().name() == tint(ui.verdictTable, tone).name()


@pytest.fixture
def balls(host, ui, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a project of three patients, chosen in the panel with the parent 'balls'; jobs are this test's."""
    from TransferSegLib.errors import JobError
    from TransferSegLib.jobs.status import read_state
    from TransferSegLib.jobs.store import list_jobs, request_cancel

    monkeypatch.setenv("TRANSFERSEG_JOBS", str(tmp_path / "jobs"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    world.put_parent(models)
    project = world.add_cases(tmp_path / "Fälle", [1, 2, 3])
    host.widget.enter()
    choose(host, project)
    yield project
    host.widget.fineTunePanel.stop()
    for folder in list_jobs(tmp_path / "jobs"):
        with suppress(JobError):
            request_cancel(folder)
        deadline = time.monotonic() + 60
        while not read_state(folder).ended and time.monotonic() < deadline:
            time.sleep(0.05)
    shutil.rmtree(models / "balls")
    host.widget.enter()


def choose(host, project: Path, settings: str | None = None) -> None:
    """Choose project, parent, processor and quick settings in the parameter node, as the other sections do."""
    node = host.widget._parameterNode
    node.SetParameter("Project", str(project))
    node.SetParameter("Model", "library/balls")
    node.SetParameter("Device", "cpu")
    node.SetParameter("FineTuneKnobs", settings or world.settings())


def ended(host) -> bool:
    return not host.widget.fineTunePanel.isRunning


def rows_of(node) -> list[list[str]]:
    rows, columns = range(node.GetNumberOfRows()), range(node.GetNumberOfColumns())
    return [[node.GetCellText(row, column) for column in columns] for row in rows]


def plotted() -> str:
    import slicer

    return slicer.app.layoutManager().plotWidget(0).mrmlPlotViewNode().GetPlotChartNodeID()


def ticks(ui) -> dict[str, bool]:
    table = ui.fineTuneCaseTable
    return {table.item(row, 0).text(): bool(int(table.item(row, 0).checkState())) for row in range(table.rowCount)}


def used_version(model: str) -> int | None:
    from TransferSegLib.models.locate import library_folder
    from TransferSegLib.models.versions.history import history

    return history(model, library_folder()).current


def test_from_cases_to_a_better_model_in_use_and_back(host, ui, balls: Path, capsys: pytest.CaptureFixture[str]):
    import slicer

    assert ticks(ui) == {"case-0001": True, "case-0002": True, "case-0003": True}
    assert ui.fineTuneModelLabel.text == "balls, version 1; creates a new version of 'balls'"
    assert ui.fineTuneButton.enabled and not ui.cancelFineTuneButton.enabled and not ui.promoteButton.enabled
    assert ui.promoteButton.toolTip == "There is no verdict yet." and not ui.verdictLabel.visible
    said: set[str] = set()
    ui.fineTuneProgressBar.connect("valueChanged(int)", lambda value: said.add(ui.fineTuneStatusLabel.text))
    with WindowWatch() as watch:
        ui.fineTuneButton.click()
        assert not ui.fineTuneButton.enabled and ui.fineTuneButton.toolTip == "Fine-tuning is running."
        assert ui.cancelFineTuneButton.enabled and not ended(host)
        assert not ui.showDiceButton.enabled and ui.showDiceButton.toolTip == "There is no curve yet."
        host.waitFor(lambda: ui.showLossButton.enabled)
        ui.showLossButton.click()
        assert plotted() == host.widget._parameterNode.GetNodeReference("FineTuneLossChart").GetID()
        host.waitFor(lambda: ended(host))
    with capsys.disabled():
        print(f"\n{watch}")
    assert watch.references < MOST_REFERENCES, f"the panel's own work never keeps the window: {watch}"

    assert ui.fineTuneStatusLabel.text.startswith("Version 1 of 'balls' was made in ")
    assert any("left: " in text and "%" in text for text in said), said
    first = ui.verdictLabel.text.splitlines()[0]
    assert first.startswith("Better. On scans left out of training, the new version is better (Dice 0.")
    assert first.endswith("). Promote uses the new version from now on.") and has_tone(ui, "#2e9d42")
    assert ui.verdictDetailsLabel.text.startswith("Over 3 patients, each measured by a network that was trained ")
    rows = rows_of(host.widget._parameterNode.GetNodeReference("FineTuneVerdict"))
    assert rows[0][:2] == ["mean", "all, 3 patients"] and float(rows[0][4]) > 0.5
    assert [row[1] for row in rows if row[0] == "bright"] == ["all 3", "case-0001", "case-0002", "case-0003"]
    (bright,) = [row for row in rows if row[:2] == ["bright", "all 3"]]
    low, high = map(float, bright[7].split(" to "))
    assert low < float(bright[3]) < high and bright[8] == "better"
    assert all(float(row[3]) - float(row[2]) == pytest.approx(float(row[4]), abs=1e-9) for row in rows)

    node = host.widget._parameterNode
    dice = slicer.util.arrayFromTableColumn(node.GetNodeReference("FineTuneDice"), "Dice")
    assert len(dice) == 3 and dice.min() > 0.5, "a point for each held-out case"
    loss = slicer.util.arrayFromTableColumn(node.GetNodeReference("FineTuneLoss"), "Loss")
    steps = slicer.util.arrayFromTableColumn(node.GetNodeReference("FineTuneLoss"), "Step")
    assert len(loss) > 2 and (steps[1:] > steps[:-1]).all() and 0 < loss.min() < loss[0]
    ui.showDiceButton.click()
    assert plotted() == node.GetNodeReference("FineTuneDiceChart").GetID()
    table = ui.verdictTable
    shown = [row for row in range(table.rowCount) if not table.isRowHidden(row)]
    assert [table.item(row, 0).text() for row in shown] == ["mean", "▸ bright: better"]
    assert table.item(shown[0], 3).text() == rows[0][4]
    assert "in other patients: 0." in table.item(1, 0).toolTip()
    world.check_worst_case(host, rows)

    assert used_version("balls") == 0, "nothing is promoted silently, a better one neither"
    versions = [
        [ui.historyTable.item(row, column).text() for column in range(4)] for row in range(ui.historyTable.rowCount)
    ]
    assert versions == [["1", "better", rows[0][4], ""], ["0", "original", "", "in use"]]
    assert "\nPlease check: dark was not corrected" in ui.verdictLabel.text and ".." not in ui.verdictLabel.text
    ui.promoteButton.click()
    assert not ui.promoteButton.enabled and "being read" in ui.promoteButton.toolTip
    assert ui.promoteButton.text == "Promoting ..." and ui.fineTuneStatusLabel.text == "Verifying version 1 ..."
    host.waitFor(lambda: not host.widget.fineTunePanel.decision.isPromoting)
    assert used_version("balls") == 1 and ui.fineTuneStatusLabel.text.startswith("Version 1 of 'balls' is in use now")
    assert ui.modelComboBox.currentText == "balls, version 1" and ui.promoteButton.text == "Promote"
    assert ui.verdictLabel.text.splitlines()[0].endswith("). The new version is in use now.")
    assert not ui.promoteButton.enabled and ui.promoteButton.toolTip == "Version 1 is already in use."
    assert ui.rollbackButton.enabled
    ui.rollbackButton.click()
    host.waitFor(lambda: not host.widget.modelPanel.history.isSwitching)
    assert used_version("balls") == 0 and ui.promoteButton.enabled
    ui.keepOldButton.click()
    assert used_version("balls") == 0 and not ui.keepOldButton.enabled
    assert ui.keepOldButton.toolTip == "The old version is kept."
    ui.fineTuneLogButton.collapsed = False
    assert "Verdict: better." in ui.fineTuneLogText.toPlainText()
    ui.fineTuneLogButton.collapsed = True


def test_only_ticked_cases_are_learned_from(host, ui, balls: Path):
    from TransferSegLib.jobs.request import read_request

    table = ui.fineTuneCaseTable
    for row in range(3):
        import qt

        table.item(row, 0).setCheckState(qt.Qt.Unchecked)
    assert not ui.fineTuneButton.enabled and ui.fineTuneButton.toolTip == "Tick at least one case to learn from."
    for row in (0, 2):
        table.item(row, 0).setCheckState(qt.Qt.Checked)
    ui.minutesSpinBox.setValue(7)
    ui.untilConvergedCheckBox.click()
    ui.seedSpinBox.setValue(11)
    ui.foldsSpinBox.setValue(2)
    ui.candidateNameLineEdit.setText("Klinik")
    assert ui.fineTuneModelLabel.text.endswith("creates a new version of 'Klinik'")
    panel = host.widget.fineTunePanel
    ui.fineTuneButton.click()
    ui.cancelFineTuneButton.click()
    asked = read_request(panel.job.folder)
    assert asked.title == "fine-tune Klinik on Fälle" and asked.device == "cpu"
    wanted = {"cases": ["case-0001", "case-0003"], "minutes": 7.0, "most_folds": 2, "name": "Klinik", "model": "balls"}
    assert {key: asked.parameters[key] for key in wanted} == wanted and asked.parameters["no_promote"] is True
    assert asked.parameters["until_converged"] is True
    ui.untilConvergedCheckBox.click()
    assert asked.parameters["configuration"]["seed"] == 11
    host.waitFor(lambda: ended(host))
    assert ui.fineTuneStatusLabel.text == "Cancelled. Resume continues from here."
    world.add_cases(balls, [4])
    host.widget.enter()
    assert ticks(ui) == {"case-0001": True, "case-0002": False, "case-0003": True, "case-0004": True}
    ui.candidateNameLineEdit.setText("head-neck-ct")
    assert not ui.fineTuneButton.enabled and "comes with TransferSeg" in ui.fineTuneButton.toolTip


def test_cancel_close_the_scene_come_back_and_resume(host, ui, balls: Path, tmp_path: Path):
    """A scene that is closed, and the module itself, hurt no job: the panel finds it and tells all of it."""
    import slicer
    from slicerhost.scene import openScene, saveScene

    from TransferSegLib.jobs.status import worker_is_alive

    panel = host.widget.fineTunePanel
    choose(host, balls, world.settings(**LONG))
    ui.fineTuneButton.click()
    host.waitFor(lambda: panel.curves is not None and not panel.curves.isEmpty)
    folder, job = panel.job.folder, panel.job.id
    saveScene(tmp_path / "scene.mrml")
    slicer.mrmlScene.Clear(False)
    assert worker_is_alive(folder)
    host.widget._parameterNode.SetParameter("Project", str(balls))
    assert panel.job.id == job and panel.isRunning, "a new scene finds the job of its project"
    slicer.mrmlScene.Clear(False)
    openScene(tmp_path / "scene.mrml")
    host.process()
    assert host.widget._parameterNode.GetParameter("FineTuneJob") == job
    host.waitFor(lambda: panel.curves is not None and not panel.curves.isEmpty)
    assert panel.job.id == job and panel.isRunning and worker_is_alive(folder)
    host.widget.cleanup()
    assert panel.job is None and worker_is_alive(folder), "as when Slicer is closed"
    panel, ui = host.openPanel().fineTunePanel, host.widget.ui
    host.waitFor(lambda: panel.job is not None and panel.isRunning)

    ui.cancelFineTuneButton.click()
    host.waitFor(lambda: ended(host))
    assert not worker_is_alive(folder) and ui.fineTuneStatusLabel.text.startswith("Cancelled.")
    assert ui.resumeFineTuneButton.enabled and "fine-tune balls on Fälle" in ui.resumeFineTuneButton.toolTip
    assert not ui.cancelFineTuneButton.enabled
    reached = panel.curves._last
    ui.resumeFineTuneButton.click()
    assert panel.isRunning and panel.job.id == job and not ui.resumeFineTuneButton.enabled
    host.waitFor(lambda: panel.curves._last > reached)
    ui.cancelFineTuneButton.click()
    host.waitFor(lambda: ended(host))


def test_a_worse_version_is_promoted_only_by_a_button_that_says_so(host, ui, balls: Path, tmp_path: Path):
    project = world.add_cases(tmp_path / "dark ones", [21, 22], ("dark",))
    choose(host, project, world.settings(steps=1))
    ui.strategyComboBox.setCurrentIndex(
        [ui.strategyComboBox.itemText(index) for index in range(3)].index("From random weights")
    )
    ui.fineTuneButton.click()
    host.waitFor(lambda: ended(host))
    # One step is no result; that the candidate lost nearly everything is told, and the button asks twice.
    assert ui.verdictLabel.text.startswith("Trained too short to say. The networks that were compared made ")
    assert "made 1 training step, " in ui.verdictLabel.text and has_tone(ui, "#ef8a17")
    assert ui.promoteButton.text == "Promote anyway" and ui.promoteButton.enabled
    assert ui.promoteButton.toolTip.startswith("Not recommended. ")
    assert used_version("balls") == 0
    ui.promoteButton.click()
    host.waitFor(lambda: not host.widget.fineTunePanel.decision.isPromoting)
    assert used_version("balls") == 1


def test_what_fails_is_told_with_the_end_of_the_log(host, ui, balls: Path):
    damaged = next(balls.rglob("*.nii.gz"), None) or next(path for path in balls.rglob("*") if path.suffix == ".nrrd")
    damaged.write_bytes(b"nothing")
    ui.fineTuneButton.click()
    host.waitFor(lambda: ended(host))
    text = ui.fineTuneStatusLabel.text
    assert text.startswith("Not fine-tuned: ") and damaged.name in text.splitlines()[0]
    assert "line " not in text, "where in the program it was found out is for the log"
    assert ui.resumeFineTuneButton.enabled and not ui.promoteButton.enabled and not ui.verdictLabel.visible
    host.widget._parameterNode.SetParameter("Project", str(balls.parent / "another"))
    assert not ui.resumeFineTuneButton.enabled, "it is not this project's job"
    host.widget._parameterNode.SetParameter("Project", str(balls))
    host.waitFor(lambda: ui.resumeFineTuneButton.enabled)  # found again, once its events are read


def test_nothing_to_do_is_said_in_the_tooltip(host, ui, balls: Path, tmp_path: Path):
    node = host.widget._parameterNode
    node.SetParameter("Project", str(tmp_path / "empty"))
    assert not ui.fineTuneButton.enabled and ui.fineTuneButton.toolTip == "Save corrected cases first."
    assert ui.fineTuneCaseTable.rowCount == 0
    node.SetParameter("Project", str(balls))
    node.SetParameter("FineTuneKnobs", "{")
    assert "further settings of fine-tuning are not valid JSON" in ui.fineTuneButton.toolTip
    node.SetParameter("FineTuneKnobs", '{"steps": -1}')
    assert "steps must be 0 or more" in ui.fineTuneButton.toolTip
    node.SetParameter("FineTuneKnobs", "")
    assert ui.fineTuneButton.enabled
    node.SetParameter("Model", "library/none")
    assert ui.fineTuneButton.toolTip == "Choose a model to start from."
    assert not ui.resumeFineTuneButton.enabled and ui.resumeFineTuneButton.toolTip == "There is no interrupted job."


def test_the_plan_is_shown_before_start(host, ui, balls: Path, tmp_path: Path):
    """Measured once for a project; other minutes are planned at once, and what cannot be is said."""
    from TransferSegGui.duration import roundText
    from TransferSegGui.finetune_plan import totalSeconds

    panel = host.widget.fineTunePanel
    ui.minutesSpinBox.setValue(30)
    assert ui.fineTunePlanLabel.text == "", "the section is closed: nothing is measured"
    ui.fineTuneCollapsibleButton.collapsed = False
    try:
        assert "Planning: " in ui.fineTunePlanLabel.text and ui.fineTuneButton.enabled
        assert ui.fineTuneButton.text == "Start"
        host.waitFor(lambda: not panel.plan.isMeasuring)
        text = ui.fineTunePlanLabel.text
        assert "of the 30 min given. 3 candidates learn from some of the patients and are tested on the others" in text
        assert "about 60 steps of the last layers" in text, text
        total = totalSeconds(panel.plan._measured[1], panel._request()[0])
        assert ui.fineTuneButton.text == f"Start ({roundText(total)})", "what it takes in all, before it is started"
        assert total < 30 * 60
        ui.minutesSpinBox.setValue(31)
        assert "of the 31 min given" in ui.fineTunePlanLabel.text and not panel.plan.isMeasuring
        ui.foldsSpinBox.setValue(2)
        assert ". 2 candidates learn from" in ui.fineTunePlanLabel.text
        ui.untilConvergedCheckBox.click()
        text = ui.fineTunePlanLabel.text
        assert "in rounds" in text and "at most 31 min" in text and "of the 10 min given" in text, text
        assert not panel.plan.isMeasuring
        ui.untilConvergedCheckBox.click()
        nothing = world.add_cases(tmp_path / "nothing drawn", [5, 6], shifts=None, drawn=False)
        choose(host, nothing)
        host.waitFor(lambda: "Not planned" in ui.fineTunePlanLabel.text)
        assert "None of the 2 cases has a voxel of what was reviewed (bright)" in ui.fineTunePlanLabel.text
        assert "draw it in at least one case" in ui.fineTunePlanLabel.text
        assert ui.fineTuneButton.text == "Start", "nothing is known of what it takes"
        ui.fineTuneCollapsibleButton.collapsed = True
        assert ui.fineTunePlanLabel.text == ""
    finally:
        ui.fineTuneCollapsibleButton.collapsed = True


def test_a_plan_that_is_refused_says_how_many_minutes_are_needed(host, ui, tmp_path: Path):
    """On a slow computer: a minute is too little for ten cases that take 20 s each."""
    import math

    from TransferSegGui.finetune_plan import neededMinutes, planText

    from TransferSegLib.finetuning.request import FineTuneRequest

    amount = {"cases": 10, "learnable": 10, "patients": 10, "fewest_folds": 2, "reported": 3, "tail_steps": 300}
    amount |= {"steps": 400, "patches": 16, "tail_share": 0.35, "cache_share": 0.6}
    speeds = {"read_s": 1.0, "predict_s": 20.0, "score_s": 1.0, "feature_s": 2.0, "tail_step_s": 0.5}
    speeds |= {"full_step_s": 8.0, "candidate_s": 1.0, "save_s": 2.0}
    measured = {"amount": amount, "speeds": speeds, "spent_s": 5.0, "warnings": ["Nothing can be said of larynx."]}
    text = planText(measured, FineTuneRequest(tmp_path, minutes=1.0))
    assert text.startswith("1 min is too little to learn anything from 10 cases on this machine: allow ")
    assert text.endswith("\nNothing can be said of larynx.")
    assert "--" not in text, "there are no options in the panel"
    needed = float(text.partition("allow ")[2].split()[0])
    assert 8 < needed < 30
    assert "candidates learn from some" in planText(measured, FineTuneRequest(tmp_path, minutes=needed))
    assert neededMinutes(measured, FineTuneRequest(tmp_path, minutes=1.0)) == math.ceil(needed)
    assert neededMinutes(measured, FineTuneRequest(tmp_path, minutes=needed)) is None
    plan, seconds = host.widget.fineTunePanel.plan, []
    before, plan.onTotal = plan.onTotal, seconds.append
    try:
        plan._measured = ("", measured)
        plan._tell(FineTuneRequest(tmp_path, minutes=1.0))
        assert plan.neededMinutes == math.ceil(needed) and seconds == [None]
    finally:
        plan.onTotal = before
    before(None)
    assert not ui.fineTuneButton.enabled
    plan.show(None)
    assert plan.neededMinutes is None


def test_what_is_left_is_told_when_something_is_done(host) -> None:
    """At the very beginning it is a wild guess: it was "3333 h 21 min left" once."""
    from TransferSegGui.finetune_panel import progressText

    assert progressText(0.0001, 12_000_000.0, "Planning") == "0 %: Planning"
    assert progressText(0.4, 185.0, "Training") == "40 %, 3 min 5 s left: Training"
