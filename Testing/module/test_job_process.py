"""Jobs followed from the module: started, left, found again, cancelled, resumed, and ended when they do not react."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

TESTING = Path(__file__).resolve().parents[1]
#: Makes the kinds of the jobs' own tests known to every Python that a test starts.
SITE = f"""
import sys
sys.path.append({str(TESTING / "jobs")!r})
from TransferSegLib.jobs.kinds import KINDS
KINDS.update(count="tiny_kinds:COUNT", wait="tiny_kinds:WAIT", deaf="tiny_kinds:DEAF", fail="tiny_kinds:FAIL")
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the user's folder of jobs for this test; what still runs afterwards is stopped."""
    from TransferSegLib.errors import JobError
    from TransferSegLib.jobs.status import worker_is_alive
    from TransferSegLib.jobs.store import list_jobs, request_cancel

    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), str(TESTING.parent)]))
    monkeypatch.setenv("TRANSFERSEG_JOBS", str(tmp_path / "jobs of mine"))
    yield tmp_path / "jobs of mine"
    for folder in list_jobs(tmp_path / "jobs of mine"):
        with suppress(JobError):
            request_cancel(folder)
        deadline = time.monotonic() + 30
        while worker_is_alive(folder) and time.monotonic() < deadline:
            time.sleep(0.05)


class Heard:
    """What a job told."""

    def __init__(self, job) -> None:
        self.progress, self.points, self.ends = [], [], []
        job.onProgress = lambda *told: self.progress.append(told)
        job.onPoint = lambda *told: self.points.append(told)
        job.onEnd = self.ends.append


def new_job(kind: str, **parameters):
    from TransferSegGui.job_process import JobProcess

    from TransferSegLib.jobs.request import JobRequest

    return JobProcess.create(JobRequest(kind, parameters, "cpu", title=f"a {kind}"))


def test_a_job_tells_its_progress_its_curves_and_its_result(host, store: Path):
    job = new_job("count", steps=6, pause_s=0.25)
    heard = Heard(job)
    assert job.state == "queued" and not job.isFollowed
    job.start()
    assert job.isFollowed and heard.ends == []
    job.wait()
    assert heard.ends == [job] and job.state == "done" and job.error == "" and not job.isFollowed
    assert job.result == {"from": 0, "to": 6}
    steps = [step for _, step, _, _ in heard.points]
    assert steps == sorted(set(steps)) and steps[-1] == 6 and len(steps) >= 5
    stage, step, loss, dice = heard.points[-1]
    assert (stage, loss, dice) == ("counting", pytest.approx(1 / (step)), 0.5)
    assert heard.progress[-1][0] == 1.0
    assert "counting from 0" in job.log() and job.lastLines(1) == ["counting from 0"]
    found = type(job).find(job.id)  # the whole stream, with its end, comes in one look
    heard = Heard(found)
    found.follow()
    found.wait()
    assert heard.progress[-1][0] == 1.0 and heard.ends == [found]


def test_a_job_is_left_found_again_cancelled_and_resumed(host, store: Path):
    from TransferSegGui.job_process import JobProcess, jobsOf

    from TransferSegLib.jobs.status import worker_is_alive

    job = new_job("count", steps=60, pause_s=0.1)
    heard = Heard(job)
    job.start()
    host.waitFor(lambda: len(heard.points) >= 2)
    job.leave()
    told = len(heard.points)
    host.process(500)
    assert len(heard.points) == told and heard.ends == [] and worker_is_alive(job.folder)

    (again,) = jobsOf("count", steps=60)
    assert again.id == job.id and jobsOf("count", steps=3) == []
    assert JobProcess.find(job.id).id == job.id and JobProcess.find("20000101-nothing") is None
    heard = Heard(again)
    again.follow()
    host.waitFor(lambda: len(heard.points) > told)
    assert heard.points[0][1] <= 2, "the curve is whole, also what came before"
    again.cancel()
    host.waitFor(lambda: bool(heard.ends))
    assert again.state == "cancelled" and again.error == "Stopped on request." and again.result is None
    assert not worker_is_alive(job.folder)
    reached = heard.points[-1][1]

    again.resume()
    assert again.isFollowed and again.error == ""
    again.wait()
    assert heard.ends == [again, again] and again.state == "done" and again.result["to"] == 60
    assert again.result["from"] >= reached > 0


def test_cancel_right_after_start_is_not_lost(host, store: Path):
    job = new_job("count", steps=1000, pause_s=0.1)
    heard = Heard(job)
    job.start()
    job.cancel()
    job.wait()
    assert heard.ends == [job] and job.state == "cancelled"


@pytest.mark.skipif(os.name == "nt", reason="looks for processes in /proc")
def test_a_worker_that_does_not_react_is_ended_with_its_children(host, store: Path):
    from TransferSegLib.jobs.files import read_json

    job = new_job("deaf")
    heard = Heard(job)
    job.start()
    host.waitFor(lambda: (job.folder / "child.json").exists())
    child = read_json(job.folder / "child.json")["pid"]
    job.cancel()
    host.waitFor(lambda: bool(heard.ends))
    assert job.state == "cancelled" and "was killed" in job.error
    host.waitFor(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text())


def test_patience_ends(host, store: Path, monkeypatch: pytest.MonkeyPatch):
    """A worker whose own watcher is stopped (a debugger, a swapped-out machine) is ended from here."""
    import signal

    from TransferSegGui import job_process

    from TransferSegLib.jobs.files import WORKER_FACTS, read_json

    if not hasattr(signal, "SIGSTOP"):
        pytest.skip("stops a process as only POSIX can")
    monkeypatch.setattr(job_process, "_PATIENCE_S", 1.0)
    job = new_job("count", steps=1000, pause_s=0.05)
    heard = Heard(job)
    job.start()
    host.waitFor(lambda: bool(heard.points))
    os.kill(read_json(job.folder / WORKER_FACTS)["pid"], signal.SIGSTOP)
    job.cancel()
    host.waitFor(lambda: bool(heard.ends))
    assert job.state == "interrupted" and "Interrupted: " in job.error


def test_what_fails_is_told_in_one_line_and_its_log_is_there(host, store: Path, monkeypatch: pytest.MonkeyPatch):
    from TransferSegGui import command_process

    job = new_job("fail", **{"with": "unexpected"})
    heard = Heard(job)
    job.start()
    job.wait()
    assert heard.ends == [job] and job.state == "failed" and "ZeroDivisionError" in job.error and "\n" not in job.error
    assert job.lastLines(1) == ["ZeroDivisionError: by zero"] and "Traceback" in job.log()

    monkeypatch.setattr(command_process, "pythonExecutable", lambda: "/no/such/python")
    job = new_job("count", steps=1)
    heard = Heard(job)
    job.start()
    job.wait()
    assert heard.ends == [job] and job.state == "failed"
    assert job.error.startswith("/no/such/python cannot be started: ")


def test_a_long_stream_is_read_in_parts(host, store: Path):
    """What a whole night's training wrote is shown without keeping the window waiting."""
    from TransferSegLib.jobs.events import Event, EventWriter, JobState
    from TransferSegLib.jobs.files import EVENTS

    job = new_job("count", steps=1)
    line = Event(JobState.RUNNING, stage="training", step=7, loss=0.5, message="x" * 60).to_line()
    (job.folder / EVENTS).write_bytes(line * 20_000)
    EventWriter(job.folder).write(Event(JobState.FAILED, error="It was too long."))
    heard = Heard(job)
    parts = []
    job._report, report = lambda events: (parts.append(len(events)), report(events)), job._report
    job.follow()
    job.wait()
    assert len(heard.points) == 20_000 and heard.ends == [job] and job.error == "It was too long."
    assert max(parts) < 1000
