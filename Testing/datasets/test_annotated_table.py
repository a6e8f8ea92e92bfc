"""The table of what is annotated."""

from __future__ import annotations

from pathlib import Path

import pytest

from TransferSegLib.datasets.annotated_table import read_annotated_table
from TransferSegLib.datasets.structure_names import label_set_of
from TransferSegLib.errors import DatasetError

LABEL_SET = label_set_of({1: "oesophagus", 2: "left kidney", 3: "GTVp"})


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "cases.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_zero_and_empty_mean_not_annotated(tmp_path: Path):
    path = table(
        tmp_path,
        "case,size,Esophagus,kidney_left,GTVp\n"
        'a,"(1, 2, 3)",0,12,0.0\n'
        "b,x,yes,,1\n"
        "c,x,No,false,NaN\n"
        "d,x, 3 ,x\n"
        ",x,1,1,1\n",
    )
    assert read_annotated_table(path, LABEL_SET) == {
        "a": ("left kidney",),
        "b": ("oesophagus", "GTVp"),
        "c": (),
        "d": ("oesophagus", "left kidney"),
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_spreadsheets_of_all_countries(tmp_path: Path, delimiter: str, encoding: str):
    text = "notes;ID;gtvp;LEFT KIDNEY;esophagus\r\nx;pt 1;0,5;0;0\r\n".replace(";", delimiter)
    if delimiter == ",":
        text = text.replace("0,5", "0.5")
    assert read_annotated_table(table(tmp_path, text, encoding), LABEL_SET) == {"pt 1": ("GTVp",)}


def test_the_structures_own_name_wins_over_a_synonym(tmp_path: Path):
    path = table(tmp_path, "case,esophagus,oesophagus,left kidney,GTVp\na,1,0,0,0\n")
    assert read_annotated_table(path, LABEL_SET) == {"a": ()}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case,esophagus\na,1\n", "no column for left kidney, GTVp"),
        ("case,esophagus,left kidney,GTVp\na,1,1,1\na,0,0,0\n", "two rows for the case a"),
        ("case,esophagus,left kidney,GTVp\n", "lists no cases"),
        ("", "needs a first line"),
        ("case\na\n", "needs a first line"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, text: str, said: str):
    with pytest.raises(DatasetError, match=said):
        read_annotated_table(table(tmp_path, text), LABEL_SET)


def test_a_table_in_another_encoding_says_what_to_do(tmp_path: Path):
    with pytest.raises(DatasetError, match="CSV UTF-8"):
        read_annotated_table(table(tmp_path, "case;Ösophagus", "latin-1"), LABEL_SET)
    with pytest.raises(DatasetError, match="cannot be read"):
        read_annotated_table(tmp_path / "nowhere.csv", LABEL_SET)
