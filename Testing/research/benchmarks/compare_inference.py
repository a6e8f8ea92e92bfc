"""Compare the inference speed of TransferSeg with the published recipe, MONAI and nnU-Net on one volume without air.

    python3 Testing/run.py benchmark compare_inference [--side 256] [--tiles N] [--only [NAME ...]] [--device auto]

All networks have 23 classes and random weights; TransferSeg's is the paper's at full width (16.3 M weights). Each runs
in its own process. The table gives seconds for the whole volume, voxels per second, microseconds per voxel, executed
multiply-adds per voxel, the share of the machine's rate for a matrix product in the same precision (measured just
before), and the peak resident memory. Finally, the bundled model's labels of the sample CT in this precision are
compared with those of float32 tiles of the plain network; ``--only`` without a name does only that.

``--tiles`` times only N tiles of the published recipe (216 tiles take 10 minutes on 2 cores) and extrapolates. MONAI
and nnU-Net are skipped when they are not installed: ``pip install monai nnunetv2``.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from dataclasses import asdict

import numpy as np
import torch

from Testing.research.common.inference_peers import CONTESTANTS
from Testing.research.common.measuring import command_line, peak_memory_bytes
from Testing.research.common.scans import sample_scan
from TransferSegLib.images.preprocess import preprocess
from TransferSegLib.inference.devices import choose_device
from TransferSegLib.inference.exact_tiles import tile_input
from TransferSegLib.inference.predict import label_volume
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_model
from TransferSegLib.networks.unet_valid.geometry import MARGIN
from TransferSegLib.networks.unet_valid.tile_plan import TilePlan

NEEDED = {"MONAI BasicUNet": "monai", "nnU-Net v2": "nnunetv2"}


def main() -> None:
    """Run every contestant in a child process and print the table."""
    parser = command_line(__doc__, threads=2, device=True)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--tiles", type=int)
    parser.add_argument("--only", nargs="*", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--memory", type=float, default=6.0, help="GB for TransferSeg (default: 6)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        print(json.dumps(child(options)))
        return
    if options.only:
        columns = ("", "setting", "s", "voxels/s", "us/voxel", "M multiply-adds/voxel", "precision", "share of peak")
        print(f"| {' | '.join(columns)} | peak memory GB |")
        print("|---|---|---|---|---|---|---|---|---|")
    for name in options.only:
        if name in NEEDED and importlib.util.find_spec(NEEDED[name]) is None:
            print(f"| {name} | not installed | | | | | | | |")
            continue
        done = subprocess.run(
            [sys.executable, *sys.argv, "--child", name], stdout=subprocess.PIPE, text=True, check=True
        )
        print_row(name, json.loads(done.stdout.splitlines()[-1]), options.side**3)
    print(agreement(options))


def child(options: argparse.Namespace) -> dict[str, object]:
    """Run one contestant and return what it did, with the machine's rate and the memory it took."""
    peak = {dtype: matrix_rate(dtype, options.device) for dtype in ("float32", "bfloat16", "float16")}
    result = CONTESTANTS[options.child](volume_without_air(options.side), options)
    return asdict(result) | {"peak_rate": peak[result.dtype], "memory": peak_memory_bytes()}


def print_row(name: str, row: dict[str, float], voxels: int) -> None:
    """Print a line of the table."""
    share = 2 * row["multiply_adds"] / row["seconds"] / row["peak_rate"]
    print(
        f"| {name} | {row['setting']} | {row['seconds']:.1f} | {voxels / row['seconds']:,.0f} "
        f"| {row['seconds'] / voxels * 1e6:.2f} "
        f"| {row['multiply_adds'] / voxels / 1e6:.2f} | {row['dtype']} "
        f"| {share:.0%} of {row['peak_rate'] / 1e12:.2f} TFLOP/s | {row['memory'] / 1e9:.1f} |",
        flush=True,
    )


def volume_without_air(side: int) -> np.ndarray:
    """Return a cube of smooth soft-tissue intensities with noise, all of them above the clipping at -500 HU."""
    generator = np.random.default_rng(0)
    coarse = generator.normal(0, 60, [side // 16 + 1] * 3)
    smooth = np.kron(coarse, np.ones((16, 16, 16)))[:side, :side, :side]
    return np.clip(smooth + generator.normal(0, 15, smooth.shape), -400, 400).astype(np.float32)


def matrix_rate(dtype: str, wanted: str) -> float:
    """Return the floating-point operations per second of a plain 4096 x 4096 matrix product, the best of five."""
    device = torch.device(choose_device(wanted).torch_name)
    if dtype == "float16" and device.type == "cpu":
        return float("nan")
    matrix = torch.randn(4096, 4096).to(device, getattr(torch, dtype))
    best = float("inf")
    for _ in range(6):
        started = time.perf_counter()
        matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * 4096**3 / best


def agreement(options: argparse.Namespace) -> str:
    """Return how many labels of the bundled model on the sample CT are those of float32 tiles of the plain network."""
    model = load_model(find_model())
    network, description = model.network(), model.description
    scan = preprocess(sample_scan(), description.preparation)
    volume, padding, device = scan.intensities_czyx, scan.padding_values, choose_device(options.device)
    labels = label_volume(network, description.backbone, volume, padding, device=device)
    reference = np.zeros_like(labels)
    plan = TilePlan((0, 0, 0), labels.shape, (132, 132, 132))
    with torch.inference_mode():
        for tile in plan:
            logits = network(torch.from_numpy(tile_input(volume, padding, plan, tile, (MARGIN,) * 3))[None])[0]
            window = tuple(slice(*ends) for ends in zip(tile.start_zyx, tile.stop_zyx, strict=True))
            own = tuple(slice(0, w.stop - w.start) for w in window)
            reference[window] = logits[(slice(None), *own)].argmax(dim=0).numpy()
    either = (labels != 0) | (reference != 0)
    return (
        f"\nLabels of '{description.name}' on its sample CT, {device}, against float32 tiles of 132 voxels every "
        f"{plan.step_zyx[0]}: {np.mean(labels == reference):.4%} of {labels.size:,} voxels are equal, "
        f"{np.mean(labels[either] == reference[either]):.2%} of the {either.sum():,} in a structure."
    )


if __name__ == "__main__":
    main()
