"""The states of the panel that take most room: nothing is cut off, with a large font and in a low window."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path

import pytest
from contrast import OF_OTHERS, contrast, faint, iconContrast
from narrow_panel import panel_of
from panel_states import SECTIONS, TOP, WIDTHS, PanelStates, problems

#: Slicer's functions and Qt's classes that open windows.
OPENS_A_WINDOW = re.compile(
    r"\b(?:info|warning|error|delay|confirm\w+|tryWithError)Display\(|\bslicer\.util\.\w+Display\("
    r"|\b\w*MessageBox\b|\bmessageBox\(|\b\w+Dialog\b|\bQErrorMessage\b|\bQWizard\b|\bQSplashScreen\b"
)


@pytest.fixture
def states(host, ui, folder: Path, tmp_path: Path):
    """Return the states, and leave the panel as it was."""
    yield PanelStates(host, tmp_path)
    host.widget.firstSteps.stop()
    host.widget.fineTunePanel.decision.show(None, host.widget._parameterNode)
    host.widget.fineTunePanel.plan.stop()
    host.widget.fineTunePanel.job = host.widget.segmentPanel.run = None
    host.widget.ranking.running = host.widget.learnHere.running = None
    ui.regionComboBox.setCurrentIndex(0)
    PanelStates(host, tmp_path).open("model", "segment")


def test_long_names_fit_with_a_large_font(host, ui, states) -> None:
    """The longest word of a structure is not cut, "submandibular" among them."""
    for bring in (states.s05_segmenting, states.s06_segmented, states.s08_correct, states.s09_long_names):
        bring()
    with panel_of(host, WIDTHS[0], 1.5):
        assert problems(host) == []
        ui.patientLineEdit.placeholderText = "this scan counts as a patient of its own"
        (found,) = problems(host)
        assert found.startswith("patientLineEdit: this scan"), "the check itself: a placeholder that is cut off"


def test_every_placeholder_fits_with_a_large_font(host, ui, states) -> None:
    """Also where a field has a list beside it, or says which case it is of."""
    import qt

    seen: set[str] = set()

    def look(*sections: str) -> None:
        states.open(*sections)
        with panel_of(host, WIDTHS[0], 1.5):
            assert problems(host) == []
            lines = host._area.widget().findChildren(qt.QLineEdit)
            seen.update(each.objectName for each in lines if each.visible and each.placeholderText)

    states.s04_history()
    try:
        states.s04b_many_structures()
        look("segment")
    finally:
        states.forget_history()
        host.widget.enter()
    for bring in (states.s05_segmenting, states.s06_segmented, states.s08_correct, states.s09_long_names):
        bring()
    for number in range(12):
        ui.newStructureLineEdit.text = f"lymph node {number}"
        ui.addStructureButton.click()
    for bring in (states.s12_saving, states.s13_saved):
        bring()
    assert ui.patientLineEdit.placeholderText == "as saved before"
    look("correct")
    every = {each.objectName for each in host._area.widget().findChildren(qt.QLineEdit) if each.placeholderText}
    assert seen == every and len(every) == 4


def test_verdicts_fit_with_a_large_font(host, ui, states) -> None:
    states.s16_planning()
    for bring in (states.s23_worse_with_all_cases, states.s24_warned_of, states.s24ba_too_few_cases):
        bring()
        with panel_of(host, WIDTHS[0], 1.5):
            assert ui.promoteButton.visible and problems(host) == []
    said = ui.verdictLabel.text
    assert "Correct about 12 more scans of other patients" in said and "2 of these 5 scans" in said, "the longest"


@pytest.mark.parametrize("font_scale", [1.0, 1.5])
def test_a_window_of_1280_by_720(host, ui, states, font_scale: float) -> None:
    """The panel scrolls to all that it has; nothing makes the window higher."""
    import qt

    for bring in (states.s05_segmenting, states.s06_segmented, states.s08_correct, states.s09_long_names):
        bring()
    before = host.window.size
    try:
        host.window.resize(1280, 720)
        states.open(*SECTIONS)
        with panel_of(host, WIDTHS[0], font_scale):
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


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_what_is_shown_can_be_read(host, ui, states, is_dark: bool) -> None:
    """Texts and icons on the colours that the panel gives them: verdicts of every kind, bars, squares of structures."""
    import qt
    from dark_style import darkStyle

    panel = host._area.widget()
    with darkStyle(host) if is_dark else nullcontext():
        for bring in (states.s05_segmenting, states.s06_segmented, states.s08_correct, states.s09_long_names):
            bring()
        host.widget.enter()
        states.open("model", "segment", "correct")
        assert faint(panel) == []
        segments = states.node.GetSegmentation()
        for number, color in enumerate(("#ffffff", "#242424", "#ffff00", "#202060")):
            segments.GetNthSegment(number).SetColor(*qt.QColor(color).getRgbF()[:3])
        host.widget.correctPanel.reviewed.update()
        assert faint(panel) == [], "whatever colours the structures have"
        states.s16_planning()
        for bring in (
            states.s22_better,
            states.s23_worse_with_all_cases,
            states.s24_warned_of,
            states.s24b_no_clear_difference,
        ):
            bring()
            assert ui.verdictLabel.visible and ui.verdictTable.visible
            assert faint(panel) == [], bring.__name__
        palette = ui.verdictLabel.palette
        palette.setColor(qt.QPalette.Window, qt.QColor("#707070"))
        ui.verdictLabel.setPalette(palette)
        assert [each.partition(":")[0] for each in faint(panel)] == ["verdictLabel"], "the check itself"


def test_the_modules_icon_is_seen_in_both_styles(host) -> None:
    import qt
    from dark_style import darkPalette

    icon = qt.QIcon(str(TOP / "TransferSeg" / "Resources" / "Icons" / "TransferSeg.png"))
    for palette in (qt.QApplication.palette(), darkPalette()):
        assert iconContrast(icon, palette.window().color()) >= OF_OTHERS


def test_the_panel_opens_no_windows_of_its_own() -> None:
    """So none can be larger than a low screen: what is asked is asked in the panel, or by Slicer itself."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (TOP / "TransferSeg").rglob("*.py"))
    assert "qt.QPixmap" in sources, "it is these files that are looked at"
    own = sources.replace("self.delayDisplay(", "")  # the self-test's, for developers
    assert [each.group() for each in OPENS_A_WINDOW.finditer(own)] == []


@pytest.mark.parametrize(
    ("code", "opens"),
    [
        ("slicer.util.errorDisplay(str(error))", True),
        ('slicer.util.infoDisplay(_("Done."))', True),
        ("if slicer.util.confirmOkCancelDisplay(text):", True),
        ("with slicer.util.tryWithErrorDisplay(text):", True),
        ("errorDisplay(text)", True),
        ("slicer.util.messageBox(text)", True),
        ("slicer.util.delayDisplay(text)", True),
        ("progress = slicer.util.createProgressDialog()", True),
        ("slicer.util.openAddDataDialog()", True),
        ("qt.QMessageBox.warning(None, title, text)", True),
        ("qt.QErrorMessage()", True),
        ("ctk.ctkFileDialog()", True),
        ("self._onDisplay(node)", False),
        ("node.CreateDefaultDisplayNodes()", False),
        ("qt.QComboBox()", False),
    ],
)
def test_what_opens_a_window_is_found(code: str, opens: bool) -> None:
    assert bool(OPENS_A_WINDOW.search(code)) == opens


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
