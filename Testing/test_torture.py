"""The torture command for some seconds: every kind is tried, nothing fails, and failures are found and counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MAIN = Path(__file__).parent / "torture" / "main.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and asks Linux for its memory")


def torture(report: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command; its report is JSON."""
    command = [sys.executable, str(MAIN), "--report", str(report), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_some_seconds_of_kills_fuzz_and_soak(tmp_path: Path) -> None:
    kinds = ["project", "library", "label maps", "full disk", "soak", "fuzz NIfTI", "fuzz NRRD", "fuzz bombs"]
    done = torture(tmp_path / "report.json", "--minutes", "0.03", "--kinds", *kinds)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "report.json").read_text())["kinds"]
    assert set(found) == set(kinds)
    assert all(one["tried"] >= 1 and one["failed"] == 0 for one in found.values())
    assert all(one["tried"] >= 40 for name, one in found.items() if name.startswith("fuzz"))


def test_what_is_lost_is_found(tmp_path: Path) -> None:
    """The harness is no ornament: with writers that report before they save, kills lose what was reported."""
    program = f"""
import runpy, sys
sys.path[:0] = [{str(MAIN.parent)!r}, {str(MAIN.parents[2])!r}]
import kill_project, fuzz_scans
from TransferSegLib.corrections.project import Project
original = Project.add_case
def forgetful(self, *words, **more):
    added = original(self, *words, **more)
    added.revision.case.labels.write_bytes(b"")
    return added
Project.add_case = forgetful
def broken(path, *words):
    raise ValueError("not one of the family")
fuzz_scans.read_scan = fuzz_scans.read_label_map = broken
sys.argv = ["main.py", "--minutes", "0.02", "--kinds", "project", "fuzz NIfTI"]
runpy.run_path({str(MAIN)!r}, run_name="__main__")
"""
    environment = {**os.environ, "ITK_GLOBAL_DEFAULT_THREADER": "Platform"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "ValueError: not one of the family" in done.stdout
