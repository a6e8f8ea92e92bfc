"""A long run in a child process that is started again when a scan ends it (a crash, too little memory).

The child is the same command line. Its record (``segmented_record``) tells what was in work when it was ended: the next
child does these scans first, one by one, and one that ends it again is noted as failed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import TransferSegLib
from TransferSegLib.cli.segment_settings import RunSettings
from TransferSegLib.cli.segmented_record import SegmentedRecord
from TransferSegLib.errors import TransferSegError

#: In the environment of a child: the name of the run.
_VARIABLE = "TRANSFERSEG_SUPERVISED_RUN"
#: How a command ends by itself or when it is asked to: done, with failures, stopped, terminated.
_OWN_ENDS = (0, 2, 130, -signal.SIGTERM, -signal.SIGINT)


def supervised_run() -> str:
    """Return the name of the run that this process is a child of; '' for none."""
    return os.environ.get(_VARIABLE, "")


def run_supervised(words: Sequence[str], folder: Path) -> int:
    """Run a command line in children until one of them ends by itself, and return its exit code.

    ``folder`` is that of the record. Raises TransferSegError when a child ends with no scan in work.
    """
    run = f"{time.time_ns()}-{os.getpid()}"
    while True:
        code = _run_child(words, run)
        if code in _OWN_ENDS:
            return code if code >= 0 else 128 - code
        record = SegmentedRecord(folder, RunSettings({}), run)
        end = _words_of(code)
        alone = record.alone_in_work()
        if alone is not None:
            record.fail_alone(f"the program was ended at this scan, twice: {end}.")
            print(f"transferseg: {alone}: {end}. The run goes on with the other scans.", file=sys.stderr)
        elif record.anything_in_work:
            print(f"transferseg: {end}. The run is started again, with the scans in work one by one.", file=sys.stderr)
        else:
            raise TransferSegError(f"Segmenting ended unexpectedly before any scan was in work: {end}.")


def _run_child(words: Sequence[str], run: str) -> int:
    """Run the command line once; Ctrl-C is for the child, which ends politely, and so is a request to end."""
    root = str(Path(TransferSegLib.__file__).resolve().parents[1])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, _VARIABLE: run, "PYTHONPATH": paths}
    command = [sys.executable, "-P", "-m", "TransferSegLib", *words]
    child = subprocess.Popen(command, env=environment)  # noqa: S603 (the same program)
    before = (
        signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.signal(signal.SIGTERM, lambda number, frame: child.terminate()),
    )
    try:
        return child.wait()
    finally:
        child.kill()
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _words_of(code: int) -> str:
    """Return how a process ended, for a person."""
    number = -code if code < 0 else code - 128 if 128 < code < 160 else 0
    if number == getattr(signal, "SIGKILL", 9):
        return "it was killed (perhaps for needing more memory than there is)"
    if number:
        names = {one.value: one.name for one in signal.Signals}
        return f"it crashed ({names.get(number, f'signal {number}')})"
    return f"it ended unexpectedly (exit code {code})"
