"""The folder of jobs: making, finding and listing them, asking one to stop, removing one."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from TransferSegLib.durable_writing import move
from TransferSegLib.errors import JobError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.jobs.events import Event, EventWriter, JobState, read_events
from TransferSegLib.jobs.files import CANCEL, REQUEST, WORKER_LOCK
from TransferSegLib.jobs.queue import DeviceQueue
from TransferSegLib.jobs.request import JobRequest, write_request
from TransferSegLib.jobs.status import read_state
from TransferSegLib.output_checks import why_no_folder
from TransferSegLib.own_files import make_private, make_private_folder, open_own
from TransferSegLib.user_folders import data_folder

#: This environment variable names the folder of jobs, if it is not to be in its usual place.
JOBS_VARIABLE = "TRANSFERSEG_JOBS"
#: How long to wait for someone who only looks whether a job has a worker.
_LOOK_S = 0.5
#: A pause between two looks at a stream that is followed.
_FOLLOW_S = 0.2


def jobs_folder() -> Path:
    """Return the folder of the user's jobs, which need not exist yet.

    It is the environment variable TRANSFERSEG_JOBS, else beside the models where this platform keeps a user's
    application data. Raises JobError when the user has no home folder.
    """
    try:
        return data_folder("Jobs", JOBS_VARIABLE).absolute()
    except RuntimeError as error:
        raise JobError(f"There is no home folder for jobs: set {JOBS_VARIABLE} to a folder.") from error


def create_job(request: JobRequest, jobs: Path | None = None) -> Path:
    """Make the folder of a new job and return it; nothing runs yet. ``jobs`` None: the user's folder of jobs.

    The folder's name is the job's id: when it was made, its kind, and four random digits. Raises JobError when it
    cannot be made.
    """
    jobs = (jobs or jobs_folder()).absolute()
    part = jobs / f".{uuid.uuid4().hex}.part"
    try:
        make_private_folder(jobs, parents=True, exist_ok=True)
        make_private(jobs)
        make_private_folder(part)
        try:
            write_request(part, request)
            while True:
                folder = jobs / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{request.kind}-{secrets.token_hex(2)}"
                if not folder.exists():
                    move(part, folder)
                    return folder
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except OSError as error:
        raise JobError(f"A job cannot be made in {jobs}: {why_no_folder(jobs, error)}.") from error


def list_jobs(jobs: Path | None = None) -> list[Path]:
    """Return the folders of all jobs, the oldest first; raises JobError when the folder of jobs cannot be read."""
    jobs = jobs or jobs_folder()
    try:
        return sorted(each for each in jobs.iterdir() if not each.name.startswith(".") and _is_job(each))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise JobError(f"The jobs in {jobs} cannot be listed: {why_no_folder(jobs, error)}.") from error


def _is_job(folder: Path) -> bool:
    """Return whether a folder is that of a job, or cannot be read, which is then reported for it alone."""
    try:
        return (folder / REQUEST).is_file()
    except OSError:
        return True


def find_job(name: str, jobs: Path | None = None) -> Path:
    """Return the folder of a job by its id, the beginning or end of it that only one job has, or its path.

    Raises JobError when there is none, or more than one.
    """
    jobs = jobs or jobs_folder()
    if re.search(r"[/\\]", name):
        path = Path(name).absolute()
        if (path / REQUEST).is_file():
            return path
        raise JobError(f"{path} is not the folder of a job.")
    every = list_jobs(jobs)
    found = [each for each in every if each.name == name]
    found = found or [each for each in every if name and (each.name.startswith(name) or each.name.endswith(name))]
    if len(found) == 1:
        return found[0]
    if found:
        raise JobError(f"Several jobs are called so: {', '.join(each.name for each in found)}. Give more of the id.")
    raise JobError(f"There is no job '{name}' in {jobs}: see transferseg jobs list.")


def request_cancel(folder: Path) -> JobState:
    """Ask a job to stop and return its state: cancelling, or cancelled at once where no worker is at it.

    Raises JobError when the job is over already, or the request cannot be written.
    """
    state = read_state(folder)
    if state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED):
        raise JobError(f"The job {folder.name} is over already: it is {state}.")
    try:
        os.close(open_own(folder / CANCEL, os.O_WRONLY))
    except OSError as error:
        raise JobError(f"{folder / CANCEL} cannot be written: {error.strerror or error}.") from error
    if state != JobState.INTERRUPTED:
        return JobState.CANCELLING
    with suppress(JobError), FileLock(folder / WORKER_LOCK, 0, "A worker is at it after all.", JobError):
        EventWriter(folder).write_final(Event(JobState.CANCELLED, message="Cancelled after it had been interrupted."))
        DeviceQueue(folder.parent).leave(folder.name)
        return JobState.CANCELLED
    return JobState.CANCELLING


def remove_job(folder: Path) -> None:
    """Remove the folder of a job that is over; what it wrote elsewhere stays.

    Raises JobError when a worker is at it or files cannot be removed.
    """
    busy = f"The job {folder.name} is at work or waiting: cancel it first."
    if not read_state(folder).ended:
        raise JobError(busy)
    with FileLock(folder / WORKER_LOCK, _LOOK_S, busy, JobError):
        pass  # not held while renaming: Windows does not rename a folder with an open file
    DeviceQueue(folder.parent).leave(folder.name)
    retired = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.removed")
    try:
        move(folder, retired)
        shutil.rmtree(retired)
    except OSError as error:
        raise JobError(f"The job {folder.name} cannot be removed completely: {error.strerror or error}.") from error


def follow_events(folder: Path, offset: int = 0, stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Yield a job's events as they come, from a byte offset on, until it has ended or ``stop`` returns True.

    A worker that ends without a final event ends the iteration too: ``read_status`` then says INTERRUPTED. Raises
    JobError when the folder is gone.
    """
    while True:
        over = read_state(folder).ended
        events, offset = read_events(folder, offset)
        yield from events
        if over or stop():
            return
        time.sleep(_FOLLOW_S)
