"""Two runs at one thing: the same job is not started twice, and what else is at a project is said."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from TransferSegLib.cli.finetune import _start_in_background, _tell_of_others
from TransferSegLib.cli.jobs import start_in_background
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.run_folder import RunFolder, running, runs_of
from TransferSegLib.jobs import others
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.status import read_state
from TransferSegLib.jobs.store import create_job, list_jobs, request_cancel

Captured = pytest.CaptureFixture[str]


def asked(**more: Any) -> argparse.Namespace:
    return argparse.Namespace(jobs_folder=None, background=True, **more)


def test_the_same_job_is_told_and_not_started(
    jobs: Path, start: Callable[..., Path], ended: Callable[[Path], str], tmp_path: Path, capsys: Captured
) -> None:
    folder = start("wait", go=str(tmp_path / "go"))
    request = JobRequest("wait", {"go": str(tmp_path / "go")}, "cpu", title="another title")
    assert start_in_background(request, asked()) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == folder.name and "already, so nothing was started" in printed.err
    assert list_jobs() == [folder]
    for another in (JobRequest("wait", {"go": "elsewhere"}, "cpu"), JobRequest("wait", request.parameters, "cuda")):
        assert not any(job.is_same(another) for job in others.unfinished_jobs())
    request_cancel(folder)
    ended(folder)
    assert not list(others.unfinished_jobs()), "a job that is over is no reason not to start another"


def test_what_else_is_at_a_project(jobs: Path, tmp_path: Path, capsys: Captured) -> None:
    project = tmp_path / "project"
    project.mkdir()
    request = FineTuneRequest(project)
    job = create_job(JobRequest("finetune", request.to_json(), "cpu"), jobs)
    create_job(JobRequest("finetune", FineTuneRequest(tmp_path / "other").to_json(), "cpu"), jobs)
    _tell_of_others(request, asked())
    told = capsys.readouterr().err
    assert told.count("fine-tunes on this project") == 1
    assert f"The job {job.name} (queued)" in told and "waits until it has ended" in told
    in_front = asked()
    in_front.background = False
    _tell_of_others(request, in_front)
    assert "runs beside it" in capsys.readouterr().err
    assert not running(runs_of(request))
    with RunFolder(runs_of(request), {"seed": 1}) as run:
        assert running(runs_of(request)) == [run.folder]
        _tell_of_others(request, in_front)
        assert "Another fine-tuning of this project is running." in capsys.readouterr().err
    assert not running(runs_of(request)), "it was left"
    assert read_state(job) == "queued"


def test_of_the_same_job_only_that_is_said(
    jobs: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told that it waits for the job that runs, and then that nothing was started."""
    monkeypatch.setattr("TransferSegLib.finetuning.plan.check_request", lambda request: "clinic")
    project = tmp_path / "project"
    project.mkdir()
    request = FineTuneRequest(project)
    job = create_job(JobRequest("finetune", request.to_json(), "cpu"), jobs)
    assert _start_in_background(request, asked(device="cpu")) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == job.name and "nothing was started" in printed.err
    assert "waits until" not in printed.err and list_jobs() == [job]
