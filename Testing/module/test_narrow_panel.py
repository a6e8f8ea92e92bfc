"""The panel at Slicer's default width: no table is cut off, nor with a large font; the verdict is above the curves."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from correcting_world import add_volume, predicted, save, tick

sys.path.insert(0, str(Path(__file__).parent))
from narrow_panel import cut_off, panel_of

VERSIONS = Path(__file__).resolve().parents[1] / "Data" / "model_versions_1" / "clinic"


def test_what_is_cut_off_is_found(host) -> None:
    """The check itself: it reports a word that does not fit, and a table that scrolls."""
    import qt

    table = qt.QTableWidget(1, 2)
    table.setHorizontalHeaderLabels(["A", "B"])
    table.setItem(0, 0, qt.QTableWidgetItem("submandibular"))
    table.setItem(0, 1, qt.QTableWidgetItem("x"))
    table.resize(400, 100)
    table.show()
    table.setColumnWidth(0, 300)
    table.setColumnWidth(1, 50)
    host.process()
    assert table.horizontalScrollBar().maximum == 0 and cut_off(table) == []
    table.setColumnWidth(0, 30)
    (problem,) = cut_off(table)
    assert problem.startswith("submandibular (")
    table.setColumnWidth(0, 900)
    host.process()
    assert cut_off(table) == ["horizontal scroll bar"]
    table.close()


@pytest.mark.parametrize("font_scale", [1.0, 1.5])
def test_cases(host, ui, folder: Path, tmp_path: Path, font_scale: float) -> None:
    for seed, names in ((1, ["right parotid gland"]), (2, ["brainstem", "right parotid gland"])):
        (tmp_path / str(seed)).mkdir()
        predicted(ui, add_volume(f"CT {seed}", seed), tmp_path / str(seed))
        for name in names:
            tick(ui, name)
        assert "is saved." in save(host)
    ui.correctCollapsibleButton.collapsed = False
    ui.fineTuneCollapsibleButton.collapsed = False
    try:
        with panel_of(host, font_scale=font_scale):
            for table in (ui.caseTable, ui.fineTuneCaseTable, ui.reviewedTable):
                assert table.rowCount and table.visible
                assert cut_off(table) == [], table.objectName
                assert not table.verticalHeader().visible
            assert ui.caseTable.item(1, 1).text() == "2 structures"
            assert "brainstem, right parotid gland" in ui.caseTable.item(1, 1).toolTip()
            assert "brainstem, right parotid gland" in ui.fineTuneCaseTable.item(1, 1).toolTip()
    finally:
        ui.correctCollapsibleButton.collapsed = True
        ui.fineTuneCollapsibleButton.collapsed = True


@pytest.mark.parametrize("font_scale", [1.0, 1.5])
def test_history(host, ui, models: Path, font_scale: float) -> None:
    shutil.copytree(VERSIONS, models / "clinic")
    try:
        host.widget.enter()
        host.widget._parameterNode.SetParameter("Model", "library/clinic")
        ui.historyCollapsibleButton.collapsed = False
        with panel_of(host, font_scale=font_scale):
            assert ui.historyTable.rowCount == 3 and ui.historyTable.visible
            assert cut_off(ui.historyTable) == []
            assert not ui.historyTable.verticalHeader().visible
        ui.historyCollapsibleButton.collapsed = True
    finally:
        shutil.rmtree(models / "clinic")
        host.widget.enter()


def test_the_verdict_is_above_curves_and_log(ui) -> None:
    rows = ui.fineTuneCollapsibleButton.layout()
    shown = (ui.fineTuneStatusLabel, ui.verdictLabel, ui.verdictTable, ui.worstCaseLabel, ui.fineTuneLogButton)
    order = [rows.getItemPosition(rows.indexOf(each))[0] for each in shown]
    assert order == sorted(order) and len(set(order)) == len(order)
    for button in (ui.showLossButton, ui.showDiceButton):
        assert button.parent() is ui.advancedCollapsibleButton


SECTIONS = ("model", "history", "moreModels", "segment", "correct", "fineTune", "advanced")


@contextmanager
def opened(ui, *names: str) -> Iterator[None]:
    """Open these sections and close the others, for a while."""
    buttons = {name: getattr(ui, f"{name}CollapsibleButton") for name in SECTIONS}
    before = {name: button.collapsed for name, button in buttons.items()}
    try:
        for name, button in buttons.items():
            button.collapsed = name not in names
        yield
    finally:
        for name, button in buttons.items():
            button.collapsed = before[name]


@pytest.mark.parametrize("font_scale", [1.0, 1.5])
def test_every_section_fits(host, ui, font_scale: float) -> None:
    """No section makes the panel wider than it is (panel_of looks), with all that it can show."""
    with opened(ui, *SECTIONS), panel_of(host, font_scale=font_scale):
        for button in (
            ui.fineTuneButton,
            ui.promoteButton,
            ui.saveCorrectionButton,
            ui.acceptButton,
            ui.showWorstCaseButton,
        ):
            fits = button.width >= button.minimumSizeHint().width()
            assert fits or not button.visible, button.objectName


def test_there_are_no_gaps(host, ui) -> None:
    """Between the end of a section's contents and the next section, and where a section is closed."""
    sections = [getattr(ui, f"{name}CollapsibleButton") for name in ("model", "segment", "correct", "fineTune")]
    with opened(ui), panel_of(host):
        for one, next_one in itertools.pairwise(sections):
            assert next_one.y - (one.y + 26) <= 12, (one.objectName, next_one.y - one.y)
    with opened(ui, "model", "segment"), panel_of(host):
        for section, next_one in itertools.pairwise(sections[:3]):
            end = section.y + max(each.y + each.height for each in section.children() if shown(each))
            assert 0 <= next_one.y - end <= 24, (section.objectName, next_one.y - end)
            contents = sorted((each.y, each.y + each.height) for each in section.children() if shown(each))
            bottom = contents[0][1]
            for top, end in contents[1:]:
                assert top - bottom <= 24, (section.objectName, top, bottom)
                bottom = max(bottom, end)


def shown(child) -> bool:
    return child.isWidgetType() and child.visible
