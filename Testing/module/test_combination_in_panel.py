"""A combination of models from the panel: described, its structures chosen, run, and fetched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import SimpleITK as sitk

from Testing.totalsegmentator_fixtures import TOTAL, TotalSegmentatorFixture, scan, with_combination
from TransferSegLib.models.library import remove_model

NAME = "totalsegmentator-total"
FIXTURE = TotalSegmentatorFixture(TOTAL)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a library with five models of TotalSegmentator's format and their combination."""
    return with_combination(tmp_path_factory.mktemp("five"), NAME, FIXTURE.models)


@pytest.fixture
def library(host, models: Path, imported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Return a copy of them for this test, with the combination chosen."""
    shutil.copytree(imported, tmp_path / "models")
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(tmp_path / "models"))
    host.widget.enter()
    host.widget._parameterNode.SetParameter("Model", f"library/{NAME}")
    yield tmp_path / "models"
    monkeypatch.undo()
    host.widget.enter()


def test_a_combination_is_described_and_segments(host, ui, library: Path, tmp_path: Path):
    import slicer
    from TransferSegGui.nodes import segmentedBy

    assert ui.modelComboBox.currentText == f"{NAME}, 5 models"
    structures, working, purpose = ui.modelDetailsLabel.text.splitlines()
    assert structures.startswith("117 structures: spleen, ") and "CT, works at 1.5 mm" in working
    assert "licence Apache-2.0" in working and f"{NAME}-ribs" in purpose
    assert "costal cartilages" in ui.modelDetailsLabel.toolTip
    assert "combination" in ui.useVersionButton.toolTip and "combination" in ui.rollbackButton.toolTip
    ui.exportModelPathLineEdit.setCurrentPath(str(tmp_path / "model.zip"))
    assert "combination" in ui.exportModelButton.toolTip
    ui.exportModelPathLineEdit.setCurrentPath("")
    assert not ui.fineTuneButton.enabled
    assert ui.fineTuneButton.toolTip == "A combination of models cannot be fine-tuned: choose one of its models."
    groups = [ui.structureGroupComboBox.itemText(index) for index in range(ui.structureGroupComboBox.count)]
    ui.structureGroupComboBox.setCurrentIndex(groups.index("Ribs (25)"))
    ui.structureSearchLineEdit.text = "rib left 1"
    ui.onlyTheseStructuresButton.click()
    assert ui.structureCountLabel.text == "4 of 117 ticked"
    sitk.WriteImage(scan(), str(tmp_path / "ct.nii.gz"))
    volume = slicer.modules.volumes.logic().AddArchetypeVolume(str(tmp_path / "ct.nii.gz"), "CT", 0)
    ui.inputVolumeSelector.setCurrentNode(volume)
    assert ui.segmentButton.enabled, ui.segmentButton.toolTip
    ui.segmentButton.click()
    host.waitFor(lambda: not ui.cancelSegmentButton.enabled)
    node = ui.outputSegmentationSelector.currentNode()
    assert node is not None, ui.segmentStatusLabel.text
    by = segmentedBy(node)
    assert by is not None and by.model == NAME and by.version == "0+0+0+0+0"
    assert by.structures == ("left rib 1", "left rib 10", "left rib 11", "left rib 12")
    assert "of 4 structures" in ui.segmentStatusLabel.text


def test_a_missing_model_is_named(host, ui, library: Path):
    remove_model(f"{NAME}-ribs", library)
    host.widget.enter()
    assert ui.modelComboBox.currentText == f"{NAME} (incomplete)"
    assert f"models fetch {NAME}-ribs" in ui.modelDetailsLabel.text
    assert not ui.segmentButton.enabled and "cannot be used" in ui.segmentButton.toolTip


def test_the_console_takes_a_combination(host, library: Path):
    import slicer

    logic = slicer.util.getModuleLogic("TransferSeg")
    (model,) = [each for each in logic.models() if each.name == NAME]
    assert len(model.structures) == 117 and model.spacing_mm == 1.5 and model.versions == ()
    assert len(logic.structureGroups(NAME)["ribs"]) == 25, "24 and their cartilages"


def test_a_combination_is_offered_for_fetching(host, ui, library: Path):
    names = [ui.fetchModelComboBox.itemText(index) for index in range(ui.fetchModelComboBox.count)]
    assert NAME not in names and "totalsegmentator-headneck-muscles" in names
    ui.fetchModelComboBox.setCurrentIndex(names.index("totalsegmentator-headneck-muscles"))
    lines = ui.fetchDetailsLabel.text.splitlines()
    assert lines[0].startswith("23 structures: ") and "of unknown size" in lines[1]
    assert lines[2] == (
        "2 models that segment one after another: totalsegmentator-headneck-muscles-1, "
        "totalsegmentator-headneck-muscles-2"
    )
    assert ui.fetchModelButton.enabled, ui.fetchModelButton.toolTip
