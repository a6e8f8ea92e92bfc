"""Measure how much two models differ from patient to patient: real numbers behind the rule of the verdict.

    python3 Testing/run.py benchmark paired_differences --data DATASET --output FILE

Starts from a model (default: the bundled one) and trains short candidates on a few cases that it was not validated on:
one on all of them, one without each case (the folds of leave-one-out), and two on wrong labels (moved by some voxels;
left and right exchanged). Each is measured on the model's validation cases, on the model's grid. ``--report FILE`` only
prints the table of a finished measurement.

These trainings are far shorter than a user's and therefore vary more, which makes the test harder for the rule.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from Testing.research.common.label_changes import moved, with_labels
from Testing.research.common.measuring import command_line
from TransferSegLib.datasets.dataset import Dataset, read_dataset
from TransferSegLib.datasets.prepared import PreparedCase, prepare_cases
from TransferSegLib.evaluation.predict_and_score import predict_on_model_grid, reference_on_model_grid
from TransferSegLib.evaluation.verdict import judge
from TransferSegLib.inference.devices import Device, choose_device
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import Model, load_model
from TransferSegLib.networks.unet_valid.unet import UNet3D
from TransferSegLib.training.configuration import AugmentationConfiguration, TrainingConfiguration
from TransferSegLib.training.patch_objective import PatchObjective
from TransferSegLib.training.patches import PatchSampler
from TransferSegLib.training.schedule import Schedule
from TransferSegLib.training.trainer import Trainer

Scores = dict[str, dict[str, float]]


def main() -> None:
    """Train, measure, write, print."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, help="the data the model was trained on: a folder with a dataset.json")
    parser.add_argument("--model", help="default: the bundled model")
    parser.add_argument("--train-on", type=int, default=3, help="number of training cases")
    parser.add_argument("--test-on", type=int, default=12, help="number of the model's validation cases to measure on")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rate", type=float, default=0.004)
    parser.add_argument("--output", type=Path, help="written anew after every candidate")
    parser.add_argument("--report", type=Path, help="only print the table of this file")
    options = parser.parse_args()
    if options.report is not None:
        report(json.loads(options.report.read_text(encoding="utf-8")))
        return
    for measured in measure(load_model(find_model(options.model)), read_dataset(options.data), options):
        if options.output is not None:
            options.output.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    report(measured)


def measure(model: Model, dataset: Dataset, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield, after every candidate, all there is: the Dice by candidate, case and structure."""
    description = model.description
    validation = description.metrics["validation"]["ids"]
    others = [case.id for case in dataset.cases if case.id not in validation and len(case.annotated) >= 5]
    chosen = [str(id) for id in np.random.default_rng(4).choice(others, options.train_on, replace=False)]
    device = choose_device("auto")

    def prepared(ids: list[str]) -> list[PreparedCase]:
        return prepare_cases(dataset.select(ids), description.label_set, description.preparation)

    tests, training = prepared(validation[: options.test_on]), prepared(chosen)
    plans = {"all": training, "labels moved": [with_labels(case, moved(case.labels)) for case in training]}
    plans |= {f"without {left.id}": [case for case in training if case.id != left.id] for left in training}
    mirrored = np.array(description.label_set.mirrored_channels(), np.uint8)
    plans["sides exchanged"] = [with_labels(case, mirrored[case.labels]) for case in training]
    scores = {"parent": _scores(model.network(), tests, model, device)}
    measured = {"model": description.name, "trained_on": chosen, "steps": options.steps, "learning_rate": options.rate}
    for name, cases in plans.items():
        print(f"training '{name}' on {', '.join(case.id for case in cases)}", flush=True)
        scores[name] = _scores(_trained(model, cases, options.steps, options.rate, device), tests, model, device)
        yield measured | {"dice": scores}


def _trained(model: Model, cases: list[PreparedCase], steps: int, rate: float, device: Device) -> UNet3D:
    """Return the model's network after some steps on these cases, all weights free."""
    settings = TrainingConfiguration(average=0.9, augmentation=AugmentationConfiguration())
    backbone, network = model.description.backbone, model.network()
    patch = backbone.training_patch(settings.patch, settings.frame)
    sampler = PatchSampler(cases, model.description.label_set.mirrored_channels(), patch, settings)
    trainer = Trainer(PatchObjective(network, backbone, sampler, device), settings, device)
    schedule = Schedule(steps, rate, warm_up=5)
    while trainer.step < steps:
        trainer.train_step(schedule.rate(trainer.step))
    trainer.keep_average()
    return network


def _scores(network: UNet3D, cases: list[PreparedCase], model: Model, device: Device) -> Scores:
    """Return the Dice by case and structure."""
    network = network.to(device.torch_name).eval()
    scores = {}
    with torch.inference_mode():
        for case in cases:
            label_set, rule = model.description.label_set, model.description.single_part
            backbone = model.description.backbone
            labels = predict_on_model_grid(network, backbone, case, label_set, rule, dtype=device.dtype)
            reference = reference_on_model_grid(case, label_set)
            found = reference.scores(labels, reference.label_set)
            scores[case.id] = {name: round(score.dice, 5) for name, score in found.items()}
    return scores


def differences(measured: dict[str, Any], candidate: str) -> np.ndarray:
    """Return, per case, the difference to the parent of the mean Dice of the structures."""
    parent, other = measured["dice"]["parent"], measured["dice"][candidate]
    return np.array([np.mean([other[id][name] - parent[id][name] for name in parent[id]]) for id in parent])


def verdict_shares(parent: Scores, candidate: Scores, patients: int) -> str:
    """Return how often each verdict is given when only some of the cases are known, over all ways to choose them."""
    counts = Counter(
        judge({id: parent[id] for id in ids}, {id: candidate[id] for id in ids}).answer
        for ids in combinations(parent, patients)
    )
    return ", ".join(f"{answer} {100 * count / counts.total():.0f} %" for answer, count in counts.most_common())


def report(measured: dict[str, Any]) -> None:
    """Print mean and spread of the differences per candidate, and how far the folds differ from one another."""
    parent = measured["dice"]["parent"]
    print(f"model '{measured['model']}', {measured['steps']} steps, {len(parent)} cases; difference to the parent")
    print("candidate            mean    sd over cases (mean of structures)   sd over cases (one structure, median)")
    for name, scores in measured["dice"].items():
        if name == "parent":
            continue
        by_case = differences(measured, name)
        structures = {structure for case in parent.values() for structure in case}
        spreads = [
            np.std([scores[id][one] - parent[id][one] for id in parent if one in parent[id]], ddof=1)
            for one in sorted(structures)
        ]
        print(f"{name:18s} {by_case.mean():+7.3f} {by_case.std(ddof=1):20.3f} {np.median(spreads):38.3f}")
        for patients in (1, 3, 5):
            print(f"    verdicts on any {patients} of these patients: {verdict_shares(parent, scores, patients)}")
    folds = [differences(measured, name) for name in measured["dice"] if name.startswith("without ")]
    if len(folds) < 2:
        return
    whole = differences(measured, "all")
    means = [fold.mean() for fold in folds]
    print(f"sd of the folds' means {np.std(means, ddof=1):.3f}; folds minus all {np.mean(means) - whole.mean():+.3f}")
    correlations = np.corrcoef(folds)[np.triu_indices(len(folds), 1)]
    print(f"correlation of two folds' differences over the same cases: {correlations.mean():.2f}")


if __name__ == "__main__":
    main()
