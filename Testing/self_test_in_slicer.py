"""Run by a real 3D Slicer (--python-script): opens the module, runs its self-test, and ends with 0 or 1.

It has not been run yet: there was no Slicer where it was written. The test host runs the same self-test.
"""

from __future__ import annotations

import traceback

import slicer


def main() -> int:
    """Return the exit code."""
    try:
        slicer.util.selectModule("TransferSeg")
        slicer.selfTests["TransferSeg"]()
    except Exception:  # whatever it is, Slicer must end, and say it
        traceback.print_exc()
        return 1
    return 0


slicer.util.exit(main())
