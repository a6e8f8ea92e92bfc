"""The dataset format: what a file of version 1 means, what comes back from disk, and what is said of a broken one."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from TransferSegLib.datasets.dataset import Case, Dataset, portable_path, read_dataset, write_dataset
from TransferSegLib.errors import DatasetError
from TransferSegLib.structures import LabelSet, Structure

VERSION_1 = Path(__file__).parents[1] / "Data" / "dataset_format_1"


def write_json(folder: Path, content: object) -> Path:
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def minimal(**more: object) -> dict:
    return {
        "format_version": 1,
        "name": "n",
        "structures": [{"name": "spleen", "label": 1}, {"name": "left kidney", "label": 3}],
        "cases": [{"id": "a", "image": "a.nii", "labels": "b.nii", "annotated": ["spleen"]}],
        **more,
    }


def with_case(**changes: object) -> dict:
    content = minimal()
    content["cases"][0].update(changes)
    return content


def test_a_dataset_of_format_version_1_means_what_it_meant():
    dataset = read_dataset(VERSION_1)
    assert (dataset.name, dataset.license, dataset.modality) == ("Kidneys of nobody", "CC0-1.0", "CT")
    assert dataset.label_set.names == ("right kidney", "left kidney", "Läsion")
    assert dataset.label_set.label_values == (0, 2, 4, 9)
    assert dataset.label_set.structures[1].modifier == ("7771000", "Left")
    assert dataset.ids == ("scan 1", "scan 2", "scan 3")
    assert dataset.extra == {"collected": {"by": "hand", "year": 2026}}
    first, second, third = dataset.cases
    assert first.image == VERSION_1 / "images" / "scan 1.nrrd" and first.image.is_file()
    assert [case.group for case in dataset.cases] == ["patient A", "scan 2", "patient A"]
    assert second.annotated == ("left kidney",), "spelled as the structure is"
    assert third.annotated == ("right kidney", "left kidney", "Läsion"), "in the order of the structures"
    assert first.judged is None and third.judged == VERSION_1 / "labels" / "judged 3.nrrd"
    assert third.extra["corrected_from"] == {"model": "head-neck", "version": "1.2.0"}
    assert dataset.annotated_counts() == {"right kidney": 2, "left kidney": 3, "Läsion": 1}


def test_rewriting_a_dataset_of_format_version_1_loses_nothing(tmp_path: Path):
    dataset = read_dataset(VERSION_1)
    write_dataset(dataset, tmp_path)
    again = read_dataset(tmp_path)
    assert replace(again, folder=dataset.folder) == dataset
    assert again.cases[2].extra["prediction"] == "labels/prediction 3.nrrd"


names = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=12)
ids = names.filter(
    lambda text: text.strip() and text not in (".", "..") and not set(text) & set("/\\") and text.isprintable()
)
extras = st.dictionaries(
    st.sampled_from(["revision", "note", "ünknown"]),
    st.none() | st.integers() | st.text(max_size=5) | st.lists(st.booleans()),
)


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    folder = Path("/data/set").resolve()
    label_set = LabelSet(
        tuple(
            Structure(f"structure {number}", label, (1, 2, 3), draw(st.sampled_from([None, ("1", "One")])))
            for number, label in enumerate(draw(st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True)))
        )
    )
    place = st.sampled_from([folder / "images", folder, folder.parent, folder.parent / "other", folder / "ä b"])
    cases = tuple(
        Case(
            id=id,
            image=draw(place) / "image.nii.gz",
            labels=draw(place) / "labels.nrrd",
            annotated=tuple(name for name in label_set.names if draw(st.booleans())),
            judged=draw(st.none() | place.map(lambda path: path / "judged.nii")),
            group=draw(ids),
            extra=draw(extras),
        )
        for id in draw(st.lists(ids, max_size=4, unique=True))
    )
    return Dataset(folder, draw(st.text(max_size=9)), "", "CC0", "MR", label_set, cases, draw(extras))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dataset=datasets())
def test_what_is_written_is_read_back(dataset: Dataset, tmp_path: Path):
    write_dataset(dataset, tmp_path)
    assert replace(read_dataset(tmp_path), folder=dataset.folder) == dataset


def test_the_file_is_readable_with_a_line_a_case(tmp_path: Path):
    path = write_dataset(read_dataset(VERSION_1), tmp_path)
    text = path.read_text(encoding="utf-8")
    assert "Läsion" in text, "not escaped"
    assert sum('"id": "scan ' in line for line in text.splitlines()) == 3
    assert list(tmp_path.iterdir()) == [path], "nothing else is left behind"


def test_files_inside_and_beside_the_folder_are_named_relatively():
    folder = Path("/home/anna/study/data").resolve()
    assert portable_path(folder / "images" / "a.nii", folder) == "images/a.nii"
    assert portable_path(folder.parent / "scans" / "a.nii", folder) == "../scans/a.nii"
    elsewhere = Path("/mnt/archive/a.nii").resolve()
    assert portable_path(elsewhere, folder) == elsewhere.as_posix()
    home_of_another = Path("/home/ben/a.nii").resolve()
    assert portable_path(home_of_another, folder) == home_of_another.as_posix()


def test_a_path_that_goes_up_is_the_users_own(tmp_path: Path):
    (tmp_path / "set").mkdir()
    (tmp_path / "scans").mkdir()
    write_json(tmp_path / "set", with_case(image="../scans/a.nii", labels=str(tmp_path / "b.nii")))
    case = read_dataset(tmp_path / "set").case("a")
    assert case.image == tmp_path.resolve() / "scans" / "a.nii"
    assert case.labels == tmp_path / "b.nii"


def test_a_link_in_place_of_an_image_stays_a_link(tmp_path: Path):
    (tmp_path / "set").mkdir()
    (tmp_path / "store.nii").write_bytes(b"x")
    try:
        (tmp_path / "set" / "a.nii").symlink_to(tmp_path / "store.nii")
    except OSError:
        pytest.skip("this system makes no links")
    dataset = read_dataset(write_json(tmp_path / "set", minimal()))
    write_dataset(dataset, tmp_path / "set")
    assert json.loads((tmp_path / "set" / "dataset.json").read_text())["cases"][0]["image"] == "a.nii"


def test_the_file_itself_may_be_named(tmp_path: Path):
    write_json(tmp_path, minimal())
    assert read_dataset(tmp_path / "dataset.json") == read_dataset(tmp_path)


def test_every_problem_is_named_in_one_message(tmp_path: Path):
    content = minimal(license=3)
    content["cases"] = [
        {"id": "one", "image": "", "labels": "l.nii", "annotated": ["spleen"]},
        {"id": "two", "image": "i.nii", "labels": "l.nii", "annotated": ["liver"], "judged": 7},
        {"id": "two words", "image": "i.nii", "labels": "l.nii", "annotated": "spleen"},
        {"id": "up/../down", "image": "i.nii", "labels": "l.nii", "annotated": []},
        {"id": "same", "image": "i.nii", "labels": "l.nii", "annotated": []},
        {"id": "same", "image": "j.nii", "labels": "l.nii", "annotated": []},
        {"image": "i.nii", "labels": "l.nii", "annotated": []},
        "not a case",
    ]
    write_json(tmp_path, content)
    with pytest.raises(DatasetError) as caught:
        read_dataset(tmp_path)
    lines = str(caught.value).splitlines()
    assert str(tmp_path) in lines[0]
    for case, key in [
        ("", "'license'"),
        ("case one:", "'image'"),
        ("case two:", "'liver'"),
        ("case two:", "'judged'"),
        ("case two words:", "'annotated'"),
        ("case up/../down:", "slashes"),
        ("case same:", "2 times"),
        ("case number 7:", "'id'"),
        ("case number 8:", "object"),
    ]:
        assert any(case in line and key in line for line in lines), (case, key, lines)
    assert len(lines) == 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, "newer TransferSeg"),
        ({"format_version": "1"}, "'format_version' must be 1"),
        ({"format_version": True}, "'format_version' must be 1"),
        ({"structures": []}, "at least one structure"),
        ({"structures": [{"name": "a", "label": 1}, {"name": "A", "label": 2}]}, "share the name a"),
        ({"structures": {"1": "spleen"}}, "must be a list"),
        ({"cases": {}}, "'cases' must be a list"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, change: dict, said: str):
    write_json(tmp_path, minimal(**change))
    with pytest.raises(DatasetError, match=said):
        read_dataset(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe\x00", b"[" * 100_000, b'"text"'])
def test_a_file_that_is_no_dataset_is_one_clear_error(tmp_path: Path, content: bytes):
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        read_dataset(tmp_path)


def test_a_missing_dataset_says_how_to_make_one(tmp_path: Path):
    with pytest.raises(DatasetError, match="transferseg dataset make"):
        read_dataset(tmp_path / "nowhere")


def test_a_dataset_that_could_not_be_read_back_is_not_written(tmp_path: Path):
    path = write_dataset(read_dataset(VERSION_1), tmp_path)
    before = path.read_bytes()
    dataset = read_dataset(tmp_path)
    twice = replace(dataset, cases=(dataset.cases[0], dataset.cases[0]))
    with pytest.raises(DatasetError, match="used 2 times"):
        write_dataset(twice, tmp_path)
    assert path.read_bytes() == before


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_dataset(read_dataset(VERSION_1), tmp_path)
    before = path.read_bytes()

    def disk_full(descriptor: int) -> None:
        os.truncate(descriptor, 6)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(DatasetError, match="No space left"):
        write_dataset(replace(read_dataset(tmp_path), name="new"), tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_cases_are_found_and_selected_by_id():
    dataset = read_dataset(VERSION_1)
    assert dataset.case("scan 2").id == "scan 2"
    assert dataset.select(["scan 3", "scan 1"]).ids == ("scan 1", "scan 3")
    assert len(dataset.select([])) == 0
    with pytest.raises(DatasetError, match="scan 9"):
        dataset.case("scan 9")
    with pytest.raises(DatasetError, match="scan 9"):
        dataset.select(["scan 1", "scan 9"])


def test_cases_can_be_members_of_a_set():
    dataset = read_dataset(VERSION_1)
    assert len({*dataset.cases, *dataset.cases}) == 3


def test_values_of_structures_that_were_dropped(tmp_path: Path):
    """A project of corrected cases keeps such values in its files; see docs/corrections.md."""
    assert read_dataset(VERSION_1).retired_labels == frozenset()
    content = minimal(retired_structures=[{"name": "cyst", "label": 7}, {"name": "lesion", "label": 8}])
    dataset = read_dataset(write_json(tmp_path, content))
    assert dataset.retired_labels == {7, 8}
    write_dataset(dataset, tmp_path)
    assert read_dataset(tmp_path) == dataset
    assert '    {"name": "cyst", "label": 7},\n' in (tmp_path / "dataset.json").read_text()
    assert read_dataset(write_json(tmp_path, minimal(retired_structures="none"))).retired_labels == frozenset()
