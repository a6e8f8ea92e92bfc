"""Jobs through each executor: done, failed, crashed, cancelled, and with a node that is lost in the middle."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from Testing.executors.conftest import TINY, Nodes
from TransferSegLib.errors import JobError
from TransferSegLib.executors.attempt import ATTEMPTS, MOST_ATTEMPTS, Attempt, make_attempt
from TransferSegLib.executors.interface import LOCK, Executor
from TransferSegLib.executors.local import LocalExecutor
from TransferSegLib.executors.ray_cluster import RayExecutor
from TransferSegLib.file_lock import FileLock
from TransferSegLib.jobs.events import Event, JobState, last_event, read_events
from TransferSegLib.jobs.files import WORKER_FACTS, read_json
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.store import create_job
from TransferSegLib.version import code_version

Wait = Callable[[Callable[[], Any]], Any]


def test_jobs_are_done_and_tell_how_far_they_are(executor: Executor) -> None:
    assert executor.at_once == 2
    jobs = [executor.submit("count", {"steps": steps, "pause_s": 0.01}) for steps in (3, 4, 5)]
    events: list[Event] = list(jobs[2].follow())
    assert events[-1].state == JobState.DONE and any(event.key == "counting" for event in events)
    assert [job.wait(60) for job in jobs] == [JobState.DONE] * 3
    assert [job.result() for job in jobs] == [{"from": 0, "to": steps} for steps in (3, 4, 5)]


def test_jobs_run_side_by_side_and_others_wait(executor: Executor, tmp_path: Path, wait_until: Wait) -> None:
    """Two run, without waiting for the device of the other; the third begins when one of them ends."""
    go = [tmp_path / name for name in ("a", "b", "c")]
    jobs = [executor.submit("wait", {"go": str(file)}) for file in go]
    wait_until(lambda: [job.state() for job in jobs] == [JobState.RUNNING, JobState.RUNNING, JobState.QUEUED])
    go[1].touch()
    wait_until(lambda: jobs[2].state() == JobState.RUNNING)
    assert jobs[1].state() == JobState.DONE and jobs[0].state() == JobState.RUNNING
    go[0].touch()
    go[2].touch()
    assert {job.wait(60) for job in jobs} == {JobState.DONE}


def test_failures_are_told(executor: Executor) -> None:
    foreseen, partly, crash = (
        executor.submit("fail", {"with": "foreseen"}),
        executor.submit("fail", {"with": "partly"}),
        executor.submit("segfault", {}),
    )
    assert foreseen.wait(60) == JobState.FAILED and foreseen.message() == "The scan is upside down: turn it."
    assert partly.wait(60) == JobState.FAILED and partly.result() == {"done": 1}
    assert crash.wait(60) == JobState.INTERRUPTED and crash.result() is None


def test_jobs_that_run_or_wait_are_cancelled(executor: Executor, tmp_path: Path, wait_until: Wait) -> None:
    jobs = [executor.submit("wait", {"go": str(tmp_path / "never")}) for _ in range(3)]
    wait_until(lambda: jobs[0].state() == jobs[1].state() == JobState.RUNNING)
    for job in reversed(jobs):
        job.cancel()
    assert [job.wait(60) for job in jobs] == [JobState.CANCELLED] * 3
    assert len({read_json(job.folder / WORKER_FACTS)["pid"] for job in jobs[:2]}) == 2
    assert not (jobs[2].folder / WORKER_FACTS).exists(), "the third has never begun"


def test_a_closed_executor_leaves_no_job(executor: Executor, tmp_path: Path, wait_until: Wait) -> None:
    job = executor.submit("wait", {"go": str(tmp_path / "never")})
    wait_until(lambda: job.state() == JobState.RUNNING)
    executor.close()
    assert job.state() == JobState.CANCELLED


def test_a_job_goes_on_where_it_was_when_its_node_is_killed(nodes: Nodes, tmp_path: Path, wait_until: Wait) -> None:
    with RayExecutor(nodes.address, tmp_path / "jobs", device="cpu", worker=[str(TINY)]) as executor:
        jobs = [executor.submit("count", {"steps": 60, "pause_s": 0.1}) for _ in range(2)]
        for job in jobs:
            wait_until(lambda job=job: read_json(job.folder / "checkpoint.json")["step"] >= 5)
        nodes.kill_one()
        assert [job.wait(120) for job in jobs] == [JobState.DONE] * 2
        begun = sorted(len((job.folder / ATTEMPTS).read_text().splitlines()) for job in jobs)
        assert begun == [1, 2], "one of the two lost its node, and was begun again"
        results = sorted((job.result() or {})["from"] for job in jobs)
        assert results[0] == 0 and results[1] >= 5, "the second attempt went on from the checkpoint"
        assert all((job.result() or {})["to"] == 60 for job in jobs)
        for job in jobs:
            ends = [event for event in read_events(job.folder)[0] if event.state == JobState.DONE]
            assert len(ends) == 1


def test_a_node_that_cannot_do_a_job_is_named(nodes: Nodes, tmp_path: Path) -> None:
    with RayExecutor(nodes.address, tmp_path / "jobs", device="cpu", worker=[str(TINY)]) as executor:
        executor._attempt = partial(executor._attempt, version="0.0.1")
        job = executor.submit("count", {"steps": 1})
        assert job.wait(120) == JobState.INTERRUPTED
        assert job.message().startswith("The node ") and job.message().endswith("same version on all nodes.")


def test_more_threads_than_any_node_has_are_refused(nodes: Nodes, tmp_path: Path) -> None:
    """Ray would keep the jobs waiting for ever."""
    with pytest.raises(JobError, match=r"No node of the Ray cluster has room for --threads 2: .* has 1\. Give"):
        RayExecutor(nodes.address, tmp_path / "jobs", threads=2)


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    jobs = tmp_path / "jobs"
    folder = create_job(JobRequest("count", {"steps": 2}, "cpu"), jobs)
    return Attempt(folder, jobs / LOCK, code_version(), 1, [str(TINY)])


def test_a_job_that_is_done_is_not_done_again(attempt: Attempt) -> None:
    with FileLock(attempt.lock, 0, "free", JobError):
        assert make_attempt(attempt) == 0
        events = (attempt.folder / "events.jsonl").read_bytes()
        result = (attempt.folder / "result.json").stat()
        assert make_attempt(attempt) == 0
    assert (attempt.folder / "events.jsonl").read_bytes() == events
    assert (attempt.folder / "result.json").stat().st_mtime_ns == result.st_mtime_ns


def test_an_attempt_waits_for_the_worker_of_an_earlier_one(attempt: Attempt, wait_until: Wait) -> None:
    """As when a node was only cut off: its worker goes on, and the second attempt must not write beside it."""
    import threading

    codes: list[int] = []
    with FileLock(attempt.lock, 0, "free", JobError):
        with FileLock(attempt.folder / "worker.lock", 0, "free", JobError):
            second = threading.Thread(target=lambda: codes.append(make_attempt(attempt)))
            second.start()
            wait_until(lambda: b"A worker is at the job" in (attempt.folder / "log.txt").read_bytes())
            assert last_event(attempt.folder) is None and not codes
        second.join(60)
    assert codes == [0] and last_event(attempt.folder).state == JobState.DONE  # type: ignore[union-attr]


def test_a_node_that_cannot_do_the_job_says_why(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    monkeypatch.setattr("TransferSegLib.executors.attempt._APPEARS_S", 0.0)
    with pytest.raises(JobError, match="does not see the lock"):
        make_attempt(attempt)
    with FileLock(attempt.lock, 0, "free", JobError):
        with pytest.raises(JobError, match=r"install the same version on all nodes"):
            make_attempt(replace(attempt, version="0.0.1"))
        with pytest.raises(JobError, match=r"does not see .*elsewhere: use a folder on a file system that all"):
            make_attempt(replace(attempt, folder=attempt.folder.parent / "elsewhere"))
        lines = [json.dumps({"node": "a"})] * MOST_ATTEMPTS
        (attempt.folder / ATTEMPTS).write_text("\n".join(lines) + "\n")
        with pytest.raises(JobError, match=f"begun {MOST_ATTEMPTS} times"):
            make_attempt(attempt)
    assert last_event(attempt.folder) is None


def test_without_ray_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(JobError, match=r"pip install 'TransferSegLib\[cluster\]'"):
        RayExecutor("auto", tmp_path / "jobs")


def test_two_programs_do_not_use_one_folder(tmp_path: Path) -> None:
    with LocalExecutor(tmp_path / "jobs"), pytest.raises(JobError, match="Another program runs jobs"):
        LocalExecutor(tmp_path / "jobs")
    LocalExecutor(tmp_path / "jobs").close()
