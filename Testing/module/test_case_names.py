"""Cases are called by their scans wherever the panel names them; the project keeps their numbers alone."""

from __future__ import annotations

import sys
from pathlib import Path

from correcting_world import add_volume, predicted, rows, save, tick

sys.path.insert(0, str(Path(__file__).parent))
import finetuning_world
from test_verdict_table import KNOWN, result

from TransferSegLib.corrections.project import Project


def corrected(host, ui, tmp_path: Path, seed: int, name: str, patient: str = "") -> str:
    """Correct and save another scan; returns the status line."""
    (tmp_path / f"made {seed}").mkdir()
    predicted(ui, add_volume(name, seed), tmp_path / f"made {seed}")
    tick(ui, "brainstem")
    ui.patientLineEdit.text = patient
    return save(host)


def column(table) -> list[str]:
    return [texts[0].strip() for texts in rows(table)]


def test_tables_and_messages_name_the_scan(host, ui, folder: Path, tmp_path: Path) -> None:
    assert corrected(host, ui, tmp_path, 1, "Neck Meyer").startswith("Neck Meyer (case-0001), revision 1, is saved.")
    corrected(host, ui, tmp_path, 2, "Neck Schulz")
    assert column(ui.caseTable) == column(ui.fineTuneCaseTable) == ["Neck Meyer", "Neck Schulz"]
    for table in (ui.caseTable, ui.fineTuneCaseTable):
        assert table.item(1, 0).toolTip().splitlines()[0] == "Neck Schulz (case-0002)"
    ui.caseTable.selectRow(1)
    ui.removeCaseButton.click()
    assert ui.correctionStatusLabel.text == "Neck Schulz (case-0002) is removed. It can be restored."
    assert column(ui.caseTable) == ["Neck Meyer", "Neck Schulz"]
    written = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    assert not any(b"Meyer" in content or b"Schulz" in content for content in written), "the project can be given away"


def saved_here(folder: Path, numbers: list[int], *names: str, patients: list[str] | None = None) -> None:
    """Add cases to a project as if they had been saved in this Slicer, from scans of these names."""
    from TransferSegGui.case_names import rememberName

    finetuning_world.add_cases(folder, numbers, patients=patients)
    revisions = Project(folder).state().current[-len(numbers) :]
    for revision, name in zip(revisions, names, strict=True):
        rememberName(revision.image_hash, name)


def test_scans_of_the_same_name_are_told_apart(host, ui, folder: Path) -> None:
    saved_here(folder, [1, 2, 3, 4], *["5: CT Thorax"] * 4, patients=["", "", "A", "A"])
    saved_here(folder, [5], "5: CT Thorax", patients=["B"])
    host.widget.enter()
    assert column(ui.caseTable) == column(ui.fineTuneCaseTable)
    assert column(ui.caseTable) == [
        "5: CT Thorax (case-0001)",
        "5: CT Thorax (case-0002)",
        "5: CT Thorax, patient 3 (case-0003)",
        "5: CT Thorax, patient 3 (case-0004)",
        "5: CT Thorax, patient 4",
    ]


def test_a_case_that_is_opened_has_the_name_of_its_scan_and_keeps_it(host, ui, folder: Path) -> None:
    saved_here(folder, [1], "Neck Meyer", patients=[""])
    host.widget.enter()
    ui.caseTable.selectRow(0)
    ui.openCaseButton.click()
    assert ui.correctionStatusLabel.text == "Neck Meyer (case-0001) is open. Saving it creates revision 2."
    assert ui.inputVolumeSelector.currentNode().GetName() == "Neck Meyer"
    assert ui.outputSegmentationSelector.currentNode().GetName() == "Neck Meyer corrected"
    assert "Neck Meyer (case-0001)" in ui.saveCorrectionButton.toolTip
    ui.inputVolumeSelector.currentNode().SetName("something else")
    assert save(host).startswith("Neck Meyer (case-0001), revision 2, is saved.")
    assert column(ui.caseTable) == ["Neck Meyer"]


def test_a_project_without_names_shows_numbers(host, ui, folder: Path) -> None:
    finetuning_world.add_cases(folder, [11, 12])
    host.widget.enter()
    assert column(ui.caseTable) == column(ui.fineTuneCaseTable) == ["case-0001", "case-0002"]
    ui.caseTable.selectRow(1)
    ui.openCaseButton.click()
    assert ui.correctionStatusLabel.text.startswith("case-0002 is open.")
    assert ui.inputVolumeSelector.currentNode().GetName() == "case-0002"


def test_names_outlive_the_project_s_place_and_no_other_project_takes_them(host, ui, folder: Path, tmp_path: Path):
    saved_here(folder, [1], "Neck Meyer", patients=[""])
    moved = folder.rename(tmp_path / "moved")
    ui.projectPathLineEdit.currentPath = str(moved)
    assert column(ui.caseTable) == ["Neck Meyer"]
    finetuning_world.add_cases(folder, [17])
    ui.projectPathLineEdit.currentPath = str(folder)
    assert column(ui.caseTable) == ["case-0001"], "where the first project was"


def test_the_verdict_names_the_scans(host, ui, folder: Path) -> None:
    saved_here(folder, [1, 2], "Neck Meyer", "Neck Schulz", patients=["", ""])
    host.widget.enter()
    panel = host.widget.fineTunePanel
    panel.cases.show(folder, ())
    panel.decision.caseNames = lambda: panel.cases.names
    try:
        panel.decision.show(result(), host.widget._parameterNode)
        cases = [text.strip() for text in column(ui.verdictTable)]
        assert "Neck Meyer" in cases and "Neck Schulz" in cases and "case-0003" in cases and "case-0001" not in cases
        number = cases.index("Neck Schulz")
        assert ui.verdictTable.item(number, 0).toolTip().splitlines()[0].endswith("Neck Schulz (case-0002)")
        assert f"Worst case: {KNOWN} in Neck Schulz (case-0002), Dice" in ui.worstCaseLabel.text
        ui.showWorstCaseButton.click()
        assert "Neck Schulz (case-0002) is open." in ui.fineTuneStatusLabel.text
    finally:
        panel.decision.caseNames = panel._caseNames
        panel.decision.show(None, host.widget._parameterNode)


def test_sentences_of_the_library_get_names_and_paths_stay(host, ui) -> None:
    from TransferSegGui.case_names import CaseNames

    scans = {"case-0001": "Neck 1", "case-0010": "Neck (10)"}
    names = CaseNames(scans, scans, {"case-0001": 1, "case-0010": 2})
    assert names.inText("reading case-0001") == "reading Neck 1 (case-0001)"
    assert names.inText("Case case-0010: it, and case-00100.") == "Case Neck (10) (case-0010): it, and case-00100."
    path = "cases/case-0001/revision-1/image.nrrd and C:\\cases\\case-0001 and case-0001.nrrd"
    assert names.inText(path) == path
    assert names.inText("Worst: case-0001.") == "Worst: Neck 1 (case-0001)."
    assert names.row("case-0001 part 2") == "Neck 1, part 2" and names.row("case-0002") == "case-0002"
    own = CaseNames({"3": "Neck", "larynx": "CT 5"}, {}, {})
    assert own.inText("Over 3 patients the larynx is better.") == "Over 3 patients the larynx is better."
    assert own.inText("Reading case 3, then case larynx.") == "Reading case Neck (3), then case CT 5 (larynx)."


def test_a_case_of_one_project_saved_in_another_gives_no_name(host, ui, folder: Path, tmp_path: Path) -> None:
    """The scan of a case without a name is called by its number there, which would be wrong here."""
    finetuning_world.add_cases(folder, [9])
    host.widget.enter()
    ui.caseTable.selectRow(0)
    ui.openCaseButton.click()
    other = tmp_path / "other project"
    ui.projectPathLineEdit.currentPath = str(other)
    assert save(host).startswith("case-0001, revision 1, is saved.")
    assert column(ui.caseTable) == ["case-0001"]


def test_a_long_name_wraps_in_a_narrow_panel(host, ui, folder: Path) -> None:
    from narrow_panel import cut_off, panel_of

    long = "HN-CHUM-2024_pat012_CT_neck_with_contrast_arterial_phase_2mm"
    saved_here(folder, [1, 2], long, "5: Portal venous phase, thorax and abdomen")
    host.widget.enter()
    assert ui.caseTable.item(0, 0).toolTip().splitlines()[0].startswith("HN-CHUM-2024")
    opened = (ui.correctCollapsibleButton, ui.fineTuneCollapsibleButton)
    for each in opened:
        each.collapsed = False
    try:
        with panel_of(host):
            for table in (ui.caseTable, ui.fineTuneCaseTable):
                assert [each for each in cut_off(table) if "\u200b" not in each] == [], table.objectName
                assert table.columnWidth(0) > 100
    finally:
        for each in opened:
            each.collapsed = True
