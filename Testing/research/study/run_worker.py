"""The child process of one run: adapt a base to a task's training cases, then segment and measure its test cases.

Test cases are measured on their scans' own grid, as a user would have them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from Testing.research.study.worker import ProgressFile, worker_main

if TYPE_CHECKING:
    from TransferSegLib.datasets.dataset import Dataset
    from TransferSegLib.evaluation.scores import Score
    from TransferSegLib.inference.devices import Device
    from TransferSegLib.networks.unet_valid.unet import UNet3D
    from TransferSegLib.structures import LabelSet
    from TransferSegLib.training.cases import PreparedCase

OWN_GRID = "own"


def make_run(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what came of a run; see ``running.run_request`` for the entries of the request."""
    import torch

    from Testing.research.study.case_selection import only_structures
    from Testing.research.study.prepared_files import prepared_case
    from Testing.research.study.results import to_triple
    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.finetuning.adapt import adapt
    from TransferSegLib.finetuning.configuration import FineTuningConfiguration
    from TransferSegLib.finetuning.label_change import plan_label_change
    from TransferSegLib.inference.devices import choose_device
    from TransferSegLib.models.store import load_model
    from TransferSegLib.networks.unet_valid.unet import UNet3D
    from TransferSegLib.structures import structure_key

    configuration = FineTuningConfiguration.from_json(request["configuration"])
    chosen = read_dataset(request["dataset"]).select([*request["training"], *request["test"]])
    dataset = only_structures(chosen, request["structures"])
    parent = load_model(Path(request["model"]))
    known = parent.description.label_set
    learned = {structure_key(name) for name in request["structures"]}
    dropped = [structure.name for structure in known if structure.key not in learned]
    change = plan_label_change(known, dataset.label_set, dropped=dropped)
    spacing_mm, rule = configuration.preparation(parent.description)
    device = choose_device(request["device"], getattr(torch, request["precision"]))

    def prepared(id: str) -> PreparedCase:
        case = dataset.case(id)
        return prepared_case(Path(request["prepared"]), case, dataset.label_set, change.label_set, spacing_mm, rule)

    training = [prepared(id) for id in request["training"]]
    progress = ProgressFile(folder).report
    cpu_s, wall_s = time.process_time(), time.monotonic()
    adapted = adapt(parent, training, change, configuration, device=device, progress=progress)
    cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
    del training
    started = time.monotonic()
    network = UNet3D(adapted.network.classes, adapted.network.width)
    network.load_state_dict(adapted.state_dict)
    scores = {
        id: score_on_own_grid(network.eval(), prepared(id), change.label_set, dataset, device, request["tolerance_mm"])
        for id in request["test"]
    }
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


def score_on_own_grid(
    network: UNet3D,
    prepared: PreparedCase,
    label_set: LabelSet,
    dataset: Dataset,
    device: Device,
    tolerance_mm: float,
) -> dict[str, Score]:
    """Segment a prepared case and return its scores by structure, against its label map as it lies in the dataset.

    The network's channels are those of ``label_set``. Raises ScanError when the label map cannot be read.
    """
    import numpy as np
    import SimpleITK as sitk

    from TransferSegLib.evaluation.scores import score_case
    from TransferSegLib.images.label_resampling import LabelResampler
    from TransferSegLib.images.read import read_label_map_on, read_scan
    from TransferSegLib.inference.predict import Predictor

    numbered = label_set.with_labels_numbered()
    prediction = Predictor(network, device).predict(prepared.intensities.astype(np.float32), prepared.outside)
    decoder = LabelResampler(prepared.grid, numbered.label_values, prediction.background_channel)
    for part in prediction:
        decoder.write(part, part.tile.start_zyx)
        del part  # before the next tile is computed
    case = dataset.case(prepared.id)
    reference = read_label_map_on(read_scan(case.image), case.labels)
    x, y, z = reference.GetSpacing()
    return score_case(
        decoder.labels_zyx,
        numbered,
        sitk.GetArrayFromImage(reference),
        dataset.label_set,
        case.annotated,
        (z, y, x),
        tolerance_mm,
    )


def _last_loss(history: Sequence[dict[str, Any]]) -> float | None:
    """Return the loss of the last reported steps."""
    losses = [line["cross_entropy"] + line["dice_loss"] for line in history if "cross_entropy" in line]
    return round(losses[-1], 4) if losses else None


if __name__ == "__main__":
    sys.exit(worker_main(make_run))
