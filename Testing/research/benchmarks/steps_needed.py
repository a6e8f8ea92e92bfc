"""Measure how many optimisation steps a candidate needs: Dice on held-out patients after several numbers of steps.

    python3 Testing/run.py benchmark steps_needed --project PROJECT                    # the bundled model
    python3 Testing/run.py benchmark steps_needed --project PROJECT --forget mandible  # as if it never knew a mandible

PROJECT holds corrected cases of several patients; the last third of them is held out. Printed is the mean Dice of the
structures that are new to the model (of all structures if none is new), for training the last layers on cached
features and for training all layers.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from Testing.research.common.measuring import command_line
from Testing.research.common.models import without_structure
from TransferSegLib.datasets.prepared import prepare_cases
from TransferSegLib.finetuning.adapt import adapt
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.feature_cache import cache_features
from TransferSegLib.finetuning.plan import plan_fine_tuning
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.inference.devices import choose_device
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_model, save_model
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.training.validation import validate

STEPS = (0, 10, 20, 40, 80, 160, 300)


def main() -> None:
    """Print a line for each number of steps."""
    parser = command_line(__doc__, threads=2)
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--model", default="head-neck-ct")
    parser.add_argument("--forget", metavar="NAME", help="take this structure's channel from the model first")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parent = load_model(find_model(options.model))
    parent = without_structure(parent, options.forget) if options.forget else parent
    device = choose_device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        model = save_model(Path(folder) / "parent", parent.description, parent.state_dict)
        knobs = FineTuningConfiguration(report_cases=0)
        work = plan_fine_tuning(FineTuneRequest(options.project, str(model), "measured", configuration=knobs))
    knobs = work.configuration
    prepared = prepare_cases(work.dataset, work.change.label_set, knobs.preparation(parent.description))
    aside = max(1, len(prepared) // 3)
    training, held_out = [case for case in prepared[:-aside] if case.voxels], prepared[-aside:]
    names = work.fresh or work.dataset.label_set.names
    with cache_features(parent, training, work.change, knobs, device) as cache:
        for strategy in ("finetune", "vanilla"):
            for steps in STEPS:
                budget = (steps, 0) if strategy == "finetune" else (0, steps)
                way = replace(knobs, strategy=strategy, head_start="auto").with_steps(*budget)
                adapted = adapt(parent, training, work.change, way, device=device, cache=cache)
                backbone = backbone_of(adapted.network)
                network = backbone.build()
                network.load_state_dict(adapted.state_dict)
                scores = validate(network.eval(), backbone, held_out, work.change.label_set, device.dtype)
                mean = np.mean([value for name, value in scores.items() if name in names])
                which = "last layers alone" if strategy == "finetune" else "all layers at once"
                print(f"{which}, {steps:4d} steps: mean Dice {mean:.3f} on {aside} held-out cases", flush=True)


if __name__ == "__main__":
    main()
