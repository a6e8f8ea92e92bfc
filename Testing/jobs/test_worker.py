"""Jobs as real processes: how they end, well or not, and what can be told of it afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from TransferSegLib.errors import JobError
from TransferSegLib.jobs.events import JobState, last_event, read_events
from TransferSegLib.jobs.files import LOG, RESERVE, RESULT, WORKER_FACTS, read_json
from TransferSegLib.jobs.launch import resume_job, start_job, wait_for_worker, worker_command
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.status import read_state, read_status, worker_is_alive
from TransferSegLib.jobs.store import create_job, follow_events, remove_job, request_cancel

ON_POSIX = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
Start = Callable[..., Path]
Ended = Callable[[Path], str]
Wait = Callable[[Callable[[], Any]], Any]


def pid_of(folder: Path) -> int:
    return int(read_json(folder / WORKER_FACTS)["pid"])


def is_running(pid: int) -> bool:
    """Tell whether a process is there and no zombie that nobody in this container takes note of."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        return stat.exists() and stat.read_text(errors="replace").rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def is_counting(folder: Path) -> bool:
    last = last_event(folder)
    return last is not None and last.key == "counting"


def test_a_job_from_start_to_result(start: Start, ended: Ended, wait_until: Wait) -> None:
    folder = start("count", steps=3)
    states = [event.state for event in follow_events(folder)]
    assert ended(folder) == "done"
    assert [state for state, before in zip(states, [None, *states], strict=False) if state != before] == [
        JobState.QUEUED,
        JobState.RUNNING,
        JobState.DONE,
    ]
    result = read_json(folder / RESULT)
    assert result["result"] == {"from": 0, "to": 3} and result["kind"] == "count"
    counted = [event for event in read_events(folder)[0] if event.key == "counting"]
    assert (counted[0].step, counted[0].steps, counted[0].fraction, counted[0].device) == (1, 3, 0.333333, "cpu")
    assert (counted[0].loss, counted[0].dice) == (1.0, 0.5)
    assert (counted[-1].step, counted[-1].fraction) == (3, 1.0)
    assert "counting from 0" in (folder / LOG).read_text(encoding="utf-8")
    wait_until(lambda: not (folder / RESERVE).exists())  # it gives room for the last event, and goes after it
    with pytest.raises(JobError, match="is done"):
        resume_job(folder)
    with pytest.raises(JobError, match="over already"):
        request_cancel(folder)


def test_cancel_and_resume(start: Start, ended: Ended, wait_until: Wait, command: list[str]) -> None:
    folder = start("count", steps=100_000, pause_s=0.01)
    wait_until(lambda: is_counting(folder))
    assert request_cancel(folder) == JobState.CANCELLING
    assert ended(folder) == "cancelled"
    assert read_status(folder).message == "Stopped on request."
    step = read_json(folder / "checkpoint.json")["step"]
    with pytest.raises(JobError, match="resume it"):
        start_job(folder, command)
    resume_job(folder, command)
    wait_until(lambda: read_json(folder / "checkpoint.json")["step"] > step)
    assert f"counting from {step}" in (folder / LOG).read_text(encoding="utf-8")
    request_cancel(folder)
    assert ended(folder) == "cancelled"


@ON_POSIX
def test_work_that_does_not_react_is_ended_with_its_children(start: Start, ended: Ended, wait_until: Wait) -> None:
    folder = start("deaf")
    wait_until(lambda: last_event(folder).key == "deaf")
    worker, child = pid_of(folder), read_json(folder / "child.json")["pid"]
    assert is_running(worker) and is_running(child)
    request_cancel(folder)
    assert ended(folder) == "cancelled"
    assert "was killed" in read_status(folder).message
    wait_until(lambda: not is_running(worker) and not is_running(child))


@ON_POSIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_do_the_same_as_cancel(start: Start, ended: Ended, wait_until: Wait, number: int) -> None:
    folder = start("count", steps=100_000, pause_s=0.01)
    wait_until(lambda: is_counting(folder))
    os.kill(pid_of(folder), number)
    assert ended(folder) == "cancelled"
    assert "signal" in read_status(folder).message


@ON_POSIX
def test_a_killed_worker_is_found_out_and_resumed(
    start: Start, ended: Ended, wait_until: Wait, command: list[str]
) -> None:
    folder = start("count", steps=60, pause_s=0.02)
    wait_until(lambda: is_counting(folder))
    os.kill(pid_of(folder), signal.SIGKILL)
    assert ended(folder) == "interrupted"
    status = read_status(folder)
    assert "ended from outside" in status.message and "can be resumed" in status.message
    step = read_json(folder / "checkpoint.json")["step"]
    wait_for_worker(folder, resume_job(folder, command))
    assert ended(folder) == "done"
    assert read_json(folder / RESULT)["result"] == {"from": step, "to": 60}


def test_an_interrupted_job_can_be_cancelled(start: Start, ended: Ended, wait_until: Wait) -> None:
    folder = start("count", steps=100_000, pause_s=0.01)
    wait_until(lambda: is_counting(folder))
    os.kill(pid_of(folder), getattr(signal, "SIGKILL", signal.SIGTERM))
    assert ended(folder) == "interrupted"
    assert request_cancel(folder) == JobState.CANCELLED == read_state(folder)


def test_a_crash_of_compiled_code_is_told(start: Start, ended: Ended) -> None:
    folder = start("segfault")
    assert ended(folder) == "interrupted"
    message = read_status(folder).message
    assert "crashed" in message and ("Segmentation fault" in message or "access violation" in message)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("foreseen", "The scan is upside down: turn it."),
        ("memory", "not enough memory"),
        ("disk", "The disk is full: there/model.part cannot be written"),
        ("gone", "there/scan.nii.gz is gone"),
        ("unexpected", "An unexpected error: ZeroDivisionError: by zero; see log.txt."),
        ("partly", "1 of 2 done."),
    ],
)
def test_failures_are_one_line_and_the_rest_is_in_the_log(start: Start, ended: Ended, kind: str, message: str) -> None:
    folder = start("fail", **{"with": kind})
    assert ended(folder) == "failed"
    last = last_event(folder)
    assert last is not None and last.error is not None
    assert message in last.error and "\n" not in last.error
    assert "Traceback" in (folder / LOG).read_text(encoding="utf-8")
    assert (folder / RESULT).exists() == (kind == "partly")


def test_a_kind_that_this_version_has_not(start: Start, ended: Ended) -> None:
    folder = start("levitate")
    assert ended(folder) == "failed"
    assert "no jobs of the kind 'levitate'" in read_status(folder).message


def test_a_job_has_one_worker(start: Start, ended: Ended, wait_until: Wait, command: list[str]) -> None:
    folder = start("count", steps=100_000, pause_s=0.01)
    wait_until(lambda: is_counting(folder))
    with pytest.raises(JobError, match="at the job"):
        resume_job(folder, command)
    second = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert second.returncode == 3 and "at the job" in second.stderr
    with pytest.raises(JobError, match="cancel it first"):
        remove_job(folder)
    assert read_state(folder) == JobState.RUNNING
    request_cancel(folder)
    assert ended(folder) == "cancelled"
    remove_job(folder)
    assert not folder.exists()


def test_a_job_outlives_who_started_it(jobs: Path, ended: Ended, wait_until: Wait, command: list[str]) -> None:
    """The starting process prints into a pipe and is gone while the job still prints."""
    code = (
        "import sys; from pathlib import Path; from TransferSegLib.jobs.store import create_job\n"
        "from TransferSegLib.jobs.launch import start_job; from TransferSegLib.jobs.request import JobRequest\n"
        "folder = create_job(JobRequest('count', {'steps': 30, 'pause_s': 0.02}, 'cpu'))\n"
        "start_job(folder, sys.argv[1:]); print(folder.name, flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, encoding="utf-8", check=True)
    folder = jobs / done.stdout.strip()
    assert ended(folder) == "done"
    if os.name != "nt":
        assert pid_of(folder) != os.getpgrp()


def test_a_job_that_is_to_end_with_its_parent(jobs: Path, ended: Ended, wait_until: Wait, command: list[str]) -> None:
    folder = create_job(JobRequest("count", {"steps": 100_000, "pause_s": 0.01}, "cpu"), jobs)
    process = start_job(folder, command, end_with_parent=True)
    wait_until(lambda: is_counting(folder))
    assert process.stdin is not None
    process.stdin.close()  # what the system does when the parent ends, however it does
    assert ended(folder) == "cancelled"
    assert "program that had started it" in read_status(folder).message


def test_a_worker_that_cannot_start_is_told(jobs: Path) -> None:
    folder = create_job(JobRequest("count", {"steps": 1}, "cpu"), jobs)
    with pytest.raises(JobError, match="No module named nowhere"):
        wait_for_worker(folder, start_job(folder, [sys.executable, "-m", "nowhere"]))
    assert not worker_is_alive(folder)
    other = create_job(JobRequest("count", {"steps": 1}, "cpu"), jobs)
    with pytest.raises(JobError, match="cannot be started"):
        start_job(other, [str(jobs / "no python")])
    assert read_state(other) == JobState.FAILED


@ON_POSIX
def test_a_folder_that_vanishes_ends_the_worker(start: Start, wait_until: Wait) -> None:
    folder = start("count", steps=100_000, pause_s=0.01)
    wait_until(lambda: is_counting(folder))
    worker = pid_of(folder)
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists():  # it may have written while the rest was removed
        shutil.rmtree(folder, ignore_errors=True)
    wait_until(lambda: not is_running(worker))
    assert not folder.exists()
    with pytest.raises(JobError, match="not the folder of a job"):
        next(iter(follow_events(folder)))


def test_what_is_no_job_is_left_alone(tmp_path: Path) -> None:
    done = subprocess.run([*worker_command(), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "not the folder of a job" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_cancel_is_seen_before_the_work_begins(start: Start, ended: Ended, command: list[str], jobs: Path) -> None:
    folder = create_job(JobRequest("count", {"steps": 100_000, "pause_s": 0.01}, "cpu"), jobs)
    start_job(folder, command)
    assert request_cancel(folder) == JobState.CANCELLING
    assert ended(folder) == "cancelled"
    assert not (folder / "checkpoint.json").exists() or read_json(folder / "checkpoint.json")["step"] < 100_000
