"""Training steps get their memory back from the process, not from the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

from TransferSegLib.training.allocator import keep_freed_memory

PAGES_OF_EIGHT_BLOCKS = """
import resource, sys
import torch
if sys.argv[1] == "kept":
    from TransferSegLib.training.allocator import keep_freed_memory
    assert keep_freed_memory()
for number in range(16):
    if number == 8:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def new_pages(how: str) -> int:
    command = [sys.executable, "-c", PAGES_OF_EIGHT_BLOCKS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not keep_freed_memory(), reason="only glibc has these settings")
def test_large_blocks_are_used_again() -> None:
    assert new_pages("kept") < new_pages("default") / 2
