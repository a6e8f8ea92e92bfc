"""``transferseg cases suggest`` as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from TransferSegLib.cli.main import main
from TransferSegLib.datasets.dataset import read_dataset

DATA = Path(__file__).resolve().parents[1] / "Data"
MODEL = str(DATA / "model_format_1" / "model")
CASES = read_dataset(DATA / "head_neck_ct").select(["pt_170", "pt_70"]).cases
Captured = pytest.CaptureFixture[str]


def test_scans_are_ranked_and_what_is_left_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("TRANSFERSEG_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "scans"
    folder.mkdir()
    for case in CASES:
        shutil.copy(case.image, folder)
    (folder / "broken.nii.gz").write_bytes(b"this is no scan")
    words = ["cases", "suggest", str(folder), "--model", MODEL, "--device", "cpu", "--project", str(tmp_path / "p")]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert all(case.image.name in printed.out for case in CASES) and "1 scan cannot be used." in printed.out
    assert "broken.nii.gz is left out" in printed.err and "Traceback" not in printed.err
    assert not (tmp_path / "p").exists(), "suggesting makes no project"
    assert main([*words, "--count", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["ranked"]) == 2 and told["ranked"][0]["score"] >= told["ranked"][1]["score"]
    assert [Path(one["scan"]).name for one in told["unreadable"]] == ["broken.nii.gz"]
    assert main([*words, "--count", "1"]) == 0
    assert "1 more scan to correct" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--count", "0"], ["--memory", "-1"], ["--model", "no-such-model"]])
def test_mistakes_are_told(tmp_path: Path, words: list[str], capsys: Captured) -> None:
    shutil.copy(CASES[0].image, tmp_path)
    assert main(["cases", "suggest", str(tmp_path), "--project", str(tmp_path / "p"), *words]) == 2
    assert words[1] in capsys.readouterr().err


def test_a_folder_without_a_usable_scan_is_an_error(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "broken.nii.gz").write_bytes(b"this is no scan")
    assert main(["cases", "suggest", str(tmp_path), "--model", MODEL, "--project", str(tmp_path / "p")]) == 2
    assert "broken.nii.gz is left out" in capsys.readouterr().err
