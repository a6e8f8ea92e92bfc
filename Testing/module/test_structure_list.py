"""The one list of structures in the section "Correct": what is drawn, right, shown, renamed and searched in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from correcting_world import add_volume, empty_segmentation, predicted, tick

sys.path.insert(0, str(Path(__file__).parent))
from narrow_panel import cut_off, panel_of


@pytest.fixture
def node(ui, tmp_path: Path):
    """Return a segmentation of brainstem, right and left parotid gland, in the open section."""
    segmentation, _labels = predicted(ui, add_volume(), tmp_path)
    ui.correctCollapsibleButton.collapsed = False
    yield segmentation
    ui.correctCollapsibleButton.collapsed = True


def item(ui, name: str, column: int = 0):
    table = ui.reviewedTable
    (row,) = [row for row in range(table.rowCount) if table.item(row, 0).text() == name]
    return table.item(row, column)


def id_of(node, name: str) -> str:
    return node.GetSegmentation().GetSegmentIdBySegmentName(name)


def listed(ui) -> list[str]:
    table = ui.reviewedTable
    return [table.item(row, 0).text() for row in range(table.rowCount) if not table.isRowHidden(row)]


def test_it_is_the_only_list(host, ui, folder: Path, node) -> None:
    import qt

    own = ui.segmentEditorWidget.findChild(qt.QWidget, "SegmentsTableView")
    assert own is not None and not own.visible and ui.reviewedTable.visible
    host.widget.correctPanel.refresh()
    assert not own.visible


def test_a_click_chooses_what_is_drawn(host, ui, folder: Path, node) -> None:
    import qt
    from PySide6.QtTest import QTest

    editor, table = ui.segmentEditorWidget, ui.reviewedTable
    rect = table.visualItemRect(item(ui, "left parotid gland", 1))
    QTest.mouseClick(table.viewport(), qt.Qt.LeftButton, qt.Qt.NoModifier, rect.center())
    assert editor.currentSegmentID() == id_of(node, "left parotid gland")
    editor.setCurrentSegmentID(id_of(node, "brainstem"))  # as by one of the editor's shortcuts
    assert [each.text() for each in table.selectedItems()][:1] == ["brainstem"]
    ui.newStructureLineEdit.text = "nodule"
    ui.addStructureButton.click()
    assert editor.currentSegmentID() == id_of(node, "nodule")
    assert [each.text() for each in table.selectedItems()][:1] == ["nodule"]


def test_a_double_click_renames(host, ui, folder: Path, node) -> None:
    tick(ui, "brainstem")
    item(ui, "brainstem").setText("  stem ")
    segment = node.GetSegmentation().GetNthSegment(0)
    assert segment.GetName() == "stem" and item(ui, "stem", 1).text() == "learned", "the tick stays"
    item(ui, "stem").setText("Right Parotid Gland")
    assert segment.GetName() == "stem" and listed(ui)[0] == "stem"
    assert ui.correctionStatusLabel.text == "There is already a structure 'Right Parotid Gland'."
    item(ui, "stem").setText(" ")
    assert segment.GetName() == "stem" and ui.correctionStatusLabel.text == "A structure needs a name."
    import qt

    editable = int(item(ui, "stem").flags()) & int(qt.Qt.ItemIsEditable)
    assert editable and not int(item(ui, "stem", 1).flags()) & int(qt.Qt.ItemIsEditable)


def test_structures_are_shown_and_hidden(host, ui, folder: Path, node) -> None:
    import qt

    display, segment = node.GetDisplayNode(), id_of(node, "right parotid gland")
    shown = item(ui, "right parotid gland", 2)
    assert display.GetSegmentVisibility(segment) and int(shown.checkState()) == int(qt.Qt.Checked)
    shown.setCheckState(qt.Qt.Unchecked)
    assert not display.GetSegmentVisibility(segment)
    assert display.GetSegmentVisibility(id_of(node, "brainstem"))
    display.SetSegmentVisibility(segment, True)
    assert int(shown.checkState()) == int(qt.Qt.Checked), "what is shown by other parts of Slicer is followed"


def test_many_structures_are_searched(host, ui, folder: Path) -> None:
    node = empty_segmentation(ui, add_volume(), *(f"rib {number}" for number in range(1, 12)))
    ui.correctCollapsibleButton.collapsed = False
    try:
        assert not ui.reviewedSearchLineEdit.visible
        ui.newStructureLineEdit.text = "left kidney"
        ui.addStructureButton.click()
        assert ui.reviewedSearchLineEdit.visible
        ui.reviewedSearchLineEdit.text = "KIDNEY left"
        assert listed(ui) == ["left kidney"]
        ui.reviewedSearchLineEdit.text = "rib 1"
        assert listed(ui) == ["rib 1", "rib 10", "rib 11"]
        node.GetSegmentation().RemoveSegment(id_of(node, "rib 11"))
        assert not ui.reviewedSearchLineEdit.visible and len(listed(ui)) == 11, "a few need no search"
    finally:
        ui.reviewedSearchLineEdit.text = ""
        ui.correctCollapsibleButton.collapsed = True


@pytest.mark.parametrize("font_scale", [1.0, 1.5])
def test_it_fits(host, ui, folder: Path, node, font_scale: float) -> None:
    if font_scale == 1.0:  # so long a word is cut off where letters are half as large again; its tooltip has it
        ui.newStructureLineEdit.text = "left submandibular gland"
        ui.addStructureButton.click()
    with panel_of(host, font_scale=font_scale):
        assert cut_off(ui.reviewedTable) == []
