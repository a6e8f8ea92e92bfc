"""Which structures are segmented: ticks, search, groups, what the scene remembers, and the console."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from TransferSegLib.anatomy import describe_structure
from TransferSegLib.models.store import load_model, save_model
from TransferSegLib.structures import LabelSet

TESTING = Path(__file__).resolve().parents[1]
MODEL = TESTING / "Data" / "model_format_1" / "model"
STRUCTURES = ["brainstem", "right parotid gland", "left parotid gland"]
RIBS = [f"left rib {number}" for number in range(1, 13)]
NAMES = ["liver", "left kidney", "right kidney", "aorta", *RIBS, "vertebra L1", "vertebra L2"]


@pytest.fixture
def many(host, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Offer a model with 18 structures, and the tiny one."""
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(tmp_path / "models"))
    model = load_model(MODEL)
    label_set = LabelSet(tuple(describe_structure(name, label) for label, name in enumerate(NAMES, start=1)))
    network = replace(model.description.network, classes=len(NAMES) + 1)
    description = replace(
        model.description, name="many", label_set=label_set, network=network, single_part=(), metrics={}, fit=None
    )
    generator = np.random.default_rng(5)
    state = {}
    for name, shape in shapes_of(description).items():
        state[name] = tensor(generator.normal(0, 0.2, shape))
    save_model(tmp_path / "models" / "many", description, state)
    save_model(tmp_path / "models" / "tiny", model.description, model.state_dict)
    host.widget.enter()
    host.widget._parameterNode.SetParameter("Model", "library/many")
    yield
    monkeypatch.undo()
    host.widget.enter()


def shapes_of(description):
    from TransferSegLib.models.store import expected_shapes

    return expected_shapes(description.network)


def tensor(values: np.ndarray):
    import torch

    return torch.from_numpy(values.astype(np.float32))


def listed(ui) -> list[str]:
    rows = range(ui.structureList.count)
    return [ui.structureList.item(row).text() for row in rows if not ui.structureList.item(row).isHidden()]


def ticked(ui) -> list[str]:
    import qt

    items = [ui.structureList.item(row) for row in range(ui.structureList.count)]
    return [item.text() for item in items if int(item.checkState()) == int(qt.Qt.Checked)]


def tick(ui, name: str, on: bool) -> None:
    import qt

    row = [ui.structureList.item(row).text() for row in range(ui.structureList.count)].index(name)
    ui.structureList.item(row).setCheckState(qt.Qt.Checked if on else qt.Qt.Unchecked)


def add_volume():
    import slicer

    voxels_zyx = np.linspace(-120, 500, 16 * 20 * 24).reshape(16, 20, 24).astype(np.int16)
    return slicer.util.addVolumeFromArray(voxels_zyx, name="CT")


def segment(host):
    ui = host.widget.ui
    assert ui.segmentButton.enabled, ui.segmentButton.toolTip
    ui.segmentButton.click()
    host.waitFor(lambda: not ui.cancelSegmentButton.enabled)
    return ui.outputSegmentationSelector.currentNode()


def test_search_and_groups_shorten_the_list_and_buttons_act_on_what_is_listed(host, ui, many):
    assert ui.structureSearchLineEdit.visible and listed(ui) == NAMES == ticked(ui)
    assert ui.structureCountLabel.text == "18 of 18 ticked"
    groups = [ui.structureGroupComboBox.itemText(index) for index in range(ui.structureGroupComboBox.count)]
    assert groups == ["All groups", "Organs (3)", "Vertebrae (2)", "Ribs (12)", "Bones (14)", "Vessels (1)"]
    ui.structureGroupComboBox.setCurrentIndex(groups.index("Ribs (12)"))
    assert listed(ui) == RIBS
    ui.noStructuresButton.click()
    assert ticked(ui) == [name for name in NAMES if name not in RIBS]
    ui.structureSearchLineEdit.text = "rib 1"
    assert listed(ui) == ["left rib 1", "left rib 10", "left rib 11", "left rib 12"]
    ui.onlyTheseStructuresButton.click()
    assert ticked(ui) == listed(ui) and ui.structureCountLabel.text == "4 of 18 ticked"
    ui.structureGroupComboBox.setCurrentIndex(0)
    ui.structureSearchLineEdit.text = "kidn left"
    assert listed(ui) == ["left kidney"]
    ui.allStructuresButton.click()
    assert ticked(ui) == ["left kidney", "left rib 1", "left rib 10", "left rib 11", "left rib 12"]
    ui.structureSearchLineEdit.text = ""
    assert listed(ui) == NAMES
    ui.noStructuresButton.click()
    add = add_volume()
    ui.inputVolumeSelector.setCurrentNode(add)
    assert not ui.segmentButton.enabled and ui.segmentButton.toolTip == "Tick at least one structure."


def test_the_choice_is_kept_in_the_scene_for_each_model(host, ui, many):
    node = host.widget._parameterNode
    tick(ui, "aorta", False)
    node.SetParameter("Model", "library/tiny")
    assert not ui.structureSearchLineEdit.visible and not ui.onlyTheseStructuresButton.visible, "three need no search"
    assert ticked(ui) == STRUCTURES
    tick(ui, "brainstem", False)
    assert json.loads(node.GetParameter("LeftOutStructures")) == {
        "library/many": ["aorta"],
        "library/tiny": ["brainstem"],
    }
    node.SetParameter("Model", "library/many")
    assert ticked(ui) == [name for name in NAMES if name != "aorta"]
    ui.allStructuresButton.click()
    assert json.loads(node.GetParameter("LeftOutStructures")) == {"library/tiny": ["brainstem"]}
    for damaged in ("nonsense", "[]", '{"library/many": 3}'):
        node.SetParameter("LeftOutStructures", damaged)
        assert ticked(ui) == NAMES


def test_only_the_ticked_structures_are_segmented_by_the_panel_and_the_console(host, ui, many):
    import slicer
    from TransferSegGui.nodes import segmentedBy

    host.widget._parameterNode.SetParameter("Model", "library/tiny")
    volume = add_volume()
    ui.inputVolumeSelector.setCurrentNode(volume)
    tick(ui, "brainstem", False)
    node = segment(host)
    assert segmentedBy(node).structures == ("right parotid gland", "left parotid gland")
    segmentation = node.GetSegmentation()
    names = [segmentation.GetNthSegment(index).GetName() for index in range(segmentation.GetNumberOfSegments())]
    assert "brainstem" not in names and names
    assert "of 2 structures found" in ui.segmentStatusLabel.text
    tick(ui, "brainstem", True)
    found, toSegment = ui.segmentStatusLabel.text.splitlines()
    assert "of 2 structures found" in found and toSegment == "Not in the result yet: brainstem. Segment again."
    tick(ui, "brainstem", False)

    logic = slicer.util.getModuleLogic("TransferSeg")
    assert segmentedBy(logic.segment(volume, model="tiny")).structures == ("right parotid gland", "left parotid gland")
    assert list(segmentedBy(logic.segment(volume, model="tiny", structures="all")).structures) == STRUCTURES
    assert segmentedBy(logic.segment(volume, model="tiny", structures=["brain"])).structures == ("brainstem",)
    assert logic.structureGroups("tiny") == {"organs": tuple(STRUCTURES[1:]), "brain": ("brainstem",)}
    for name in STRUCTURES:
        tick(ui, name, False)
    with pytest.raises(RuntimeError, match="No structure is ticked in the panel"):
        logic.segment(volume, model="tiny")


def test_the_keyboard_goes_from_the_search_through_the_list_to_the_buttons(host, ui, many):
    following, widget = [], ui.structureSearchLineEdit
    while len(following) < 40 and (not following or following[-1] != "showIn3DCheckBox"):
        widget = widget.nextInFocusChain()
        following.append(widget.name)
    wanted = ["structureGroupComboBox", "structureList", "allStructuresButton", "noStructuresButton"]
    wanted += ["onlyTheseStructuresButton", "showIn3DCheckBox"]
    assert [name for name in following if name in wanted] == wanted
    for widget in (ui.structureSearchLineEdit, ui.structureGroupComboBox, ui.structureList):
        assert widget.accessibleName and widget.toolTip
