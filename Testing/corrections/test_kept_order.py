"""The order of a ranking is kept without names, by folder, project and model, and tells when it is out of date."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from TransferSegLib.corrections.kept_order import KeptOrder, keep_order, kept_order, mark, model_checksum
from TransferSegLib.corrections.suggestion import SuggestedScan, Suggestions

MODEL = Path(__file__).resolve().parents[1] / "Data" / "model_format_1" / "model"


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of six files, whose content is not looked at; the cache is the test's own."""
    monkeypatch.setenv("TRANSFERSEG_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(1, 7):
        (folder / f"patient {number}.nrrd").write_bytes(bytes(number))
    return folder


def file(scans: Path, number: int) -> Path:
    return scans / f"patient {number}.nrrd"


def suggestions(scans: Path, elsewhere: Path) -> Suggestions:
    ranked = tuple(SuggestedScan(each, 0.5, 0.5, None, ()) for each in (file(scans, 4), elsewhere, file(scans, 2)))
    return Suggestions(ranked, (file(scans, 1),), (file(scans, 5),), ((file(scans, 3), "no scan"),))


def kept(scans: Path, project: Path | None) -> KeptOrder:
    order = kept_order(scans, project)
    assert order is not None
    return order


def test_the_order_comes_back_without_what_is_done(scans: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "other.nrrd"
    elsewhere.write_bytes(b"x")
    keep_order(suggestions(scans, elsewhere), scans, MODEL, tmp_path / "project")
    order = kept(scans, tmp_path / "project")
    to_do = [each for each in scans.iterdir() if each not in (file(scans, 1), file(scans, 5))]
    assert order.sorted(to_do) == [file(scans, 4), file(scans, 2), file(scans, 3)], "3 only by hand: last"
    # A case that was removed from the project since is there again.
    assert order.sorted([file(scans, 1), *to_do])[-1] == file(scans, 1) and order.unranked([file(scans, 1)]) == 0
    assert len(order.ranked) == 2, "what is not in the folder is not of its order"
    assert order.unranked(scans.iterdir()) == 1, "patient 6"
    assert order.model == model_checksum(MODEL)
    assert kept_order(scans, None) is None and kept_order(scans, tmp_path / "another") is None
    assert kept_order(tmp_path, tmp_path / "project") is None
    text = "".join(each.read_text() for each in (tmp_path / "cache").rglob("*.json"))
    assert text and "patient" not in text and str(tmp_path) not in text, "no names are kept"


def test_a_file_that_changed_while_it_was_looked_at_is_not_ranked(scans: Path) -> None:
    seen = {scan: mark(scan) for scan in scans.iterdir()}
    file(scans, 2).write_bytes(b"longer than before")
    keep_order(suggestions(scans, file(scans, 6)), scans, MODEL, None, seen)
    assert kept(scans, None).unranked(scans.iterdir()) == 1


def test_a_link_to_the_folder_is_the_folder(scans: Path, tmp_path: Path) -> None:
    keep_order(suggestions(scans, file(scans, 6)), scans, MODEL, None)
    (tmp_path / "link").symlink_to(scans)
    assert kept(tmp_path / "link", None).sorted([file(tmp_path / "link", 2)]) == [file(tmp_path / "link", 2)]


def test_a_changed_file_is_not_ranked_any_more(scans: Path) -> None:
    keep_order(suggestions(scans, file(scans, 6)), scans, MODEL, None)
    order = kept(scans, None)
    assert order.unranked(scans.iterdir()) == 0
    file(scans, 2).write_bytes(b"longer than before")
    os.utime(file(scans, 4), ns=(0, 0))
    assert order.unranked(scans.iterdir()) == 2 and file(scans, 2) not in order.sorted(scans.iterdir())
    file(scans, 3).unlink()
    assert mark(file(scans, 3)) == "" and order.unranked([file(scans, 3)]) == 1


@pytest.mark.parametrize("damage", ["{", "[]", "7", '{"version": 1}', '{"version": 1, "model": "a", "ranked": 3}'])
def test_a_damaged_file_counts_as_none(scans: Path, tmp_path: Path, damage: str) -> None:
    keep_order(suggestions(scans, file(scans, 6)), scans, MODEL, None)
    (written,) = (tmp_path / "cache").rglob("*.json")
    written.write_text(damage)
    assert kept_order(scans, None) is None


def test_nothing_is_kept_of_a_folder_in_which_nothing_can_be_used(scans: Path, tmp_path: Path) -> None:
    keep_order(Suggestions((), (), (), ((file(scans, 1), "no scan"),)), scans, MODEL, None)
    assert not (tmp_path / "cache").exists()
