"""Fetching one file of the catalogue: resumed after a break, verified by its checksum before anything is used.

What was fetched so far lies in a part file named by the checksum; whatever goes wrong, it is the only thing left
behind, and the next try goes on from there. Nothing here runs unless the user asked for it.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from TransferSegLib.durable_writing import replace_file
from TransferSegLib.errors import Cancelled, ModelError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.models.catalogue import Download, git_blob_id, megabytes
from TransferSegLib.models.http_source import (
    Head,
    RangeRefusedError,
    TooSlowError,
    TransientError,
    host,
    new_session,
    read_from,
    web_page_instead,
)
from TransferSegLib.models.locate import ANOTHER_LIBRARY
from TransferSegLib.own_files import refuse_links
from TransferSegLib.progress import CancelToken, Progress, ProgressCallback, Task

if TYPE_CHECKING:
    import requests

#: Seconds before each new try after a failure that may pass; a try that got further begins the count anew.
PAUSES_S = (1.0, 4.0, 10.0)
#: How the files of each kind end, and begin.
_SUFFIXES = {"keras": ".h5", "transferseg": ".zip"}
_SIGNATURES = {"keras": b"\x89HDF\r\n\x1a\n", "transferseg": b"PK\x03\x04"}
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{0,200}"')
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_LONGEST_WAIT_S = 3600.0
_SECONDS_BETWEEN_REPORTS = 0.2


class Part:
    """What there is of one file in a folder: its beginning, the server's name for that version of it, or all of it."""

    def __init__(self, folder: Path, download: Download) -> None:
        """Name the files; nothing is touched."""
        self.path = folder / f"{download.git_blob}.part"
        self.complete = folder / f"{download.git_blob}{_SUFFIXES[download.kind]}"
        self.lock = folder / f"{download.git_blob}.lock"
        self._etag = folder / f"{download.git_blob}.etag"

    @property
    def size(self) -> int:
        """The number of bytes fetched so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def validator(self) -> str | None:
        """The strong ETag of the version that the bytes are of, None when it is not known."""
        try:
            text = self._etag.read_text(encoding="ascii")
        except (OSError, ValueError):
            return None
        return text if _STRONG_ETAG.fullmatch(text) else None

    def begin(self, validator: str | None) -> None:
        """Make the part empty and remember which version it will be of."""
        self.path.write_bytes(b"")
        if validator is None:
            self._etag.unlink(missing_ok=True)
        else:
            self._etag.write_text(validator, encoding="ascii")

    @property
    def files(self) -> tuple[Path, ...]:
        """What there may be of the file."""
        return (self.path, self._etag, self.complete)

    def discard(self) -> None:
        """Delete everything that was fetched."""
        for file in self.files:
            file.unlink(missing_ok=True)


@contextmanager
def alone(
    part: Part, name: str, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> Iterator[None]:
    """Keep other processes from fetching the same file; waits for one that does, and says so in the progress.

    Raises ModelError when the folder cannot be used or the wait takes an hour, Cancelled.
    """
    folder = part.lock.parent
    refuse_links(folder.parent, folder, *part.files, error_type=ModelError)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"The folder {folder} cannot be made: {error.strerror or error}. Choose another library folder."
        ) from error
    busy = f"Another program is fetching {name}. Try again when it is done."
    lock = FileLock(part.lock, 0, busy, ModelError, hint=ANOTHER_LIBRARY)
    try:
        lock.acquire()
    except ModelError:
        if progress is not None:
            progress(Progress("Waiting", 0.0, f"another program is fetching {name}"))
        lock = FileLock(part.lock, _LONGEST_WAIT_S, busy, ModelError, cancel, ANOTHER_LIBRARY)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def fetch_file(
    download: Download,
    part: Part,
    name: str,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    session: requests.Session | None = None,
    pauses_s: tuple[float, ...] = PAUSES_S,
) -> Path:
    """Return the complete file, verified by its checksum; the caller is ``alone`` with the part and deletes the file.

    What an earlier try left is gone on with, and a complete file that was left is verified and used. ``session`` None
    is a new one that sends no credentials. Raises ModelError in one line for a person, Cancelled; then nothing but a
    part that can be gone on with is left.
    """
    try:
        if part.complete.is_file():
            if git_blob_id(part.complete, cancel) == download.git_blob:
                return part.complete
            part.discard()
        with session or new_session() as used:
            _Fetching(download, part, name, progress, cancel, used, pauses_s).run()
        replace_file(part.path, part.complete)
    except OSError as error:
        raise _not_writable(part, error) from error
    return part.complete


class _Fetching:
    """One call of ``fetch_file``: tries until the file is complete and right."""

    def __init__(
        self,
        download: Download,
        part: Part,
        name: str,
        progress: ProgressCallback | None,
        cancel: CancelToken | None,
        session: requests.Session,
        pauses_s: tuple[float, ...],
    ) -> None:
        self._download = download
        self._part = part
        self._name = name
        self._progress = progress
        self._cancel = cancel
        self._session = session
        self._pauses_s = pauses_s
        self._total = download.bytes
        #: Whether the part was put together from several tries, so that a wrong checksum may be their fault.
        self._patched = False

    def run(self) -> None:
        """Fetch and verify; the part is complete and right afterwards, or ModelError or Cancelled is raised."""
        try:
            self._fetch_all()
            if self._is_right():
                return
            if self._patched:
                self._patched = False
                self._fetch_all()
                if self._is_right():
                    return
        except Cancelled as error:
            raise Cancelled(f"Stopped on request.{self._kept()}") from error
        at = host(self._download.address)
        raise ModelError(
            f"What {at} sent is not the file in the catalogue (its checksum differs): it was changed or damaged on "
            "the way, and is deleted. Try again, or on another network."
        )

    def _fetch_all(self) -> None:
        """Try until the part is complete or trying has no more sense."""
        failures, furthest = 0, self._part.size
        reached = False
        while True:
            try:
                return self._fetch_on()
            except RangeRefusedError as error:
                if self._part.size == 0:
                    raise ModelError(f"{error} Try again later.") from error
                if git_blob_id(self._part.path, self._cancel) == self._download.git_blob:
                    return None
                self._part.discard()
            except TooSlowError as error:
                raise ModelError(f"{error}{self._kept()}") from error
            except TransientError as error:
                reached = reached or error.connected
                if self._part.size > furthest:
                    failures, furthest = 0, self._part.size
                if not reached or failures >= len(self._pauses_s):
                    raise ModelError(f"{error}{self._kept()}") from error
                self._wait(self._pauses_s[failures])
                failures += 1

    def _fetch_on(self) -> None:
        """Make one request and add what it brings to the part."""
        size = self._part.size
        pieces = read_from(self._session, self._download.address, size, self._part.validator, self._cancel)
        head, first = next(pieces)
        self._check_size(head)
        if head.start == 0:
            # Only now that these are the file's first bytes may they take the place of what was there.
            first = next(pieces, (head, b""))[1]
            self._check_signature(first)
            self._part.begin(head.validator)
        self._patched = head.start > 0
        self._check_space(head)
        try:
            self._write(head, chain([first], (piece for _, piece in pieces)))
        except OSError as error:
            raise _not_writable(self._part, error, self._kept()) from error
        if self._total is not None and self._part.size < self._total:
            raise TransientError(f"The connection to {host(self._download.address)} broke off.", connected=True)

    def _write(self, head: Head, pieces: Iterator[bytes]) -> None:
        """Append the pieces to the part and report; raises ModelError when they are more than the file can have."""
        limit = self._download.largest_bytes if head.total is None else head.total
        expected = self._total or self._download.about_bytes
        size = self._part.size
        task = Task(f"Fetching {self._name}", self._progress).counting(expected, min(size, expected))
        reported, reported_at = size, time.monotonic()
        with self._part.path.open("ab") as stream:
            for piece in pieces:
                size += len(piece)
                if size > limit:
                    break
                stream.write(piece)
                if size == expected or time.monotonic() - reported_at >= _SECONDS_BETWEEN_REPORTS:
                    task.step(f"{megabytes(size)} of {megabytes(expected)}", count=size - reported)
                    reported, reported_at = size, time.monotonic()
            stream.flush()
            os.fsync(stream.fileno())
        if size > limit:
            self._part.discard()
            raise ModelError(f"{host(self._download.address)} sends more than the file can have: it is not the one.")

    def _check_size(self, head: Head) -> None:
        """Raise ModelError when the file that is offered cannot be the one, by its size."""
        if head.total is None:
            return
        exact = self._download.bytes
        if head.total > self._download.largest_bytes or (exact is not None and head.total != exact):
            raise ModelError(
                f"{host(self._download.address)} offers a file of {head.total:,} bytes, which is not the one in the "
                f"catalogue ({'about ' if exact is None else ''}{self._download.about_bytes:,} bytes)."
            )
        self._total = head.total

    def _check_signature(self, first: bytes) -> None:
        """Raise ModelError when a file does not begin as one of its kind does, so that no part is made of it."""
        signature = _SIGNATURES[self._download.kind]
        if not signature.startswith(first[: len(signature)]):
            at = host(self._download.address)
            if first.lstrip()[:1] == b"<":
                raise web_page_instead(at)
            raise ModelError(f"{at} answered with something else than the file. Try again later.")

    def _check_space(self, head: Head) -> None:
        """Raise ModelError when the disk has not room for the rest of the file and for the model made of it."""
        expected = self._total or self._download.about_bytes
        needed = expected - head.start + self._download.about_bytes
        try:
            free = shutil.disk_usage(self._part.path.parent).free
        except OSError:
            return
        if free < needed:
            raise ModelError(
                f"The disk is too full: {self._name} needs {megabytes(needed)} in {self._part.path.parent}, and "
                f"{megabytes(free)} are free.{self._kept()}"
            )

    def _is_right(self) -> bool:
        """Verify the checksum; a part that is wrong is deleted."""
        if git_blob_id(self._part.path, self._cancel) == self._download.git_blob:
            return True
        self._part.discard()
        return False

    def _kept(self) -> str:
        """Return a sentence about what the next try will go on with, empty when there is nothing."""
        size = self._part.size
        if not size:
            return ""
        of = megabytes(self._total or self._download.about_bytes)
        return f" {megabytes(size)} of {of} are kept: fetch again to go on from there."

    def _wait(self, seconds: float) -> None:
        """Wait before a new try, ending at once with Cancelled when asked to stop."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._cancel is not None:
                self._cancel.check()
            time.sleep(min(0.1, seconds))


def _not_writable(part: Part, error: OSError, kept: str = "") -> ModelError:
    """Return the error for a part that cannot be written."""
    folder = part.path.parent
    if error.errno in _DISK_FULL:
        return ModelError(f"The disk is full: free some space for {folder} and try again.{kept}")
    return ModelError(f"What is fetched cannot be written to {folder}: {error.strerror or error}.{kept}")
