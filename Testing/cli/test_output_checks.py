"""Places that refuse results are told before any work: the input is not even looked at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from TransferSegLib.cli.main import main
from TransferSegLib.errors import ModelError, TransferSegError
from TransferSegLib.output_checks import check_output_file, check_output_folder, check_space


def test_folders_that_can_be_written(tmp_path: Path) -> None:
    check_output_folder(tmp_path)
    check_output_folder(tmp_path / "not" / "there" / "yet")
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    check_output_file(tmp_path / "new.csv")
    with pytest.raises(TransferSegError, match="there is no folder"):
        check_output_file(tmp_path / "missing" / "new.csv")
    check_output_file(tmp_path / "missing" / "new.csv", makes_folders=True)
    with pytest.raises(ModelError, match="is a folder: give the name of a file"):
        check_output_file(tmp_path, ModelError)


def test_folders_that_cannot(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    for place in (file, file / "below", file / "further" / "below"):
        with pytest.raises(TransferSegError, match="cannot be written"):
            check_output_folder(place)
    with pytest.raises(TransferSegError, match="cannot be written"):
        check_output_folder(tmp_path / ("x" * 5000))
    with pytest.raises(TransferSegError, match="cannot be written"):
        check_output_folder(tmp_path / "a\0b")
    with pytest.raises(TransferSegError, match=r"has .* left, and about 1000000.0 GB are needed: free some space"):
        check_space(tmp_path / "new", 1e15)
    check_space(tmp_path / "new", 1.0)


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_a_read_only_folder(tmp_path: Path) -> None:
    """The administrator can write anywhere, so for him a disk that lets nobody write is taken."""
    place = tmp_path
    if os.geteuid() == 0:
        place = Path("/proc")
        if not place.is_dir():
            pytest.skip("neither permissions nor /proc to try with")
    else:
        place.chmod(0o500)
    try:
        with pytest.raises(TransferSegError, match="cannot be written"):
            check_output_folder(place / "new")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    "words",
    [
        ["train-base", "--data", "nowhere", "--output", "FILE"],
        ["dataset", "make", "--images", "nowhere", "--structures", "none.json", "--output", "FILE"],
        ["models", "import", "nowhere.zip", "--library", "FILE"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_commands_look_at_their_output_first(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every input is missing: the message is of the output all the same."""
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    assert main([word.replace("FILE", str(file / "below")) for word in words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and f"{file} is a file, not a folder" in said[0], said
