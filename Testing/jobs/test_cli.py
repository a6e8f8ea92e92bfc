"""``transferseg jobs`` on folders that need no worker; with real workers: the tests of the two kinds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from TransferSegLib.cli import jobs as verb
from TransferSegLib.cli.main import main
from TransferSegLib.cli.reporting import progress_shown
from TransferSegLib.jobs.events import Event, EventWriter, JobState, last_event
from TransferSegLib.jobs.fetch_job import FetchParameters
from TransferSegLib.jobs.files import REQUEST
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.status import read_state
from TransferSegLib.jobs.store import create_job, list_jobs
from TransferSegLib.progress import Progress

DATA = Path(__file__).resolve().parents[1] / "Data" / "job_format_1"


@pytest.fixture
def failed(jobs: Path) -> Path:
    """Return the folder of a job that failed: a copy of the stored one."""
    return Path(shutil.copytree(DATA, jobs / "20261123-192652-segment-b7e8"))


def test_list_and_show(failed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = failed.with_name("20261124-000000-segment-0000")
    shutil.copytree(failed, damaged)
    (damaged / REQUEST).write_text("{")
    assert main(["jobs", "list"]) == 0
    header, _, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["job", "state", "done", "created", "what"]
    assert first.startswith(failed.name) and "  failed  " in first
    assert first.endswith("segment scan 1.nii.gz - 1 of 2 scans segmented. scan 2 is damaged.")
    assert second.startswith(damaged.name) and "  damaged  " in second and "not JSON" in second
    assert main(["jobs", "show", "b7e8"]) == 0
    shown = capsys.readouterr().out
    for text in ("state    failed", "segment scan 1.nii.gz", "Köpfe", '"mandible": 51.355', "scan 2 is damaged."):
        assert text in shown


def test_nothing_to_list_and_nothing_found(jobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "list"]) == 0
    assert "There are no jobs." in capsys.readouterr().out
    for words in (["show", "b7e8"], ["follow", "b7e8"], ["cancel", "b7e8"], ["resume", "b7e8"], ["remove", "b7e8"]):
        assert main(["jobs", *words]) == 2
        assert "There is no job 'b7e8'" in capsys.readouterr().err
    assert not jobs.exists()


def test_another_folder_of_jobs(failed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    shutil.copytree(failed, other / failed.name)
    shutil.rmtree(failed)
    assert main(["jobs", "show", "b7e8", "--jobs-folder", str(other)]) == 0
    assert str(other / failed.name) in capsys.readouterr().out


def test_remove_some_of_which_one_is_not_there(failed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "remove", "nothing", failed.name]) == 2
    assert "There is no job 'nothing'" in capsys.readouterr().err
    assert list_jobs() == []


@pytest.mark.parametrize(("state", "code"), [(JobState.DONE, 0), (JobState.FAILED, 2), (JobState.CANCELLED, 130)])
def test_the_exit_code_of_follow_tells_how_it_ended(
    failed: Path, state: JobState, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    EventWriter(failed).write(Event(state, message="So it ended."))
    assert main(["jobs", "follow", "b7e8"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{state}: So it ended." and all("%" in line for line in lines[:-1])


def test_ctrl_c_stops_following_not_the_job(
    start: Callable[..., Path],
    wait_until: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = start("wait", go=str(tmp_path / "go"))
    wait_until(lambda: read_state(folder) == JobState.RUNNING)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verb, "follow_events", interrupted)
    assert main(["jobs", "follow", folder.name]) == 130
    assert f"transferseg jobs cancel {folder.name}" in capsys.readouterr().err
    assert read_state(folder) == JobState.RUNNING
    assert main(["jobs", "resume", folder.name]) == 2
    assert "A worker is at the job" in capsys.readouterr().err
    assert main(["jobs", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[1:3] == ["running", "0%"]
    assert main(["jobs", "cancel", folder.name]) == 0
    assert "cancelled: Stopped on request." in capsys.readouterr().out


def test_a_job_that_another_program_made_is_started_once(
    jobs: Path, ended: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = create_job(JobRequest("fetch-model", FetchParameters("nobody", jobs / "library").to_json()), jobs)
    assert main(["jobs", "start", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == folder.name
    assert ended(folder) == "failed"
    assert last_event(folder).error.startswith("There is no model 'nobody' in the catalogue. To fetch: ")
    assert not (jobs / "library").exists()
    assert main(["jobs", "start", folder.name]) == 2
    assert "was started before and is failed: resume it" in capsys.readouterr().err


def test_training_settings_are_shown_on_request(jobs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {"project": "here", "minutes": 0.0, "cases": None, "configuration": {"steps": 7777}}
    folder = create_job(JobRequest("finetune", parameters, title="learn"), jobs)
    assert main(["jobs", "show", folder.name, "--jobs-folder", str(jobs)]) == 0
    shown = capsys.readouterr().out
    assert '"here"' in shown and "7777" not in shown and "--all" in shown
    assert '"minutes": 0.0' in shown and "cases" not in shown, "only what was asked for"
    assert main(["jobs", "show", folder.name, "--jobs-folder", str(jobs), "--all"]) == 0
    shown = capsys.readouterr().out
    assert '"steps": 7777' in shown and '"cases": null' in shown


def test_followed_into_a_pipe_every_stage_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_shown(as_result=True) as report:
        for stage in ("reading", "training"):
            for percent in range(0, 100, 10):
                report(Progress(stage, percent / 100, "", None))
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["reading 0%", "training 0%"], "and more of them every two seconds"
    assert printed.err == ""
