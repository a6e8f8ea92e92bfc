"""The watcher of a job whose folder cannot be reached for a while, as on a network drive."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from TransferSegLib.jobs import watcher as module
from TransferSegLib.jobs.files import CANCEL, REQUEST
from TransferSegLib.jobs.watcher import REASON_ASKED, REASON_GONE, Watcher
from TransferSegLib.progress import CancelToken


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_folder_that_cannot_be_reached_is_watched_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The watcher outlives the refusals, does not take them for a reason to stop, and sees the request after them."""
    (tmp_path / REQUEST).write_text("{}")
    (tmp_path / CANCEL).touch()
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    watcher = Watcher(tmp_path, CancelToken(), lambda reason: None, lambda reason: None, grace_s=60)
    stat = Path.stat

    def refuse(path: Path, **options: Any) -> Any:
        if path.parent == tmp_path:
            raise OSError(number, "refused")
        return stat(path, **options)

    with monkeypatch.context() as unreachable:
        unreachable.setattr(Path, "stat", refuse)
        assert [watcher._look() for _ in range(20)] == [""] * 20
    assert watcher._look() == REASON_ASKED


def test_a_folder_that_is_gone_is_a_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    watcher = Watcher(tmp_path / "nowhere", CancelToken(), lambda reason: None, lambda reason: None, grace_s=60)
    found = [watcher._look() for _ in range(5)]
    assert found == ["", "", "", "", REASON_GONE]
