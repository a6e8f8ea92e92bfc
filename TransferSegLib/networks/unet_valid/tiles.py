"""The network's tiles behind the interface that predicting uses: planned, weighed and computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from TransferSegLib.networks.interface import (
    DeepestMapsObserver,
    HeadMapsObserver,
    PieceDone,
    Span,
    TileRunner,
    Triple,
)
from TransferSegLib.networks.unet_valid.content import content_spans
from TransferSegLib.networks.unet_valid.geometry import DEEPEST_LATTICE, MARGIN, SMALLEST_INPUT_SIDE
from TransferSegLib.networks.unet_valid.inference_network import InferenceNetwork
from TransferSegLib.networks.unet_valid.tile_plan import TilePlan, plan_tiles, region_around, tile_memory_bytes
from TransferSegLib.networks.unet_valid.unet import UNet3D


class ValidUNetTiles:
    """The tiles of one network, which is left as it is; see ``networks.interface.ExactTiles``."""

    margin_zyx: Triple = (MARGIN, MARGIN, MARGIN)
    smallest_zyx: Triple = (SMALLEST_INPUT_SIDE, SMALLEST_INPUT_SIDE, SMALLEST_INPUT_SIDE)
    deepest_lattice = DEEPEST_LATTICE

    def __init__(self, network: UNet3D) -> None:
        """Take a network."""
        self._network = network

    def content(self, intensities_czyx: np.ndarray, padding_values: Sequence[float]) -> Sequence[Span] | None:
        """Return the box of the voxels that are not padding, None where there are none."""
        return content_spans(intensities_czyx[0], padding_values[0])

    def plan(
        self,
        size_zyx: Triple,
        content: Sequence[Span] | None,
        tile_bytes: float,
        itemsize: int,
        longest_side: int | None = None,
    ) -> TilePlan:
        """Return the cheapest tiles around the content; raises DeviceError when not even the smallest tile fits."""
        spans = content if content is not None else tuple((0, length) for length in size_zyx)
        region = region_around(spans, size_zyx)
        width, classes = self._network.width, self._network.classes
        return plan_tiles(size_zyx, width, classes, tile_bytes, itemsize, longest_side, region, spans)

    def memory_bytes(self, input_zyx: Triple, itemsize: int) -> float:
        """Return the most memory that one tile takes."""
        return tile_memory_bytes(input_zyx, self._network.width, self._network.classes, itemsize)

    def runner(self, device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format) -> TileRunner:
        """Return what computes tiles; where a tile holds nothing but padding the answer to that is filled in."""
        network = InferenceNetwork(self._network, device, dtype, memory_format)

        def run(
            seen_czyx: np.ndarray,
            padding_values: Sequence[float],
            observer: DeepestMapsObserver | None = None,
            piece_done: PieceDone | None = None,
            head_maps: HeadMapsObserver | None = None,
        ) -> torch.Tensor:
            content = content_spans(seen_czyx[0], padding_values[0])
            scan = torch.from_numpy(seen_czyx)[None]
            return network(scan, content, padding_values[0], observer, piece_done, head_maps)[0]

        return run
