"""The section "Model": choice, devices, versions, fetching, import and export, on a real library of tiny models."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTING = Path(__file__).resolve().parents[1]
VERSIONS = TESTING / "Data" / "model_versions_1" / "clinic"
MODEL = TESTING / "Data" / "model_format_1" / "model"


@pytest.fixture
def clinic(host, models: Path) -> Iterator[Path]:
    """Return a model with versions 0 to 2 in the library."""
    folder = Path(shutil.copytree(VERSIONS, models / "clinic"))
    host.widget.enter()
    yield folder
    shutil.rmtree(folder)
    host.widget.enter()


def named(name: str, folder: Path) -> Path:
    """Return a copy of the tiny model with another name."""
    shutil.copytree(MODEL, folder)
    content = json.loads((folder / "model.json").read_text(encoding="utf-8")) | {"name": name}
    (folder / "model.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def choose(host, key: str) -> None:
    """Choose a model in the list, as the user does."""
    panel = host.widget.modelPanel
    keys = [choice.key for choice in panel._choices]
    host.widget.ui.modelComboBox.setCurrentIndex(keys.index(key))


def history_rows(ui) -> list[list[str]]:
    table = ui.historyTable
    return [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]


def test_what_is_chosen_is_described_and_kept_in_the_parameter_node(host, ui, clinic: Path):
    choose(host, "bundled/head-neck-ct")
    assert "7 structures: brainstem, spinal cord" in ui.modelDetailsLabel.text
    assert "CT, works at 3 mm" in ui.modelDetailsLabel.text
    assert (
        "Evidence: mean Dice 0.7" in ui.modelDetailsLabel.text and "on 20 validation cases" in ui.modelDetailsLabel.text
    )
    choose(host, "library/clinic")
    assert host.widget._parameterNode.GetParameter("Model") == "library/clinic"
    assert "Evidence: better, against" in ui.modelDetailsLabel.text
    host.widget._parameterNode.SetParameter("Model", "library/gone")
    assert ui.modelComboBox.currentIndex == -1
    assert ui.modelDetailsLabel.text == "The model 'library/gone' is not on this computer: choose another one."


def test_looking_again_reads_each_model_a_few_times_only(host, ui, clinic: Path, monkeypatch: pytest.MonkeyPatch):
    """It read the whole library once for each of the catalogue's many models: the window stood still meanwhile."""
    from TransferSegLib.models import archive, store

    read: list[str] = []
    parse = archive.parse_model_file
    monkeypatch.setattr(store, "parse_model_file", lambda text, source: [read.append(source), parse(text, source)][1])
    host.widget.modelPanel.refresh()
    assert any("clinic" in source for source in read)
    assert max(Counter(read).values()) <= 4, Counter(read)


def test_devices_are_asked_of_a_child_and_named(host, ui):
    host.waitFor(lambda: ui.deviceComboBox.itemText(0).startswith("Automatic: "))
    texts = [ui.deviceComboBox.itemText(index) for index in range(ui.deviceComboBox.count)]
    assert "CPU" in texts
    ui.deviceComboBox.setCurrentIndex(texts.index("CPU"))
    assert host.widget._parameterNode.GetParameter("Device") == "cpu"
    host.widget._parameterNode.SetParameter("Device", "cuda:7")
    assert ui.deviceComboBox.currentText == "cuda:7 (not found here)", "a scene of another computer is shown as it is"
    host.widget._parameterNode.SetParameter("Device", "auto")
    assert ui.deviceComboBox.currentIndex == 0


def test_versions_are_used_and_gone_back_on(host, ui, clinic: Path):
    choose(host, "library/clinic")
    rows = history_rows(ui)
    assert [row[0] for row in rows] == sorted((row[0] for row in rows), reverse=True) and rows[-1][0] == "0"
    (used,) = [row[0] for row in rows if row[3] == "in use"]
    other = next(index for index, row in enumerate(rows) if row[3] != "in use" and row[0] != "0")
    assert not ui.useVersionButton.enabled and ui.useVersionButton.toolTip == "Select a version in the table."
    ui.historyTable.selectRow([row[0] for row in rows].index(used))
    assert ui.useVersionButton.toolTip == "This version is already in use."
    ui.historyTable.selectRow(other)
    assert ui.useVersionButton.enabled
    ui.useVersionButton.click()
    assert not ui.useVersionButton.enabled and ui.useVersionButton.toolTip == "A version is being read."
    host.waitFor(lambda: not host.widget.modelPanel.history.isSwitching)
    assert [row[0] for row in history_rows(ui) if row[3] == "in use"] == [rows[other][0]]
    assert ui.modelStatusLabel.text.startswith(f"'clinic' is version {rows[other][0]} now")
    assert "versions" not in ui.modelStatusLabel.text, "no path"
    assert f"version {rows[other][0]}" in ui.modelComboBox.currentText, "the other sections see it too"
    assert ui.rollbackButton.enabled
    ui.rollbackButton.click()
    host.waitFor(lambda: not host.widget.modelPanel.history.isSwitching)
    assert history_rows(ui) == rows


def test_a_damaged_version_is_not_used_and_the_reason_is_told(host, ui, clinic: Path):
    choose(host, "library/clinic")
    rows = history_rows(ui)
    other = next(index for index, row in enumerate(rows) if row[3] != "in use" and row[0] != "0")
    (clinic / "versions" / rows[other][0] / "weights.pt").write_bytes(b"nothing")
    ui.historyTable.selectRow(other)
    ui.useVersionButton.click()
    host.waitFor(lambda: not host.widget.modelPanel.history.isSwitching)
    assert "weights.pt" in ui.modelStatusLabel.text and "\n" not in ui.modelStatusLabel.text
    assert history_rows(ui) == rows


def test_a_worse_version_is_used_only_by_a_button_that_says_so(host, ui, clinic: Path):
    number = next(each.name for each in (clinic / "versions").iterdir() if (each / "record.json").exists())
    record = json.loads((clinic / "versions" / number / "record.json").read_text(encoding="utf-8"))
    record["evidence"] |= {"verdict": "worse", "reasons": ["It lost 0.2."]}
    (clinic / "versions" / number / "record.json").write_text(json.dumps(record), encoding="utf-8")
    (clinic / "current.json").unlink()
    (clinic / "current.json.bak").unlink(missing_ok=True)
    choose(host, "library/clinic")
    host.widget.modelPanel.refresh()
    row = [row[0] for row in history_rows(ui)].index(number)
    ui.historyTable.selectRow(row)
    assert ui.useVersionButton.text == "Use it although it is worse" and ui.useVersionButton.toolTip == "It lost 0.2."
    ui.useVersionButton.click()
    host.waitFor(lambda: not host.widget.modelPanel.history.isSwitching)
    assert history_rows(ui)[row][0] == number and history_rows(ui)[row][3] == "in use"


def test_bundled_models_have_no_versions(host, ui):
    choose(host, "bundled/head-neck-ct")
    assert ui.historyTable.rowCount == 0
    ui.historyCollapsibleButton.collapsed = False
    assert ui.historyLabel.text.startswith("This model is included with TransferSeg and has no versions.")
    assert ui.historyLabel.visible and not ui.historyTable.visible and not ui.rollbackButton.visible
    ui.historyCollapsibleButton.collapsed = True
    for button in (ui.useVersionButton, ui.rollbackButton):
        assert not button.enabled and "included with TransferSeg" in button.toolTip


def test_out_to_a_file_and_in_from_a_file(host, ui, models: Path, tmp_path: Path):
    choose(host, "library/tiny")
    assert not ui.exportModelButton.enabled and ui.exportModelButton.toolTip == "Choose the file to write."
    ui.exportModelPathLineEdit.setCurrentPath(str(tmp_path / "model.zip"))
    ui.exportModelButton.click()
    host.waitFor(lambda: (tmp_path / "model.zip").exists() and host.widget.modelPanel.files._command is None)
    assert ui.modelStatusLabel.text == f"written to {tmp_path / 'model.zip'}"
    assert not ui.exportModelButton.enabled and "already" in ui.exportModelButton.toolTip, "nothing is overwritten"

    ui.importModelPathLineEdit.setCurrentPath(str(named("colleague", tmp_path / "from elsewhere")))
    ui.importModelButton.click()
    assert ui.fetchProgressBar.visible or ui.moreModelsCollapsibleButton.collapsed
    host.waitFor(lambda: host.widget.modelPanel.files._command is None)
    assert (models / "colleague" / "model.json").exists()
    try:
        assert host.widget._parameterNode.GetParameter("Model") == "library/colleague"
        assert ui.modelStatusLabel.text.startswith("'colleague' is in your library")
        ui.importModelPathLineEdit.setCurrentPath(str(tmp_path / "from elsewhere"))
        ui.importModelButton.click()
        host.waitFor(lambda: host.widget.modelPanel.files._command is None)
        assert ui.modelStatusLabel.text.startswith("Not imported: There is a model 'colleague' in the library already")
    finally:
        shutil.rmtree(models / "colleague")
        host.widget.enter()


def test_keras_weights_ask_for_h5py_first(host, ui, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import slicer
    from TransferSegGui import model_files, package_install

    there: list[str] = []
    for module in (package_install, model_files):
        monkeypatch.setattr(module, "h5pyIsInstalled", lambda: bool(there))
    host.widget.enter()
    panel = host.widget.modelPanel
    (tmp_path / "weights.h5").write_bytes(b"none")
    ui.importModelPathLineEdit.setCurrentPath(str(tmp_path / "weights.h5"))
    ui.moreModelsCollapsibleButton.collapsed = False
    assert ui.installH5pyButton.visible and not ui.importModelButton.enabled and not ui.fetchModelButton.enabled
    assert "h5py" in ui.importModelButton.toolTip and "h5py" in ui.fetchModelButton.toolTip
    monkeypatch.setattr(slicer.util, "pip_install", lambda what: (_ for _ in ()).throw(RuntimeError("no network")))
    ui.installH5pyButton.click()
    assert ui.modelStatusLabel.text == "h5py could not be installed: no network" and not panel.files._h5pyInstalled
    monkeypatch.setattr(slicer.util, "pip_install", there.append)
    ui.installH5pyButton.click()
    assert there == ["h5py>=3.8"] and ui.modelStatusLabel.text == "h5py is installed."
    assert ui.importModelButton.enabled and not ui.installH5pyButton.visible
    ui.moreModelsCollapsibleButton.collapsed = True
    ui.importModelPathLineEdit.setCurrentPath("")


def test_without_pytorch_it_is_one_sentence_and_one_button(host, ui, monkeypatch: pytest.MonkeyPatch):
    import types

    from TransferSegGui import first_steps, model_panel, segment_panel

    installed, asked = [], []
    for module in (first_steps, model_panel, segment_panel):
        monkeypatch.setattr(module, "torchIsInstalled", lambda: bool(installed))
    host.widget.enter()
    assert ui.guideFrame.visible and ui.guideButton.text == "Install PyTorch" and not ui.endGuideButton.visible
    assert "PyTorch, which is not installed yet" in ui.guideLabel.text
    assert ui.segmentButton.toolTip == "PyTorch is not installed yet."
    ui.modelCollapsibleButton.collapsed = True
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)  # the extension is missing: its import fails
    ui.guideButton.click()
    assert "Extensions Manager" in ui.modelStatusLabel.text and ui.modelStatusLabel.visible
    assert ui.guideButton.text == "Install PyTorch", "it can be tried again"

    class Logic:
        def installTorch(self, askConfirmation, torchVersionRequirement):
            asked.append((askConfirmation, torchVersionRequirement))
            installed.append(True)
            return object()

    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=Logic))
    ui.guideButton.click()
    assert asked == [(True, ">=2.4")] and ui.modelStatusLabel.text == "PyTorch is installed."
    assert ui.guideButton.text == "Try it", "what is missing next"


#: Carries every Python that a test starts to the test's server and catalogue.
SITE = """
import sys
from pathlib import Path
sys.path.append({testing!r})
from misbehaving_server import session_to
from TransferSegLib.models import fetch
from TransferSegLib.models import locate
fetch.new_session = lambda: session_to({port})
locate.resource_folders = lambda: [Path({resources!r})]
"""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host, models: Path):
    """Serve a model over a real connection, as the catalogue of this test and of its child processes says."""
    import misbehaving_server

    from TransferSegLib.models import locate
    from TransferSegLib.models.archive import export_model

    content = export_model(named("served-one", tmp_path / "served"), tmp_path / "served.zip").read_bytes()
    entry = json.loads((TESTING.parent / "Resources" / "Models" / "catalogue.json").read_text(encoding="utf-8"))
    del entry["models"][2:]
    entry["models"][1] |= {"name": "served-one", "about_bytes": len(content)}
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry["models"][1]["download"] |= {"kind": "transferseg", "git_blob": blob}
    resources = tmp_path / "Resources"
    shutil.copytree(locate.find_model(None), resources / "Models" / "head-neck-ct")
    (resources / "Models" / "catalogue.json").write_text(json.dumps(entry), encoding="utf-8")
    with misbehaving_server.Server(content) as server:
        site = tmp_path / "site"
        site.mkdir()
        text = SITE.format(testing=str(TESTING), port=server.port, resources=str(resources))
        (site / "sitecustomize.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(TESTING.parent)]))
        monkeypatch.setenv("TRANSFERSEG_JOBS", str(tmp_path / "jobs"))
        monkeypatch.setattr(locate, "resource_folders", lambda: [resources])
        host.widget.enter()
        yield server
    monkeypatch.undo()
    shutil.rmtree(models / "served-one", ignore_errors=True)
    host.widget.enter()


def test_fetch_cancel_and_fetch_again_from_there(host, ui, served, models: Path):
    import misbehaving_server
    import slicer

    panel = host.widget.modelPanel
    assert ui.fetchModelComboBox.currentText == "served-one" and ui.fetchModelButton.enabled
    assert "22 structures: aorta, " in ui.fetchDetailsLabel.text and "works at 1 mm" in ui.fetchDetailsLabel.text
    assert "licence Apache-2.0" in ui.fetchDetailsLabel.text and "Cite: Humpire" in ui.fetchDetailsLabel.toolTip
    assert not ui.cancelFetchButton.enabled and ui.cancelFetchButton.toolTip == "Nothing is being fetched."
    served.behaviours = [misbehaving_server.stalls_after(20_000)]
    ui.fetchModelButton.click()
    assert not ui.fetchModelButton.enabled and ui.fetchModelButton.toolTip == "A model is being fetched."
    host.waitFor(lambda: any(file.stat().st_size for file in models.rglob("*.part")))
    slicer.mrmlScene.Clear(False)
    assert panel.files._job is not None and panel.files._job.isFollowed, "a new scene, the same fetching"
    ui.cancelFetchButton.click()
    host.waitFor(lambda: panel.files._job is None)
    assert ui.modelStatusLabel.text.startswith("Not fetched: Stopped on request.")
    assert ui.fetchModelButton.enabled and not (models / "served-one").exists()
    ui.fetchModelButton.click()
    host.waitFor(lambda: panel.files._job is None)
    assert ui.modelStatusLabel.text == "'served-one' is in your library."
    assert served.ranges()[-1] is not None, "it went on from where it had stopped"
    assert host.widget._parameterNode.GetParameter("Model") == "library/served-one"
    assert not ui.fetchModelButton.enabled and "in your library" in ui.fetchModelButton.toolTip
