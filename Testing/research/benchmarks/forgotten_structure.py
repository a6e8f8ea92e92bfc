"""Teach a model a structure whose channel it has lost, initialised from data or at random, with and without training.

    python3 Testing/run.py benchmark forgotten_structure [--patches 4] [--steps 60]

The bundled model loses the channel of the mandible. Its features were trained on mandibles, so this is easier than a
structure that is really new. One case is learned from; the Dice of the mandible is measured on patches of another.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from Testing.research.common.measuring import command_line
from Testing.research.common.models import without_structure
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.datasets.prepared import prepare_case
from TransferSegLib.evaluation.scores import dice
from TransferSegLib.finetuning.adapt import Adapted, adapt
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.feature_cache import FeatureCache, cache_features
from TransferSegLib.finetuning.label_change import plan_label_change
from TransferSegLib.inference.devices import choose_device
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_model
from TransferSegLib.networks.families import backbone_of

DATA = Path(__file__).resolve().parents[2] / "Data" / "head_neck_ct"


def score(adapted: Adapted, tests: FeatureCache, tail: str, channel: int) -> float:
    """Return the Dice of a channel over all cached patches together."""
    backbone = backbone_of(adapted.network)
    network = backbone.build()
    network.load_state_dict(adapted.state_dict)
    last_layers = backbone.last_layers(network, tail)
    with torch.no_grad():
        patches = [tests.patch(number) for number in range(len(tests))]
        found = torch.stack([last_layers(patch.maps[None].float())[0].argmax(0) for patch in patches])
    drawn = torch.stack([patch.labels for patch in patches])
    return dice((found == channel).numpy(), (drawn == channel).numpy())


def main() -> None:
    """Print a line per way to start."""
    parser = command_line(__doc__)
    parser.add_argument("--patches", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    whole, dataset, device = load_model(find_model("head-neck-ct")), read_dataset(DATA), choose_device("cpu")
    description, parent = whole.description, without_structure(whole, "mandible")
    change = plan_label_change(parent.description.label_set, description.label_set)
    knobs = FineTuningConfiguration(tail="last convolution", report_cases=0, patches_per_case=options.patches)
    knobs = knobs.with_steps(options.steps, 0)
    training, test = (
        prepare_case(dataset.case(id), dataset.label_set, change.label_set, description.preparation)
        for id in ("pt_22", "pt_70")
    )
    channel = change.label_set.channel("mandible")
    with (
        cache_features(parent, [training], change, knobs, device) as cache,
        cache_features(parent, [test], change, knobs, device) as tests,
    ):
        for start in ("data", "random"):
            for name, steps in (("head alone", 0), (f"{options.steps} steps of stage 1", options.steps)):
                way = replace(knobs, head_start=start, tail_steps=steps)
                adapted = adapt(parent, [training], change, way, device=device, cache=cache)
                value = score(adapted, tests, knobs.tail, channel)
                print(f"start from {start}, {name}: Dice {value:.3f} on {len(tests)} patches of pt_70", flush=True)


if __name__ == "__main__":
    main()
