"""The worker process of one run: adapt a base to a task's training cases, then segment and measure its test cases.

Test cases are measured on their scans' own grid, as a user gets them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from Testing.research.study.worker import ProgressFile, worker_main

if TYPE_CHECKING:
    from TransferSegLib.datasets.dataset import Dataset

OWN_GRID = "own"


def make_run(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what came of a run; see ``running.run_request`` for the entries of the request."""
    import torch

    from Testing.research.study.case_selection import only_structures
    from Testing.research.study.results import to_triple
    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.datasets.prepared import prepare_cases
    from TransferSegLib.evaluation.predict_and_score import evaluate
    from TransferSegLib.finetuning.adapt import adapt
    from TransferSegLib.finetuning.configuration import FineTuningConfiguration
    from TransferSegLib.finetuning.label_change import plan_label_change
    from TransferSegLib.inference.devices import choose_device
    from TransferSegLib.inference.segment import Segmenter
    from TransferSegLib.models.store import Model, load_model
    from TransferSegLib.progress import Task
    from TransferSegLib.structures import structure_key

    configuration = FineTuningConfiguration.from_json(request["configuration"])
    chosen = read_dataset(request["dataset"]).select([*request["training"], *request["test"]])
    dataset = only_structures(chosen, request["structures"])
    parent = load_model(Path(request["model"]))
    known = parent.description.label_set
    learned = {structure_key(name) for name in request["structures"]}
    dropped = [structure.name for structure in known if structure.key not in learned]
    change = plan_label_change(known, dataset.label_set, dropped=dropped)
    preparation = configuration.preparation(parent.description)
    device = choose_device(request["device"], getattr(torch, request["precision"]))

    training = prepare_cases(_in_order(dataset, request["training"]), change.label_set, preparation)
    progress = ProgressFile(folder).report
    cpu_s, wall_s = time.process_time(), time.monotonic()
    adapted = adapt(parent, training, change, configuration, device=device, task=Task("", progress))
    cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
    del training
    started = time.monotonic()
    # The committed results of the study were made with neither the annotated region nor the largest-component rule.
    description = replace(
        parent.description,
        label_set=change.label_set,
        preparation=preparation,
        network=adapted.network,
        single_part=tuple(n for n in parent.description.single_part if change.label_set.find(n) is not None),
        fit=None,
    )
    segmenter = Segmenter(Model(description, adapted.state_dict, parent.path), device)
    scores = evaluate(segmenter, _in_order(dataset, request["test"]), request["tolerance_mm"])
    return {
        "scores": {
            id: {name: to_triple(score) for name, score in by_structure.items()} for id, by_structure in scores.items()
        },
        "patients": {id: dataset.case(id).group for id in request["test"]},
        "grid": OWN_GRID,
        "cpu_s": round(cpu_s, 2),
        "wall_s": round(wall_s, 2),
        "test_s": round(time.monotonic() - started, 2),
        "tail_steps": adapted.tail_steps,
        "steps": adapted.steps,
        "device": str(device),
        "starts": [vars(start) for start in adapted.starts],
        "last_loss": _last_loss(adapted.history),
    }


def _in_order(dataset: Dataset, ids: Sequence[str]) -> Dataset:
    """Return the dataset with these cases in this order, on which training and the results' identity depend."""
    return replace(dataset, cases=tuple(dataset.case(id) for id in ids))


def _last_loss(history: Sequence[dict[str, Any]]) -> float | None:
    """Return the loss of the last reported steps."""
    losses = [line["cross_entropy"] + line["dice_loss"] for line in history if "cross_entropy" in line]
    return round(losses[-1], 4) if losses else None


if __name__ == "__main__":
    sys.exit(worker_main(make_run))
