"""Measure what training the last layers of a network of nnU-Net costs, for each point where it can be cut.

    python3 Testing/run.py benchmark split_points [--threads 1] [--dtype bfloat16] [--rounds 3]

For two networks with random weights, the small one of ``nnunet_finetuning`` and one of TotalSegmentator's size, it
prints the processor seconds of computing the features of one patch (with the parent's predictions, which hold the
structures without annotation), those of one training step on them, and the bytes of a cached patch; beside them those
of a step of all layers on a patch of stage 2. One structure of the patch is annotated. The fastest of ``--rounds``
measurements counts; processor seconds depend little on the load of the machine.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from Testing.research.benchmarks.cached_features import random_case, seconds
from Testing.research.common.measuring import command_line
from Testing.research.common.models import random_model
from TransferSegLib.finetuning.all_layers import all_layers_trainer, distillation_of
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.feature_cache import FeatureSizes, bytes_of_patch, cache_features
from TransferSegLib.finetuning.label_change import unchanged
from TransferSegLib.finetuning.last_layers import LastLayersObjective
from TransferSegLib.inference.devices import Device
from TransferSegLib.models.store import Model
from TransferSegLib.networks.nnunet.backbone import NnUNetBackbone, nnunet_spec
from TransferSegLib.networks.nnunet.plan import UNetPlan
from TransferSegLib.training.trainer import Trainer
from TransferSegLib.wording import table


def plain_plan(features: tuple[int, ...], patch_zyx: tuple[int, int, int]) -> UNetPlan:
    """Return a network of nnU-Net's plain kind, two convolutions at each level."""
    levels = len(features)
    return UNetPlan(
        is_residual=False,
        features=features,
        kernels_zyx=((3, 3, 3),) * levels,
        strides_zyx=((1, 1, 1), *((2, 2, 2),) * (levels - 1)),
        encoder_blocks=(2,) * levels,
        decoder_convolutions=(2,) * (levels - 1),
        patch_zyx=patch_zyx,
    )


#: Plan, and classes with the background: six organs at risk, or the 117 structures of TotalSegmentator in one model.
NETWORKS = {
    "small": (plain_plan((16, 32, 64, 128), (32, 40, 48)), 7),
    "TotalSegmentator's size": (plain_plan((32, 64, 128, 256, 320, 320), (128, 128, 128)), 118),
}


def with_plan(plan: UNetPlan, classes: int) -> Model:
    """Return a CT model with random weights."""
    model = random_model(classes, 2, 1.0)
    description = replace(model.description, network=nnunet_spec(plan, 1, classes))
    network = description.backbone.build()
    description.backbone.initialise(network, 0)
    return replace(model, description=description, state_dict=network.state_dict())


def measure(name: str, device: Device, rounds: int) -> list[tuple[str, ...]]:
    """Return one row for each split point of a network, and one for all layers."""
    plan, classes = NETWORKS[name]
    parent = with_plan(plan, classes)
    backbone = NnUNetBackbone(parent.description.network)
    change = unchanged(parent.description.label_set)
    case = random_case(max(backbone.training_patch(64, 4).sides_zyx), classes)
    only_one = np.zeros(classes, bool)
    only_one[[0, -1]] = True
    labels = np.where(case.labels == classes - 1, case.labels, 0).astype(np.uint8)
    case = replace(case, annotated=only_one, labels=labels, voxels={classes - 1: case.voxels[classes - 1]})
    rows = []
    for point in backbone.split_points:
        settings = FineTuningConfiguration(patches_per_case=1, tail=point)
        sizes = FeatureSizes.of(backbone, settings)
        make = partial(cache_features, parent, [case], change, settings, device)
        features_s = seconds(make, rounds)
        with make() as cache:
            held = distillation_of(change, settings)
            objective = LastLayersObjective(parent.network(), backbone, cache, settings, device, held)
            trainer = Trainer(objective, settings, device)
            step_s = seconds(partial(trainer.train_step, settings.tail_rate), rounds)
        sides = " x ".join(str(side) for side in sizes.logits_zyx)
        size = f"{bytes_of_patch(sizes, change, settings) / 1e6:.1f} MB"
        rows.append((name, point, sides, f"{features_s:.3f}", f"{step_s:.3f}", size))
    settings = FineTuningConfiguration()
    whole = all_layers_trainer(parent, parent.network(), [case], change, settings, device, None)
    step_s = seconds(partial(whole.train_step, settings.rate), rounds)
    sides = " x ".join(str(side) for side in backbone.training_patch(settings.patch, settings.frame).sides_zyx)
    return [*rows, (name, "all layers", sides, "", f"{step_s:.3f}", "")]


def main() -> None:
    """Measure and print a table."""
    parser = command_line(__doc__, threads=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = Device("cpu", "CPU", getattr(torch, options.dtype))
    rows = [row for name in NETWORKS for row in measure(name, device, options.rounds)]
    print(table(("network", "cut before the", "patch", "features, s", "a step, s", "a cached patch"), rows))


if __name__ == "__main__":
    main()
