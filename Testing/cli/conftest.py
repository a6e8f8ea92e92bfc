"""The command ``transferseg models`` as the tests of this folder give it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from TransferSegLib.cli.main import main

Transferseg = Callable[..., tuple[int, str, str]]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's library, which does not exist yet; it is not this user's."""
    folder = tmp_path / "library"
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(folder))
    return folder


@pytest.fixture
def transferseg(library: Path, capsys: pytest.CaptureFixture[str]) -> Transferseg:
    """Return the command ``transferseg models``: exit code, output, errors."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        code = main(["models", *map(str, words)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out, printed.err

    return run
