"""A model of nnU-Net from the panel: imported as a file or a folder, described, and run."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from Testing.nnunet_fixtures import TRAINED, NnUNetFixture
from TransferSegLib.models.locate import library_models
from TransferSegLib.models.store import load_description

FIXTURE = NnUNetFixture(TRAINED)


@pytest.fixture
def library(host, models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Return an empty library of this test's."""
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(tmp_path / "models"))
    host.widget.enter()
    yield tmp_path / "models"
    monkeypatch.undo()
    host.widget.enter()


def import_with(host, path_edit, button, path: Path) -> None:
    """Choose a path and click Import, and wait until the model is there or refused."""
    path_edit.setCurrentPath(str(path))
    assert button.enabled, button.toolTip
    button.click()
    assert not button.enabled and button.toolTip == "A model is being imported or written."
    host.waitFor(lambda: host.widget.modelPanel.files._command is None)


def test_a_results_folder_of_nnunet_is_imported_and_described(host, ui, library: Path, tmp_path: Path):
    assert not ui.importFolderButton.enabled and ui.importFolderButton.toolTip == "Choose a folder first."
    with zipfile.ZipFile(FIXTURE.model) as archive:
        archive.extractall(tmp_path / "results")
    import_with(host, ui.importFolderPathLineEdit, ui.importFolderButton, tmp_path / "results")
    assert ui.importFolderPathLineEdit.currentPath == "", ui.modelStatusLabel.text
    assert ui.modelComboBox.currentText.endswith(", version 0")
    assert ui.modelDetailsLabel.text.splitlines()[0] == "2 structures: anterior, posterior"
    assert "MR, works at 1 mm" in ui.modelDetailsLabel.text and "licence not stated" in ui.modelDetailsLabel.text
    assert "Trained with nnU-Net (nnUNetTrainer" in ui.modelDetailsLabel.text
    (tmp_path / "empty").mkdir()
    import_with(host, ui.importFolderPathLineEdit, ui.importFolderButton, tmp_path / "empty")
    assert ui.modelStatusLabel.text.startswith("Not imported: ")


def test_one_structure_of_an_nnunet_model_is_segmented_as_nnunet_does(host, ui, library: Path):
    import qt
    import slicer
    from TransferSegGui.nodes import segmentedBy

    import_with(host, ui.importModelPathLineEdit, ui.importModelButton, FIXTURE.model)
    volume = slicer.modules.volumes.logic().AddArchetypeVolume(str(FIXTURE.images[0]), "MR", 0)
    ui.inputVolumeSelector.setCurrentNode(volume)
    assert not ui.structureSearchLineEdit.visible, "two structures need no search"
    ui.structureList.item(0).setCheckState(qt.Qt.Unchecked)
    assert ui.segmentButton.enabled, ui.segmentButton.toolTip
    ui.segmentButton.click()
    host.waitFor(lambda: not ui.cancelSegmentButton.enabled)
    node = ui.outputSegmentationSelector.currentNode()
    assert node is not None, ui.segmentStatusLabel.text
    assert segmentedBy(node).structures == ("posterior",) and "1 of 1 structure found" in ui.segmentStatusLabel.text
    (posterior,) = [structure for structure in described(library).label_set if structure.name == "posterior"]
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 1
    segment = segmentation.GetNthSegment(0)
    assert segment.GetName() == "posterior"
    assert [round(255 * part) for part in segment.GetColor()] == list(posterior.color)
    found_zyx = slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentation.GetNthSegmentID(0), volume)
    expected_zyx = posterior.label == FIXTURE.labels
    assert np.count_nonzero(expected_zyx) > 1000
    assert np.mean((found_zyx != 0) != expected_zyx) < 1e-4, "all but for rounding: CPUs may compute in bfloat16"


def described(library: Path):
    """Return the description of the one model in a library."""
    (model,) = library_models(library)
    return load_description(model)
