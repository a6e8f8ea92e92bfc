"""Fetching one file of the catalogue: resumed after a break, verified by its checksum before anything is used.

What was fetched so far lies in a part file named by the checksum, or by the address where none is published; whatever
goes wrong, it is the only thing left behind, and the next try continues it. Nothing here runs unless the user asked for
it.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from TransferSegLib.durable_writing import replace_file
from TransferSegLib.errors import Cancelled, ModelError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.models.catalogue import megabytes
from TransferSegLib.models.download import Download, git_blob_id, sha256_of
from TransferSegLib.models.http_source import (
    Head,
    RangeRefusedError,
    TransientError,
    host,
    new_session,
    read_from,
    web_page_instead,
)
from TransferSegLib.models.locate import ANOTHER_LIBRARY
from TransferSegLib.output_checks import why_no_folder
from TransferSegLib.own_files import refuse_links
from TransferSegLib.progress import Task

if TYPE_CHECKING:
    import requests

#: Seconds before each new try after a failure that may pass; a try that got further begins the count anew.
PAUSES_S = (1.0, 4.0, 10.0)
#: How the files of each kind end, and begin.
_SUFFIXES = {"keras": ".h5", "transferseg": ".zip", "nnunet": ".zip"}
_SIGNATURES = {"keras": b"\x89HDF\r\n\x1a\n", "transferseg": b"PK\x03\x04", "nnunet": b"PK\x03\x04"}
_READ_AT_ONCE = 2**20
_LARGEST_RATIO = 50
_LONGEST_WAIT_S = 3600.0
_SECONDS_BETWEEN_REPORTS = 0.2


class Part:
    """What there is of one file in a folder: its beginning, or all of it."""

    def __init__(self, folder: Path, download: Download) -> None:
        """Name the files; nothing is touched."""
        self.path = folder / f"{download.key}.part"
        self.complete = folder / f"{download.key}{_SUFFIXES[download.kind]}"
        self.lock = folder / f"{download.key}.lock"

    @property
    def size(self) -> int:
        """The number of bytes fetched so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def discard(self) -> None:
        """Delete everything that was fetched."""
        for file in (self.path, self.complete):
            file.unlink(missing_ok=True)


@contextmanager
def alone(part: Part, name: str, task: Task | None = None) -> Iterator[None]:
    """Keep other processes from fetching the same file; waits for one that does, and reports that it waits.

    Raises ModelError when the folder cannot be used or the wait takes an hour, Cancelled.
    """
    task = task or Task()
    folder = part.lock.parent
    refuse_links(folder.parent, folder, part.path, part.complete, error_type=ModelError)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"The folder {folder} cannot be made: {why_no_folder(folder, error)}. Choose another library folder."
        ) from error
    busy = f"Another program is fetching {name}. Try again when it is done."
    lock = FileLock(part.lock, 0, busy, ModelError, hint=ANOTHER_LIBRARY)
    try:
        lock.acquire()
    except ModelError:
        task.named("Waiting").at(0.0, f"another program is fetching {name}")
        lock = FileLock(part.lock, _LONGEST_WAIT_S, busy, ModelError, task.cancel, ANOTHER_LIBRARY)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def fetch_file(
    download: Download,
    part: Part,
    name: str,
    task: Task | None = None,
    session: requests.Session | None = None,
    pauses_s: tuple[float, ...] = PAUSES_S,
) -> Path:
    """Return the complete file, verified by its checksum; the caller is ``alone`` with the part and deletes the file.

    Where no checksum is known, an archive is verified by the checksums in it, which tell damage but not another file.
    What an earlier try left is continued, and a complete file that was left is verified and used. ``session`` None
    is a new one that sends no credentials. Raises ModelError in one line for a person, Cancelled; then nothing but a
    part that can be continued is left.
    """
    fetching = _Fetching(download, part, name, task or Task())
    try:
        if part.complete.is_file():
            if is_the_one(part.complete, download, fetching.task):
                return part.complete
            part.discard()
        with session or new_session() as used:
            fetching.run(used, pauses_s)
        replace_file(part.path, part.complete)
    except Cancelled as error:
        raise Cancelled(f"Stopped on request.{fetching.kept()}") from error
    except ModelError as error:
        raise ModelError(f"{error}{fetching.kept()}") from error
    except OSError as error:
        folder = part.path.parent
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = (
            f"The disk is full: free some space for {folder} and try again."
            if full
            else f"What is fetched cannot be written to {folder}: {error.strerror or error}."
        )
        raise ModelError(f"{reason}{fetching.kept()}") from error
    return part.complete


def is_the_one(file: Path, download: Download, task: Task) -> bool:
    """Tell whether a file has the known checksums, or where none is known, whether it is a whole archive."""
    if download.git_blob is not None and git_blob_id(file, task) != download.git_blob:
        return False
    if download.sha256 is not None and sha256_of(file, task) != download.sha256:
        return False
    return download.is_verifiable or is_whole_archive(file, task)


def is_whole_archive(file: Path, task: Task) -> bool:
    """Tell whether every entry of a zip file has the checksum that the file itself gives; raises Cancelled."""
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(info.file_size for info in archive.infolist()) > _LARGEST_RATIO * file.stat().st_size:
                return False  # made to fill a memory: weights do not shrink much when they are packed
            for info in archive.infolist():
                with archive.open(info) as stream:
                    while stream.read(_READ_AT_ONCE):
                        task.check()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError, NotImplementedError):
        return False
    return True


class _Fetching:
    """One call of ``fetch_file``: tries until the file is complete and right."""

    def __init__(self, download: Download, part: Part, name: str, task: Task) -> None:
        self._download, self._part, self._name, self.task = download, part, name, task
        self._at = host(download.address)
        self._total = download.bytes
        #: Whether the part was put together from several tries, so that a wrong checksum may be their fault.
        self._resumed = False
        #: The SHA-256 of what came, where another one was asked for.
        self._found: str | None = None

    def run(self, session: requests.Session, pauses_s: tuple[float, ...]) -> None:
        """Fetch and verify; the part is complete and right afterwards, or an error is raised."""
        self._fetch_all(session, pauses_s)
        if self._is_right():
            return
        if self._resumed:
            self._fetch_all(session, pauses_s)
            if self._is_right():
                return
        if self._download.git_blob is None and self._found is not None:
            raise ModelError(
                f"What {self._at} sent has the SHA-256 {self._found} instead of {self._download.sha256}: it was "
                "changed or damaged on the way, or its makers published another file. It is deleted. Only if they did, "
                f"fetch with --sha256 {self._found}"
            )
        raise ModelError(
            f"What {self._at} sent is {self._wrong}: it was changed or damaged on the way, and is deleted. Try again, "
            "or on another network."
        )

    @property
    def _wrong(self) -> str:
        if not self._download.is_verifiable:
            return "no whole archive"
        which = "in the catalogue" if self._download.git_blob is not None else "asked for"
        return f"not the file {which} (its checksum differs)"

    def kept(self) -> str:
        """Return a sentence about what the next try will continue, empty when there is nothing."""
        size = self._part.size
        of = megabytes(self._total or self._download.about_bytes)
        return f" {megabytes(size)} of {of} are kept: fetch again to continue from there." if size else ""

    def _fetch_all(self, session: requests.Session, pauses_s: tuple[float, ...]) -> None:
        """Try until the part is complete or trying makes no more sense."""
        failures, furthest, reached = 0, self._part.size, False
        while True:
            try:
                return self._fetch_rest(session)
            except RangeRefusedError:
                if self._part.size == 0:
                    raise
                if self._is_right():
                    return None
            except TransientError as error:
                reached = reached or error.connected
                if self._part.size > furthest:
                    failures, furthest = 0, self._part.size
                if not reached or failures >= len(pauses_s):
                    raise
                self._pause(pauses_s[failures])
                failures += 1

    def _fetch_rest(self, session: requests.Session) -> None:
        """Make one request and add what it brings to the part."""
        with closing(read_from(session, self._download.address, self._part.size, self.task)) as pieces:
            head, _ = next(pieces)
            self._check_size(head)
            _, first = next(pieces, (head, b""))
            if head.start == 0:
                # Only now that these are the file's first bytes may they take the place of what was there.
                self._check_signature(first)
                self._part.path.write_bytes(b"")
            self._resumed = head.start > 0
            self._check_space(head)
            self._write(head, first, pieces)
        if self._total is not None and self._part.size < self._total:
            raise TransientError(f"The connection to {self._at} broke off.")

    def _write(self, head: Head, first: bytes, pieces: Iterator[tuple[Head, bytes]]) -> None:
        """Append the pieces to the part and report; raises ModelError when they are more than the file can have."""
        limit = self._download.largest_bytes if head.total is None else head.total
        expected = self._total or self._download.about_bytes
        size = self._part.size
        task = self.task.named(f"Fetching {self._name}").counting(expected, min(size, expected))
        reported, reported_at = size, time.monotonic()
        piece: bytes | None = first
        with self._part.path.open("ab") as stream:
            while piece is not None and size + len(piece) <= limit:
                stream.write(piece)
                size += len(piece)
                if size == expected or time.monotonic() - reported_at >= _SECONDS_BETWEEN_REPORTS:
                    task.step(f"{megabytes(size)} of {megabytes(expected)}", count=size - reported)
                    reported, reported_at = size, time.monotonic()
                piece = next(pieces, (head, None))[1]
            stream.flush()
            os.fsync(stream.fileno())
        if piece is not None:
            self._part.discard()
            raise ModelError(f"{self._at} sends more than the file can have: it is not the one.")

    def _check_size(self, head: Head) -> None:
        """Raise ModelError when the file that is offered cannot be the one, by its size."""
        if head.total is None:
            return
        exact = self._download.bytes
        if head.total > self._download.largest_bytes or (exact is not None and head.total != exact):
            raise ModelError(
                f"{self._at} offers a file of {head.total:,} bytes, which is not the one in the catalogue "
                f"({'about ' if exact is None else ''}{self._download.about_bytes:,} bytes)."
            )
        self._total = head.total

    def _check_signature(self, first: bytes) -> None:
        """Raise ModelError when a file does not begin as one of its kind does, so that no part is made of it."""
        signature = _SIGNATURES[self._download.kind]
        if not signature.startswith(first[: len(signature)]):
            if first.lstrip()[:1] == b"<":
                raise web_page_instead(self._at)
            raise ModelError(f"{self._at} answered with something else than the file. Try again later.")

    def _check_space(self, head: Head) -> None:
        """Raise ModelError when the disk has no room for the rest of the file and for the model made of it."""
        needed = (self._total or self._download.about_bytes) - head.start + self._download.about_bytes
        try:
            free = shutil.disk_usage(self._part.path.parent).free
        except OSError:
            return
        if free < needed:
            raise ModelError(
                f"The disk is too full: {self._name} needs {megabytes(needed)} in {self._part.path.parent}, and "
                f"{megabytes(free)} are free."
            )

    def _is_right(self) -> bool:
        """Verify the checksum; a part that is wrong is deleted."""
        if is_the_one(self._part.path, self._download, self.task):
            return True
        if self._download.sha256 is not None:
            self._found = sha256_of(self._part.path, self.task)
        self._part.discard()
        return False

    def _pause(self, seconds: float) -> None:
        """Wait before a new try, ending at once with Cancelled when asked to stop."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.task.check()
            time.sleep(min(0.1, seconds))
