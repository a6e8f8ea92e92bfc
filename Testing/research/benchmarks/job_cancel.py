"""How long a job takes to stop: seconds from ``request_cancel`` to its last event, and how it stopped.

    python3 Testing/run.py benchmark job_cancel [--trials 3]

Jobs of the test scans: a base model with the default knobs (steps of 64 voxels at width 16) cancelled while it trains,
the bundled model cancelled while it segments, and either cancelled while the worker starts.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from TransferSegLib.jobs.events import last_event
from TransferSegLib.jobs.launch import start_job
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.segment_job import ScanToSegment, SegmentParameters
from TransferSegLib.jobs.status import read_state, read_status
from TransferSegLib.jobs.store import create_job, request_cancel
from TransferSegLib.jobs.train_base_job import TrainBaseParameters

DATA = Path(__file__).resolve().parents[2] / "Data" / "head_neck_ct"


def main() -> None:
    """Print a line per trial."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        jobs = Path(temporary)
        scans = tuple(ScanToSegment(scan, jobs / "out" / scan.name) for scan in sorted((DATA / "images").iterdir()))
        training = JobRequest("train-base", TrainBaseParameters(DATA, "benchmark").to_json(), "cpu")
        segmenting = JobRequest("segment", SegmentParameters(scans).to_json(), "cpu")
        for name, request, stage in (
            ("starting", training, None),
            ("training", training, "training"),
            ("segmenting", segmenting, "Reading the scan"),
        ):
            for _ in range(arguments.trials):
                seconds, message = time_to_stop(request, stage, jobs)
                print(f"{name:10}  {seconds:5.2f} s  {message}", flush=True)


def time_to_stop(request: JobRequest, stage: str | None, jobs: Path) -> tuple[float, str]:
    """Cancel a job a random moment after it came to a stage; return the seconds it took and what it says."""
    folder = create_job(request, jobs)
    start_job(folder)
    while stage is not None:
        last = last_event(folder)
        if last is not None and last.stage == stage:
            break
        if read_state(folder).ended:
            raise SystemExit(read_status(folder).message)
        time.sleep(0.05)
    time.sleep(random.uniform(0.5, 2.5))
    started = time.perf_counter()
    request_cancel(folder)
    while not read_state(folder).ended:
        time.sleep(0.02)
    return time.perf_counter() - started, read_status(folder).message


if __name__ == "__main__":
    main()
