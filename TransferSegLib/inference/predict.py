"""Run a network over a prepared scan, tile by tile, on whatever device has the memory.

The network given is never changed: a copy of its weights, in the device's precision and memory format, does the work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from TransferSegLib.errors import DeviceError, ModelError
from TransferSegLib.inference.devices import Device, choose_device, free_memory_bytes, is_out_of_memory
from TransferSegLib.networks.unet_valid.content import Span, content_spans
from TransferSegLib.networks.unet_valid.geometry import ALIGNMENT, MARGIN, SMALLEST_INPUT_SIDE
from TransferSegLib.networks.unet_valid.inference_network import DeepestMapsObserver, InferenceNetwork, PieceDone
from TransferSegLib.networks.unet_valid.tile_plan import (
    Tile,
    TilePlan,
    Triple,
    plan_tiles,
    region_around,
    tile_memory_bytes,
)
from TransferSegLib.networks.unet_valid.unet import UNet3D
from TransferSegLib.progress import Task

#: Memory for one tile when nobody says otherwise.
DEFAULT_TILE_BYTES = 2.5e9
#: Rows along z of a tile whose most probable channels are found at once.
_ROWS_AT_ONCE = 16
#: Share of a GPU's free memory that a tile may take by the plan's reckoning.
_SHARE_OF_GPU = 0.7
_SMALLEST = (SMALLEST_INPUT_SIDE, SMALLEST_INPUT_SIDE, SMALLEST_INPUT_SIDE)


class _TryDifferently(Exception):
    """A tile could not be computed as planned; ``reason`` is 'memory' or 'range'."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class TileLogits:
    """Logits (classes, z, y, x) from ``tile.start_zyx`` to one voxel beyond what the tile owns, on the device.

    They are in the device's precision, half of which holds them less the largest of their voxel (``InferenceNetwork``).
    The last tile along an axis has no voxel beyond. ``task`` is for what is made of them, before the next tile.
    """

    tile: Tile
    values: torch.Tensor
    task: Task = field(default_factory=Task)

    @property
    def classes(self) -> int:
        """How many classes there are, the background included."""
        return self.values.shape[0]

    def most_probable(self) -> np.ndarray:
        """Return the most probable channel of every voxel (zyx; uint8, or uint16 for many classes)."""
        channels = np.empty(self.values.shape[1:], np.min_scalar_type(self.classes))
        # In slabs, because torch's indices take eight bytes each; and max is faster than argmax.
        for first in range(0, len(channels), _ROWS_AT_ONCE):
            self.task.at(0.0)
            rows = slice(first, first + _ROWS_AT_ONCE)
            most = self.values[:, rows].max(dim=0).indices
            channels[rows] = most.to(torch.uint8 if self.classes < 256 else torch.int32).cpu().numpy()
        return channels

    def probabilities_at(self, positions_zyx: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """Return the probabilities (n, classes; float32) at n voxels given by their positions."""
        z, y, x = (torch.from_numpy(along).to(self.values.device) for along in positions_zyx)
        logits = self.values.permute(1, 2, 3, 0)[z, y, x]
        return torch.softmax(logits.to(torch.float32), dim=1).cpu().numpy()

    def owned(self) -> torch.Tensor:
        """Return the logits of the voxels that the tile owns."""
        z, y, x = (stop - start for start, stop in zip(self.tile.start_zyx, self.tile.stop_zyx, strict=True))
        return self.values[:, :z, :y, :x]


class Predictor:
    """A network on a device, ready for many scans.

    When memory runs out it goes on with smaller tiles, then on the CPU; when half precision overflows, in float32.
    It stays there for later scans; ``device`` says where it is.
    """

    def __init__(self, network: UNet3D, device: Device | None = None, longest_side: int | None = None) -> None:
        """Take a network (left as it is); ``device`` None: the best; ``longest_side`` caps tile sides in voxels."""
        self.device = device or choose_device()
        self._source = network
        self._longest_side = longest_side
        self._tile_bytes = float("inf")
        self._runner: InferenceNetwork | None = None
        #: What planning had to change, in words for the progress; empty when nothing.
        self.notice = ""

    def predict(
        self,
        intensities_zyx: np.ndarray,
        outside: float,
        tile_bytes: float = DEFAULT_TILE_BYTES,
        task: Task | None = None,
        observer: DeepestMapsObserver | None = None,
        share_of_use: float = 0.02,
    ) -> TiledPrediction:
        """Return the prediction of prepared intensities (float32, zyx), computed while it is iterated over.

        ``outside`` is the intensity beyond the scan, ``tile_bytes`` the memory that a tile may take on a CPU.
        ``observer`` is shown the deepest maps of every tile, with their first position on the volume's deep lattice
        (see ``deep_centre``); a position may come more than once, and holds the same then to rounding. ``share_of_use``
        is roughly the share of the time that is spent on a tile after it was computed, in its ``task``.
        """
        return TiledPrediction(self, intensities_zyx, outside, tile_bytes, task or Task(), observer, share_of_use)

    def plan(
        self, size_zyx: Triple, tile_bytes: float, region: tuple[Triple, Triple], content_zyx: Sequence[Span]
    ) -> TilePlan:
        """Return the tiles for a region of a volume around its content as long as the device stays the same.

        A GPU with too little free memory for the smallest tile is given up for the CPU.
        """
        while True:
            free = free_memory_bytes(self.device)
            budget = min(self._tile_bytes, tile_bytes if free is None else _SHARE_OF_GPU * free)
            try:
                return plan_tiles(
                    size_zyx,
                    self._source.width,
                    self._source.classes,
                    budget,
                    self.device.dtype.itemsize,
                    self._longest_side,
                    region,
                    content_zyx,
                )
            except DeviceError:
                if self.device.kind == "cpu":
                    raise
                self.notice = self._go_on_on_the_cpu()

    def logits(
        self,
        seen_zyx: np.ndarray,
        outside: float,
        observer: DeepestMapsObserver | None = None,
        piece_done: PieceDone | None = None,
    ) -> torch.Tensor:
        """Return the logits (classes, z, y, x), in the device's precision, of what one tile sees (float32, zyx).

        Where the tile holds nothing but ``outside`` the answer to that is filled in. ``piece_done`` is told how far it
        is, as in ``InferenceNetwork``.
        """
        try:
            if self._runner is None:
                self._runner = InferenceNetwork(
                    self._source, self.device.torch_name, self.device.dtype, self.device.memory_format
                )
            content = content_spans(seen_zyx, outside)
            logits = self._runner(torch.from_numpy(seen_zyx)[None, None], content, outside, observer, piece_done)[0]
            is_finite = _are_finite(logits, piece_done)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise _TryDifferently("memory") from None
        if not is_finite:
            raise _TryDifferently("range")
        return logits

    def step_back(self, reason: str, tile_zyx: Triple) -> str:
        """Choose what to do after a tile of this size failed, and return it in words; raises when nothing is left."""
        self._runner = None
        if reason == "range":
            if self.device.dtype == torch.float32:
                raise ModelError("The model computes values that are not finite on this scan: its weights are damaged.")
            failed, self.device = self.device, self.device.in_float32()
            return f"{failed} is not precise enough for this model: going on in float32"
        itemsize = self.device.dtype.itemsize
        needed = tile_memory_bytes(tile_zyx, self._source.width, self._source.classes, itemsize)
        smallest = tile_memory_bytes(_SMALLEST, self._source.width, self._source.classes, itemsize)
        if needed > smallest:
            self._tile_bytes = max(needed / 2, smallest)
            return f"Not enough memory on {self.device.name}: going on with smaller tiles"
        if self.device.kind == "cpu":
            raise DeviceError(
                f"There is not enough memory for the smallest tile ({needed / 1e9:.1f} GB): close other programs."
            )
        return self._go_on_on_the_cpu()

    def _go_on_on_the_cpu(self) -> str:
        """Give up a GPU for want of memory; return what happened in words."""
        failed, self.device = self.device, choose_device("cpu")
        self._tile_bytes, self._runner = float("inf"), None
        return f"Not enough memory on {failed.name}: going on on the {self.device.name}"


class TiledPrediction:
    """The logits of one scan: iterate over its tiles. Voxels that no tile owns have the logits ``elsewhere``.

    Tiles that see nothing but ``outside`` are left out: the network answers them with the same logits everywhere,
    which are computed once. A tile may come again after memory ran out, and holds the same then.
    """

    def __init__(
        self,
        predictor: Predictor,
        intensities_zyx: np.ndarray,
        outside: float,
        tile_bytes: float,
        task: Task,
        observer: DeepestMapsObserver | None,
        share_of_use: float,
    ) -> None:
        """Find out which part of the volume needs the network."""
        self._predictor = predictor
        self._intensities = intensities_zyx
        self._outside = float(outside)
        self._tile_bytes = tile_bytes
        self._task, self._observer, self._share_of_use = task, observer, share_of_use
        size = (intensities_zyx.shape[0], intensities_zyx.shape[1], intensities_zyx.shape[2])
        self.size_zyx: Triple = size
        content = content_spans(intensities_zyx, outside)
        self._content = content if content is not None else tuple((0, length) for length in size)
        self._region = region_around(self._content, size)
        plan = predictor.plan(size, tile_bytes, self._region, self._content)
        is_whole = self._region == ((0, 0, 0), size)
        #: Logits (classes) of voxels in no tile; None when the tiles cover the volume.
        self.elsewhere: torch.Tensor | None = None
        task.check()
        if not is_whole or not all(self._sees_anything(plan, tile) for tile in plan):
            self.elsewhere = self._answer_to_nothing()

    @property
    def background_channel(self) -> int:
        """The most probable channel of voxels in no tile."""
        return 0 if self.elsewhere is None else int(self.elsewhere.argmax())

    def __iter__(self) -> Iterator[TileLogits]:
        """Compute the tiles one by one; raises Cancelled, DeviceError, ModelError."""
        task, message = self._task, ""
        while True:
            plan = self._predictor.plan(self.size_zyx, self._tile_bytes, self._region, self._content)
            tiles = [tile for tile in plan if self.elsewhere is None or self._sees_anything(plan, tile)]
            message, self._predictor.notice = message or self._predictor.notice, ""
            if message:
                task.at(0.0, message)
            try:
                for number, tile in enumerate(tiles):
                    here = task.share(number, len(tiles))
                    computing, using = here.split(1 - self._share_of_use, self._share_of_use)
                    logits = self._logits(plan, tile, computing, bool(message))
                    message = ""
                    yield TileLogits(tile, logits[(slice(None), *_with_one_more(tile, self._region[1]))], using)
                    del logits
                    here.done()
                return
            except _TryDifferently as failure:
                reason = failure.reason
            message, task = self._predictor.step_back(reason, plan.input_zyx), task.rest()

    def _logits(self, plan: TilePlan, tile: Tile, task: Task, keep_message: bool) -> torch.Tensor:
        """Compute a tile; while that lasts the device is told, unless something else is to be read meanwhile."""
        where = f"on {self._predictor.device}"
        task.at(0.0, None if keep_message else where)
        seen = tile_input(self._intensities, self._outside, plan, tile)
        task.check()
        logits = self._predictor.logits(seen, self._outside, self._observed(tile), task.at)
        task.at(1.0, where)
        return logits

    def _sees_anything(self, plan: TilePlan, tile: Tile) -> bool:
        """Tell whether a tile sees any intensity other than that beyond the scan."""
        source, _ = _windows(self.size_zyx, plan, tile)
        return bool(np.any(self._intensities[source] != np.float32(self._outside)))

    def _observed(self, tile: Tile) -> DeepestMapsObserver | None:
        """Return an observer of a tile's deepest maps that tells the volume's observer where they lie."""
        observer = self._observer
        if observer is None:
            return None
        z, y, x = (start // ALIGNMENT for start in tile.start_zyx)

        def observed(maps: torch.Tensor, first_zyx: Triple) -> None:
            observer(maps, (z + first_zyx[0], y + first_zyx[1], x + first_zyx[2]))

        return observed

    def _answer_to_nothing(self) -> torch.Tensor:
        """Return the network's logits where it sees nothing but the intensity beyond the scan."""
        while True:
            try:
                logits = self._predictor.logits(np.full(_SMALLEST, self._outside, np.float32), self._outside)
                return logits[:, 0, 0, 0]
            except _TryDifferently as failure:
                reason = failure.reason
            self._predictor.step_back(reason, _SMALLEST)


def label_volume(
    network: Any,
    intensities_zyx: np.ndarray,
    outside: float,
    *,
    tile: int | None = None,
    device: torch.device | str | Device | None = None,
    dtype: torch.dtype | None = None,
    tile_bytes: float = DEFAULT_TILE_BYTES,
    task: Task | None = None,
) -> np.ndarray:
    """Return the most probable channel of every voxel (uint8 or uint16, zyx) of prepared intensities (float32, zyx).

    ``outside`` fills what lies beyond the scan, ``tile`` caps the input side of a tile in voxels. ``device`` and
    ``dtype`` default to those of the network's weights; the network itself stays as it is (mode, precision, device).
    Raises DeviceError for too little memory and Cancelled when asked to stop.
    """
    weights = next(network.parameters())
    if not isinstance(device, Device):
        device = choose_device(str(device or weights.device), dtype or weights.dtype)
    prediction = Predictor(network, device, tile).predict(intensities_zyx, outside, tile_bytes, task)
    labels = np.full(
        intensities_zyx.shape, prediction.background_channel, dtype=np.min_scalar_type(max(1, network.classes - 1))
    )
    for part in prediction:
        window = tuple(slice(*ends) for ends in zip(part.tile.start_zyx, part.tile.stop_zyx, strict=True))
        z, y, x = (stop - start for start, stop in zip(part.tile.start_zyx, part.tile.stop_zyx, strict=True))
        labels[window] = part.most_probable()[:z, :y, :x]
        del part  # before the next tile is computed
    return labels


def _are_finite(logits: torch.Tensor, slab_done: PieceDone | None = None) -> bool:
    """Tell whether logits (classes, z, y, x) are finite: a sum is when all its terms are.

    In slabs, because a sum in float32 makes a copy in float32; ``slab_done`` is called after each.
    """
    sums = []
    for slab in logits.split(_ROWS_AT_ONCE, dim=1):
        sums.append(slab.sum(dtype=torch.float32))
        if slab_done is not None:
            slab_done(1.0)
    return bool(torch.isfinite(torch.stack(sums)).all())


def tile_input(intensities_zyx: np.ndarray, outside: float, plan: TilePlan, tile: Tile) -> np.ndarray:
    """Return what a tile sees (float32, zyx): the volume with ``outside`` beyond its borders."""
    seen = np.full(plan.input_zyx, outside, np.float32)
    source, target = _windows(intensities_zyx.shape, plan, tile)
    seen[target] = intensities_zyx[source]
    return seen


def _windows(size_zyx: tuple[int, ...], plan: TilePlan, tile: Tile) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the part of a volume that a tile sees, and where in the tile's input it lies."""
    source, target = [], []
    for start, side, size in zip(tile.start_zyx, plan.input_zyx, size_zyx, strict=True):
        first = start - MARGIN
        low, high = max(0, first), min(size, first + side)
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    return tuple(source), tuple(target)


def _with_one_more(tile: Tile, region_stop_zyx: Triple) -> tuple[slice, ...]:
    """Return what is kept of a tile's output: what it owns and one voxel beyond, where the region goes on."""
    return tuple(
        slice(0, min(stop + 1, end) - start)
        for start, stop, end in zip(tile.start_zyx, tile.stop_zyx, region_stop_zyx, strict=True)
    )
