"""``transferseg jobs``: what runs in the background: list it, follow it, stop it, go on with it, clear it away."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from TransferSegLib.cli.reporting import duration, progress_shown
from TransferSegLib.errors import Cancelled, JobError, TransferSegError
from TransferSegLib.jobs.diagnosis import log_tail
from TransferSegLib.jobs.events import Event, JobState
from TransferSegLib.jobs.files import LOG, RESULT, read_json
from TransferSegLib.jobs.launch import resume_job, start_job, wait_for_worker
from TransferSegLib.jobs.others import unfinished_jobs
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.status import JobStatus, read_state, read_status
from TransferSegLib.jobs.store import create_job, find_job, follow_events, list_jobs, remove_job, request_cancel
from TransferSegLib.progress import Progress
from TransferSegLib.wording import local_time, table

#: How long ``cancel`` waits to see the job end before it leaves it to end alone.
_CANCEL_WAIT_S = 15.0


def add_parser(subparsers: Any) -> None:
    """Add the verb and its own verbs."""
    parser = subparsers.add_parser(
        "jobs",
        help="list, follow, cancel and resume work in the background",
        description="Work started with --background continues when the terminal is closed. Each device runs one job "
        "at a time.",
        epilog="JOB is the id of a job, or the beginning or end of it if that is unique. Exit codes of follow: "
        "0 done, 2 failed or interrupted, 130 cancelled (also when Ctrl-C stops following).",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    listing = verbs.add_parser("list", help="list all jobs, the oldest first")
    listing.set_defaults(run=run_list)
    places = [listing]
    for name, run, text in (
        ("show", run_show, "show what a job does, where it is, its result and the end of its log"),
        ("follow", run_follow, "show a job's progress until it ends; Ctrl-C stops following, not the job"),
        ("cancel", run_cancel, "stop a job; it can be resumed"),
        ("start", run_start, "start a job that was made and has not been started yet"),
        ("resume", run_resume, "continue a job that was cancelled, failed or was interrupted"),
        ("remove", run_remove, "remove a job's folder; what it wrote elsewhere stays"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("job", metavar="JOB", nargs="+" if name == "remove" else None, help="id of the job")
        if name == "show":
            verb.add_argument(
                "--all", action="store_true", help="print the training settings, and what was not asked for, too"
            )
        verb.set_defaults(run=run)
        places.append(verb)
    for verb in places:
        _add_folder_option(verb)


def add_background_options(parser: argparse.ArgumentParser) -> None:
    """Add to another verb's parser what starts it as a job."""
    parser.add_argument(
        "--background", action="store_true", help="run as a job, print its id and return; see transferseg jobs"
    )
    _add_folder_option(parser)


def start_in_background(request: JobRequest, arguments: argparse.Namespace) -> int:
    """Start a job, print its id on standard output, and how to go on on standard error.

    Where the same job runs or waits already, its id is printed and nothing is started.
    """
    same = next((job for job in unfinished_jobs(arguments.jobs_folder) if job.is_same(request)), None)
    if same is not None:
        print(f"This very job is {same.state} already, so nothing was started.", file=sys.stderr)
        _print_started(find_job(same.id, arguments.jobs_folder), arguments)
        return 0
    folder = create_job(request, arguments.jobs_folder)
    wait_for_worker(folder, start_job(folder))
    _print_started(folder, arguments)
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    """Print a line per job; one that cannot be read is listed with the reason."""
    rows = []
    for folder in list_jobs(arguments.jobs_folder):
        try:
            status = read_status(folder)
        except (JobError, OSError) as error:
            rows.append((folder.name, "damaged", "-", "-", str(error)))
            continue
        rows.append(
            (status.id, str(status.state), _progress_text(status), local_time(status.request.created), _what(status))
        )
    if not rows:
        print("There are no jobs.")
        return 0
    print(table(("job", "state", "done", "created", "what"), rows))
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Print everything there is to say of a job."""
    folder = find_job(arguments.job, arguments.jobs_folder)
    status = read_status(folder)
    request = status.request
    lines = [("job", status.id), ("state", _state_text(status)), ("kind", request.kind), ("title", request.title)]
    lines += [("device", request.device), ("created", f"{local_time(request.created)} by {request.code_version}")]
    if status.message:
        lines.append(("says", status.message))
    for name, text in lines:
        if text:
            print(f"{name:8} {text}")
    print(f"folder   {folder}")
    shown = (lambda values: values) if arguments.all else _without_settings
    asked = dict(request.parameters)
    if not arguments.all:
        asked = {name: value for name, value in asked.items() if value not in (None, "", [], {})}
    print("asked    " + json.dumps(shown(asked), indent=1, ensure_ascii=False).replace("\n", "\n         "))
    if (folder / RESULT).is_file():
        result = json.dumps(shown(read_json(folder / RESULT).get("result")), indent=1, ensure_ascii=False)
        print("result   " + result.replace("\n", "\n         "))
    tail = log_tail(folder, 10)
    if tail:
        print(f"end of {LOG}:")
        print("\n".join("  " + line for line in tail))
    return 0


def _without_settings(values: Any) -> Any:
    """Return a job's values without the training settings, which fill a page."""
    if isinstance(values, list):
        return [_without_settings(value) for value in values]
    if not isinstance(values, dict):
        return values
    is_page = {key for key, value in values.items() if key == "configuration" and isinstance(value, dict)}
    kept = {key: _without_settings(value) for key, value in values.items() if key not in is_page}
    return kept | dict.fromkeys(is_page, "(transferseg jobs show --all prints it)")


def run_follow(arguments: argparse.Namespace) -> int:
    """Show a job's progress until it ends; the exit code tells how."""
    folder = find_job(arguments.job, arguments.jobs_folder)
    try:
        with progress_shown(as_result=True) as progress:
            for event in follow_events(folder):
                if not event.state.ended:
                    progress(_as_progress(event))
    except KeyboardInterrupt:
        raise Cancelled(
            f"Following stopped; the job continues. Stop it with: {_call('cancel', folder, arguments)}"
        ) from None
    status = read_status(folder)
    print(_state_text(status) + (f": {status.message}" if status.message else ""))
    return _exit_code(status.state)


def run_cancel(arguments: argparse.Namespace) -> int:
    """Ask a job to stop and wait a little to see it end."""
    folder = find_job(arguments.job, arguments.jobs_folder)
    state = request_cancel(folder)
    deadline = time.monotonic() + _CANCEL_WAIT_S
    while not state.ended and time.monotonic() < deadline:
        time.sleep(0.1)
        state = read_state(folder)
    status = read_status(folder)
    print(f"{status.id}: {_state_text(status)}" + (f": {status.message}" if status.message else ""))
    return 0


def run_start(arguments: argparse.Namespace) -> int:
    """Start the worker of a job that another program made, so that it outlives that program."""
    folder = find_job(arguments.job, arguments.jobs_folder)
    wait_for_worker(folder, start_job(folder))
    _print_started(folder, arguments)
    return 0


def run_resume(arguments: argparse.Namespace) -> int:
    """Start a new worker for a job that has none."""
    folder = find_job(arguments.job, arguments.jobs_folder)
    wait_for_worker(folder, resume_job(folder))
    _print_started(folder, arguments)
    return 0


def run_remove(arguments: argparse.Namespace) -> int:
    """Remove jobs that are over; exit code 2 when one could not be removed."""
    failed = 0
    for name in arguments.job:
        try:
            remove_job(find_job(name, arguments.jobs_folder))
        except TransferSegError as error:
            failed += 1
            print(f"transferseg: {error}", file=sys.stderr)
    return 2 if failed else 0


def _add_folder_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs-folder", type=Path, metavar="FOLDER", help="folder of jobs (default: TRANSFERSEG_JOBS, else your own)"
    )


def _print_started(folder: Path, arguments: argparse.Namespace) -> None:
    print(folder.name)
    print(f"follow it with: {_call('follow', folder, arguments)}", file=sys.stderr)


def _call(verb: str, folder: Path, arguments: argparse.Namespace) -> str:
    place = f" --jobs-folder {shlex.quote(str(arguments.jobs_folder))}" if arguments.jobs_folder else ""
    return f"transferseg jobs {verb} {folder.name}{place}"


def _as_progress(event: Event) -> Progress:
    stage = event.stage or str(event.state)
    return Progress(stage, event.fraction or 0.0, event.message or "", event.seconds_left)


def _exit_code(state: JobState) -> int:
    return {JobState.DONE: 0, JobState.CANCELLED: 130}.get(state, 2)


def _state_text(status: JobStatus) -> str:
    """Return the state, with the device where one is known."""
    device = status.last.device if status.last is not None else None
    return f"{status.state} on {device}" if device and not status.state.ended else str(status.state)


def _progress_text(status: JobStatus) -> str:
    """Return how far a job is: '40%, 3 min 05 s left'."""
    last = status.last
    if last is None or status.state.ended or last.fraction is None:
        return "-"
    left = "" if last.seconds_left is None else f", {duration(last.seconds_left)} left"
    return f"{100 * last.fraction:.0f}%{left}"


def _what(status: JobStatus) -> str:
    """Return a job's title, and why it is in a state that needs a reason."""
    needs_reason = status.state in (JobState.FAILED, JobState.INTERRUPTED)
    return f"{status.request.title} - {status.message}" if needs_reason else status.request.title
