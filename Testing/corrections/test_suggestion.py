"""Which scan next: doubtful ones, never two of one kind while there are others, and a run that was stopped goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from Testing.impatient import Impatient
from TransferSegLib.corrections import scan_looks
from TransferSegLib.corrections.project import Project
from TransferSegLib.corrections.scan_looks import ScanLook
from TransferSegLib.corrections.suggestion import ranked, suggest
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.errors import Cancelled
from TransferSegLib.models.store import load_description
from TransferSegLib.progress import Task

DATA = Path(__file__).resolve().parents[1] / "Data"
MODEL = DATA / "model_format_1" / "model"
#: The two smallest scans.
CASES = read_dataset(DATA / "head_neck_ct").select(["pt_170", "pt_70"]).cases


def look(name: str, doubt: float, *features: float) -> tuple[Path, ScanLook]:
    return Path(name), ScanLook(name, doubt, np.array(features) if features else None)


def order(scans: list[tuple[Path, ScanLook]], done: list[ScanLook] = []) -> list[str]:  # noqa: B006 - not changed
    return [str(one.scan) for one in ranked(scans, done)]


def test_one_scan_of_each_kind_comes_before_the_second_of_any() -> None:
    scans = [look(f"a{n}", 0.5 - 0.001 * n, 0.0 + 0.01 * n, 0.0) for n in range(5)]
    scans += [look(f"b{n}", 0.4 - 0.001 * n, 5.0, 5.0 + 0.01 * n) for n in range(5)]
    scans += [look("c", 0.3, -5.0, 5.0)]
    first = order(scans)[:3]
    assert first[0] == "a0" and {name[0] for name in first} == {"a", "b", "c"}


def test_scans_like_those_that_are_done_come_last_unless_they_are_far_more_doubtful() -> None:
    done = [look("done", 0.2, 0.0, 0.0)[1]]
    scans = [look("same", 0.5, 0.01, 0.0), look("other", 0.3, 4.0, 0.0), look("third", 0.3, 0.0, 4.0)]
    assert order(scans, done)[-1] == "same"
    assert order(scans)[0] == "same", "nothing is done yet"
    sure = [look("new", 0.001, 4.0, 0.0), look("doubtful", 0.9, 2.0, 0.0), look("third", 0.3, 0.0, 4.0)]
    assert order(sure, done)[0] == "doubtful"


def test_without_features_the_most_doubtful_is_first_and_nothing_is_said_of_novelty() -> None:
    found = ranked([look("a", 0.2), look("b", 0.6), look("c", 0.4)], [look("done", 0.9)[1]])
    assert [str(one.scan) for one in found] == ["b", "c", "a"]
    assert all(one.novelty is None and one.score == one.doubt for one in found)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-3, 3), st.floats(-3, 3)), max_size=8), st.integers(0, 3))
def test_every_scan_is_ranked_once(each: list[tuple[float, float, float]], done: int) -> None:
    scans = [look(str(number), *values) for number, values in enumerate(each)]
    known = [look("k", 0.1, float(number), 1.0)[1] for number in range(done)]
    found = ranked(scans, known)
    assert sorted(str(one.scan) for one in found) == sorted(str(path) for path, _ in scans)
    assert all(0 <= one.score <= one.doubt for one in found)
    assert found == ranked(scans, known)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with two scans, a copy of one, and a file that is none; the cache is the test's own."""
    monkeypatch.setenv("TRANSFERSEG_CACHE", str(tmp_path / "cache"))
    made = tmp_path / "scans"
    made.mkdir()
    for number, case in enumerate(CASES):
        shutil.copy(case.image, made / f"{number}.nii.gz")
    shutil.copy(CASES[0].image, made / "copy.nii.gz")
    (made / "broken.nii.gz").write_bytes(b"this is no scan")
    return made


def scans_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.nii.gz"))


def test_scans_that_are_done_twice_there_or_unreadable_are_told_apart(folder: Path, tmp_path: Path) -> None:
    found = suggest(scans_of(folder), MODEL, device="cpu")
    assert sorted(one.scan.name for one in found.ranked) == ["0.nii.gz", "1.nii.gz"]
    assert [path.name for path in found.twice] == ["copy.nii.gz"]
    ((broken, why),) = found.unreadable
    assert broken.name == "broken.nii.gz" and "no NIfTI file" in why
    assert all(0 < one.doubt < 1 for one in found.ranked)
    json.dumps(found.to_json())
    case = CASES[0]
    project = Project(tmp_path / "project", create=True)
    project.add_case(case.image, case.labels, case.annotated, structures=read_dataset(DATA / "head_neck_ct").label_set)
    found = suggest(scans_of(folder), MODEL, project.state(), device="cpu")
    assert [one.scan.name for one in found.ranked] == ["1.nii.gz"]
    assert {path.name for path in found.corrected} == {"0.nii.gz", "copy.nii.gz"}


def test_what_was_seen_is_not_looked_at_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = scans_of(folder)
    with pytest.raises(Cancelled):
        suggest(scans, MODEL, device="cpu", task=Task("", None, Impatient(60)))
    first = suggest(scans, MODEL, device="cpu")
    (folder / "0.nii.gz").rename(folder / "renamed.nii.gz")
    cache = folder.parent / "cache" / "scan-looks"
    assert len(list(cache.iterdir())) == 2

    def refuse(*_: object) -> None:
        raise AssertionError("looked at again")

    monkeypatch.setattr(scan_looks.Looker, "_seen", refuse)
    again = suggest(scans_of(folder), MODEL, device="cpu")
    assert sorted(one.doubt for one in again.ranked) == sorted(one.doubt for one in first.ranked)
    monkeypatch.undo()
    # Nothing of a scan is in the cache but what the model saw; a damaged file is made anew.
    text = "".join(file.read_text(encoding="utf-8") for file in cache.iterdir())
    assert "nii" not in text and str(folder) not in text


def test_the_first_case_does_not_make_all_scans_be_looked_at_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project with all structures of the model asks for the same doubt as no project at all."""
    first = suggest(scans_of(folder), MODEL, device="cpu")
    label_set = load_description(MODEL).label_set
    project = Project(tmp_path / "project", create=True)
    scan = sitk.ReadImage(str(CASES[1].image))
    labels = sitk.Image(scan.GetSize(), sitk.sitkUInt8)
    labels.CopyInformation(scan)
    project.add_case(CASES[1].image, labels, "all", structures=label_set)
    monkeypatch.setattr(scan_looks.Looker, "_seen", lambda *_: pytest.fail("looked at again"))
    again = suggest(scans_of(folder), MODEL, project.state(), device="cpu")
    assert [one.scan.name for one in again.ranked] == ["0.nii.gz"]
    assert again.ranked[0].doubt in [one.doubt for one in first.ranked]


def test_a_damaged_file_of_the_cache_is_made_anew(folder: Path) -> None:
    first = suggest(scans_of(folder)[:1], MODEL, device="cpu")
    (file,) = (folder.parent / "cache" / "scan-looks").iterdir()
    for damage in ("{", "[]", '{"version": 1}', '{"version": 99}'):
        file.write_text(damage, encoding="utf-8")
        assert suggest(scans_of(folder)[:1], MODEL, device="cpu").ranked == first.ranked
    assert json.loads(file.read_text(encoding="utf-8"))["doubt"] == first.ranked[0].doubt


def test_doubt_is_only_that_of_the_projects_structures(folder: Path, tmp_path: Path) -> None:
    label_set = read_dataset(DATA / "head_neck_ct").label_set
    empty = sitk.Image(sitk.ReadImage(str(CASES[0].image)).GetSize(), sitk.sitkUInt8)
    empty.CopyInformation(sitk.ReadImage(str(CASES[0].image)))
    project = Project(tmp_path / "project", create=True)
    project.add_case(CASES[0].image, empty, ["brainstem"], structures=label_set.select(["brainstem"]))
    every = suggest(scans_of(folder), MODEL, device="cpu")
    some = suggest(scans_of(folder), MODEL, project.state(), device="cpu")
    of = {one.scan.name: one.doubt for one in every.ranked}
    assert some.ranked[0].doubt != of[some.ranked[0].scan.name]
