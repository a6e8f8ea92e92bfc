"""The contestants of the benchmark ``compare_inference``: each segments one volume without air in a process of its own.

Every function takes the volume (float32, zyx) and the options and returns a ``Result``. MONAI and nnU-Net are called as
their users call them; neither is needed for the other contestants.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from Testing.research.common.models import random_network
from Testing.research.common.plain_cost import multiply_adds
from TransferSegLib.inference.devices import choose_device
from TransferSegLib.inference.exact_tiles import ExactTilePredictor
from TransferSegLib.inference.predict import label_volume
from TransferSegLib.networks.unet_valid import tile_cost
from TransferSegLib.networks.unet_valid.backbone import ValidUNetBackbone, unet_valid_spec
from TransferSegLib.networks.unet_valid.geometry import MARGIN
from TransferSegLib.networks.unet_valid.tile_plan import TilePlan, computed_lengths

CLASSES = 23
OUTSIDE = -500.0


@dataclass(frozen=True)
class Result:
    """What a contestant did: seconds for the volume, multiply-adds in all, precision, and how it was set up."""

    seconds: float
    multiply_adds: float
    dtype: str
    setting: str
    device: str = "CPU"


def published(volume: np.ndarray, options: argparse.Namespace) -> Result:
    """Run (a) the published recipe: 132-voxel tiles every 44 voxels, float32, default layout, nothing folded."""
    network = random_network(CLASSES, 32)
    labels = np.zeros(volume.shape, np.uint8)
    tiles = list(product(*(range(0, length, 44) for length in volume.shape)))
    timed = tiles if options.tiles is None else tiles[:: max(1, len(tiles) // options.tiles)][: options.tiles]
    once = multiply_adds((132, 132, 132), network.width, network.classes)
    with torch.inference_mode():
        _warm_up(lambda: network(torch.zeros(1, 1, 132, 132, 132)))
        started = time.perf_counter()
        for start in timed:
            seen = np.full((132, 132, 132), OUTSIDE, np.float32)
            source = tuple(
                slice(max(0, s - MARGIN), min(n, s - MARGIN + 132)) for s, n in zip(start, volume.shape, strict=True)
            )
            target = tuple(slice(w.start - s + MARGIN, w.stop - s + MARGIN) for w, s in zip(source, start, strict=True))
            seen[target] = volume[source]
            probabilities = torch.softmax(network(torch.from_numpy(seen)[None, None])[0], dim=0)
            window = tuple(slice(s, min(n, s + 44)) for s, n in zip(start, volume.shape, strict=True))
            own = tuple(slice(0, w.stop - w.start) for w in window)
            labels[window] = probabilities.argmax(dim=0).numpy()[own]
        seconds = (time.perf_counter() - started) * len(tiles) / len(timed)
    counted = "" if len(timed) == len(tiles) else f", {len(timed)} of them timed"
    return Result(seconds, once * len(tiles), "float32", f"{len(tiles)} tiles of 132{counted}")


def ours(volume: np.ndarray, options: argparse.Namespace) -> Result:
    """Run (b) TransferSeg, with the memory for one tile that the budget leaves."""
    network = random_network(CLASSES, 32)
    device = choose_device(options.device)
    backbone = ValidUNetBackbone(unet_valid_spec(32, CLASSES))
    predictor = ExactTilePredictor(backbone.exact_tiles(network), device)
    content = [(0, length) for length in volume.shape]
    budget = options.memory * 1e9 - 1e9
    plan = cast(TilePlan, predictor.plan(volume.shape, content, budget))
    predictor.logits(np.resize(volume, (1, *predictor.tiles.smallest_zyx)), (OUTSIDE,))
    started = time.perf_counter()
    label_volume(network, backbone, volume[None], (OUTSIDE,), device=device, tile_bytes=budget)
    seconds = time.perf_counter() - started
    z, y, x = plan.input_zyx
    setting = f"{len(plan)} tiles of {z} x {y} x {x}, {options.memory:g} GB"
    sides = [np.array([side]) for side in plan.input_zyx]
    computed = computed_lengths(sides, plan.region_start_zyx, plan.region_stop_zyx, content)
    done = float(tile_cost.multiply_adds(computed, network.width, network.classes).item())
    return Result(seconds, done, str(device.dtype).removeprefix("torch."), setting, device.name)


def monai(volume: np.ndarray, options: argparse.Namespace) -> Result:
    """Run (c) MONAI's sliding_window_inference with its BasicUNet: patches of 96, overlap 0.25, float32."""
    from monai.inferers import sliding_window_inference
    from monai.networks.nets import BasicUNet

    network = BasicUNet(3, 1, CLASSES, features=(32, 64, 128, 256, 320, 32)).eval().to(_torch_device(options))
    windows = 0

    def counted(patches: torch.Tensor) -> torch.Tensor:
        nonlocal windows
        windows += patches.shape[0]
        return network(patches)

    scan = torch.from_numpy(volume)[None, None].to(_torch_device(options))
    with torch.inference_mode():
        _warm_up(lambda: network(scan[..., :96, :96, :96]))
        started = time.perf_counter()
        logits = sliding_window_inference(scan, (96, 96, 96), 1, counted, overlap=0.25)
        logits.argmax(dim=1).to(torch.uint8).cpu()
        seconds = time.perf_counter() - started
    once = _multiply_adds(network, (1, 1, 96, 96, 96))
    return Result(seconds, once * windows, "float32", f"{windows} patches of 96, {_millions(network)} M weights")


def nnunet(volume: np.ndarray, options: argparse.Namespace) -> Result:
    """Run (d) nnU-Net v2's predictor with its default 3D network: patches of 128, overlap 0.5, no mirroring."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    network = PlainConvUNet(
        1,
        6,
        (32, 64, 128, 256, 320, 320),
        nn.Conv3d,
        3,
        ((1, 1, 1), *[(2, 2, 2)] * 5),
        2,
        CLASSES,
        2,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    ).eval()
    once = _multiply_adds(network, (1, 1, 128, 128, 128))
    device = _torch_device(options)
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=device.type != "cpu", device=device, allow_tqdm=False
    )
    predictor.network = network.to(device)
    predictor.configuration_manager = SimpleNamespace(patch_size=[128, 128, 128])
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=CLASSES)
    patches = len(predictor._internal_get_sliding_window_slicers(volume.shape))
    scan = torch.from_numpy(volume)[None]
    with torch.inference_mode():
        _warm_up(lambda: predictor.network(scan[None, :, :128, :128, :128].to(device)))
        started = time.perf_counter()
        logits = predictor.predict_sliding_window_return_logits(scan)
        logits.argmax(0).to(torch.uint8).cpu()
        seconds = time.perf_counter() - started
    dtype = "float32" if device.type == "cpu" else "float16"
    return Result(seconds, once * patches, dtype, f"{patches} patches of 128, {_millions(network)} M weights")


CONTESTANTS: dict[str, Callable[[np.ndarray, argparse.Namespace], Result]] = {
    "published recipe": published,
    "TransferSeg": ours,
    "MONAI BasicUNet": monai,
    "nnU-Net v2": nnunet,
}


def _torch_device(options: argparse.Namespace) -> torch.device:
    """Return the device that the peers run on: the one TransferSeg chooses."""
    return torch.device(choose_device(options.device).torch_name)


def _multiply_adds(network: nn.Module, shape: tuple[int, ...]) -> float:
    """Return the multiply-adds of all convolutions of one forward pass, counted without computing anything."""
    total = 0.0

    def count(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        kernel: Any = layer.weight
        total += kernel[0].numel() * (inputs[0] if isinstance(layer, nn.ConvTranspose3d) else output).numel()

    empty = copy.deepcopy(network).to("meta")
    for layer in empty.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        empty(torch.zeros(shape, device="meta"))
    return total


def _warm_up(once: Callable[[], Any]) -> None:
    """Run something once, so that what torch sets up at its first use is not timed."""
    once()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _millions(network: nn.Module) -> str:
    """Return the number of weights in millions."""
    return f"{sum(parameter.numel() for parameter in network.parameters()) / 1e6:.1f}"
