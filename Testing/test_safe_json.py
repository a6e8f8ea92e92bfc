"""JSON that anybody may have written: plain JSON is read, everything else is one ValueError."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from Testing.research.study.configuration_file import read_study
from TransferSegLib import safe_json
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.datasets.structure_names import read_label_set
from TransferSegLib.errors import DatasetError, JobError, ModelError, TransferSegError
from TransferSegLib.finetuning.run_folder import RunFolder
from TransferSegLib.jobs.files import read_json
from TransferSegLib.models.description import parse_json

#: What json.loads accepts, or fails at in ways of its own.
BAD = {
    "infinity": '{"a": Infinity}',
    "not a number": '{"a": NaN}',
    "overflow": '{"a": 1e999}',
    "long fraction": '{"a": 0.' + "1" * 5000 + "}",
    "5,000 digits": '{"a": ' + "9" * 5000 + "}",
    "400 digits": '{"a": ' + "9" * 400 + "}",
    "deep list": "[" * 100_000,
    "deep object": '{"a":' * 2000 + "1" + "}" * 2000,
    "deep and whole": "[" * 101 + "]" * 101,
    "surrogate": '{"a": "\\ud800"}',
    "surrogate in a key": '{"\\uDFFF": 1}',
    "half a text": '{"a": "b',
    "nothing": "",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD)
def test_what_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        safe_json.parse(text)
    file = tmp_path / "dataset.json"
    file.write_text(text, encoding="utf-8")
    readers = (
        (DatasetError, lambda: read_dataset(tmp_path)),
        (DatasetError, lambda: read_label_set(file)),
        (ModelError, lambda: parse_json(file.read_bytes(), "model.json")),
        (TransferSegError, lambda: read_study(file)),
    )
    for kind, read in readers:
        with pytest.raises(kind) as caught:
            read()
        assert len(str(caught.value)) < 2000
    if "surrogate" not in str(text) and "ud800" not in text and "uDFFF" not in text:
        with pytest.raises(JobError):
            read_json(file)
    assert RunFolder(tmp_path, {}).read_json(str(file)) is None


def test_bytes_that_are_no_text_and_files_that_are_too_large(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="utf-8"):
        safe_json.parse(b'{"a": "\xff"}')
    file = tmp_path / "a.json"
    file.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="larger than 5 bytes"):
        safe_json.read(file, largest_bytes=5)
    with pytest.raises(IsADirectoryError if os.name != "nt" else PermissionError):
        safe_json.read(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes among its files")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "dataset.json")
    with pytest.raises(DatasetError, match="pipe"):
        read_dataset(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError):
        safe_json.read(tmp_path / "loop")


def test_plain_json_is_read_as_ever() -> None:
    value = {"a": [1, -2.5e-3, 1e300, None, True, '[{\\"}]\n\U0001f9e0 é'], "b": 2**64 - 1, "c": {"[[[": "]" * 500}}
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert safe_json.parse(text) == safe_json.parse(b"\xef\xbb\xbf" + text.encode()) == value
    assert safe_json.parse('"\\ud800"', surrogates=True) == "\ud800"
    assert safe_json.parse("[" * 100 + "]" * 100)
