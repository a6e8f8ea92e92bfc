"""A lock between processes: whoever holds it on a file is alone, and the system frees it when the holder dies.

>>> with FileLock(folder / ".lock", timeout_s=10, message=f"{folder} is in use by another program."):
...     change(folder)
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType

from TransferSegLib.errors import TransferSegError
from TransferSegLib.own_files import open_own
from TransferSegLib.progress import CancelToken

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

#: Seconds between two attempts.
_PAUSE_S = 0.02


class FileLock:
    """A lock on a file of its own, which is made when missing, stays empty and is never removed.

    It excludes other processes, other threads and other ``FileLock`` objects of this process alike; one object cannot
    be entered twice. The operating system keeps the lock (flock, LockFile), so that a killed holder leaves no lock
    behind. A process that the holder forks without starting another program shares the lock until it ends.
    """

    def __init__(
        self,
        path: Path | str,
        timeout_s: float,
        message: str,
        error_type: type[TransferSegError] = TransferSegError,
        cancel: CancelToken | None = None,
        hint: str = "Check the folder, its permissions and disk.",
    ) -> None:
        """Prepare a lock; nothing is touched before it is entered.

        ``timeout_s`` is how long to wait for another holder (0: do not); then ``error_type`` is raised with
        ``message``, a line for a person. ``cancel`` ends the wait with Cancelled.
        ``hint`` says what to do where the file cannot be locked at all.
        """
        self.path = Path(path)
        self._timeout_s = timeout_s
        self._message = message
        self._error_type = error_type
        self._cancel = cancel
        self._hint = hint
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def __enter__(self) -> FileLock:
        """Wait for the lock and take it; raises ``error_type`` when it stays taken or the file cannot be made."""
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the lock back."""
        self.release()

    def acquire(self) -> None:
        """Wait for the lock and take it; for holders whose life is no ``with`` block."""
        if self.held:
            raise RuntimeError(f"{self.path} is locked by this object already")
        deadline = time.monotonic() + self._timeout_s
        descriptor = self._open()
        try:
            while not self._try(descriptor):
                if self._cancel is not None:
                    self._cancel.check()
                if time.monotonic() >= deadline:
                    raise self._error_type(self._message)
                time.sleep(_PAUSE_S)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; does nothing when it is not held."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            if sys.platform == "win32":
                os.lseek(descriptor, 0, os.SEEK_SET)
                msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
            else:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        """Return a descriptor of the lock's file; children that are started do not inherit it."""
        try:
            return open_own(self.path, os.O_RDWR)
        except OSError as error:
            raise self._unusable(error) from error

    def _try(self, descriptor: int) -> bool:
        """Take the lock if it is free; raises ``error_type`` where the file system knows no locks."""
        try:
            if sys.platform == "win32":
                os.lseek(descriptor, 0, os.SEEK_SET)
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise self._unusable(error) from error
        return True

    def _unusable(self, error: OSError) -> TransferSegError:
        """Return the error for a file that cannot be locked at all."""
        reason = error.strerror or str(error)
        return self._error_type(f"{self.path} cannot be locked: {reason}. {self._hint}")
