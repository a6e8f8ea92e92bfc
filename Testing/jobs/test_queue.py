"""One job a device at a time, the others in the order in which they were started; nobody waits for the dead."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from TransferSegLib.jobs.events import JobState, last_event, read_events
from TransferSegLib.jobs.files import WORKER_FACTS, read_json
from TransferSegLib.jobs.launch import start_job
from TransferSegLib.jobs.queue import DeviceQueue
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.status import read_state
from TransferSegLib.jobs.store import create_job, request_cancel

Start = Callable[..., Path]
Ended = Callable[[Path], str]
Wait = Callable[[Callable[[], Any]], Any]


def place_of(folder: Path) -> int | None:
    last = last_event(folder)
    return None if last is None or last.state != JobState.QUEUED else last.place


def test_jobs_wait_in_order_and_a_cancelled_one_lets_the_others_by(
    start: Start, ended: Ended, wait_until: Wait, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    first = start("wait", go=str(go))
    wait_until(lambda: read_state(first) == JobState.RUNNING)
    second, third, fourth = (start("count", steps=2) for _ in range(3))
    wait_until(lambda: [place_of(each) for each in (second, third, fourth)] == [1, 2, 3])
    assert "Waiting: 2 before" in last_event(third).message
    request_cancel(third)
    assert ended(third) == "cancelled"
    wait_until(lambda: place_of(fourth) == 2)
    go.touch()
    assert [ended(each) for each in (first, second, fourth)] == ["done"] * 3
    began = [
        next(event.time for event in read_events(each)[0] if event.state == JobState.RUNNING)
        for each in (second, fourth)
    ]
    finished = [last_event(each).time for each in (first, second)]
    assert finished[0] <= began[0] and finished[1] <= began[1]
    assert list((first.parent / ".queue").glob("*.ticket")) == []


def test_a_killed_holder_frees_the_device_and_a_killed_waiter_its_place(
    start: Start, ended: Ended, wait_until: Wait, tmp_path: Path
) -> None:
    first = start("wait", go=str(tmp_path / "never"))
    wait_until(lambda: read_state(first) == JobState.RUNNING)
    second, third = start("count", steps=1), start("count", steps=1)
    wait_until(lambda: (place_of(second), place_of(third)) == (1, 2))
    for folder in (second, first):
        os.kill(read_json(folder / WORKER_FACTS)["pid"], getattr(signal, "SIGKILL", signal.SIGTERM))
    assert [ended(each) for each in (first, second, third)] == ["interrupted", "interrupted", "done"]


def test_other_devices_do_not_wait(
    jobs: Path, start: Start, ended: Ended, wait_until: Wait, command: list[str], tmp_path: Path
) -> None:
    first = start("wait", go=str(tmp_path / "go"))
    wait_until(lambda: read_state(first) == JobState.RUNNING)
    other = create_job(JobRequest("count", {"steps": 1}, "cuda:1"), jobs)
    start_job(other, command)
    assert ended(other) == "done"
    assert last_event(other).device == "cuda:1"
    (tmp_path / "go").touch()
    assert ended(first) == "done"


def test_tickets_of_jobs_that_are_gone_are_thrown_away(jobs: Path, start: Start, ended: Ended) -> None:
    queue = DeviceQueue(jobs)
    for device in ("cpu", "auto"):
        queue.enter(f"20200101-000000-count-{device}", device)
    (jobs / ".queue" / "00000000000000000000.damaged.ticket").write_text("{")
    assert ended(start("count", steps=1)) == "done"
    assert [path.name for path in (jobs / ".queue").glob("*.ticket")] == ["00000000000000000000.damaged.ticket"]


def test_what_needs_no_device_neither_waits_nor_is_waited_for(
    start: Start, ended: Ended, wait_until: Wait, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    training = start("wait", go=str(go))
    wait_until(lambda: read_state(training) == JobState.RUNNING)
    fetching = start("aside", steps=2)
    assert ended(fetching) == "done", "while the device is busy"
    assert last_event(fetching).device is None
    slow = start("aside", steps=1000, pause_s=0.02)
    wait_until(lambda: read_state(slow) == JobState.RUNNING)
    third = start("count", steps=1)
    wait_until(lambda: place_of(third) == 1)
    go.touch()
    assert [ended(training), ended(third)] == ["done", "done"] and read_state(slow) == JobState.RUNNING
    request_cancel(slow)
    assert ended(slow) == "cancelled"
