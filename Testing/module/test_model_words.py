"""What the choice of a model tells of each one, and which models it offers but cannot run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from Testing.nnunet_fixtures import REGIONS, RESIDUAL, NnUNetFixture
from TransferSegLib.anatomy import describe_structure
from TransferSegLib.models.library import import_model
from TransferSegLib.models.store import load_model
from TransferSegLib.structures import LabelSet

TESTING = Path(__file__).resolve().parents[1]
MODEL = TESTING / "Data" / "model_format_1" / "model"


@pytest.fixture
def several_images(host, models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Put a model that needs two images of each patient into a library of this test's."""
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(tmp_path / "models"))
    yield import_model(NnUNetFixture(REGIONS).model, tmp_path / "models", "two-images").path
    monkeypatch.undo()
    host.widget.enter()


def with_structures(count: int):
    """Return the description of the tiny model with this many structures; its network is not looked at."""
    description = load_model(MODEL).description
    label_set = LabelSet(tuple(describe_structure(f"part {number}", number) for number in range(1, count + 1)))
    network = replace(description.network, classes=count + 1)
    return replace(description, label_set=label_set, network=network, single_part=())


def test_a_model_is_described_in_the_users_words(host, ui):
    from TransferSegGui.model_choices import modelChoices

    keys = [choice.key for choice in modelChoices()]
    host.widget.enter()
    ui.modelComboBox.setCurrentIndex(keys.index("bundled/head-neck-ct"))
    assert ui.modelDetailsLabel.text.splitlines() == [
        "7 structures: brainstem, spinal cord, right parotid gland, left parotid gland, oesophagus, larynx, mandible",
        "CT, works at 3 mm, 8.2 MB, licence Apache-2.0",
        "Trained from scratch with TransferSeg.",
        "Evidence: mean Dice 0.708 on 20 validation cases",
    ]
    assert "Trained on: Head and neck CT" in ui.modelDetailsLabel.toolTip
    assert "Cite: Humpire-Mamani" in ui.modelDetailsLabel.toolTip


def test_many_structures_are_counted_and_only_the_tooltip_names_all(host):
    from TransferSegGui.model_words import modelToolTip, structuresText

    description = with_structures(117)
    text = structuresText(description.label_set.names)
    assert text == "117 structures: part 1, part 2, part 3, part 4, part 5, part 6, part 7 and 110 more"
    assert "part 117" in modelToolTip(description)
    assert structuresText(["liver"]) == "1 structure: liver"


@pytest.mark.parametrize(
    ("parent", "configuration", "expected"),
    [
        (None, {}, "Trained from scratch with TransferSeg."),
        ("head-neck-ct version 3", {}, "Fine-tuned from head-neck-ct version 3."),
        (None, {"imported_from": {"file": "a.h5"}}, "Imported from Keras weights."),
        (
            None,
            {"imported_from": {}, "trained_by": {"trainer": "nnUNetTrainer", "configuration": "3d_fullres"}},
            "Trained with nnU-Net (nnUNetTrainer, 3d_fullres).",
        ),
    ],
)
def test_where_a_model_comes_from(host, parent: str | None, configuration: dict, expected: str):
    from TransferSegGui.model_words import originText

    description = load_model(MODEL).description
    provenance = replace(description.provenance, parent=parent, configuration=configuration)
    assert originText(replace(description, provenance=provenance)) == expected


def test_the_mean_of_several_folds_is_told(host, tmp_path: Path):
    from TransferSegGui.model_words import originText

    added = import_model(NnUNetFixture(RESIDUAL).model, tmp_path)
    text = originText(added.description)
    assert text == "Trained with nnU-Net (nnUNetTrainer, 3d_fullres); the mean of 2 folds is used."


def test_a_model_that_needs_several_images_is_offered_with_the_reason_why_not(host, ui, several_images: Path):
    import slicer

    host.widget.enter()
    host.widget._parameterNode.SetParameter("Model", "library/two-images")
    assert ui.modelComboBox.currentText.endswith("(needs several images)")
    assert ui.modelDetailsLabel.text.startswith("This model needs 2 images of each patient (T1, T2)")
    assert "3 structures: whole, core, enh" in ui.modelDetailsLabel.text
    for button in (ui.segmentButton, ui.fineTuneButton):
        assert not button.enabled and "needs 2 images" in button.toolTip
    ui.exportModelPathLineEdit.setCurrentPath(str(several_images.parent / "out.zip"))
    assert ui.exportModelButton.enabled, "it is whole: it can be given to others"
    ui.exportModelPathLineEdit.setCurrentPath("")
    logic = slicer.util.getModuleLogic("TransferSeg")
    assert "two-images" not in [model.path.name for model in logic.models()]
