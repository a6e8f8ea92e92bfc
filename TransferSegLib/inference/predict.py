"""Run a network over a prepared scan, piece by piece, on whatever device has the memory.

>>> predictor = predictor_of(network, backbone)
>>> for box in predictor.predict(scan.intensities_czyx, scan.padding_values, tile_bytes):
...     label_resampler.write(box, box.start_zyx)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import numpy as np
import torch
from torch import nn

from TransferSegLib.doubt.scan_doubt import DoubtCollector
from TransferSegLib.inference.box_logits import BoxLogits
from TransferSegLib.inference.devices import Device, choose_device
from TransferSegLib.inference.exact_tiles import ExactTilePredictor
from TransferSegLib.inference.options import USUAL, PredictionOptions
from TransferSegLib.inference.sliding_window import LinearHead, WindowPredictor
from TransferSegLib.networks.interface import Backbone, DeepestLattice, DeepestMapsObserver, TiledBackbone
from TransferSegLib.progress import Task

#: Memory for predicting where no limit was given.
DEFAULT_TILE_BYTES = 2.5e9


class Prediction(Protocol):
    """The logits of one scan, computed while it is iterated over.

    Neighbouring boxes share a voxel. A voxel that no box owns has the channel ``background_channel``.
    """

    @property
    def background_channel(self) -> int:
        """The most probable channel of voxels in no box."""

    def __iter__(self) -> Iterator[BoxLogits]:
        """Compute the boxes one by one; raises Cancelled, DeviceError, ModelError."""


class Predictor(Protocol):
    """A network on a device, ready for many scans; the network that it was made from is never changed.

    When memory runs out it continues with less at a time, then on the CPU; when half precision overflows, in float32.
    It stays there for later scans.
    """

    @property
    def device(self) -> Device:
        """The device in use."""

    @property
    def deepest_lattice(self) -> DeepestLattice | None:
        """Where the maps lie that an observer gets; None: observers get none."""

    def predict(
        self,
        intensities_czyx: np.ndarray,
        padding_values: Sequence[float],
        tile_bytes: float,
        task: Task | None = None,
        observer: DeepestMapsObserver | None = None,
        share_of_use: float = 0.02,
        features: bool = False,
        within: np.ndarray | None = None,
    ) -> Prediction:
        """Return the prediction of prepared intensities (float32; channels, z, y, x).

        ``padding_values`` are the intensities beyond the scan, ``tile_bytes`` the memory that predicting may take on a
        CPU. ``observer`` gets the deepest maps of every tile. ``share_of_use`` is roughly the share of the time that is
        spent on a box after it was computed, in its ``task``. With ``features`` boxes have what the head makes logits
        of; a predictor that ``predictor_of`` made without ``features`` may leave them out. ``within`` is a mask
        (zyx) of what is asked for: only boxes that hold a voxel of it are computed; their other voxels mean nothing.
        """


def predictor_of(
    network: nn.Module | Sequence[nn.Module],
    backbone: Backbone,
    device: Device | None = None,
    longest_side: int | None = None,
    options: PredictionOptions = USUAL,
    regions: bool = False,
    features: bool = False,
) -> Predictor:
    """Return the predictor for a network, or for several of which the mean counts.

    ``device`` None: the best; ``longest_side`` caps exact tiles, in voxels. With ``regions`` each output of the network
    is a region, and the background has none. With ``features`` it can give head features. Raises TransferSegError for
    options that the network has no use for.
    """
    options.check(backbone.tiling)
    networks = (network,) if isinstance(network, nn.Module) else tuple(network)
    if backbone.tiling.blend == "exact":
        return ExactTilePredictor(cast(TiledBackbone, backbone).exact_tiles(networks[0]), device, longest_side)
    classes, tiling = backbone.spec.classes, backbone.tiling
    point = tiling.linear_head
    if point is not None and not options.exact:
        channels = backbone.split_sizes(point).channels
        if features or channels * len(networks) < classes:
            head = LinearHead(tuple(cast(nn.Module, backbone.last_layers(one, point)) for one in networks), channels)
            bodies = [backbone.frozen_layers(one, point) for one in networks]
            return WindowPredictor(bodies, classes, tiling, device, options, regions, head)
    return WindowPredictor(networks, classes, tiling, device, options, regions)


def label_volume(
    network: nn.Module | Sequence[nn.Module],
    backbone: Backbone,
    intensities_czyx: np.ndarray,
    padding_values: Sequence[float],
    *,
    tile: int | None = None,
    device: torch.device | str | Device | None = None,
    dtype: torch.dtype | None = None,
    tile_bytes: float = DEFAULT_TILE_BYTES,
    collector: DoubtCollector | None = None,
    task: Task | None = None,
) -> np.ndarray:
    """Return the most probable channel of every voxel (uint8 or uint16, zyx) of prepared intensities (float32).

    ``padding_values`` fill what lies beyond the scan, ``tile`` caps the input side of an exact tile in voxels.
    ``device`` and ``dtype`` default to those of the network's weights; the network itself stays as it is. Of several
    networks the mean counts. A ``collector`` of the volume's size gets the doubt. Raises DeviceError for too little
    memory and Cancelled from the task.
    """
    weights = next((network if isinstance(network, nn.Module) else network[0]).parameters())
    if not isinstance(device, Device):
        device = choose_device(str(device or weights.device), dtype or weights.dtype)
    predictor = predictor_of(network, backbone, device, tile)
    prediction = predictor.predict(intensities_czyx, padding_values, tile_bytes, task)
    label_type = np.min_scalar_type(backbone.spec.classes - 1)
    labels = np.full(intensities_czyx.shape[1:], prediction.background_channel, label_type)
    for box in prediction:
        labels[box.window] = box.most_probable()[box.own]
        if collector is not None:
            collector.add(box)
        del box  # before the next one is computed
    return labels
