"""The contract: a job's folder written by format version 1 is read as it was meant."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from TransferSegLib.jobs.diagnosis import log_tail
from TransferSegLib.jobs.events import Event, JobState, read_events
from TransferSegLib.jobs.files import EVENTS, RESULT, read_json
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.segment_job import SegmentParameters
from TransferSegLib.jobs.status import read_status
from TransferSegLib.jobs.store import follow_events

DATA = Path(__file__).resolve().parents[1] / "Data" / "job_format_1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy: reading a job's state may try its lock."""
    return Path(shutil.copytree(DATA, tmp_path / "job"))


def test_request(folder: Path) -> None:
    request = read_status(folder).request
    assert request == JobRequest(
        "segment",
        request.parameters,
        "auto",
        "segment scan 1.nii.gz",
        "2026-11-23T19:26:52.400+00:00",
        "0.1.0+git.60baf86191",
    )
    assert request.parameters["scans"][0]["scan"] == "C:\\Scans\\Köpfe\\scan 1.nii.gz"
    parameters = SegmentParameters.from_json(request.parameters)
    assert (parameters.model, parameters.structures, parameters.memory_gb) == ("head-neck-ct", ("mandible",), 4.0)


def test_events(folder: Path) -> None:
    events, offset = read_events(folder)
    assert offset == (folder / EVENTS).stat().st_size
    assert [event.state.value for event in events] == [
        "queued",
        "queued",
        "running",
        "running",
        "cancelling",
        "cancelled",
        "queued",
        "running",
        "failed",
    ]
    assert events[1].place == 2
    assert events[3] == Event(
        JobState.RUNNING,
        "2026-11-23T19:27:12.000+00:00",
        stage="training",
        step=3,
        steps=12,
        fraction=0.25,
        loss=1.5,
        dice=0.625,
        seconds_left=7.5,
        device="cuda:0",
        message="loss 1.500, Köpfe",
    )
    assert list(follow_events(folder)) == events


def test_state_result_and_log(folder: Path) -> None:
    status = read_status(folder)
    assert (status.state, status.message) == (JobState.FAILED, "1 of 2 scans segmented. scan 2 is damaged.")
    result = read_json(folder / RESULT)
    assert (result["format"], result["format_version"]) == ("transferseg-job-result", 1)
    assert result["result"]["scans"][0]["volumes_ml"] == {"mandible": 51.355}
    assert log_tail(folder, 1) == ["scan 2 is damaged."]


def test_a_stream_cut_off_while_it_ran_is_an_interrupted_job(folder: Path) -> None:
    """After a power cut, while it trained, in the middle of a line."""
    lines = (folder / EVENTS).read_bytes().splitlines(keepends=True)
    (folder / EVENTS).write_bytes(b"".join(lines[:4]) + lines[4][:20])
    status = read_status(folder)
    assert status.state == JobState.INTERRUPTED
    assert status.last is not None and status.last.step == 3
    assert "on the computer a computer" in status.message
