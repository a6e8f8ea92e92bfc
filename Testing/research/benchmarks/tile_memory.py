"""Measure the memory and time of one tile, and compare them with the tile planner's estimate.

    python3 Testing/run.py benchmark tile_memory --width 16 --side 212 212 220 --dtype bfloat16 [--plain] [--threads 1]

``--plain`` runs UNet3D itself instead of InferenceNetwork. Memory is the growth of the process's peak resident set
(Linux and macOS only).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from Testing.research.common.measuring import command_line, peak_memory_bytes
from Testing.research.common.models import random_network
from Testing.research.common.plain_cost import multiply_adds
from TransferSegLib.networks.unet_valid.inference_network import InferenceNetwork
from TransferSegLib.networks.unet_valid.tile_plan import tile_memory_bytes


def main() -> None:
    """Run one tile three times and print one line."""
    parser = command_line(__doc__, threads=2)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--side", type=int, nargs=3, default=[212, 212, 220])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--contiguous", action="store_true", help="not channels last")
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    memory_format = torch.contiguous_format if options.contiguous else torch.channels_last_3d
    network = random_network(options.classes, options.width)
    run: Callable[[torch.Tensor], torch.Tensor] = InferenceNetwork(network, "cpu", dtype, memory_format)
    if options.plain:
        plain = network.to(dtype).to(memory_format=memory_format)  # type: ignore[call-overload]
        run = torch.inference_mode()(lambda scan: plain(scan.to(dtype).contiguous(memory_format=memory_format)))
    scan = torch.randn(1, 1, *options.side)
    before = peak_memory_bytes()
    seconds, processor_seconds = [], []
    for _ in range(3):
        started, processor_started = time.perf_counter(), time.process_time()
        logits = run(scan)[0]
        seconds.append(time.perf_counter() - started)
        processor_seconds.append(time.process_time() - processor_started)
        voxels = logits[0].numel()
        del logits
    z, y, x = options.side
    counted = tile_memory_bytes((z, y, x), options.width, options.classes, dtype.itemsize)
    operations = multiply_adds((z, y, x), options.width, options.classes)
    print(
        f"width {options.width}, tile {z} x {y} x {x}, {options.dtype}{', plain' if options.plain else ''}: "
        f"measured {(peak_memory_bytes() - before) / 1e9:.2f} GB, planned {counted / 1e9:.2f} GB; "
        f"{min(seconds):.2f} s ({min(processor_seconds):.2f} processor s), {min(seconds) / voxels * 1e6:.2f} us/voxel, "
        f"{operations / voxels / 1e6:.2f} M multiply-adds/voxel as written"
    )


if __name__ == "__main__":
    main()
