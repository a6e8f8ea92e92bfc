"""Measure a training step of the last layers with and without cached features.

    python3 Testing/run.py benchmark cached_features [--width 32] [--patch 36] [--dtype bfloat16] [--steps 3]

Both variants train the last convolution and the head on the same patch, loss and optimiser included. One reads the
features of the frozen layers from the cache (in memory, then from a file); the other computes them from the scan.
Printed is the fastest of ``--steps`` measurements in processor seconds of all threads, which depend little on the load
of the machine.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from Testing.research.common.measuring import command_line
from Testing.research.common.models import random_model
from TransferSegLib.datasets.prepared import PreparedCase
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.feature_cache import FeatureCache, FeatureSizes, cache_features, frozen_features
from TransferSegLib.finetuning.label_change import unchanged
from TransferSegLib.finetuning.last_layers import LastLayersObjective
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.inference.devices import Device
from TransferSegLib.training.trainer import Trainer


def random_case(side: int, classes: int) -> PreparedCase:
    """Return a case of noise with random labels."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, (side, side, side), dtype=np.uint8)
    grid = ModelGrid.around(sitk.Image([side] * 3, sitk.sitkInt16), (1.0,) * 3)
    intensities = random.uniform(-1, 1, labels.shape).astype(np.float16)
    voxels = {channel: np.flatnonzero(labels == channel)[:1000] for channel in range(1, classes)}
    return PreparedCase("noise", intensities[None], labels, None, np.ones(classes, bool), (-1.0,), grid, voxels)


def seconds(work: Callable[[], object], times: int) -> float:
    """Return the fewest processor seconds of a piece of work, after one run that does not count."""
    work()
    measured = []
    for _ in range(times):
        started = time.process_time()
        work()
        measured.append(time.process_time() - started)
    return min(measured)


def main() -> None:
    """Measure and print one line per place of the cache."""
    parser = command_line(__doc__, threads=2)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--classes", type=int, default=23)
    parser.add_argument("--patch", type=int, default=36)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--tail", choices=["last convolution", "last pair"], default="last convolution")
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = Device("cpu", "CPU", getattr(torch, options.dtype))
    parent = random_model(options.classes, options.width, 1.0)
    labels, backbone, network = parent.description.label_set, parent.description.backbone, parent.network()
    knobs = FineTuningConfiguration(patches_per_case=1, tail=options.tail, tail_patch=options.patch)
    case = random_case(FeatureSizes.of(backbone, knobs).scan_zyx[0], options.classes)

    def step_seconds(cache: FeatureCache, with_frozen_part: bool) -> float:
        trainer = Trainer(LastLayersObjective(network, backbone, cache, knobs, device), knobs, device)
        frozen = frozen_features(network, backbone, options.tail, device)
        scan = torch.from_numpy(case.intensities.astype(np.float32))[None]

        def step() -> None:
            if with_frozen_part:
                frozen(scan)
            trainer.train_step(1e-4)

        return seconds(step, options.steps)

    with tempfile.TemporaryDirectory() as folder:
        for place, bytes_in_memory in (("memory", 1e12), ("a file", 0.0)):
            knobs = replace(knobs, memory_bytes=bytes_in_memory)
            with cache_features(parent, [case], unchanged(labels), knobs, device, folder=Path(folder)) as cache:
                cached = step_seconds(cache, False)
                if place == "memory":
                    uncached = step_seconds(cache, True)
            print(
                f"width {options.width}, {options.classes} channels, {options.patch} voxels, {options.dtype}, "
                f"{options.tail}, {options.threads} threads, features in {place}: "
                "processor seconds of a step on cached features "
                f"{cached:.3f} s, frozen part every step {uncached:.3f} s: 1/{uncached / cached:.1f}"
            )


if __name__ == "__main__":
    main()
