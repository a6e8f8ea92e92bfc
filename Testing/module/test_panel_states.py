"""The states of the panel that take most room: nothing is cut off, with a large font and in a low window."""

from __future__ import annotations

from pathlib import Path

import pytest
from narrow_panel import panel_of
from panel_states import SECTIONS, WIDTHS, PanelStates, problems


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
