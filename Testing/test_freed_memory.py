"""Steps and windows get their memory back from the process, not from the system, which gets it at the end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from TransferSegLib.freed_memory import keep_freed_memory

PAGES_OF_EIGHT_BLOCKS = """
import resource, sys
import torch
if sys.argv[1] == "kept":
    from TransferSegLib.freed_memory import keep_freed_memory
    assert keep_freed_memory()
for number in range(16):
    if number == 8:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
KEPT_AND_RETURNED = """
import os
from pathlib import Path
import torch
from TransferSegLib.freed_memory import keep_freed_memory, return_freed_memory

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

assert keep_freed_memory()
for _ in range(8):
    torch.ones(10_000_000)
kept = resident_bytes()
return_freed_memory()
print(kept - resident_bytes())
"""


def new_pages(how: str) -> int:
    command = [sys.executable, "-c", PAGES_OF_EIGHT_BLOCKS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="only glibc has these settings")
def test_large_blocks_are_used_again() -> None:
    assert new_pages("kept") < new_pages("default") / 2


@pytest.mark.skipif(not keep_freed_memory(), reason="only glibc has these settings")
def test_what_was_kept_is_returned() -> None:
    command = [sys.executable, "-c", KEPT_AND_RETURNED]
    assert int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) > 30_000_000
