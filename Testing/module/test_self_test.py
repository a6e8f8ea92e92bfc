"""The module's own test, which a real Slicer runs too, in the test host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTING = Path(__file__).resolve().parents[1]
PROGRAM = """
import sys
from pathlib import Path
from slicerhost import pythonqt
from slicerhost.window import Host

host = Host()
host.loadModule(Path(sys.argv[1]))
host.pythonModule.TransferSegTest().runTest()
host.close()
assert "torch" not in sys.modules, "torch was imported in Slicer's process"
assert not pythonqt.slotErrors, pythonqt.slotErrors
print("passed")
"""


@pytest.mark.timeout(1200)
def test_the_modules_own_test_passes_and_torch_stays_out(host_environment, models: Path):
    """In a process of its own, because other tests of this one may have imported torch."""
    command = [sys.executable, "-c", PROGRAM, str(TESTING.parent / "TransferSeg" / "TransferSeg.py")]
    environment = host_environment | {"TRANSFERSEG_MODELS": str(models)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip().endswith("passed"), done.stdout + done.stderr
