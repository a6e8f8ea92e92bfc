"""Damaged inputs in batches: each is read by a warm process, within bounds of time and memory, and ends in one line."""

from __future__ import annotations

import os
import random
import resource
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trials import Outcome
from warm import Warm

from TransferSegLib.errors import TransferSegError

BATCH = 40
#: Longer than this, in seconds, nothing may take; where more programs wait than there are cores, so many times. Nor may
#: this process with its children take more memory than this, in bytes.
HANG_S = 30.0
MOST_BYTES = 1_500_000_000
#: Writes one damaged input into a folder and returns how it is read.
Case = Callable[[Path, random.Random], Callable[[], Any]]


def trials(case: Case, folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """Yield batch after batch how many damaged inputs were read and which of them did not end as they should."""
    peak = 0
    while True:
        worker = Warm(_batch, case, str(folder), seed := chance.randrange(1 << 48))
        failures = []
        while worker.read(1.0):
            if time.monotonic() - worker.heard > HANG_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)):
                failures.append(f"hangs: seed {seed} {worker.lines[-1:]}")
                break
        worker.kill()
        tried = sum(line.startswith("try ") for line in worker.lines)
        failures += [f"seed {seed}: {line[8:]}" for line in worker.lines if line.startswith("failure ")]
        last = worker.lines[-1] if worker.lines else ""
        if last.startswith("value "):
            peak = max(peak, int(last[6:]), worker.peak_bytes)
            if max(int(last[6:]), worker.peak_bytes) > MOST_BYTES:
                failures.append(f"seed {seed}: took {max(int(last[6:]), worker.peak_bytes) / 1e9:.2f} GB")
        elif not failures:
            failures.append(f"crashed: seed {seed} {last}")
        yield tried, [*failures, f"fact: {peak / 1e6:.0f} MB at most"]


def _batch(case: Case, place: str, seed: int) -> int:
    """Read a batch of damaged inputs, a line before each and one for each failure; returns the children's peak."""
    for number in range(BATCH):
        print(f"try {number}", flush=True)
        try:
            read = case(Path(place), random.Random(f"{seed} {number}"))
            read()
        except TransferSegError as error:
            if "\n" in str(error) or "\x1b" in str(error) or not str(error):
                print(f"failure {number} not one plain line: {str(error)!r:.300}", flush=True)
        except BaseException as error:
            trace = traceback.format_tb(error.__traceback__)[-1].strip().replace("\n", " | ")
            print(
                f"failure {number} {type(error).__name__}: {error!s:.200}".replace("\n", " ") + f" in {trace}",
                flush=True,
            )
    return 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
