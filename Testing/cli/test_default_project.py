"""The project that commands use without --project: remembered, in the environment, or named."""

from __future__ import annotations

from pathlib import Path

import pytest

from TransferSegLib.cli.main import main

CT = Path(__file__).resolve().parents[1] / "Data" / "head_neck_ct"
FILES = [str(CT / folder / "pt_14.nii.gz") for folder in ("images", "labels")]
ADD = ["cases", "add", *FILES, "--structures", str(CT / "dataset.json"), "--reviewed", "larynx"]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFERSEG_SETTINGS", str(tmp_path / "settings"))
    monkeypatch.delenv("TRANSFERSEG_PROJECT", raising=False)


@pytest.mark.parametrize("words", [["cases", "list"], ["cases", "use"], ["finetune", "--plan"]])
def test_without_any_project(words: list[str], capsys: Captured) -> None:
    assert main(words) == 2
    assert "Which project?" in capsys.readouterr().err


def test_a_remembered_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["cases", "use", "Köpfe und Hälse"]) == 0
    project = tmp_path / "Köpfe und Hälse"
    assert f"use {project}, which its first case will make" in capsys.readouterr().out
    monkeypatch.chdir("/")
    assert main(ADD) == 0
    assert f"project: {project} (remembered" in capsys.readouterr().err
    assert (project / "dataset.json").is_file()
    assert main(["cases", "list"]) == 0
    assert "case-0001" in capsys.readouterr().out
    # What is named counts first, then the environment.
    monkeypatch.setenv("TRANSFERSEG_PROJECT", str(tmp_path / "other"))
    assert main(["cases", "list"]) == 2
    assert "(TRANSFERSEG_PROJECT)" in capsys.readouterr().err
    assert main(["cases", "list", "--project", str(project)]) == 0
    assert "project:" not in capsys.readouterr().err
    monkeypatch.delenv("TRANSFERSEG_PROJECT")
    assert main(["cases", "use", "--forget"]) == 0
    assert main(["cases", "list"]) == 2


def test_a_file_is_no_project(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "notes.txt").touch()
    assert main(["cases", "use", str(tmp_path / "notes.txt")]) == 2
    assert "is a file, not a folder" in capsys.readouterr().err
