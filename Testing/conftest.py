"""Fixtures shared by all tests: where the larger, optional test data lies."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

# No test measures into the cache of whoever runs it, nor do the processes it starts.
os.environ.setdefault("TRANSFERSEG_CACHE", str(Path(tempfile.gettempdir()) / "transferseg-tests-cache"))


def find_shared_data() -> Path | None:
    """Return the folder of larger test scans: TRANSFERSEG_DATA, else ../shared/data beside the checkout."""
    named = os.environ.get("TRANSFERSEG_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of larger test scans; the test is skipped, and says so, where it is not there."""
    folder = find_shared_data()
    if folder is None:
        pytest.skip("larger test data not found: set TRANSFERSEG_DATA to its folder to run this test")
    return folder
