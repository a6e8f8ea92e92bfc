"""The worker with kinds for tests: run as ``python tiny_worker.py FOLDER``."""

import sys

from TransferSegLib.jobs.kinds import KINDS
from TransferSegLib.jobs.worker import main

NAMES = ("count", "aside", "wait", "deaf", "segfault", "fail", "finetune-fold")

if __name__ == "__main__":
    kinds = {name: f"tiny_kinds:{name.upper().replace('-', '_')}" for name in NAMES}
    sys.exit(main(kinds={**KINDS, **kinds}))
