"""``transferseg segment --list`` with several workers, on this computer or on a Ray cluster.

The scans are handed out in parts, each to a job that loads the model once and notes every scan that is done. This
process alone writes the record and the tables. A job that ends without having said why is divided: the scan that it was
at is tried once more, alone, and the others go on without it.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib.cli.segment_run import SegmentRun
from TransferSegLib.cli.segmented_record import SegmentedRecord
from TransferSegLib.errors import Cancelled, JobError, TransferSegError
from TransferSegLib.inference.segment_file import ScanToSegment
from TransferSegLib.jobs.diagnosis import why_interrupted
from TransferSegLib.jobs.events import JobState
from TransferSegLib.jobs.files import read_json
from TransferSegLib.jobs.request import read_request
from TransferSegLib.jobs.status import worker_is_alive
from TransferSegLib.jobs.store import list_jobs

if TYPE_CHECKING:
    from TransferSegLib.executors.interface import Executor, SubmittedJob
    from TransferSegLib.jobs.segment_job import SegmentParameters

#: In the output folder: the jobs of a run, as long as it lasts.
JOBS = ".transferseg-jobs"
#: What Ray prints goes into this file among the jobs.
_RAY_LOG = "ray.log"
_LOOK_S = 0.5
#: How long the workers of a run that was killed may take to end.
_END_S = 30.0
#: A part has so many scans at most: as many results are lost sight of until the next run when this program is killed.
_MOST_SCANS = 25
#: So many parts for each worker, so that all of them end at about the same time ...
_PARTS_EACH = 4
#: ... but no smaller ones than this, where that leaves a part for each: every part loads the model.
_FEWEST_SCANS = 5


def add_spread_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="with --list: segment N scans at a time, each in a process (default: 1; with --ray as many as have room)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="with --list: on the nodes of a running Ray cluster (auto, or HOST:PORT); they must share the folders",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="with --workers or --ray: CPU threads of each worker (default: 1)"
    )


def is_spread(arguments: argparse.Namespace) -> bool:
    """Tell whether several workers were asked for."""
    return arguments.ray is not None or arguments.workers is not None


def check_spread(arguments: argparse.Namespace) -> None:
    """Raise TransferSegError for options that do not go together."""
    if is_spread(arguments) and arguments.list is None:
        raise TransferSegError("--workers and --ray are for --list.")
    if arguments.threads is not None and not is_spread(arguments):
        raise TransferSegError("--threads is for --workers or --ray.")
    for name in ("workers", "threads"):
        if getattr(arguments, name) is not None and getattr(arguments, name) < 1:
            raise TransferSegError(f"--{name} {getattr(arguments, name)}: give 1 or more.")


def part_size(scans: int, at_once: int) -> int:
    """Return how many scans a job gets."""
    fewest = min(_FEWEST_SCANS, math.ceil(scans / at_once))
    return max(1, fewest, min(_MOST_SCANS, math.ceil(scans / (_PARTS_EACH * at_once))))


def take_left_results(output: Path, record: SegmentedRecord) -> None:
    """Note in the record what the jobs of an earlier run did that was killed, and remove the jobs.

    Raises JobError when a run in the folder still goes on.
    """
    jobs = output.absolute() / JOBS
    if not jobs.is_dir():
        return
    from TransferSegLib.executors.interface import lock_of
    from TransferSegLib.jobs.segment_job import finished_scans

    with lock_of(jobs):
        for folder in list_jobs(jobs):
            _wait_for_end(folder)
            request = read_request(folder)
            # What was not measured yet is measured in the files.
            for entry in finished_scans(_note(folder)):
                each = ScanToSegment(Path(entry["scan"]), Path(entry["output"]))
                if each.output.exists() and not record.has_line(each):
                    record.add(each, entry.get("rows"), str(request.parameters.get("settings", "")))
            shutil.rmtree(folder, ignore_errors=True)


def _wait_for_end(folder: Path) -> None:
    """Wait for the worker of a run that was killed, which ends with it, but not at once; raises JobError."""
    deadline = time.monotonic() + _END_S
    while worker_is_alive(folder):
        if time.monotonic() > deadline:
            raise JobError(f"A worker of an earlier run is still at {folder}: wait for its end, and start again.")
        time.sleep(_LOOK_S)


@dataclass(eq=False)
class _Part:
    """Scans for one job; of those ``left`` nothing is known yet, ``failures`` counts the jobs that failed whole."""

    left: list[ScanToSegment]
    failures: int = 0
    job: SubmittedJob | None = None


class SpreadRun(SegmentRun):
    """Segments scans in several workers at a time."""

    _record: SegmentedRecord
    _parameters: SegmentParameters
    _executor: Executor

    def segment_with(self, parameters: SegmentParameters, every: Sequence[ScanToSegment]) -> int:
        """Segment every scan, with what jobs are to be told, and return the exit code."""
        self._parameters = replace(parameters, measures=self._extras.wanted)
        self._suspects: set[Path] = set()
        self._ended = 0
        return self.segment(every)

    def _run(self, every: Sequence[ScanToSegment]) -> int:
        jobs = self._arguments.output.absolute() / JOBS
        jobs.mkdir(parents=True, exist_ok=True)
        # Ray prints to standard output, which is for results.
        with (
            (jobs / _RAY_LOG).open("w", encoding="utf-8") as log,
            redirect_stdout(log),
            self._open_executor(jobs) as self._executor,
        ):
            if self._executor.notice:
                print(f"transferseg: note: {self._executor.notice}", file=sys.stderr)
            kept = super()._run(every)
        shutil.rmtree(jobs, ignore_errors=True)
        return kept

    def _open_executor(self, jobs: Path) -> Executor:
        arguments = self._arguments
        threads = arguments.threads or 1
        if arguments.ray is None:
            from TransferSegLib.executors.local import LocalExecutor

            return LocalExecutor(jobs, arguments.workers, threads, arguments.device)
        from TransferSegLib.executors.ray_cluster import RayExecutor

        return RayExecutor(arguments.ray, jobs, arguments.workers, threads, arguments.device)

    def _work_through(self, todo: list[ScanToSegment]) -> None:
        from TransferSegLib.executors.interface import workers_text

        count = part_size(len(todo), self._executor.at_once)
        waiting = deque(_Part(todo[start : start + count]) for start in range(0, len(todo), count))
        at_work: list[_Part] = []
        try:
            while waiting or at_work:
                self._whole.check()
                while waiting and len(at_work) < self._executor.at_once:
                    at_work.append(self._begin(waiting.popleft()))
                for part in list(at_work):
                    assert part.job is not None
                    state = part.job.state()  # before the look: nothing comes after it
                    self._take(part)
                    if state.ended:
                        at_work.remove(part)
                        waiting.extendleft(self._after(part, part.job, state))
                workers = workers_text([part.job for part in at_work if part.job is not None])
                self._whole.at(self._ended / max(1, self._count), f"{self._ended} of {self._count} scans, {workers}")
                time.sleep(_LOOK_S if at_work else 0)
        except BaseException:
            self._executor.stop()
            for part in at_work:
                self._take(part)
            raise

    def _begin(self, part: _Part) -> _Part:
        parameters = replace(self._parameters, scans=tuple(part.left)).to_json()
        self._record.describe()
        parameters["settings"] = self._record.settings
        part.job = self._executor.submit("segment", parameters, f"segment {len(part.left)} scans")
        return part

    def _take(self, part: _Part) -> None:
        """Note what a job has done since the last look."""
        assert part.job is not None
        by_output = {str(each.output.absolute()): each for each in part.left}
        for entry in _finished(part.job.folder, self._parameters.measures):
            each = by_output.get(entry["output"])
            if each is None:
                continue
            part.left.remove(each)
            self._ended += 1
            self._record.add(each, entry.get("rows"))
            self._extras.add(each, entry.get("rows"))
            for notice in entry.get("notices", ()):
                print(f"transferseg: note: {notice}", file=sys.stderr)
            if self._lines is not None:
                self._lines.result({name: value for name, value in entry.items() if name != "rows"})

    def _after(self, part: _Part, job: SubmittedJob, state: JobState) -> list[_Part]:
        """Return what is still to be done of a part whose job is over; raises TransferSegError where nothing can be."""
        if state == JobState.CANCELLED:
            raise Cancelled("A job of this run was cancelled.")
        result = job.result()
        if state == JobState.FAILED and result is not None:
            why = {entry["scan"]: entry["error"] for entry in result["failed"]}
            for each in [each for each in part.left if str(each.scan.absolute()) in why]:
                self._scan_failed(part, each, why[str(each.scan.absolute())])
        if not part.left:
            shutil.rmtree(job.folder, ignore_errors=True)
            return []
        begun = None if state == JobState.FAILED else _begun(job.folder)
        suspect = next((each for each in part.left if str(each.output.absolute()) == begun), None)
        if suspect is None:
            if part.failures:
                raise TransferSegError(job.message() or f"A job ended unexpectedly: see {job.folder}.")
            shutil.rmtree(job.folder, ignore_errors=True)
            return [_Part(part.left, part.failures + 1)]
        others = [each for each in part.left if each is not suspect]
        again = [_Part(others)] if others else []
        if suspect.output in self._suspects:
            reason = job.message() or f"{why_interrupted(job.folder, True)}."
            self._scan_failed(part, suspect, f"{suspect.scan}: its process was ended, twice: {reason}")
        else:
            self._suspects.add(suspect.output)
            again.append(_Part([suspect]))
        shutil.rmtree(job.folder, ignore_errors=True)
        return again

    def _scan_failed(self, part: _Part, each: ScanToSegment, why: str) -> None:
        part.left.remove(each)
        self._ended += 1
        self._failed(each, why)


def _finished(folder: Path, measures: bool) -> list[dict[str, Any]]:
    """Return the entries of the scans that a job has done completely."""
    entries = _note(folder).get("scans", [])
    return [entry for entry in entries if not measures or "rows" in entry]


def _begun(folder: Path) -> str | None:
    """Return the output of the scan that a job was at."""
    begun = _note(folder).get("begun")
    return str(begun.get("output")) if isinstance(begun, dict) else None


def _note(folder: Path) -> dict[str, Any]:
    from TransferSegLib.jobs.segment_job import FINISHED

    try:
        return read_json(folder / FINISHED)
    except JobError:  # not there yet
        return {}
