"""Run a network over a prepared scan, tile by tile.

The network given is never changed: a copy of it, in the wanted precision and memory format, does the work.
"""

from __future__ import annotations

import copy

import numpy as np
import torch

from TransferSegLib.network.geometry import MARGIN
from TransferSegLib.network.unet import UNet3D
from TransferSegLib.progress import CancelToken, ProgressCallback, Stage
from TransferSegLib.segmenting.plan import Tile, TilePlan, plan_tiles

#: Memory for one tile when nobody says otherwise.
_DEFAULT_TILE_BYTES = 2e9


def label_volume(
    network: UNet3D,
    intensities_zyx: np.ndarray,
    outside: float,
    *,
    tile: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> np.ndarray:
    """Return the most probable channel of every voxel (uint8, zyx) of prepared intensities (float32, zyx).

    ``outside`` fills what lies beyond the scan, ``tile`` caps the input side of a tile in voxels. ``device`` and
    ``dtype`` default to those of the network's weights; the network itself stays as it is (mode, precision, device).
    Raises DeviceError for too little memory and Cancelled when asked to stop.
    """
    weights = next(network.parameters())
    runner = ready_to_run(network, device or weights.device, dtype or weights.dtype)
    plan = plan_tiles(
        intensities_zyx.shape,  # type: ignore[arg-type]
        network.width,
        network.classes,
        _DEFAULT_TILE_BYTES,
        (dtype or weights.dtype).itemsize,
        longest_side=tile,
    )
    labels = np.zeros(intensities_zyx.shape, np.uint8)
    stage = Stage("Segmenting", len(plan), progress, cancel)
    for part in plan:
        stage.check()
        logits = tile_logits(runner, intensities_zyx, outside, plan, part)
        window = tuple(slice(first, last) for first, last in zip(part.start_zyx, part.stop_zyx, strict=True))
        owned = tuple(slice(0, last - first) for first, last in zip(part.start_zyx, part.stop_zyx, strict=True))
        labels[window] = logits[(slice(None), *owned)].argmax(dim=0).to(torch.uint8).cpu().numpy()
        stage.step()
    return labels


def ready_to_run(network: UNet3D, device: torch.device | str, dtype: torch.dtype) -> UNet3D:
    """Return a copy of a network for predicting: evaluation mode, on the device, in the precision."""
    runner = copy.deepcopy(network).requires_grad_(False).eval()
    return runner.to(device=device, dtype=dtype).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


@torch.inference_mode()
def tile_logits(
    runner: UNet3D, intensities_zyx: np.ndarray, outside: float, plan: TilePlan, tile: Tile
) -> torch.Tensor:
    """Return the logits (classes, z, y, x) of the whole output of one tile, from its ``start_zyx`` on."""
    weights = next(runner.parameters())
    scan = torch.from_numpy(tile_input(intensities_zyx, outside, plan, tile))[None, None]
    scan = scan.to(device=weights.device, dtype=weights.dtype, memory_format=torch.channels_last_3d)
    with torch.autocast(weights.device.type, enabled=False):
        return runner(scan)[0]


def tile_input(intensities_zyx: np.ndarray, outside: float, plan: TilePlan, tile: Tile) -> np.ndarray:
    """Return what a tile sees (float32, zyx): the volume with ``outside`` beyond its borders."""
    seen = np.full(plan.input_zyx, outside, np.float32)
    source, target = [], []
    for start, side, size in zip(tile.start_zyx, plan.input_zyx, intensities_zyx.shape, strict=True):
        first, last = start - MARGIN, start - MARGIN + side
        source.append(slice(max(0, first), min(size, last)))
        target.append(slice(max(0, first) - first, min(size, last) - first))
    seen[tuple(target)] = intensities_zyx[tuple(source)]
    return seen
