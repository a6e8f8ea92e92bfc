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


#: So begins the reason why tests of the Slicer module were skipped, or failed (Testing/module/conftest.py).
NOT_STARTED = "The test host cannot start: "


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly that the module was not tested.

    It is read from the reports, and stands here and not beside these tests, because they may run in other processes.
    """
    reports = [one for kind in ("skipped", "error") for one in terminalreporter.stats.get(kind, [])]
    texts = [one.longrepr[2] if isinstance(one.longrepr, tuple) else one.longreprtext for one in reports]
    told = [line for text in texts for line in text.splitlines() if NOT_STARTED in line]
    if told:
        terminalreporter.section("THE SLICER MODULE WAS NOT TESTED", red=True, bold=True)
        terminalreporter.line(told[0][told[0].index(NOT_STARTED) :])
