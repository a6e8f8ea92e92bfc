"""Fixtures shared by all tests: where the larger, optional test data lies."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
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


@pytest.fixture(scope="session", autouse=True)
def nothing_waits_for_the_disk() -> Iterator[None]:
    """Let the library not wait until what it wrote is on the disk: 6 ms a time, thousands of times.

    Only a power cut shows the difference. Processes that tests start do wait, and a closed file is an error here too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: os.fstat(descriptor) and None)
        yield


#: Files that take half a minute or more, longest first: begun last, one would keep the others waiting at the end.
SLOW_FILES = (
    "module/test_finetune_panel.py",
    "inference/test_nnunet_equality.py",
    "finetuning/test_finetune.py",
    "finetuning/test_strategy_choice.py",
    "learn_here/test_learn.py",
    "test_bundled.py",
    "module/test_whole_loop.py",
    "finetuning/test_several_processes.py",
    "training/test_processes.py",
    "module/test_self_test.py",
    "finetuning/test_rounds.py",
    "module/test_accepting.py",
    "executors/test_segment_spread.py",
    "module/test_model_panel.py",
    "training/test_base.py",
    "module/test_documented_examples.py",
    "finetuning/test_nnunet_base.py",
    "module/test_first_steps.py",
    "finetuning/test_another_family_whole.py",
    "module/test_segment_section.py",
    "training/test_trainer.py",
    "jobs/test_train_base_job.py",
    "models/test_combination.py",
    "jobs/test_finetune_job.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the slow files be the first, wherever files are shared among processes; the order within a file stays."""
    top = Path(__file__).parent
    places = {top / name: number for number, name in enumerate(SLOW_FILES)}
    gone = [file for file in places if not file.is_file()]
    if gone:
        raise pytest.UsageError(f"SLOW_FILES in {__file__} names what is not there: {gone[0]}")
    items.sort(key=lambda item: places.get(item.path, len(places)))


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
