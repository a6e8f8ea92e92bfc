from __future__ import annotations

import ctypes
import sys

import pytest

from TransferSegLib import computer_memory
from TransferSegLib.inference import memory


@pytest.mark.parametrize(("physical", "expected"), [(64e9, 6.0), (8e9, 4.0), (2e9, 1.0), (None, 4.0)])
def test_half_of_the_memory_but_not_more_than_six(monkeypatch, physical, expected):
    monkeypatch.setattr(memory, "physical_memory_bytes", lambda: physical)
    assert memory.default_memory_gb() == expected


def test_this_computer_says_how_much_it_has():
    physical = computer_memory.physical_memory_bytes()
    assert physical is not None
    assert 2**29 < physical < 2**50


def test_a_container_has_what_it_is_allowed(monkeypatch, tmp_path):
    if sys.platform == "win32":
        pytest.skip("control groups are Linux's")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(computer_memory, "_CONTAINER_FILES", (tmp_path / "none", limit))
    limit.write_text("max\n")
    free = computer_memory.physical_memory_bytes()
    limit.write_text("1000000000\n")
    assert computer_memory.physical_memory_bytes() == 1_000_000_000 < free


def test_the_structure_that_windows_fills_is_64_bytes_long():
    assert ctypes.sizeof(computer_memory._MemoryStatus) == 64
    assert computer_memory._MemoryStatus.physical.offset == 8
