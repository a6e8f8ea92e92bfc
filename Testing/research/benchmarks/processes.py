"""Measure the seconds per patch of one training that 1, 2 or 3 processes share, at the same total batch.

    python3 Testing/run.py benchmark processes [--counts 1 2 3] [--batch 6] [--width 16] [--steps 4]
    python3 Testing/run.py benchmark processes --report

Trains a base on the bundled CTs at 3 mm with the default settings, in processes that torchrun starts on the CPU, with
gloo. Each process has one thread, and a core of its own where the computer has enough; else they share cores, and the
table says so. Seconds are the median step's of the first process, without a first step, divided by the batch; drawing
patches is part of a step, preparing cases is not. Every measurement is added to the file of results; the report takes
the latest ones of each kind.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from Testing.research.common.cases import add_line, read_lines
from Testing.research.common.measuring import command_line
from TransferSegLib.wording import table

RESULTS = Path(__file__).with_suffix(".jsonl")
ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / "Testing" / "Data" / "head_neck_ct"


def measure(count: int, options: Any) -> None:
    """Start so many processes; the first one adds the result to the file."""
    words = [f"--{name}={getattr(options, name)}" for name in ("batch", "width", "patch", "steps", "output")]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(count)] if count > 1 else []
    module = ["-m", "Testing.research.benchmarks.processes", "--take-part", *words]
    cores = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *launcher, *module], cwd=ROOT, env=cores, check=True)


def take_part(options: Any) -> None:
    """Train as one of the processes."""
    number, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    own_core = pin(number, count)
    import torch

    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.datasets.prepared import prepare_cases
    from TransferSegLib.images.intensity import CT_WINDOW
    from TransferSegLib.images.preparation import Preparation
    from TransferSegLib.inference.devices import Device
    from TransferSegLib.networks.families import backbone_of
    from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
    from TransferSegLib.training.configuration import TrainingConfiguration
    from TransferSegLib.training.patch_objective import PatchObjective
    from TransferSegLib.training.patches import PatchSampler
    from TransferSegLib.training.processes import joined
    from TransferSegLib.training.trainer import Trainer

    torch.set_num_threads(1)
    settings = TrainingConfiguration(width=options.width, patch=options.patch, batch=options.batch)
    device, dataset = Device("cpu", "CPU", torch.float32), read_dataset(DATA)
    cases = prepare_cases(dataset, dataset.label_set, Preparation(settings.spacing_zyx_mm, (CT_WINDOW,)))
    with joined("cpu") as processes:
        backbone = backbone_of(unet_valid_spec(settings.width, dataset.label_set.classes))
        network = backbone.build()
        backbone.initialise(network, settings.seed)
        patch = backbone.training_patch(settings.patch, settings.frame)
        sampler = PatchSampler(cases, dataset.label_set.mirrored_channels(), patch, settings)
        trainer = Trainer(
            PatchObjective(network, backbone, sampler, device, settings.batch), settings, device, processes
        )
        seconds, loss = [], 0.0
        for _ in range(options.steps + 1):
            began = time.perf_counter()
            loss = trainer.train_step(settings.learning_rate).loss
            seconds.append(time.perf_counter() - began)
        if processes.is_first:
            entry = {
                "processes": count,
                "own_core": own_core,
                "batch": settings.batch,
                "width": settings.width,
                "patch": settings.patch,
                "steps": options.steps,
                "seconds_per_patch": float(np.median(seconds[1:])) / settings.batch,
                "loss": loss,
                "torch": torch.__version__,
            }
            add_line(options.output, entry)
            print(entry, flush=True)


def pin(number: int, count: int) -> bool:
    """Give a process a core of those that this one may use; tell whether there was one for each (Linux)."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})
    return len(cores) >= count


def report(file: Path) -> str:
    """Return the table of the latest measurements, with how many times faster each is than one process."""
    latest: dict[tuple[int, ...], dict[str, Any]] = {}
    for entry in read_lines(file):
        latest[entry["batch"], entry["width"], entry["patch"], entry["processes"]] = entry
    rows = []
    for (batch, width, patch, count), entry in sorted(latest.items()):
        alone = latest.get((batch, width, patch, 1))
        times = "" if alone is None else f"{alone['seconds_per_patch'] / entry['seconds_per_patch']:.2f}"
        cores = "one each" if entry["own_core"] else "shared"
        seconds = f"{entry['seconds_per_patch']:.3f}"
        rows.append((str(batch), str(width), str(patch), str(count), cores, seconds, times, f"{entry['loss']:.4f}"))
    heads = ("batch", "width", "patch", "processes", "cores", "seconds per patch", "times as fast", "loss at the end")
    return table(heads, rows)


def main() -> None:
    """Measure, or print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 3], help="numbers of processes [1 2 3]")
    parser.add_argument("--batch", type=int, default=6, help="patches in a step, all processes together [6]")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="steps that are measured [4]")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file of results [processes.jsonl beside this]")
    parser.add_argument("--report", action="store_true", help="print the table of the measurements made so far")
    parser.add_argument("--take-part", action="store_true", help="be one of the processes, as torchrun starts them")
    options = parser.parse_args()
    if options.take_part:
        take_part(options)
        return
    if not options.report:
        for count in options.counts:
            measure(count, options)
    print(report(options.output))


if __name__ == "__main__":
    main()
