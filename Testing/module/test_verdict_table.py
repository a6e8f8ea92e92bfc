"""The table of a verdict: structures with bars, cases folded away, at Slicer's default width and in a dark style."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from contrast import contrast
from narrow_panel import cut_off, panel_of

KNOWN, NEW = "left parotid gland", "vertebrae"


def score(dice: float | None, hd95_mm: float | None = 4.2) -> dict[str, float | None]:
    return {"dice": dice, "hd95_mm": hd95_mm}


def result() -> dict:
    """Return what a fine-tuning of three cases answers: one structure is known, one is new."""
    case = {"parent": {KNOWN: score(0.8)}, "candidate": {KNOWN: score(0.7), NEW: score(0.6)}}
    cases = [
        {"case": "case-0002", "parent": {KNOWN: score(0.5)}, "candidate": {KNOWN: score(0.3), NEW: score(0.9)}},
        {"case": "case-0001"} | case,
        {"case": "case-0003", "parent": {}, "candidate": {NEW: score(0.75, None)}},
    ]
    rows = [
        {"structure": KNOWN, "cases": 2, "parent": 0.65, "candidate": 0.5, "hd95_mm": [4.2, 6.0]},
        {"structure": NEW, "cases": 3, "parent": None, "candidate": 0.75, "hd95_mm": [None, 4.2]},
        {"structure": "mandible", "cases": 0, "parent": None, "candidate": None, "hd95_mm": [None, None]},
    ]
    interval = {"interval": [0.4, 0.9]}
    evidence = {
        "verdict": "no clear difference",
        "reasons": [
            "On scans left out of training, the new version is about as good as the old one (Dice 0.50, before 0.65).",
            "Over 2 patients the mean Dice fell from 0.650 to 0.500 (90 % interval -0.30 to 0.00).",
        ],
        "warnings": [],
        "overall": {"parent": 0.65, "candidate": 0.5, "patients": 2} | interval,
        "structures": [{"structure": KNOWN, "word": "worse"} | interval],
        "new": [{"structure": NEW, "word": "usable"} | interval],
        "method": {"rows": rows},
        "held_out_cases": cases,
    }
    return {"evidence": evidence, "new_structures": [NEW], "notes": [], "model": "none", "version": 1}


@pytest.fixture
def table(host, ui, tmp_path: Path) -> Iterator:
    """Show the verdict in the open section, of a project without cases."""
    host.widget._parameterNode.SetParameter("Project", str(tmp_path / "without cases"))
    host.widget.fineTunePanel.decision.show(result(), host.widget._parameterNode)
    ui.fineTuneCollapsibleButton.collapsed = False
    host.process()
    yield ui.verdictTable
    host.widget.fineTunePanel.decision.show(None, host.widget._parameterNode)
    ui.fineTuneCollapsibleButton.collapsed = True


def shown(table) -> list[list[str]]:
    listed = [row for row in range(table.rowCount) if not table.isRowHidden(row)]
    return [[table.item(row, column).text() for column in range(table.columnCount)] for row in listed]


def click(host, table, row: int) -> None:
    """Click into a cell with the mouse."""
    import qt
    from PySide6.QtTest import QTest

    where = table.visualItemRect(table.item(row, 0)).center()
    QTest.mouseClick(table.viewport(), qt.Qt.LeftButton, qt.Qt.NoModifier, where)
    host.process()


def test_a_click_on_a_structure_lists_its_cases(host, ui, table) -> None:
    titles = [table.horizontalHeaderItem(column).text() for column in range(table.columnCount)]
    assert titles == ["Structure", "Before", "After", "Change"]
    mean = ["mean", "0.650", "0.500", "-0.150"]
    known = [f"{KNOWN}: worse", "0.650", "0.500", "-0.150"]
    new = [f"{NEW} (new): usable", "-", "0.750", "-"]
    folded = [mean, ["▸ " + known[0], *known[1:]], ["▸ " + new[0], *new[1:]]]
    assert shown(table) == folded
    click(host, table, 1)
    cases = [
        ["  case-0001", "0.800", "0.700", "-0.100"],
        ["  case-0002", "0.500", "0.300", "-0.200"],
    ]
    assert shown(table) == [mean, ["▾ " + known[0], *known[1:]], *cases, folded[2]]
    click(host, table, 2)
    assert len(shown(table)) == 5, "a case is no structure: nothing is folded"
    click(host, table, 1)
    assert shown(table) == folded
    ui.verdictCasesCheckBox.click()
    assert len(shown(table)) == 3 + 2 + 3
    ui.verdictCasesCheckBox.click()
    assert shown(table) == folded


def test_a_change_that_does_not_matter_has_no_colour(host, table) -> None:
    from TransferSegGui.verdict_rows import VerdictRow, changeText
    from TransferSegGui.verdict_table import _toneOf

    shown = {change: (changeText(row(change)), _toneOf(row(change))) for change in (0.004, -0.004, 0.006, None)}
    grey = _toneOf(VerdictRow("larynx", "", None, 0.5))
    assert (shown[0.004], shown[-0.004]) == (("+0.004", grey), ("-0.004", grey)), "green would say what is not so"
    assert shown[0.006] == ("+0.006", _toneOf(row(0.5))) and shown[0.006][1] != grey
    assert shown[None] == ("-", grey)


def test_before_after_and_change_agree(host, table) -> None:
    """Seen by a clinician: 0.91, 0.92, change 0.00."""
    from TransferSegGui.verdict_rows import VerdictRow, changeText, numberText

    for before, after in ((0.9149, 0.9151), (0.91449, 0.91551), (0.7951, 0.8549)):
        one = VerdictRow("larynx", "", before, after)
        shown = [float(text) for text in (numberText(one.before), numberText(one.after), changeText(one))]
        assert shown[2] == pytest.approx(shown[1] - shown[0], abs=1e-9)


def row(change: float | None):
    from TransferSegGui.verdict_rows import VerdictRow

    return VerdictRow("larynx", "", 0.5, None if change is None else 0.5 + change)


def test_the_colours_follow_the_style(host, ui, table) -> None:
    """Slicer's style is changed while a verdict is shown."""
    from dark_style import darkStyle

    def colors() -> tuple[str, str]:
        stops = table.item(1, 2).background().gradient().stops()
        return ui.verdictLabel.palette.window().color().name(), stops[0][1].name()

    def shown() -> str:
        return ui.verdictLabel.grab().toImage().pixelColor(1, 1).name()

    light = colors()
    host.widget.ui.fineTuneCollapsibleButton.collapsed = False
    host.process(50)
    assert shown() == light[0], "the colour is also painted"
    with darkStyle(host):
        host.widget.fineTunePanel.decision.update()  # as when the module is entered
        dark = colors()
        assert shown() == dark[0]
        paper, ink = (getattr(ui.verdictLabel.palette, role)().color() for role in ("window", "windowText"))
        assert contrast(paper, ink) >= 4.5, "the text has the style's colour, not that of the light one"
    assert light[0] != dark[0] and light[1] != dark[1]


@pytest.mark.parametrize("width", [400, 520])
def test_a_bar_is_as_long_as_its_dice(host, table, width: int) -> None:
    """Seen in the picture: Qt moves a brush to the cell's corner, and the cell may have another width than before."""
    with panel_of(host, width):
        for row, column, dice in ((1, 1, 0.65), (1, 2, 0.5), (0, 2, 0.5), (4, 2, 0.75)):
            cell = table.visualItemRect(table.item(row, column))
            picture = table.viewport().grab(cell).toImage()
            top = [picture.pixelColor(x, 1).name() for x in range(cell.width() - 1)]
            filled, ground = top[0], table.palette.base().color().name()
            assert filled != ground and top == [filled] * top.count(filled) + [ground] * top.count(ground)
            assert abs(top.count(filled) / cell.width() - dice) <= 1.5 / cell.width(), (row, column)


def test_the_verdict_follows_the_font(host, ui, table) -> None:
    """Slicer's font is changed while a verdict is shown."""
    import qt

    before = ui.verdictLabel.fontMetrics().height()
    with panel_of(host, font_scale=1.5):
        assert ui.verdictLabel.fontInfo().pointSizeF() == pytest.approx(qt.QApplication.font().pointSizeF(), abs=0.6)
        assert ui.verdictLabel.fontMetrics().height() > before
    assert ui.verdictLabel.fontMetrics().height() == before


def test_the_rest_is_in_tooltips_and_in_the_table_node(host, table) -> None:
    text = table.item(1, 2).toolTip()
    assert text.splitlines()[:3] == [KNOWN, "Verdict: worse", "Mean over 2 cases"]
    assert "Dice: 0.650 before, 0.500 after, change -0.150" in text
    assert "within 4.2 mm of your correction before, within 6.0 mm after" in text
    assert text.endswith("Dice to expect in other patients: 0.40 to 0.90")
    assert "\nMeasured with networks that were trained without these cases\n" in text
    node = host.widget._parameterNode.GetNodeReference("FineTuneVerdict")
    assert (node.GetNumberOfRows(), node.GetNumberOfColumns()) == (3 + 5, 9)
    assert [node.GetCellText(2, column) for column in range(7)] == [
        f"{NEW} (new)",
        "all 3",
        "-",
        "0.750",
        "-",
        "-",
        "4.2",
    ]


def test_a_tooltip_says_what_the_networks_were_trained_without(host) -> None:
    """Of one patient they learned from other parts: nothing was measured without that patient."""
    from TransferSegGui.verdict_rows import detailsText, summaryRows

    one = result()
    one["evidence"]["overall"]["patients"] = 1
    mean, *_ = summaryRows(one)
    assert "\nMeasured with networks that were trained without this patient\n" in detailsText(mean)
    one["evidence"]["method"]["weak"] = True
    for row in summaryRows(one):
        text = detailsText(row)
        assert "\nMeasured on parts of the scans, with networks that were trained on other parts of them\n" in text
        assert "trained without" not in text


def test_bars_are_as_long_as_dice_and_coloured_by_the_change(table) -> None:
    from TransferSegGui.colors import BAD, NEUTRAL, tint

    before, after = (table.item(1, column).background().gradient().stops() for column in (1, 2))
    assert before[1][0] == pytest.approx(0.65) and after[1][0] == pytest.approx(0.5)
    assert before[0][1].name() == tint(table, NEUTRAL).name() and after[0][1].name() == tint(table, BAD).name()
    base = table.palette.base().color().name()
    assert before[-1][1].name() == after[-1][1].name() == base
    assert table.item(2 + 2, 1).background().gradient() is None, "there is nothing before a new structure"


def test_what_to_do_is_read_first_and_statistics_are_folded_away(host, ui, table) -> None:
    from TransferSegGui.verdict_card import verdictText

    first, *more = ui.verdictLabel.text.splitlines()
    assert first == (
        "No clear difference. On scans left out of training, the new version is about as good as the old one "
        "(Dice 0.50, before 0.65)."
    )
    assert not more and "interval" not in first
    assert ui.verdictDetailsButton.visible and ui.verdictDetailsButton.collapsed
    details = ui.verdictDetailsLabel.text.splitlines()
    assert details[0].startswith("Over 2 patients the mean Dice fell")
    assert any(line.startswith("Dice is the overlap") for line in details), "each term is explained"
    assert any(line.startswith("A 90 % interval is") for line in details)
    better = result()
    better["evidence"]["verdict"] = "better"
    assert verdictText(better).splitlines()[0].endswith("Promote uses the new version from now on.")
    assert verdictText(better, isUsed=True).splitlines()[0].endswith("). The new version is in use now."), "of old runs"
    assert verdictText(better, isDecided=True).splitlines()[0].endswith("You keep the old version.")


def test_nobody_is_told_to_keep_the_old_version_while_the_new_one_is_used() -> None:
    """After a promotion against the advice it read as if the old version were in use."""
    from TransferSegGui.verdict_card import verdictText

    worse = result()
    measured = "On scans left out of training, the new version is worse (Dice 0.50, before 0.65)."
    worse["evidence"] |= {
        "verdict": "worse",
        "reasons": [f"{measured} Keep the old version, and check your corrections."],
        "first_in_use": f"{measured} Check your corrections.",
    }
    assert verdictText(worse) == f"Worse. {measured} Keep the old version, and check your corrections."
    inUse = "Check your corrections. The new version is in use now."
    assert verdictText(worse, isUsed=True) == f"Worse. {measured} {inUse}"
    # Results of earlier versions have one text for both.
    del worse["evidence"]["first_in_use"]
    assert verdictText(worse, isUsed=True) == f"Worse. {measured} The new version is in use now."
    worse["evidence"]["reasons"] = [f"{measured} Keep the old version. More corrected scans would show it."]
    shows = "More corrected scans would show it. The new version is in use now."
    assert verdictText(worse, isUsed=True) == f"Worse. {measured} {shows}"
    worse["evidence"]["reasons"] = []
    assert verdictText(worse, isUsed=True) == "Worse. The new version is in use now."


def test_the_worst_case_is_named(ui, table) -> None:
    text = f"Worst case: {KNOWN} in case-0002, Dice 0.500 before, 0.300 after."
    assert ui.worstCaseLabel.text == text and ui.worstCaseLabel.visible and ui.showWorstCaseButton.visible
    ui.showWorstCaseButton.click()
    assert ui.fineTuneStatusLabel.text == "case-0002 is not in the project any more."


def test_without_a_verdict_nothing_can_be_decided(host, ui, table) -> None:
    host.widget.fineTunePanel.decision.show(None, host.widget._parameterNode)
    hidden = (table, ui.verdictCasesCheckBox, ui.worstCaseLabel, ui.showWorstCaseButton, ui.verdictLabel)
    for widget in (*hidden, ui.verdictDetailsButton):
        assert not widget.visible
    for button in (ui.promoteButton, ui.keepOldButton):
        assert not button.enabled and button.toolTip == "There is no verdict yet."


@contextmanager
def dark() -> Iterator[None]:
    """Let the application be dark for a while, as Slicer's dark style is."""
    import qt

    before, palette = qt.QApplication.palette(), qt.QPalette()
    for role, color in (
        (qt.QPalette.Window, "#353535"),
        (qt.QPalette.Base, "#232323"),
        (qt.QPalette.AlternateBase, "#2d2d2d"),
        (qt.QPalette.Text, "#f0f0f0"),
        (qt.QPalette.WindowText, "#f0f0f0"),
        (qt.QPalette.ButtonText, "#f0f0f0"),
        (qt.QPalette.Button, "#353535"),
    ):
        palette.setColor(role, qt.QColor(color))
    qt.QApplication.setPalette(palette)
    try:
        yield
    finally:
        qt.QApplication.setPalette(before)


@pytest.mark.parametrize("font_scale", [1.0, 1.5])
@pytest.mark.parametrize("is_dark", [False, True])
def test_at_the_default_width(host, ui, table, font_scale: float, is_dark: bool) -> None:
    with dark() if is_dark else panel_of(host):
        host.process()
        host.widget.fineTunePanel.decision.show(result(), host.widget._parameterNode)
        with panel_of(host, font_scale=font_scale):
            ui.verdictCasesCheckBox.checked = True
            host.process(100)
            assert cut_off(table) == []
            for row in range(table.rowCount):
                for column in range(1, table.columnCount):
                    brush = table.item(row, column).background()
                    stops = brush.gradient().stops() if brush.gradient() is not None else [(0, brush.color())]
                    paper = stops[0][1] if brush.style() else table.palette.base().color()
                    ink = table.palette.text().color()
                    assert contrast(paper, ink) >= 4.5, "readable, WCAG AA"
