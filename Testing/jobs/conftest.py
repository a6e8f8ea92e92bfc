"""A folder of jobs whose workers are ended with the test, and the command of a worker that knows the tiny kinds."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from TransferSegLib.errors import JobError
from TransferSegLib.jobs.files import WORKER_FACTS, read_json
from TransferSegLib.jobs.launch import start_job
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.status import read_state
from TransferSegLib.jobs.store import create_job, list_jobs

COMMAND = [sys.executable, str(Path(__file__).with_name("tiny_worker.py"))]


@pytest.fixture
def command() -> list[str]:
    return COMMAND


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the default folder of jobs of this test: its name is no ASCII and has spaces, as a user's may."""
    folder = tmp_path / "Aufträge für Jobs"
    monkeypatch.setenv("TRANSFERSEG_JOBS", str(folder))
    yield folder
    for job in list_jobs(folder):
        with suppress(JobError, OSError):
            if not read_state(job).ended:
                os.kill(read_json(job / WORKER_FACTS)["pid"], getattr(signal, "SIGKILL", signal.SIGTERM))


@pytest.fixture
def start(jobs: Path) -> Callable[..., Path]:
    """Return a function that starts a job of a tiny kind on the CPU and returns its folder."""

    def start_one(kind: str, **parameters: Any) -> Path:
        folder = create_job(JobRequest(kind, parameters, "cpu", title=f"a {kind}"), jobs)
        start_job(folder, COMMAND)
        return folder

    return start_one


@pytest.fixture
def wait_until() -> Callable[[Callable[[], Any]], Any]:
    """Return a function that waits until something is true, and returns it; the test fails when it never is."""

    def wait(what: Callable[[], Any], longest_s: float = 120.0) -> Any:
        deadline = time.monotonic() + longest_s
        while not (found := what()):
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.02)
        return found

    return wait


@pytest.fixture
def ended(wait_until: Callable[..., Any]) -> Callable[[Path], str]:
    """Return a function that waits for a job's end and returns its state."""

    def state(folder: Path) -> str:
        wait_until(lambda: read_state(folder).ended)
        return str(read_state(folder))

    return state
