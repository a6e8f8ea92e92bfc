"""Why a worker is gone: what the log, the computer and the disk tell."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from TransferSegLib.jobs import diagnosis
from TransferSegLib.jobs.diagnosis import log_tail, why_interrupted, write_worker_facts
from TransferSegLib.jobs.files import LOG, WORKER_FACTS, read_json, write_json

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a job's folder on a computer that has counted 3 kills for lack of memory and was started as 'one'."""
    for name, text in (("boot_id", "one\n"), ("vmstat", "nr_free_pages 5\noom_kill 3\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(diagnosis, "_BOOT_ID", tmp_path / "boot_id")
    monkeypatch.setattr(diagnosis, "_KERNEL_COUNTERS", tmp_path / "vmstat")
    job = tmp_path / "job"
    job.mkdir()
    (job / LOG).write_text("Fatal Python error: Segmentation fault\n\n")
    write_worker_facts(job)
    return job


def test_nothing_is_known(folder: Path, tmp_path: Path) -> None:
    assert read_json(folder / WORKER_FACTS)["out_of_memory_kills"] == 3
    assert "ended from outside, or memory ran out" in why_interrupted(folder, True)
    for name in ("boot_id", "vmstat"):
        (tmp_path / name).unlink()
    (folder / WORKER_FACTS).unlink()
    assert "crashed" in why_interrupted(folder, True)
    (folder / LOG).unlink()
    assert "ended from outside" in why_interrupted(folder, True)


def test_the_kernel_ended_it_for_lack_of_memory(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("oom_kill 4\n")
    assert "memory ran out and the system ended the worker" in why_interrupted(folder, True)


def test_the_computer_was_restarted(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "boot_id").write_text("two\n")
    (tmp_path / "vmstat").write_text("oom_kill 9\n")
    assert "restarted or lost power" in why_interrupted(folder, True)


def test_a_crash_of_this_attempt_not_of_an_earlier_one(folder: Path) -> None:
    with (folder / LOG).open("a") as log:
        log.write("Fatal Python error: Aborted\n\nThread 0x1\n")
    assert "crashed (Aborted)" in why_interrupted(folder, True)


def test_another_computer(folder: Path) -> None:
    write_json(folder / WORKER_FACTS, read_json(folder / WORKER_FACTS) | {"host": "elsewhere", "boot_id": "three"})
    assert "on the computer elsewhere" in why_interrupted(folder, True)


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 0))
    assert "is full: free some space" in why_interrupted(folder, True)


def test_the_interpreter_did_not_start(folder: Path) -> None:
    (folder / LOG).write_text("python: No module named TransferSegLib\n")
    assert "did not start (python: No module named TransferSegLib)" in why_interrupted(folder, False)


def test_the_end_of_a_log(folder: Path) -> None:
    (folder / LOG).write_bytes(b"".join(b"line %d\n\n" % n for n in range(50_000)) + b"\xff half")
    assert log_tail(folder, 2) == ["line 49999", "\ufffd half"]
    assert log_tail(folder / "nowhere") == []
