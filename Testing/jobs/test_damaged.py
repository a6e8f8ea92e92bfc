"""A damaged job is told of alone: it ends no list, and keeps no other job waiting."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from TransferSegLib.cli.main import main
from TransferSegLib.jobs.events import Event, JobState, read_events
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.status import read_state, read_status
from TransferSegLib.jobs.store import create_job

EVENTS = {
    "not text": b"\xff\xfe\x00\n",
    "deep": b"[" * 20_000 + b"\n",
    "digits": b'{"state": "running", "step": ' + b"9" * 5000 + b"}\n",
    "infinity": b'{"state": "running", "fraction": Infinity}\n',
    "overflow": b'{"state": "running", "fraction": 1e999, "seconds_left": 1e308}\n',
    "surrogate": b'{"state": "failed", "error": "\\ud800"}\n',
    "wrong kinds": b'{"state": "running", "fraction": true, "time": 5, "message": [1]}\n',
    "years": b'{"state": "running", "fraction": 7, "seconds_left": 1e300, "time": "0001-01-01T00:00:00+00:00"}\n',
    "no state": b'{"time": "x"}\n[]\n"a"\nnull\n',
}
REQUESTS = {
    "deep": "[" * 20_000,
    "digits": '{"format_version": ' + "9" * 5000 + "}",
    "list": "[]",
    "year 1": None,
    "not text": b"\xff",
}


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    create_job(JobRequest("segment", {}, title="a sound job"), tmp_path / "jobs")
    return tmp_path / "jobs"


def listed(jobs: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["jobs", "list", "--jobs-folder", str(jobs)]) == 0
    out = capsys.readouterr().out
    assert "a sound job" in out and len(out.splitlines()) == 4  # a head, a rule, two jobs
    return out


@pytest.mark.parametrize("content", EVENTS.values(), ids=EVENTS)
def test_damaged_events_end_no_list(jobs: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    folder = create_job(JobRequest("segment", {}, title="damaged"), jobs)
    (folder / "events.jsonl").write_bytes(content)
    assert "damaged" in listed(jobs, capsys)
    assert main(["jobs", "show", folder.name, "--jobs-folder", str(jobs)]) == 0


@pytest.mark.parametrize("content", REQUESTS.values(), ids=REQUESTS)
def test_damaged_requests_end_no_list(jobs: Path, content: object, capsys: pytest.CaptureFixture[str]) -> None:
    folder = create_job(JobRequest("segment", {}, title="damaged"), jobs)
    file = folder / "request.json"
    if content is None:
        file.write_text(json.dumps(json.loads(file.read_text()) | {"created": "0001-01-01T00:00:00+14:00"}))
    else:
        file.write_bytes(content.encode() if isinstance(content, str) else content)  # type: ignore[attr-defined]
    assert "damaged" in listed(jobs, capsys)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes, and links need a right")
@pytest.mark.parametrize("name", ["events.jsonl", "log.txt", "worker.json", "worker.lock"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_what_is_no_file_ends_no_list(jobs: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = create_job(JobRequest("segment", {}, title="damaged"), jobs)
    path = folder / name
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(name)
    listed(jobs, capsys)


def test_an_event_without_a_time_makes_no_job_look_busy(jobs: Path) -> None:
    folder = create_job(JobRequest("segment", {}), jobs)
    (folder / "events.jsonl").write_text('{"state": "queued"}\n')
    assert read_state(folder) == JobState.INTERRUPTED
    assert "resumed" in read_status(folder).message
    for time in ("", "soon", "5000-01-01", None):
        entry = {"state": "queued"} if time is None else {"state": "queued", "time": time}
        event = Event.from_line(json.dumps(entry).encode())
        assert event is not None and event.age_s() > 1e6


def test_numbers_that_cannot_be_are_left_out(jobs: Path) -> None:
    folder = create_job(JobRequest("segment", {}), jobs)
    line = {"state": "running", "fraction": 1.5, "seconds_left": 1e300, "step": True, "loss": -1e20, "dice": 0.5}
    (folder / "events.jsonl").write_text(json.dumps(line) + "\n")
    (event,) = read_events(folder)[0]
    left = (event.fraction, event.seconds_left, event.step, event.loss, event.dice)
    assert left == (None, None, None, None, 0.5)
