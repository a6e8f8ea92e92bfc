"""Projects of balls: scans on disk whose truth is known, a tiny parent in a library, and a request that takes seconds.

Run as a program it fine-tunes and kills itself at a stage: ``projects.py REQUEST.json KEY STEP``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from TransferSegLib.corrections.project import Project
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.models.store import Model, save_model
from TransferSegLib.progress import Progress
from TransferSegLib.structures import LabelSet, Structure
from TransferSegLib.training.configuration import AugmentationConfiguration

BRIGHT, DARK = Structure("bright", 1, (200, 0, 0)), Structure("dark", 2, (0, 0, 200))
BOTH = LabelSet((BRIGHT, DARK))
KNOBS = FineTuningConfiguration(
    minutes=0,
    tail_steps=60,
    tail="last convolution",
    tail_rate=0.05,
    new_tail_rate=0.05,
    steps=0,
    patches_per_case=3,
    tail_patch=20,
    patch=32,
    frame=2,
    warm_up=1,
    report_cases=1,
    checkpoint_every=2,
    augmentation=AugmentationConfiguration(rotation_degrees=0, scaling=0, intensity=0),
    seed=5,
)
#: The same without checkpoints while training, each of which takes longer than a step: for runs that go through.
UNBROKEN = replace(KNOBS, checkpoint_every=1000)


def ball_scan(number: int) -> tuple[sitk.Image, np.ndarray]:
    """Return a CT of 32 voxels a side at 1 mm with a bright and a dark ball in noise, and the truth (1, 2; zyx)."""
    random = np.random.default_rng(number)
    z, y, x = np.indices((32, 32, 32))
    a, b, c = random.integers(-3, 4, 3)
    truth = np.zeros((32, 32, 32), np.uint8)
    truth[(z - 10 - a) ** 2 + (y - 12 - b) ** 2 + (x - 12 - c) ** 2 < 49] = 1
    truth[(z - 23 + b) ** 2 + (y - 20 + c) ** 2 + (x - 21 + a) ** 2 < 36] = 2
    values = np.choose(truth, [-100, 300, -450]) + random.normal(0, 15, truth.shape)
    return sitk.GetImageFromArray(values.astype(np.int16)), truth


def add_cases(
    folder: Path,
    numbers: Sequence[int],
    reviewed: Sequence[str] = ("bright",),
    patients: Sequence[str] | None = None,
    shifts: Sequence[tuple[int, int, int]] | None = None,
    brighter: int = 0,
    drawn: bool = True,
) -> Path:
    """Add ball scans to a project; ``shifts`` moves the labels of each (zyx voxels): they are wrong then.

    Without ``drawn`` everything was reviewed, and nothing is there. ``brighter`` is added to the intensities: with 1000
    nothing is negative, and they are no CT's any more.
    """
    project = Project(folder, create=True)
    for index, number in enumerate(numbers):
        image, truth = ball_scan(number)
        image += brighter
        if not drawn:
            truth = np.zeros_like(truth)
        if shifts is not None:
            truth = np.roll(truth, shifts[index], axis=(0, 1, 2))
        labels = sitk.GetImageFromArray(truth)
        labels.CopyInformation(image)
        group = f"patient {number}" if patients is None else patients[index]
        project.add_case(image, labels, reviewed, structures=BOTH, group=group, any_modality=True)
    return folder


def seeing(parent: Model) -> Model:
    """Return a parent of width 2 whose last maps are the scan's bright and its dark side.

    It does not find what is bright; what is dark it finds where that is its second structure.
    """
    state = {name: torch.zeros_like(values) for name, values in parent.state_dict.items()}
    for layer, pairs in (
        ("down.0.first", [(0, 0, 1.0), (1, 0, -1.0)]),
        ("down.0.second", [(0, 0, 1.0), (1, 1, 1.0)]),
        ("up.2.first", [(0, 8, 1.0), (1, 9, 1.0)]),  # the maps that are skipped to the end come behind the others
        ("up.2.second", [(0, 0, 1.0), (1, 1, 1.0)]),
    ):
        for target, source, weight in pairs:
            state[f"{layer}.weight"][target, source, 1, 1, 1] = weight
    state["head.bias"][1] = -0.05
    if len(state["head.bias"]) > 2:
        state["head.weight"][2, 1], state["head.bias"][2] = 1.0, -0.5
    return replace(parent, state_dict=state)


def put_parent(library: Path, parent: Model) -> Path:
    """Write a parent into a library under the name 'tiny'."""
    library.mkdir(exist_ok=True)
    save_model(library / "tiny", parent.description, parent.state_dict)
    return library


def request(project: Path, library: Path, **more: Any) -> FineTuneRequest:
    """Return a request that takes seconds."""
    values: dict[str, Any] = {"model": "tiny", "minutes": 0, "configuration": UNBROKEN, "device": "cpu"}
    return FineTuneRequest(project=project, library=library, **(values | more))


def made_steps(reports: Sequence[Progress], key: str) -> list[int | None]:
    """Return the steps that a stage has made, which have a loss; while one is made there are reports without."""
    return [report.step for report in reports if report.key.startswith(key) and report.loss is not None]


def main() -> None:
    """Fine-tune, and end as a power cut would when a stage has come to a step."""
    from TransferSegLib.finetuning.finetune import finetune

    wanted = FineTuneRequest.from_json(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), "cpu")

    def watch(report: Progress) -> None:
        if report.key == sys.argv[2] and report.step == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

    finetune(wanted, watch)


if __name__ == "__main__":
    main()
