"""Requests and the folder of jobs: made whole, found by parts of their names, told apart from what is no job."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from TransferSegLib.errors import JobError
from TransferSegLib.jobs.events import Event, EventWriter, JobState, last_event
from TransferSegLib.jobs.files import CANCEL, REQUEST, read_json, write_json
from TransferSegLib.jobs.request import JobRequest, read_request
from TransferSegLib.jobs.status import read_state, read_status
from TransferSegLib.jobs.store import create_job, find_job, jobs_folder, list_jobs, remove_job, request_cancel


def requested() -> JobRequest:
    return JobRequest("count", {"path": "Köpfe \ud800/1", "number": [1, 2.5, None]}, "cuda:1", "Zähle")


def test_front_ends_need_no_torch() -> None:
    code = (
        "import sys, TransferSegLib.jobs.store, TransferSegLib.jobs.launch, TransferSegLib.jobs.kinds\n"
        "import TransferSegLib.jobs.segment_job, TransferSegLib.jobs.train_base_job, TransferSegLib.cli.jobs\n"
        "assert 'torch' not in sys.modules and 'SimpleITK' not in sys.modules, sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-300:]


def test_a_request_comes_back_as_it_was(jobs: Path) -> None:
    request = requested()
    folder = create_job(request)
    assert read_request(folder) == request
    assert folder.parent == jobs and "-count-" in folder.name
    assert [path.name for path in folder.iterdir()] == [REQUEST]
    assert [path.name for path in jobs.iterdir()] == [folder.name]


@pytest.mark.parametrize(("kind", "device"), [("", "cpu"), ("../x", "cpu"), ("Count", "cpu"), ("count", "gpu")])
def test_requests_that_cannot_be(kind: str, device: str) -> None:
    with pytest.raises(JobError):
        JobRequest(kind, {}, device)


def test_parameters_that_are_no_json_leave_nothing_behind(jobs: Path) -> None:
    for wrong in ({"path": Path("x")}, {"number": float("nan")}):
        with pytest.raises(JobError, match="JSON values"):
            create_job(JobRequest("count", wrong))
    assert list(jobs.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "newer version"),
        ({"format_version": "1"}, "format_version"),
        ({"format": "transferseg-model"}, "not the request of a job"),
        ({"parameters": []}, "parameters"),
        ({"kind": 3}, "kind"),
        ({"device": "gpu"}, "Unknown device"),
    ],
)
def test_damaged_requests_say_what_is_wrong(change: dict, message: str, jobs: Path) -> None:
    folder = create_job(requested())
    write_json(folder / REQUEST, read_json(folder / REQUEST) | change)
    with pytest.raises(JobError, match=message):
        read_status(folder)
    (folder / REQUEST).write_text("{")
    with pytest.raises(JobError, match="not JSON"):
        read_status(folder)
    (folder / REQUEST).write_text("[]")
    with pytest.raises(JobError, match="object"):
        read_status(folder)


def test_jobs_are_listed_and_found_by_parts_of_their_names(jobs: Path) -> None:
    assert list_jobs() == []
    first, second = (create_job(JobRequest(kind, {})) for kind in ("count", "segment"))
    (jobs / "not a job").mkdir()
    assert list_jobs() == sorted([first, second])
    assert find_job(first.name) == find_job(first.name[-9:]) == find_job(str(first)) == first
    with pytest.raises(JobError, match="Several jobs"):
        find_job(first.name[:4])
    for name in ("nothing", "", str(jobs / "not a job"), "../x"):
        with pytest.raises(JobError):
            find_job(name)


def test_where_jobs_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRANSFERSEG_JOBS", str(tmp_path / "mine"))
    assert jobs_folder() == tmp_path / "mine"
    monkeypatch.delenv("TRANSFERSEG_JOBS")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert jobs_folder() == tmp_path / "transferseg" / "jobs"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert jobs_folder() == tmp_path / "TransferSeg" / "Jobs"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match="cannot be made"):
        create_job(requested(), tmp_path / "file")


def long_ago(folder: Path) -> None:
    """Let a job have been made in another year."""
    content = read_json(folder / REQUEST)
    (folder / REQUEST).write_text(json.dumps(content | {"created": "2020-01-01T00:00:00.000+00:00"}))


def test_a_job_that_never_got_a_worker(jobs: Path) -> None:
    folder = create_job(requested())
    assert read_state(folder) == JobState.QUEUED
    assert request_cancel(folder) == JobState.CANCELLING == read_state(folder)
    (folder / CANCEL).unlink()
    long_ago(folder)
    assert read_state(folder) == JobState.INTERRUPTED
    assert "did not start" in read_status(folder).message
    assert request_cancel(folder) == JobState.CANCELLED
    assert last_event(folder).state == JobState.CANCELLED


def test_only_jobs_that_are_over_are_removed(jobs: Path) -> None:
    folder = create_job(requested())
    with pytest.raises(JobError, match="cancel it first"):
        remove_job(folder)
    EventWriter(folder).write(Event(JobState.FAILED, error="It did not work."))
    (folder / "model").mkdir()
    (folder / "model" / "weights.pt").write_bytes(b"1")
    remove_job(folder)
    assert list(jobs.glob("[!.]*")) == list_jobs() == []
    assert [path.name for path in jobs.iterdir() if path.name != ".queue"] == []
