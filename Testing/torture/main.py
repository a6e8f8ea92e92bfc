"""Torture: kills at random moments, damaged files, full disks, few descriptors, and many scans in one process.

    python3 Testing/run.py torture --minutes 30
    python3 Testing/run.py torture --minutes 5 --kinds kills fuzz --seed 7 --report result.json

Prints how many trials of each kind were made and how many failed, and what was wrong in those; exits with 1 when one
failed. The same seed damages files in the same ways; the moments of kills differ, as they do in life. Needs Linux or
macOS (it forks). The groups ``kills``, ``shortages``, ``fuzz`` and ``soak`` get their parts of the time; kinds can be
named by themselves, too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

# Before ITK and torch are imported: forked processes have one thread, and no pool that a fork would leave behind.
os.environ |= {
    "ITK_GLOBAL_DEFAULT_THREADER": "Platform",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import fuzz_files
import fuzz_scans
import kill_library
import kill_outputs
import kill_project
import shortages
import soak
import torch
import warm
from trials import Kind, Tally, table

from TransferSegLib.cli.main import make_parser

#: Parts of the time, by group.
GROUPS = {"kills": 0.5, "shortages": 0.05, "fuzz": 0.35, "soak": 0.1}
KINDS = (
    Kind("project", "kills", 0.3, kill_project.trials),
    Kind("library", "kills", 0.3, kill_library.trials),
    Kind("label maps", "kills", 0.1, kill_outputs.label_maps),
    Kind("segmentations", "kills", 0.1, kill_outputs.segmentations),
    Kind("datasets", "kills", 0.05, kill_outputs.datasets),
    Kind("jobs", "kills", 0.05, kill_outputs.jobs),
    Kind("fine-tuning", "kills", 0.1, kill_outputs.finetuning),
    Kind("full disk", "shortages", 0.5, shortages.full_disk),
    Kind("few descriptors", "shortages", 0.5, shortages.few_descriptors),
    *(Kind(f"fuzz {name}", "fuzz", share, trials) for name, share, trials in fuzz_scans.KINDS),
    *(Kind(f"fuzz {name}", "fuzz", share, trials) for name, share, trials in fuzz_files.KINDS),
    Kind("soak", "soak", 1.0, soak.trials),
)


def main() -> int:
    """Torture for as long as asked for; returns the exit code."""
    arguments = _arguments()
    torch.set_num_threads(1)
    warm.install()
    make_parser()  # imports every verb, which no trial is to do for itself
    chosen = [kind for kind in KINDS if kind.name in arguments.kinds or kind.group in arguments.kinds]
    weights = {kind.name: kind.share * GROUPS[kind.group] for kind in chosen}
    tallies = {kind.name: Tally() for kind in chosen}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-", dir=arguments.folder) as folder:
        os.environ |= {
            name: str(Path(folder) / "own" / name)
            for name in ("TRANSFERSEG_MODELS", "TRANSFERSEG_JOBS", "TRANSFERSEG_CACHE")
        }
        for kind in chosen:
            place = Path(folder) / kind.name.replace(" ", "-")
            place.mkdir()
            seconds = 60 * arguments.minutes * weights[kind.name] / sum(weights.values())
            _run(kind, place, random.Random(f"{arguments.seed} {kind.name}"), seconds, tallies[kind.name])
            shutil.rmtree(place, ignore_errors=True)
    facts = f"seed {arguments.seed}, {(time.monotonic() - started) / 60:.1f} minutes"
    print(f"{table(tallies)}\n{facts}")
    for name, tally in tallies.items():
        for failure in sorted(set(tally.failures))[:10]:
            print(f"FAILED {name}: {failure[:600]}")
    if arguments.report is not None:
        kinds = {
            name: {"tried": one.tried, "failed": len(one.failures), "seconds": round(one.seconds), "facts": one.facts}
            for name, one in tallies.items()
        }
        arguments.report.write_text(
            json.dumps({"seed": arguments.seed, "minutes": arguments.minutes, "kinds": kinds}, indent=1)
        )
    return 1 if any(one.failures or not one.tried for one in tallies.values()) else 0


def _run(kind: Kind, folder: Path, chance: random.Random, seconds: float, tally: Tally) -> None:
    """Make trials of one kind until their time is over, one at least."""
    began = time.monotonic()
    for tried, outcome in kind.trials(folder, chance):
        failures = [line for line in outcome if not line.startswith("fact: ")]
        tally.facts = next((line[6:] for line in outcome if line.startswith("fact: ")), tally.facts)
        tally.tried += tried
        tally.failures += failures
        tally.seconds = time.monotonic() - began
        if tally.seconds >= seconds or len(tally.failures) >= 50:
            break
    print(f"{kind.name}: {tally.tried:,} tried, {len(tally.failures)} failed", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="run.py torture", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="how long, all kinds together (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="beginning of the random numbers (default: 1)")
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=list(GROUPS),
        choices=[*GROUPS, *(kind.name for kind in KINDS)],
        metavar="KIND",
        help=f"groups ({', '.join(GROUPS)}) or kinds (default: all)",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the numbers as JSON, too")
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
