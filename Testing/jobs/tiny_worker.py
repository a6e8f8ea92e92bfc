"""The worker with kinds for tests: run as ``python tiny_worker.py FOLDER``."""

import sys

from TransferSegLib.jobs.kinds import KINDS
from TransferSegLib.jobs.worker import main

NAMES = ("count", "aside", "wait", "deaf", "segfault", "fail")

if __name__ == "__main__":
    sys.exit(main(kinds={**KINDS, **{name: f"tiny_kinds:{name.upper()}" for name in NAMES}}))
