"""The order in which "Next scan" goes through a folder: by a ranking when there is one, else by the files' names."""

from __future__ import annotations

from pathlib import Path

import pytest
from correcting_world import empty_segmentation, save, temporary_folders, tick, write_scans
from held_jobs import HeldJobs
from narrow_panel import panel_of
from panel_states import problems

from TransferSegLib.corrections.kept_order import keep_order, kept_order
from TransferSegLib.corrections.suggestion import SuggestedScan, Suggestions
from TransferSegLib.models.locate import find_model

NAMES = "In the order of the file names"


@pytest.fixture
def scans(host, ui, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Choose a folder of three scans, and the tiny model; the cache is the test's own."""
    monkeypatch.setenv("TRANSFERSEG_CACHE", str(tmp_path / "cache"))
    place = write_scans(tmp_path / "scans", 1, 2, 3)
    host.widget._parameterNode.SetParameter("Model", "library/tiny")
    ui.scanFolderPathLineEdit.currentPath = str(place)
    yield place
    ui.scanFolderPathLineEdit.currentPath = ""
    host.widget._parameterNode.SetParameter("Model", "")


def keep(place: Path, project: Path, *numbers: int) -> None:
    """Keep an order as a ranking does."""
    ranked = tuple(SuggestedScan(place / f"scan {number}.nrrd", 0.5, 0.5, 0.5, ()) for number in numbers)
    keep_order(Suggestions(ranked, (), (), ()), place, find_model("tiny"), project)


def next_scan(ui) -> str:
    ui.nextScanButton.click()
    return ui.inputVolumeSelector.currentNode().GetName()


def test_the_next_scan_is_the_first_of_the_ranking(host, ui, folder: Path, scans: Path) -> None:
    assert ui.orderLabel.text == f"{NAMES}." and next_scan(ui) == "scan 1"
    keep(scans, folder, 3, 1, 2)
    host.widget.enter()
    assert ui.orderLabel.text == "Most doubtful and unusual first, by format-one, version 1.0."
    assert "was not measured" in ui.orderLabel.toolTip
    ui.correctCollapsibleButton.collapsed = False
    with panel_of(host, font_scale=1.5):
        assert ui.orderLabel.visible and problems(host) == []
    ui.correctCollapsibleButton.collapsed = True
    assert next_scan(ui) == "scan 3"
    empty_segmentation(ui, ui.inputVolumeSelector.currentNode(), "nodule")
    tick(ui, "nodule")
    save(host)
    assert next_scan(ui) == "scan 1" and "2 scans in the folder are not saved" in ui.correctionStatusLabel.text
    ahead = host.widget.correctPanel.accepting
    ahead.lookAhead()
    assert ahead.ahead._volume.GetName() == "scan 2", "what is segmented ahead is the next one of the ranking"
    ahead.ahead.stop()
    assert [next_scan(ui), next_scan(ui), next_scan(ui)] == ["scan 2", "scan 1", "scan 2"], "3 is saved"


def test_a_ranking_that_is_out_of_date_is_not_used(host, ui, folder: Path, scans: Path) -> None:
    keep(scans, folder, 3, 2, 1)
    host.widget._parameterNode.SetParameter("Model", "bundled/head-neck-ct")
    assert ui.orderLabel.text == f"{NAMES}: the ranking is of another model." and ui.rankButton.enabled
    assert next_scan(ui) == "scan 1"
    host.widget._parameterNode.SetParameter("Model", "library/tiny")
    assert ui.orderLabel.text.startswith("Most doubtful")
    write_scans(scans, 4)
    assert next_scan(ui) == "scan 2", "after scan 1, by name"
    assert ui.orderLabel.text == f"{NAMES}: 1 scan is not ranked yet."
    host.widget._parameterNode.SetParameter("Model", "library/gone")
    assert ui.orderLabel.text == f"{NAMES}: the ranking is of another model."
    assert not ui.rankButton.enabled and ui.rankButton.toolTip == "Choose a model in the section 'Model'."
    ui.scanFolderPathLineEdit.currentPath = ""
    assert not ui.orderLabel.visible and not ui.rankButton.visible


def test_ranking_in_the_background_cancelled_and_done(host, ui, folder: Path, scans: Path) -> None:
    ui.correctCollapsibleButton.collapsed = False
    ranking = host.widget.ranking
    assert ui.rankButton.visible and not ui.cancelRankButton.visible and not ui.rankProgressBar.visible
    ui.rankButton.click()
    assert ranking.running is not None and ui.orderLabel.text == "Ranking 3 scans ..."
    assert not ui.rankButton.visible and ui.cancelRankButton.visible and ui.rankProgressBar.visible
    ui.cancelRankButton.click()
    host.waitFor(lambda: ranking.running is None)
    assert ui.orderLabel.text == f"Not ranked. Ranking again continues. {NAMES}."
    assert not ui.cancelRankButton.visible and temporary_folders() == []
    ui.rankButton.click()
    ranking.running.onProgress(0.4, 12.0, "scan 2.nrrd")
    assert ui.orderLabel.text == "Ranking 3 scans ... 40 %, 12 s left" and ui.rankProgressBar.value == 400
    assert next_scan(ui) == "scan 1", "the panel can be used meanwhile"
    host.waitFor(lambda: ranking.running is None)
    assert ui.orderLabel.text.startswith("Most doubtful and unusual first"), ui.orderLabel.text
    files = kept_order(scans, folder).sorted(scans.iterdir())
    assert len(files) == 3
    expected = [each for each in files if each.stem != "scan 1"] if files[0].stem == "scan 1" else files
    assert next_scan(ui) == expected[0].stem, "scan 1 is shown already"
    ui.correctCollapsibleButton.collapsed = True


@pytest.mark.parametrize("other", ["", "another folder", "another project"])
def test_a_ranking_ends_with_the_choice_of_its_folder(
    host, ui, folder: Path, scans: Path, held_jobs: HeldJobs, tmp_path: Path, other: str
) -> None:
    """Nobody waits for it any more; what it saw is kept."""
    write_scans(tmp_path / "others", 7)
    ranking = host.widget.ranking
    ui.rankButton.click()
    run = ranking.running
    host.waitFor(lambda: held_jobs.begun == 1)
    ui.notesLineEdit.text = "a note"
    host.widget.enter()
    assert ranking.running is run and not run.cancelled, "its folder is chosen still"
    if other == "another project":
        ui.projectPathLineEdit.currentPath = str(tmp_path / other)
    else:
        ui.scanFolderPathLineEdit.currentPath = str(tmp_path / "others") if other else ""
    assert run.cancelled and ranking.running is None
    assert not ui.cancelRankButton.visible and not ui.rankProgressBar.visible
    host.waitFor(lambda: run.ended)
    assert temporary_folders() == [] and ranking._ending == []
    assert kept_order(scans, folder) is None
    assert ui.orderLabel.text == (f"{NAMES}." if other else "")
    if other == "another folder":
        held_jobs.let_one()
        ui.rankButton.click()
        host.waitFor(lambda: ranking.running is None)
        assert ui.orderLabel.text.startswith("Most doubtful"), "of the folder that is chosen now"


def test_what_cannot_be_ranked_is_told_and_a_closed_scene_stops_it(host, ui, folder: Path, scans: Path) -> None:
    import slicer

    ui.rankButton.click()
    slicer.mrmlScene.Clear(False)
    host.process()
    assert host.widget.ranking.running is None and temporary_folders() == []
    host.widget._parameterNode.SetParameter("Model", "library/tiny")
    ui.projectPathLineEdit.currentPath = str(folder)
    for number in (2, 3):
        (scans / f"scan {number}.nrrd").unlink()
    (scans / "scan 1.nrrd").write_bytes(b"no scan")
    ui.scanFolderPathLineEdit.currentPath = str(scans)
    ui.rankButton.click()
    assert ui.orderLabel.text == "Ranking 1 scan ..."
    host.waitFor(lambda: host.widget.ranking.running is None)
    text = ui.orderLabel.text
    assert text.startswith("Not ranked: None of the scans can be used. ") and text.endswith(f"{NAMES}.")
    assert "scan 1.nrrd" in text and str(scans) not in text
    (scans / "scan 1.nrrd").unlink()
    ui.rankButton.click()
    assert ui.orderLabel.text == f"Not ranked: there is no scan in {scans}. {NAMES}."
