"""Predict a scan with a network whose tiles agree where they overlap: each voxel is taken from one tile.

The network given is never changed: a copy of its weights, in the device's precision and memory format, does the work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from TransferSegLib.errors import DeviceError
from TransferSegLib.inference.box_logits import BoxFeatures, BoxLogits, holds_any
from TransferSegLib.inference.devices import Device, free_memory_bytes
from TransferSegLib.inference.fallback import CannotCompute, FallbackDevice, finite_logits
from TransferSegLib.networks.interface import (
    DeepestLattice,
    DeepestMapsObserver,
    ExactTiles,
    HeadMapsObserver,
    PieceDone,
    Span,
    Tile,
    TilePlan,
    TileRunner,
    Triple,
)
from TransferSegLib.progress import Task

#: Share of a GPU's free memory that a tile may take by the plan's estimate.
_SHARE_OF_GPU = 0.7


class ExactTilePredictor:
    """A network on a device, ready for many scans.

    When memory runs out it continues with smaller tiles, then on the CPU; when half precision overflows, in float32.
    It stays there for later scans; ``device`` says where it is.
    """

    def __init__(self, tiles: ExactTiles, device: Device | None = None, longest_side: int | None = None) -> None:
        """Take a network's tiles; ``device`` None: the best; ``longest_side`` caps tile sides in voxels."""
        self.tiles = tiles
        self._fallback = FallbackDevice(device)
        self._longest_side = longest_side
        self._tile_bytes = float("inf")
        self._runner: TileRunner | None = None
        #: A message on what planning had to change, for the progress; empty if nothing.
        self.notice = ""

    @property
    def device(self) -> Device:
        """The device in use."""
        return self._fallback.device

    @property
    def deepest_lattice(self) -> DeepestLattice:
        """Where the maps lie that an observer gets."""
        return self.tiles.deepest_lattice

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
    ) -> ExactTilePrediction:
        """Return the prediction of a scan; see ``Predictor.predict``."""
        return ExactTilePrediction(
            self, intensities_czyx, padding_values, tile_bytes, task or Task(), observer, share_of_use, features, within
        )

    def plan(self, size_zyx: Triple, content: Sequence[Span] | None, tile_bytes: float) -> TilePlan:
        """Return the tiles for a volume with some content as long as the device stays the same.

        A GPU with too little free memory for the smallest tile is given up for the CPU.
        """
        while True:
            free = free_memory_bytes(self.device)
            budget = min(self._tile_bytes, tile_bytes if free is None else _SHARE_OF_GPU * free)
            try:
                return self.tiles.plan(size_zyx, content, budget, self.device.dtype.itemsize, self._longest_side)
            except DeviceError:
                if self.device.kind == "cpu":
                    raise
                self.notice = self._use_cpu("the smallest tile")

    def logits(
        self,
        seen_czyx: np.ndarray,
        padding_values: Sequence[float],
        observer: DeepestMapsObserver | None = None,
        piece_done: PieceDone | None = None,
        head_maps: HeadMapsObserver | None = None,
    ) -> torch.Tensor:
        """Return the logits (classes, z, y, x), in the device's precision, of what one tile sees (float32)."""

        def compute() -> torch.Tensor:
            if self._runner is None:
                torch_device = torch.device(self.device.torch_name)
                self._runner = self.tiles.runner(torch_device, self.device.dtype, self.device.memory_format)
            if head_maps is not None:
                return self._runner(seen_czyx, padding_values, observer, piece_done, head_maps)
            return self._runner(seen_czyx, padding_values, observer, piece_done)

        return finite_logits(compute, piece_done)

    def step_back(self, failure: CannotCompute, tile_zyx: Triple) -> str:
        """Choose how to continue after a tile of this size failed; return a message, or raise when no way is left."""
        self._runner = None
        if failure.reason == "range":
            return self._fallback.use_float32()
        itemsize = self.device.dtype.itemsize
        needed = self.tiles.memory_bytes(tile_zyx, itemsize)
        smallest = self.tiles.memory_bytes(self.tiles.smallest_zyx, itemsize)
        if needed > smallest:
            self._tile_bytes = max(needed / 2, smallest)
            return f"Not enough memory on {self.device.name}: continuing with smaller tiles"
        return self._use_cpu(f"the smallest tile ({needed / 1e9:.1f} GB)")

    def _use_cpu(self, what: str) -> str:
        """Give up a GPU that has too little memory; return a message."""
        message = self._fallback.use_cpu(what)
        self._tile_bytes, self._runner = float("inf"), None
        return message


class ExactTilePrediction:
    """The logits of one scan: iterate over its tiles. Voxels that no tile owns have ``background_logits``.

    Tiles that see nothing but padding are left out: the network's answer to that is the same everywhere and is
    computed once. A tile may come again after memory ran out, and holds the same then.
    """

    def __init__(
        self,
        predictor: ExactTilePredictor,
        intensities_czyx: np.ndarray,
        padding_values: Sequence[float],
        tile_bytes: float,
        task: Task,
        observer: DeepestMapsObserver | None,
        share_of_use: float,
        features: bool = False,
        within: np.ndarray | None = None,
    ) -> None:
        """Find out which part of the volume needs the network."""
        self._predictor = predictor
        self._intensities = intensities_czyx
        self._padding = tuple(float(value) for value in padding_values)
        self._tile_bytes = tile_bytes
        self._task, self._observer, self._share_of_use = task, observer, share_of_use
        self._features, self._within = features, within
        size = (intensities_czyx.shape[1], intensities_czyx.shape[2], intensities_czyx.shape[3])
        self.size_zyx: Triple = size
        self._content = predictor.tiles.content(intensities_czyx, self._padding)
        plan = predictor.plan(size, self._content, tile_bytes)
        is_whole = (plan.region_start_zyx, plan.region_stop_zyx) == ((0, 0, 0), size)
        #: Logits (classes) of voxels in no tile; None when the tiles cover the volume.
        self.background_logits: torch.Tensor | None = None
        task.check()
        if not is_whole or not all(self._sees_anything(plan, tile) for tile in plan):
            self.background_logits = self._logits_of_padding()

    @property
    def background_channel(self) -> int:
        """The most probable channel of voxels in no tile."""
        return 0 if self.background_logits is None else int(self.background_logits.argmax())

    def __iter__(self) -> Iterator[BoxLogits]:
        """Compute the tiles one by one; raises Cancelled, DeviceError, ModelError."""
        task, message = self._task, ""
        while True:
            plan = self._predictor.plan(self.size_zyx, self._content, self._tile_bytes)
            tiles = [
                tile
                for tile in plan
                if self._is_wanted(tile) and (self.background_logits is None or self._sees_anything(plan, tile))
            ]
            message, self._predictor.notice = message or self._predictor.notice, ""
            if message:
                task.at(0.0, message)
            try:
                for number, tile in enumerate(tiles):
                    here = task.share(number, len(tiles))
                    computing, using = here.split(1 - self._share_of_use, self._share_of_use)
                    slabs: list[BoxFeatures] = []
                    logits = self._logits(plan, tile, computing, bool(message), slabs)
                    message = ""
                    kept = _with_one_more(tile, plan.region_stop_zyx)
                    found = _joined(slabs, tile, kept)
                    values = logits[(slice(None), *kept)]
                    yield BoxLogits(tile.start_zyx, tile.stop_zyx, values, using, features=found)
                    del logits, values, found, slabs
                    here.done()
                return
            except CannotCompute as error:
                failure = error
            message, task = self._predictor.step_back(failure, plan.input_zyx), task.rest()

    def _logits(
        self, plan: TilePlan, tile: Tile, task: Task, keep_message: bool, slabs: list[BoxFeatures]
    ) -> torch.Tensor:
        """Compute a tile; meanwhile the message is the device's name, unless another one is to be kept.

        Its features, if they are asked for, are added to the ``slabs`` of its output.
        """
        where = f"on {self._predictor.device}"
        task.at(0.0, None if keep_message else where)
        seen = tile_input(self._intensities, self._padding, plan, tile, self._predictor.tiles.margin_zyx)
        task.check()
        logits = self._predictor.logits(
            seen, self._padding, self._observed(tile), task.at, _kept_in(slabs) if self._features else None
        )
        task.at(1.0, where)
        return logits

    def _is_wanted(self, tile: Tile) -> bool:
        """Tell whether a tile gives any voxel that is asked for; it gives one more along each axis than it owns."""
        return self._within is None or holds_any(self._within, tile.start_zyx, [stop + 1 for stop in tile.stop_zyx])

    def _sees_anything(self, plan: TilePlan, tile: Tile) -> bool:
        """Tell whether a tile sees any intensity other than padding."""
        source, _ = _windows(self.size_zyx, plan, tile, self._predictor.tiles.margin_zyx)
        return any(
            bool(np.any(channel[source] != np.float32(padding)))
            for channel, padding in zip(self._intensities, self._padding, strict=True)
        )

    def _observed(self, tile: Tile) -> DeepestMapsObserver | None:
        """Return an observer of a tile's deepest maps that tells the volume's observer where they lie."""
        observer, step = self._observer, self._predictor.tiles.deepest_lattice.step
        if observer is None:
            return None
        z, y, x = (start // step for start in tile.start_zyx)

        def observed(maps: torch.Tensor, first_zyx: Triple) -> None:
            observer(maps, (z + first_zyx[0], y + first_zyx[1], x + first_zyx[2]))

        return observed

    def _logits_of_padding(self) -> torch.Tensor:
        """Return the network's logits (classes) where it sees nothing but padding."""
        smallest = self._predictor.tiles.smallest_zyx
        nothing = np.empty((len(self._padding), *smallest), np.float32)
        nothing[:] = np.array(self._padding, np.float32)[:, None, None, None]
        while True:
            try:
                return self._predictor.logits(nothing, self._padding)[:, 0, 0, 0]
            except CannotCompute as error:
                failure = error
            self._predictor.step_back(failure, smallest)


def _kept_in(slabs: list[BoxFeatures]) -> HeadMapsObserver:
    """Return an observer that keeps features in half precision; what is too large for it gets its largest number."""
    largest = torch.finfo(torch.float16).max

    def keep(maps: torch.Tensor, start_zyx: Triple) -> None:
        slabs.append(BoxFeatures(start_zyx, maps[0].clamp(-largest, largest).to("cpu", torch.float16)))

    return keep


def _joined(slabs: list[BoxFeatures], tile: Tile, kept: Sequence[slice]) -> BoxFeatures | None:
    """Return the features of what is kept of a tile from the slabs along z of its output; None without any."""
    if not slabs:
        return None
    values = torch.cat([slab.values for slab in slabs], dim=1)
    first = slabs[0].start_zyx
    inside = tuple(slice(0, max(0, part.stop - start)) for part, start in zip(kept, first, strict=True))
    z, y, x = (at + start for at, start in zip(tile.start_zyx, first, strict=True))
    return BoxFeatures((z, y, x), values[(slice(None), *inside)])


def tile_input(
    intensities_czyx: np.ndarray, padding_values: Sequence[float], plan: TilePlan, tile: Tile, margin_zyx: Triple
) -> np.ndarray:
    """Return what a tile sees (float32; channels, z, y, x): the volume, padded beyond its borders."""
    seen = np.empty((len(intensities_czyx), *plan.input_zyx), np.float32)
    source, target = _windows(intensities_czyx.shape[1:], plan, tile, margin_zyx)
    for channel, intensities, padding in zip(seen, intensities_czyx, padding_values, strict=True):
        channel[:] = padding
        channel[target] = intensities[source]
    return seen


def _windows(
    size_zyx: tuple[int, ...], plan: TilePlan, tile: Tile, margin_zyx: Triple
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the part of a volume that a tile sees, and where in the tile's input it lies."""
    source, target = [], []
    for start, side, size, margin in zip(tile.start_zyx, plan.input_zyx, size_zyx, margin_zyx, strict=True):
        first = start - margin
        low, high = max(0, first), min(size, first + side)
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    return tuple(source), tuple(target)


def _with_one_more(tile: Tile, region_stop_zyx: Triple) -> tuple[slice, ...]:
    """Return what is kept of a tile's output: what it owns and one voxel beyond, where the region continues."""
    return tuple(
        slice(0, min(stop + 1, end) - start)
        for start, stop, end in zip(tile.start_zyx, tile.stop_zyx, region_stop_zyx, strict=True)
    )
