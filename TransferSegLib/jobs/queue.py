"""One job a device at a time: the others wait in the order in which they were started.

A job draws a numbered ticket when it is started and puts it down when the device is its own. The device itself is an
operating system's lock, so that a worker which crashes frees it; a ticket whose job has no worker any more counts for
nothing and is discarded by those that wait behind it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from TransferSegLib.errors import JobError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.jobs.files import read_json, write_json
from TransferSegLib.jobs.status import read_state
from TransferSegLib.own_files import make_private_folder, refuse_links
from TransferSegLib.progress import CancelToken

_FOLDER = ".queue"
_TICKET_SUFFIX = ".ticket"
#: Seconds between two looks at the queue.
_LOOK_S = 0.25
#: A device that is not resolved yet; it may turn out to be any.
AUTO = "auto"


@dataclass(frozen=True)
class _Ticket:
    """A job that waits for a device; tickets sort by the time they were drawn."""

    path: Path
    job_id: str
    device: str


class DeviceQueue:
    """The queues of all devices for the jobs of one folder.

    >>> queue = DeviceQueue(folder.parent)
    >>> queue.enter(folder.name, "cpu")
    >>> device = queue.wait(folder.name, "cpu", report, cancel)
    >>> ...
    >>> device.release()
    """

    def __init__(self, jobs: Path) -> None:
        """Use the queues of a folder of jobs; raises JobError when a link lies in their place."""
        self._jobs = jobs
        self._folder = jobs / _FOLDER
        refuse_links(jobs, self._folder, error_type=JobError)

    def enter(self, job_id: str, device: str) -> None:
        """Draw a ticket at the end of the queue; an earlier ticket of the job is discarded.

        Raises OSError when it cannot be written.
        """
        self.leave(job_id)
        make_private_folder(self._folder, parents=True, exist_ok=True)
        self._write(self._folder / f"{time.time_ns():020d}.{job_id}{_TICKET_SUFFIX}", device)

    def leave(self, job_id: str) -> None:
        """Discard the job's ticket, if it has one."""
        for ticket in self._tickets():
            if ticket.job_id == job_id:
                _discard(ticket)

    def wait(self, job_id: str, device: str, report: Callable[[int], None], cancel: CancelToken) -> FileLock:
        """Wait for a device (``cpu``, ``cuda:0`` ...) and return its lock, held; the caller releases it.

        ``report`` is called with the number of jobs before this one whenever that changes. Raises Cancelled.
        """
        own = self._own(job_id, device)
        lock = FileLock(self._folder / f"{device.replace(':', '-')}.lock", 0, "busy", JobError)
        reported = 0
        while True:
            cancel.check()
            before = self._before(own)
            if not before and _try(lock):
                _discard(own)
                return lock
            place = len(before) + 1 if self._is_busy(lock) or not before else len(before)
            if place != reported:
                reported = place
                report(place)
            time.sleep(_LOOK_S)

    def _own(self, job_id: str, device: str) -> _Ticket:
        """Return the job's ticket with the device it now knows it waits for, a new one when it has none."""
        if not any(ticket.job_id == job_id for ticket in self._tickets()):
            self.enter(job_id, device)
        ticket = next(ticket for ticket in self._tickets() if ticket.job_id == job_id)
        if ticket.device != device:
            self._write(ticket.path, device)
        return _Ticket(ticket.path, job_id, device)

    def _before(self, own: _Ticket) -> list[_Ticket]:
        """Return the live tickets before one's own that wait for the same device, or may."""
        before = []
        for ticket in self._tickets():
            if ticket.path.name >= own.path.name:
                break
            if ticket.device not in (own.device, AUTO):
                continue
            if self._is_waiting(ticket):
                before.append(ticket)
            else:
                _discard(ticket)
        return before

    def _is_waiting(self, ticket: _Ticket) -> bool:
        """Return whether the job of a ticket has a worker, or is about to have one."""
        try:
            return not read_state(self._jobs / ticket.job_id).ended
        except JobError:
            return False

    def _is_busy(self, lock: FileLock) -> bool:
        if not _try(lock):
            return True
        lock.release()
        return False

    def _tickets(self) -> list[_Ticket]:
        """Return all tickets, the earliest first; one that vanishes meanwhile is left out."""
        tickets = []
        for path in sorted(self._folder.glob(f"[0-9]*{_TICKET_SUFFIX}")):
            with suppress(JobError):
                job_id = path.name.removesuffix(_TICKET_SUFFIX).partition(".")[2]
                tickets.append(_Ticket(path, job_id, str(read_json(path).get("device"))))
        return tickets

    def _write(self, path: Path, device: str) -> None:
        write_json(path, {"device": device})


def _discard(ticket: _Ticket) -> None:
    with suppress(OSError):
        ticket.path.unlink(missing_ok=True)


def _try(lock: FileLock) -> bool:
    """Take a lock if it is free; raises JobError when it cannot be tried at all."""
    try:
        lock.acquire()
    except JobError as error:
        if error.__cause__ is None:
            return False
        raise
    return True
