"""A thread beside the work that sees when it is to stop, and ends the process when the work does not react in time.

Asked to stop is a job by its ``cancel`` file, by the signals that end programs, by the end of the program that started
it (where that was wished), and when its folder is gone.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from TransferSegLib.jobs.files import CANCEL, REQUEST
from TransferSegLib.process_tree import end_process_tree
from TransferSegLib.progress import CancelToken

#: Seconds between two looks at the folder.
LOOK_S = 0.2
#: A folder counts as gone when it is not there so many times in a row: network drives blink.
_LOOKS_UNTIL_GONE = 5

REASON_ASKED = "Stopped on request."
REASON_SIGNAL = "Stopped by the system or a signal."
REASON_PARENT = "Stopped with the program that had started it."
REASON_GONE = "The folder of the job is gone."


class Watcher:
    """Sets a cancel token when the job is to stop.

    ``on_stopping`` gets the reason; ``on_giving_up`` is called before the process is killed.

    Both are called in the watcher's thread. ``grace_s`` is how long the work may take to stop by itself.
    """

    def __init__(
        self,
        folder: Path,
        cancel: CancelToken,
        on_stopping: Callable[[str], None],
        on_giving_up: Callable[[str], None],
        grace_s: float,
    ) -> None:
        """Prepare to watch; nothing happens before ``start``."""
        self.reason = ""
        self.grace_s = grace_s
        self._folder = folder
        self._cancel = cancel
        self._on_stopping = on_stopping
        self._on_giving_up = on_giving_up
        self._asked_at = 0.0
        self._missing = 0
        self._parent_ended = threading.Event()
        self._finished = threading.Event()
        self._signals, self._wake = socket.socketpair()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def start(self, end_with_parent: bool = False) -> None:
        """Begin to watch; must be called in the main thread, whose handling of signals it changes."""
        self._wake.setblocking(False)
        # The byte is written by the system's own handler: also while the main thread is busy in compiled code.
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), _left_to_watcher)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the end of the terminal is not the end of the job
        if end_with_parent:
            threading.Thread(target=self._wait_for_parent, name="parent", daemon=True).start()
        self._thread.start()

    def finish(self) -> None:
        """Stop watching: the job has ended."""
        self._finished.set()
        signal.set_wakeup_fd(-1)
        with suppress(OSError):
            self._wake.send(b"\0")  # the thread need not wait for its next look
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)

    def _watch(self) -> None:
        while not self._finished.is_set():
            reason = self._look()
            if self._finished.is_set():
                return
            if reason and not self.reason:
                self.reason, self._asked_at = reason, time.monotonic()
                self._cancel.cancel()
                self._on_stopping(reason)
            if self.reason and time.monotonic() - self._asked_at > self.grace_s and not self._finished.is_set():
                self._on_giving_up(self.reason)
                end_process_tree(os.getpid())
                os._exit(130)

    def _look(self) -> str:
        """Wait for a signal or a little while; return why the job is to stop, empty when it is not."""
        ready, _, _ = select.select([self._signals], [], [], LOOK_S)
        if ready and self._signals.recv(64):
            return REASON_SIGNAL
        if self._parent_ended.is_set():
            return REASON_PARENT
        if self._is_gone():
            return REASON_GONE
        return REASON_ASKED if self._is_asked() else ""

    def _is_asked(self) -> bool:
        try:
            (self._folder / CANCEL).stat()
        except OSError:  # also a folder that cannot be reached: no reason to stop, and the next look may reach it
            return False
        return True

    def _is_gone(self) -> bool:
        try:
            (self._folder / REQUEST).stat()
        except FileNotFoundError:
            self._missing += 1
        except OSError:
            # A network drive that refuses for a while says nothing of the folder: neither that it is there nor that it
            # is gone. So the count stays; the job's own writing reports it if it needs the folder meanwhile.
            pass
        else:
            self._missing = 0
        return self._missing >= _LOOKS_UNTIL_GONE

    def _wait_for_parent(self) -> None:
        """Read standard input until the parent's end of the pipe is closed."""
        with suppress(OSError):
            while os.read(0, 1024):
                pass
        self._parent_ended.set()


def _left_to_watcher(number: int, frame: FrameType | None) -> None:
    """Do nothing: the wake-up byte has reached the watcher."""


def own_process_group() -> None:
    """Make this process the leader of a group of its own, so that ending the group ends it and its children only."""
    if sys.platform != "win32" and os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
