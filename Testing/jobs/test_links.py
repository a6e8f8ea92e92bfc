"""Jobs in whose folder a link was planted, and who can look into the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from TransferSegLib.errors import JobError
from TransferSegLib.jobs.events import Event, EventWriter, JobState
from TransferSegLib.jobs.files import WRITTEN
from TransferSegLib.jobs.queue import DeviceQueue
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.status import read_status
from TransferSegLib.jobs.store import create_job, list_jobs, remove_job, request_cancel

pytestmark = pytest.mark.skipif(os.name == "nt", reason="making links needs a right on Windows that tests lack")


@pytest.fixture
def job(tmp_path: Path) -> Path:
    return create_job(JobRequest("segment", {}), tmp_path / "jobs")


@pytest.fixture
def thesis(tmp_path: Path) -> Path:
    file = tmp_path / "thesis.txt"
    file.write_text("years of work\n")
    return file


@pytest.mark.parametrize("name", WRITTEN)
def test_a_job_with_a_linked_file_is_not_touched(job: Path, thesis: Path, name: str) -> None:
    (job / name).symlink_to(thesis)
    for look in (read_status, request_cancel, remove_job):
        with pytest.raises(JobError, match=r"is a link to .*thesis\.txt"):
            look(job)
    writer = EventWriter(job)
    writer.reserve()
    if name == "events.jsonl":
        with pytest.raises(JobError, match="link"):
            writer.write(Event(JobState.RUNNING))
    assert thesis.read_text() == "years of work\n"


def test_a_linked_job_is_listed_and_not_used(job: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    job.rename(elsewhere)
    job.symlink_to(elsewhere, target_is_directory=True)
    assert list_jobs(job.parent) == [job]
    with pytest.raises(JobError, match="is a link"):
        read_status(job)
    with pytest.raises(JobError, match="is a link"):
        remove_job(job)
    assert (elsewhere / "request.json").is_file()


def test_a_linked_queue_is_refused(job: Path, tmp_path: Path) -> None:
    (job.parent / ".queue").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(JobError, match="is a link"):
        DeviceQueue(job.parent)


def test_only_the_owner_can_look_into_jobs(tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    jobs.mkdir(mode=0o755)
    job = create_job(JobRequest("segment", {}), jobs)
    DeviceQueue(jobs).enter(job.name, "cpu")
    for folder in (jobs, job, jobs / ".queue"):
        assert folder.stat().st_mode & 0o077 == 0, folder
