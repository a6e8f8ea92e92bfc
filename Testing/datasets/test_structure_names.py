"""Names of label values: the shapes of JSON in use, and what is said of others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from TransferSegLib.datasets.structure_names import joined_segment_names, label_set_of, read_label_set
from TransferSegLib.errors import DatasetError
from TransferSegLib.structures import default_color

SHAPES = [
    {"0": "background", "1": "spleen", "3": "KidneyLeft"},
    {"background": 0, "KidneyLeft": 3, "spleen": 1},
    {"spleen": "1", "KidneyLeft": "3"},
    {"name": "Task", "labels": {"background": 0, "spleen": 1, "KidneyLeft": 3}, "numTraining": 2, "channel_names": {}},
    {"labels": {"0": "background", "1": "spleen", "3": "KidneyLeft"}, "modality": {"0": "CT"}},
]


def write(folder: Path, content: object) -> Path:
    path = folder / "labels.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("content", SHAPES)
def test_known_shapes(tmp_path: Path, content: object):
    label_set = read_label_set(write(tmp_path, content))
    assert label_set.names == ("spleen", "left kidney")
    assert label_set.label_values == (0, 1, 3)
    assert label_set.structures[0].terminology == ("78961009", "Spleen")
    assert read_label_set(write(tmp_path, content), keep_names=True).names == ("spleen", "KidneyLeft")


def test_structures_of_a_dataset_are_taken_as_they_are(tmp_path: Path):
    described = {"structures": [{"name": "Esophagus", "label": 7, "color": [1, 2, 3]}]}
    label_set = read_label_set(write(tmp_path, described))
    assert label_set.names == ("Esophagus",)
    assert label_set.structures[0].color == (1, 2, 3)


def test_a_name_of_digits_is_a_name_when_its_value_is_a_number():
    assert label_set_of({1: "12"}).names == ("12",)


def test_names_that_would_become_one_stay_two():
    assert label_set_of({1: "Esophagus", 2: "oesophagus"}).names == ("Esophagus", "oesophagus")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "not an object"),
        ({}, "not an object"),
        ({"spleen": [1, 2]}, "region"),
        ({"spleen": "x"}, "neither"),
        ({"spleen": True}, "neither"),
        ({"1": "a", "01": "b"}, "two names"),
        ({"spleen": -1}, "below 1"),
        ({"1": "a", "2": "A"}, "share the name"),
        ({"0": "background"}, "at least one structure"),
        ({"1": " "}, "no name"),
        ({"background": 0, "liver": 1, "ignore": 2}, r"'ignore' \(2\) is no structure"),
    ],
)
def test_other_shapes_are_refused(tmp_path: Path, content: object, said: str):
    path = write(tmp_path, content)
    with pytest.raises(DatasetError, match=said) as caught:
        read_label_set(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_json_is_refused(tmp_path: Path):
    (tmp_path / "x.json").write_bytes(b"{")
    with pytest.raises(DatasetError, match="not valid JSON"):
        read_label_set(tmp_path / "x.json")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_label_set(tmp_path / "nowhere.json")


def test_segments_called_ignore_are_no_structure():
    with pytest.raises(DatasetError, match="is no structure"):
        joined_segment_names({Path("a"): {1: "liver", 2: "Ignore"}})


def test_segments_numbered_alike_keep_their_values():
    label_set = joined_segment_names({Path("a"): {2: "spleen", 5: "tumour"}, Path("b"): {2: "Spleen"}})
    assert label_set.names == ("spleen", "tumour") and label_set.label_values == (0, 2, 5)
    assert label_set.structures[1].color == default_color(5)


def test_segments_numbered_differently_are_numbered_anew():
    label_set = joined_segment_names({Path("a"): {1: "liver", 2: "spleen"}, Path("b"): {1: "spleen"}})
    assert label_set.names == ("liver", "spleen") and label_set.label_values == (0, 1, 2)
    label_set = joined_segment_names({Path("a"): {4: "liver"}, Path("b"): {4: "spleen"}})
    assert label_set.names == ("liver", "spleen") and label_set.label_values == (0, 1, 2)


def test_a_label_value_that_no_label_map_of_ours_can_hold_is_refused():
    with pytest.raises(DatasetError, match=r"'spleen' has the label value 4,000,000,000; they may be up to 65,535"):
        label_set_of({1: "liver", 4_000_000_000: "spleen"})
