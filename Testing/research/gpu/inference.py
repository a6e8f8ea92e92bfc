"""How fast the paper's network predicts: tiles of several sizes, and a whole synthetic scan.

    python3 Testing/run.py gpu inference [--width 32] [--sides 132 180 228] [--model-spacing 1.5] [--device auto]

The weights are random, which changes no time of the network; labels are written everywhere, which costs their most.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from Testing.research.common.measuring import command_line
from Testing.research.common.models import random_model, random_network
from Testing.research.common.scans import synthetic_scan
from Testing.research.gpu.measuring import device_of, print_line, seconds_of
from TransferSegLib.errors import DeviceError
from TransferSegLib.inference.devices import Device, is_out_of_memory
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.networks.unet_valid.geometry import output_side
from TransferSegLib.networks.unet_valid.inference_network import InferenceNetwork
from TransferSegLib.networks.unet_valid.tile_plan import tile_memory_bytes


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one line."""
    parser = command_line(__doc__, device=True)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--sides", type=int, nargs="*", default=[132, 180, 228], help="of tiles, in voxels")
    parser.add_argument("--scan", type=int, nargs=3, default=[512, 512, 300], help="size of the scan in voxels, xyz")
    parser.add_argument("--scan-spacing", type=float, nargs=3, default=[0.98, 0.98, 1.0], help="mm, xyz")
    parser.add_argument("--model-spacing", type=float, default=1.5, help="mm")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    device = device_of(options.device)
    tiles = [measured_tile(side, options.width, options.classes, device, options.repeats) for side in options.sides]
    segmenter = Segmenter(random_model(options.classes, options.width, options.model_spacing), device)
    scan = synthetic_scan(tuple(options.scan), tuple(options.scan_spacing))
    segmenter.segment(scan)  # so that what a GPU sets up once does not count
    seconds = segmenter.segment(scan).seconds
    x, y, z = options.scan
    print_line(
        "inference",
        device,
        width=options.width,
        tiles=tiles,
        scan=options.scan,
        model_spacing_mm=options.model_spacing,
        seconds=round(seconds, 3),
        voxels_per_second=round(x * y * z / seconds),
    )
    return 0


def measured_tile(side: int, width: int, classes: int, device: Device, repeats: int) -> dict[str, float]:
    """Return the seconds of a cubic tile, the logits' voxels in a second, and the memory as it is planned."""
    network = InferenceNetwork(random_network(classes, width), device.torch_name, device.dtype, device.memory_format)
    scan = torch.randn(1, 1, side, side, side, generator=torch.Generator().manual_seed(0))
    planned = tile_memory_bytes((side, side, side), width, classes, device.dtype.itemsize) / 1e9
    try:
        seconds = seconds_of(lambda: network(scan), device, repeats)
    except (RuntimeError, MemoryError, DeviceError) as error:
        if not is_out_of_memory(error):
            raise
        return {"side": side, "planned_gb": round(planned, 3), "seconds": float("inf")}
    return {
        "side": side,
        "planned_gb": round(planned, 3),
        "seconds": round(seconds, 5),
        "voxels_per_second": round(output_side(side) ** 3 / seconds),
    }


if __name__ == "__main__":
    raise SystemExit(main())
