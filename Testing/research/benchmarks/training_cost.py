"""Estimate how long training the paper's base at full width takes on 1, 4 and 32 GPUs.

    python3 Testing/run.py benchmark training_cost
    python3 Testing/run.py benchmark training_cost --measure

No GPU is used or measured. The floating point operations of a training step's convolutions and matrix products are
counted while torch runs the step of ``gpu train_base`` (its patch, its width, the paper's 23 classes) on tensors
without values; all others are left out. Everything else is assumed:
the peaks and links of the GPUs are their maker's, and a computation reaches between a fifth and a half of the peak. The
gradients are exchanged in a ring, in float32, after the backward pass, at the full speed of the slowest link.

Patches are drawn on the processors, by three threads for each GPU. ``--measure`` measures what a patch takes here, in
processor seconds, and adds it to the file of results. Where drawing takes longer than computing, it decides.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from Testing.research.common.cases import add_line, read_lines
from Testing.research.common.measuring import command_line
from TransferSegLib.wording import table

RESULTS = Path(__file__).with_suffix(".jsonl")
DATA = Path(__file__).resolve().parents[2] / "Data" / "head_neck_ct"
WIDTH, CLASSES = 32, 23
COUNTS = (1, 4, 32)
#: Steps of ``gpu train_base`` by default, of one patch each; and a training on thousands of scans.
PATCHES = (20_000, 1_000_000)
#: Shares of the peak that are assumed, the best first.
SHARES = (0.5, 0.2)
#: GPUs in a computer, and the link between two computers (100 Gbit/s), in GB/s: assumed.
IN_A_COMPUTER, BETWEEN_COMPUTERS = 8, 12.5


@dataclass(frozen=True)
class Gpu:
    """A GPU's peaks in TFLOP/s, dense, and its link to the others of the computer in GB/s, in one direction.

    ``half`` is that of its tensor cores in bfloat16 or float16, added up in float32; ``single`` that of float32 without
    them.
    """

    name: str
    half: float
    single: float
    link: float


#: From NVIDIA's data sheets of the A100 and the H100 (with sparsity they name twice as much) and from the appendix of
#: its white paper "NVIDIA Ada GPU Architecture". Links: PCI Express 4.0 x16, NVLink 3 and NVLink 4.
GPUS = (
    Gpu("GeForce RTX 4090", 165.2, 82.6, 32.0),
    Gpu("A100 SXM", 312.0, 19.5, 300.0),
    Gpu("H100 SXM", 989.4, 66.9, 450.0),
)


@dataclass(frozen=True)
class Step:
    """What a training step with one patch costs: floating point operations of its parts, weights, and the patch."""

    network: int
    optimiser: int
    weights: int
    patch: int

    def seconds(self, gpu: Gpu, share: float) -> float:
        """Return how long a GPU computes, at a share of its peaks."""
        return (self.network / gpu.half + self.optimiser / gpu.single) / (share * 1e12)


def counted_step(patch: int | None = None, width: int = WIDTH, classes: int = CLASSES) -> Step:
    """Count a step of ``train-base`` with its default settings, as a GPU computes it; ``patch`` None: the default."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from TransferSegLib.networks.families import backbone_of
    from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
    from TransferSegLib.training.configuration import TrainingConfiguration
    from TransferSegLib.training.optimiser import MuonWithAdamW
    from TransferSegLib.training.patch_objective import hidden_weights

    settings = TrainingConfiguration(width=width)
    backbone = backbone_of(unet_valid_spec(width, classes))
    sides = backbone.training_patch(patch or settings.patch, settings.frame).sides_zyx
    with torch.device("meta"):
        network = backbone.build()
        scan = torch.zeros(1, 1, *sides)
    with FlopCounterMode(display=False) as of_network:
        backbone.training_logits(network, scan).sum().backward()
    optimiser = MuonWithAdamW(
        network,
        hidden_weights(network, backbone),
        settings.weight_decay,
        torch.bfloat16,
        size_share=settings.size_share,
    )
    with FlopCounterMode(display=False) as of_optimiser:
        optimiser.step()
    weights = sum(one.numel() for one in network.parameters())
    return Step(of_network.get_total_flops(), of_optimiser.get_total_flops(), weights, sides[0])


def exchange_seconds(weights: int, count: int, link: float) -> float:
    """Return how long adding up the gradients of so many GPUs takes at least, in a ring, in float32.

    Each link carries 2 (n - 1) / n times the gradients; between computers all wait for the slowest one.
    """
    slowest = link if count <= IN_A_COMPUTER else BETWEEN_COMPUTERS
    return 2 * (count - 1) / count * 4 * weights / (1e9 * slowest)


def rows_of(step: Step, drawing_s: float) -> list[tuple[str, ...]]:
    """Return the rows of the table; ``drawing_s`` is the least time between two patches that are drawn for a GPU."""
    rows = []
    for gpu in GPUS:
        computing_s = [step.seconds(gpu, share) for share in SHARES]
        for count in COUNTS:
            exchange_s = exchange_seconds(step.weights, count, gpu.link)
            steps_s = [max(seconds, drawing_s) + exchange_s for seconds in computing_s]
            times = [_range([patches / count * seconds for seconds in steps_s]) for patches in PATCHES]
            of_step = (_milliseconds(computing_s), _milliseconds([exchange_s]), _milliseconds(steps_s))
            rows.append((gpu.name, str(count), *of_step, *times))
    return rows


def _milliseconds(seconds: Sequence[float]) -> str:
    return _to([f"{1e3 * one:.1f}" for one in seconds])


def _range(seconds: Sequence[float]) -> str:
    """Return a range of times in the unit that fits the first.

    >>> _range([30, 66]), _range([360, 780]), _range([9000])
    ('30 to 66 s', '6.0 to 13.0 min', '2.5 h')
    """
    units = (("h", 3600, 1), ("min", 60, 1), ("s", 1, 0))
    unit, length, digits = next((one for one in units if seconds[0] >= 2 * one[1]), units[-1])
    return f"{_to([f'{one / length:.{digits}f}' for one in seconds])} {unit}"


def _to(ends: Sequence[str]) -> str:
    """Return the ends of a range, only one where they are the same."""
    return " to ".join(dict.fromkeys(ends))


def report(file: Path = RESULTS) -> str:
    """Return the numbers that the estimate rests on, and the table."""
    from TransferSegLib.training.drawing_ahead import STEPS_AHEAD

    step, drawing = counted_step(), read_lines(file)[-1]
    drawing_s = drawing["drawing_s"] / STEPS_AHEAD
    lines = [
        f"patch: {step.patch} voxels a side; weights: {step.weights:,}; classes: {CLASSES}",
        f"network, forward and backward: {step.network:,} floating point operations (bfloat16 or float16)",
        f"optimiser: {step.optimiser:,} floating point operations (counted as float32)",
        f"gradients: {4 * step.weights / 1e6:.1f} MB",
        f"drawing a patch: {drawing['drawing_s']:.3f} processor seconds, so one every {1e3 * drawing_s:.1f} ms "
        f"by the {STEPS_AHEAD} threads of each GPU",
        "",
    ]
    heads = ("estimate", "GPUs", "computing ms", "exchange ms", "step ms", *(f"{one:,} patches" for one in PATCHES))
    return "\n".join([*lines, table(heads, rows_of(step, drawing_s))])


def measured_drawing(patches: int) -> dict[str, Any]:
    """Measure the processor seconds of drawing a patch of the bundled CTs with the default settings."""
    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.datasets.prepared import prepare_cases
    from TransferSegLib.images.intensity import CT_WINDOW
    from TransferSegLib.images.preparation import Preparation
    from TransferSegLib.networks.families import backbone_of
    from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
    from TransferSegLib.training.configuration import TrainingConfiguration
    from TransferSegLib.training.patches import PatchSampler

    settings, dataset = TrainingConfiguration(width=WIDTH), read_dataset(DATA)
    cases = prepare_cases(dataset, dataset.label_set, Preparation(settings.spacing_zyx_mm, (CT_WINDOW,)))
    patch = backbone_of(unet_valid_spec(WIDTH, CLASSES)).training_patch(settings.patch, settings.frame)
    sampler = PatchSampler(cases, dataset.label_set.mirrored_channels(), patch, settings)
    sampler.draw(np.random.default_rng(0))
    began = time.process_time()
    for number in range(patches):
        sampler.draw(np.random.default_rng(number + 1))
    return {"patch": settings.patch, "patches": patches, "drawing_s": (time.process_time() - began) / patches}


def main() -> None:
    """Measure how long drawing takes, or print the estimate."""
    parser = command_line(__doc__)
    parser.add_argument("--measure", action="store_true", help="measure how long drawing a patch takes, first")
    parser.add_argument("--patches", type=int, default=100, help="patches that are drawn to measure it [100]")
    parser.add_argument("--output", type=Path, default=RESULTS, help="results [training_cost.jsonl beside this]")
    options = parser.parse_args()
    if options.measure:
        add_line(options.output, measured_drawing(options.patches))
    print(report(options.output))


if __name__ == "__main__":
    main()
