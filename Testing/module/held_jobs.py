"""Real jobs that wait for the test, so that it does not depend on how fast they are."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import pytest
from held_kinds import PLACE

HERE = Path(__file__).resolve().parent
#: Every Python that the panel starts takes these kinds for the real ones.
SITE = f"""
import sys
sys.path.append({str(HERE)!r})
from TransferSegLib.jobs.kinds import KINDS
KINDS.update(segment="held_kinds:SEGMENT", suggest="held_kinds:SUGGEST")
"""


class HeldJobs:
    """Jobs that segment or rank, each held where its work begins until ``let_one`` was called for it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        """Hold all jobs that are started from now on, for as long as the patch lasts."""
        self._place, self._numbers = folder / "held", count()
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(SITE, encoding="utf-8")
        self._place.mkdir()
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder / "site"), str(HERE.parents[1])]))
        patch.setenv(PLACE, str(self._place))

    @property
    def begun(self) -> int:
        """How many jobs have come to their work, whatever became of them."""
        return len(list(self._place.glob("begun *")))

    def let_one(self) -> None:
        """Let one job work: the one that waits, or the next one that comes."""
        (self._place / f"permit {next(self._numbers)}").touch()
