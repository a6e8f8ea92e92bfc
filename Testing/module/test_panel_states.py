"""The states of the panel that take most room: nothing is cut off, with a large font and in a low window."""

from __future__ import annotations

from pathlib import Path

import pytest
from narrow_panel import panel_of
from panel_states import SECTIONS, WIDTHS, PanelStates, problems
from test_verdict_table import contrast


@pytest.fixture
def states(host, ui, folder: Path, tmp_path: Path):
    """Return the states, and leave the panel as it was."""
    yield PanelStates(host, tmp_path)
    host.widget.firstSteps.stop()
    host.widget.fineTunePanel.decision.show(None, host.widget._parameterNode)
    host.widget.fineTunePanel.plan.stop()
    ui.regionComboBox.setCurrentIndex(0)
    PanelStates(host, tmp_path).open("model", "segment")


def test_long_names_fit_with_a_large_font(host, states) -> None:
    """The longest word of a structure is not cut, "submandibular" among them."""
    for bring in (states.s05_segmenting, states.s06_segmented, states.s08_correct, states.s09_long_names):
        bring()
    with panel_of(host, WIDTHS[0], 1.5):
        assert problems(host) == []


def test_verdicts_fit_with_a_large_font(host, ui, states) -> None:
    states.s16_planning()
    for bring in (states.s23_worse_with_all_cases, states.s24_warned_of):
        bring()
        with panel_of(host, WIDTHS[0], 1.5):
            assert ui.promoteButton.visible and problems(host) == []


def test_a_window_of_1280_by_720(host, ui, states) -> None:
    """The panel scrolls to all that it has; nothing makes the window higher."""
    import qt

    for bring in (states.s05_segmenting, states.s06_segmented, states.s08_correct, states.s09_long_names):
        bring()
    before = host.window.size
    try:
        host.window.resize(1280, 720)
        states.open(*SECTIONS)
        with panel_of(host, WIDTHS[0]):
            assert (host.window.width, host.window.height) == (1280, 720)
            panel, area = host._area.widget(), host._area
            assert panel.height > area.height, "it scrolls"
            for button in panel.findChildren(qt.QPushButton):
                if button.visible:
                    area.ensureWidgetVisible(button)
                    host.process(1)
                    assert not button.visibleRegion().isEmpty(), button.objectName
            for table in panel.findChildren(qt.QTableWidget):
                assert table.maximumHeight <= 300 or not table.objectName, table.objectName
    finally:
        host.window.resize(before)


def test_tables_are_as_high_as_their_rows(host, ui, states) -> None:
    states.s04_history()
    try:
        with panel_of(host, WIDTHS[0]):
            table = ui.historyTable
            assert table.rowCount == 3 and table.verticalScrollBar().maximum == 0
            used = table.horizontalHeader().height + table.verticalHeader().length()
            assert used <= table.height <= used + 4
        ui.historyCollapsibleButton.collapsed = True
    finally:
        states.forget_history()
        host.widget.enter()


def test_boxes_without_a_tick_are_seen_in_a_dark_style(host, ui, states) -> None:
    """Their frames stand out from the ground by 3 to 1, as WCAG asks of controls, and go back in a light style."""
    from dark_style import darkStyle

    for bring in (states.s05_segmenting, states.s06_segmented, states.s08_correct):
        bring()
    light = ui.reviewedTable.palette.window().color().name()
    with darkStyle(host):
        host.widget.enter()
        assert frame_contrast(host, ui) >= 3 and not ui.reviewedTable.showGrid
        ui.segmentAheadCheckBox.checked = False
        picture = ui.segmentAheadCheckBox.grab().toImage()
        ground = ui.segmentAheadCheckBox.palette.base().color()
        assert most_contrast(picture, ground, 14) >= 3
        ui.segmentAheadCheckBox.checked = True
    host.widget.enter()
    assert ui.reviewedTable.palette.window().color().name() == light and ui.reviewedTable.showGrid


def frame_contrast(host, ui) -> float:
    """Return how much the box in the list's first row stands out from the ground."""
    host.process(50)
    table = ui.reviewedTable
    table.clearSelection()
    picture = table.viewport().grab().toImage().copy(0, 0, 18, table.rowHeight(0) - 1)
    return most_contrast(picture, table.palette.base().color(), 18)


def most_contrast(picture, ground, width: int) -> float:
    """Return the largest ratio of luminances between the ground and a pixel in the first columns of a picture."""
    pixels = [picture.pixelColor(x, y) for x in range(width) for y in range(picture.height())]
    return max(contrast(each, ground) for each in pixels)
