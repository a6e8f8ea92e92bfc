from __future__ import annotations

from pathlib import Path

import pytest

from TransferSegLib import user_folders
from TransferSegLib.user_folders import cache_folder, data_folder


@pytest.fixture
def home(monkeypatch, tmp_path):
    for variable in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA", "SOME_VARIABLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(user_folders.Path, "home", lambda: tmp_path)
    return tmp_path


PLACES = {
    "linux": (".local/share/transferseg/models", ".cache/transferseg"),
    "darwin": ("Library/Application Support/TransferSeg/Models", "Library/Caches/TransferSeg"),
    "win32": ("AppData/Local/TransferSeg/Models", "AppData/Local/TransferSeg/Cache"),
}


@pytest.mark.parametrize("platform", PLACES)
def test_the_usual_places(home, monkeypatch, platform):
    monkeypatch.delenv(user_folders.CACHE_VARIABLE, raising=False)
    monkeypatch.setattr(user_folders.sys, "platform", platform)
    data, cache = PLACES[platform]
    assert data_folder("Models", "SOME_VARIABLE") == home / data
    assert cache_folder() == home / cache


def test_places_that_the_system_names(home, monkeypatch):
    monkeypatch.delenv(user_folders.CACHE_VARIABLE, raising=False)
    monkeypatch.setattr(user_folders.sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    assert data_folder("Jobs", "SOME_VARIABLE") == home / "data" / "transferseg" / "jobs"
    assert cache_folder() == home / "cache" / "transferseg"
    monkeypatch.setattr(user_folders.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(home / "local"))
    assert data_folder("Jobs", "SOME_VARIABLE") == home / "local" / "TransferSeg" / "Jobs"


def test_the_users_own_choice_wins(home, monkeypatch):
    monkeypatch.setenv("SOME_VARIABLE", str(home / "mine"))
    assert data_folder("Models", "SOME_VARIABLE") == home / "mine"
    monkeypatch.setenv(user_folders.CACHE_VARIABLE, str(home / "other"))
    assert cache_folder() == home / "other"


def test_without_a_home_folder(monkeypatch):
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("XDG_DATA_HOME", "SOME_VARIABLE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(user_folders.sys, "platform", "linux")
    monkeypatch.setattr(user_folders.Path, "home", nobody)
    with pytest.raises(RuntimeError):
        data_folder("Models", "SOME_VARIABLE")
