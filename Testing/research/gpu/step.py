"""What a training step takes, by its parts, with and without the up-sampling folded into the convolutions.

    python3 Testing/run.py gpu step [--width 32] [--patch 64] [--batch 1] [--steps 20] [--device auto]

Decides what ``_FOLDED_ON`` in networks/unet_valid/unet.py names: devices on which a folded step is the faster one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from Testing.research.common.measuring import command_line
from Testing.research.gpu.measuring import device_of, print_line, seconds_of
from Testing.research.gpu.synthetic import project_of
from TransferSegLib.corrections.project import Project
from TransferSegLib.datasets.prepared import prepare_cases
from TransferSegLib.images.intensity import CT_WINDOW
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.inference.devices import Device
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.unet_valid import unet
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
from TransferSegLib.training.configuration import TrainingConfiguration
from TransferSegLib.training.patch_objective import PatchObjective
from TransferSegLib.training.patches import PatchSampler
from TransferSegLib.training.trainer import Trainer


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one line."""
    parser = command_line(__doc__, device=True)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scan-side", type=int, default=96, help="of the synthetic scan, in voxels")
    options = parser.parse_args(arguments)
    settings = TrainingConfiguration(width=options.width, patch=options.patch, batch=options.batch)
    device = device_of(options.device)
    sampler, classes = synthetic_patches(settings, options.scan_side)
    seconds, usual = {}, unet._FOLDED_ON
    for name, folded_on in (("plain", ()), ("folded", (device.kind,))):
        unet._FOLDED_ON = folded_on
        trainer = trainer_of(settings, sampler, classes, device)
        seconds[name] = seconds_of(partial(trainer.train_step, 1e-4), device, options.steps)
        trainer.stop_drawing()
    unet._FOLDED_ON = usual
    started = time.perf_counter()
    for number in range(options.steps):
        sampler.draw(np.random.default_rng(number))
    drawing = (time.perf_counter() - started) / options.steps * options.batch
    now = seconds["folded" if device.kind in usual else "plain"]
    print_line(
        "step",
        device,
        width=options.width,
        patch=options.patch,
        batch=options.batch,
        seconds=round(now, 5),
        steps_per_second=round(1 / now, 3),
        plain_seconds=round(seconds["plain"], 5),
        folded_seconds=round(seconds["folded"], 5),
        drawing_seconds=round(drawing, 5),
    )
    return 0


def synthetic_patches(settings: TrainingConfiguration, side: int) -> tuple[PatchSampler, int]:
    """Return what draws patches of a synthetic case, and the number of classes."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = Project(project_of(Path(folder), None, 1, side)).dataset()
        preparation = Preparation.isotropic(settings.spacing_mm, CT_WINDOW)
        cases = prepare_cases(dataset, dataset.label_set, preparation)
    patch = backbone_of(unet_valid_spec(settings.width, 2)).training_patch(settings.patch, settings.frame)
    return PatchSampler(cases, dataset.label_set.mirrored_channels(), patch, settings), dataset.label_set.classes


def trainer_of(settings: TrainingConfiguration, sampler: PatchSampler, classes: int, device: Device) -> Trainer:
    """Return a trainer of a fresh network."""
    backbone = backbone_of(unet_valid_spec(settings.width, classes))
    network = backbone.build()
    backbone.initialise(network, settings.seed)
    return Trainer(PatchObjective(network, backbone, sampler, device, settings.batch), settings, device)


if __name__ == "__main__":
    raise SystemExit(main())
