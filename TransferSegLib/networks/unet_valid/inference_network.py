"""The same network as ``UNet3D``, arranged for predicting: fewer multiply-adds, a fraction of the memory.

Five changes leave the answer the same but for rounding:

- Repeating every voxel twice and convolving is one transposed convolution, see ``repeated.py``; neither the repeated
  maps nor the joined ones are ever stored. Measured on 2 cores (100 voxels a side, 64 + 32 to 32 channels, bfloat16,
  channels last): 1.25 s for repeating, joining and convolving, 0.56 s so.
- Of the maps a level hands over to the way up, only the centre that is needed there is kept.
- The levels on the way down and the last one, whose maps are the largest, are computed in slabs along z.
- Where a tile sees padding only (beyond the scan, or air) the maps are filled with the constants they hold there, see
  ``content.py``.
- In half precision the last layer (in bfloat16 the last convolution, too) computes in float32, and its logits are
  stored less the largest of their voxel, which no probability depends on. bfloat16 keeps two to three digits of a
  number: of two logits of 12 that differ by 0.02 it makes one number, and the first class wins, mostly the background;
  of their difference it keeps as many digits.

A tile of a clinical scan takes half a minute on a laptop, so it is computed in pieces, with a callback after each
(``Pieces``): what would take long in one call is cut along z.

Processor seconds of one tile on one core, bfloat16, channels last (benchmark ``tile_memory``): width 16 and
212 voxels a side 6.4 instead of 9.0, width 32 and 180 voxels 12.8 instead of 15.4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch.nn import functional

from TransferSegLib.networks.interface import DeepestMapsObserver, HeadMapsObserver, PieceDone, Span
from TransferSegLib.networks.unet_valid.content import Spans, map_spans
from TransferSegLib.networks.unet_valid.geometry import check_input_side, output_side
from TransferSegLib.networks.unet_valid.repeated import repeated_then_convolved
from TransferSegLib.networks.unet_valid.unet import ConvolutionPair, UNet3D, channels_last

#: Rows along z, at their own resolution, of the slabs of the first three levels on the way down. Thin ones stay in
#: memory that is used again and again instead of being given back to the system and cleared (a fifth of the time at the
#: first level); two rows per slab of each level's first, cheaper convolution are made twice.
DOWN_SLAB_ROWS = (8, 16, 32)
#: Rows of a slab of the last level, and those of them of which the last layer is computed at once on a CPU: a part, so
#: that their copy in float32 takes less memory than the slab took before.
LAST_SLAB_ROWS = 16
HEAD_ROWS = 4
#: A convolution of more multiply-adds than this is made in pieces on a CPU: half a second on one slow core.
_MOST_AT_ONCE = 1e10
#: Time of a multiply-add in float32, in those of half precision (2 to 8 where measured).
_FLOAT32_OVER_HALF = 5.0
#: A GPU computes while the next pieces are prepared: so many of them, and no more, are under way. Preparing one takes
#: some 50 microseconds, and of small maps so does computing it: with too few the GPU would wait.
_PIECES_UNDER_WAY = 8
_Observers = tuple[DeepestMapsObserver | None, HeadMapsObserver | None]


class Pieces:
    """Counts the work of a tile's pieces, in multiply-adds of half precision, and reports after each."""

    def __init__(
        self, device: torch.device, is_half: bool = False, total: float = 1.0, report: PieceDone | None = None
    ) -> None:
        """Begin a tile of so much work; ``report`` gets the share that is done."""
        self._device, self._is_half, self._total, self._report = device, is_half, total, report
        self._done = 0.0
        self._under_way: deque[torch.cuda.Event] = deque()

    def rows_at_once(self, rows: int, multiply_adds: float) -> int:
        """Return into how many rows (even, along z) to cut a convolution of so many rows and multiply-adds."""
        count = -(-multiply_adds // _MOST_AT_ONCE)
        if self._report is None or self._device.type != "cpu" or count <= 1:
            return max(1, rows)
        return max(2, int(rows / count) // 2 * 2)

    def done(self, multiply_adds: float, dtype: torch.dtype) -> None:
        """Count a piece that was computed, on a GPU begun, in some precision."""
        if self._report is None:
            return
        self._done += multiply_adds * (_FLOAT32_OVER_HALF if self._is_half and dtype == torch.float32 else 1.0)
        if self._device.type == "cuda":
            if len(self._under_way) == _PIECES_UNDER_WAY:
                self._under_way.popleft().synchronize()
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self._device))
            self._under_way.append(event)
        self._report(min(1.0, self._done / self._total))


class InferenceNetwork:
    """A copy of a network's weights on a device, in a precision and memory format; the network is left as it is.

    >>> logits = InferenceNetwork(network, "cpu", torch.bfloat16, torch.channels_last_3d)(scan)
    """

    def __init__(
        self,
        network: UNet3D,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        """Copy and rearrange the weights."""
        self.classes = network.classes
        self.width = network.width
        self.device = torch.device(device)
        self.dtype = dtype
        self.memory_format = memory_format
        self._is_half = dtype.itemsize < torch.float32.itemsize
        with torch.no_grad():
            down, up = (cast(list[ConvolutionPair], list(pairs)) for pairs in (network.down, network.up))
            self._down = [[self._convolution(layer) for layer in (pair.first, pair.second)] for pair in down]
            # bfloat16 has 8 bits for a number: what the last layer answers to is not rounded to them.
            finest = torch.float32 if dtype == torch.bfloat16 else dtype
            self._up = [self._up_weights(pair, finest if pair is up[-1] else dtype) for pair in up]
            self._head = self._convolution(network.head, dtype=torch.float32 if self._is_half else dtype)
        self._padding_value: float | None = None
        self._constants: dict[str, torch.Tensor] = {}

    def __call__(
        self,
        scan: torch.Tensor,
        content_zyx: Sequence[Span] | None = None,
        padding_value: float = 0.0,
        observer: DeepestMapsObserver | None = None,
        piece_done: PieceDone | None = None,
        head_maps: HeadMapsObserver | None = None,
    ) -> torch.Tensor:
        """Return the logits (1, classes, D - 88, H - 88, W - 88) of a tile (1, 1, D, H, W) in the network's precision.

        In half precision they are less the largest of their voxel, which is 0.
        ``content_zyx`` is a box of the tile outside of which every voxel is ``padding_value``, if there is one.
        ``observer`` is shown the deepest maps that are computed on the way, and where they begin among the tile's.
        ``head_maps`` gets what the head classifies, slab by slab of the output.
        ``piece_done`` gets the share of the tile that is done. Raises NetworkError for an illegal side.
        """
        for side in scan.shape[2:]:
            check_input_side(side)
        contents: Sequence[Span | None] = (None, None, None) if content_zyx is None else content_zyx
        spans = [map_spans(side, content) for side, content in zip(scan.shape[2:], contents, strict=True)]
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            if content_zyx is not None and padding_value != self._padding_value:
                self._constants, self._padding_value = self._answers_to(padding_value), padding_value
            ready = self._ready(scan)
            if self.memory_format == torch.channels_last_3d:
                ready = channels_last(ready)
            return self._logits(ready, spans, (observer, head_maps), self._pieces(spans, piece_done))

    def _pieces(self, spans: list[Spans], piece_done: PieceDone | None) -> Pieces:
        """Return the count of a tile's pieces."""
        slab_rows = {"up0": LAST_SLAB_ROWS} | {f"down{level}": rows for level, rows in enumerate(DOWN_SLAB_ROWS)}
        total = 0.0
        for name in spans[0]:
            depth, height, width = (axis[name][1] - axis[name][0] for axis in spans)
            slabs = -(-depth // slab_rows.get(name, depth))
            first, second = self._layers(name)
            in_float32 = self._is_half and name == "up0" and self._up[-1][3].dtype == torch.float32
            total += (depth + 2 * slabs) * (height + 2) * (width + 2) * first
            total += depth * height * width * second * (_FLOAT32_OVER_HALF if in_float32 else 1.0)
        return Pieces(self.device, self._is_half, total, piece_done)

    def _layers(self, name: str) -> tuple[float, float]:
        """Return the multiply-adds for a voxel of the two layers that make a map."""
        level = int(name[-1])
        here = self.width * 2 ** (level + name.startswith("up"))
        if name.startswith("down"):
            return 27.0 * here * (here if level else 1), 27.0 * here * 2 * here
        return 27.0 * here * here + 8.0 * 2 * here * here, 27.0 * here * here

    def _answers_to(self, padding_value: float) -> dict[str, torch.Tensor]:
        """Return what each map holds where the network sees nothing but this intensity, as (1, channels, 1, 1, 1)."""
        answers, alone = {}, Pieces(self.device)

        def everywhere(values: torch.Tensor, side: int) -> torch.Tensor:
            return self._ready(values.expand(-1, -1, side, side, side))

        values = torch.full((1, 1, 1, 1, 1), padding_value)
        for level, weights in enumerate(self._down):
            values = answers[f"down{level}"] = self._pair(everywhere(values, 5), weights, alone)
        for step, level in enumerate((2, 1, 0)):
            maps = self._join_and_convolve(everywhere(values, 3), everywhere(answers[f"down{level}"], 6), step, alone)
            values = answers[f"up{level}"] = maps[:, :, :1, :1, :1]
        answers["logits"] = self._head_of(values)
        return answers

    def _logits(self, scan: torch.Tensor, spans: list[Spans], observers: _Observers, pieces: Pieces) -> torch.Tensor:
        """Go down to the lowest level and up again, dropping every map as soon as it is not needed."""
        outputs = [output_side(side) for side in scan.shape[2:]]
        # Sides at which the way up enters each level: 4 more than what it hands on, halved (and 2 more) a level down.
        entering = [[side + 4 for side in outputs]]
        for _ in range(2):
            entering.append([side // 2 + 4 for side in entering[-1]])
        maps, skips = scan, []
        for level in range(3):
            maps, skip = self._go_down(maps, level, entering[level], spans, pieces)
            skips.append(skip)
            del skip
        maps = self._turn(maps, spans, observers[0], pieces)
        for step in (0, 1):
            maps = self._go_up(maps, skips.pop(), step, spans, pieces)
        return self._last_level(maps, skips.pop(), spans, pieces, observers[1])

    def _go_down(
        self, maps: torch.Tensor, level: int, kept: list[int], spans: list[Spans], pieces: Pieces
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the pooled maps of a level and the centre, of ``kept`` voxels, that the way up needs of it."""
        name = f"down{level}"
        size = [side - 4 for side in maps.shape[2:]]
        (first, last), *plane = [axis[name] for axis in spans]
        pooled = self._room(name, [side // 2 for side in size], _halved([(first, last), *plane]))
        corner = [(have - want) // 2 for have, want in zip(size, kept, strict=True)]
        skip = self._room(
            name, kept, [(a - c, b - c) for (a, b), c in zip([(first, last), *plane], corner, strict=True)]
        )
        for start in range(first, last, DOWN_SLAB_ROWS[level]):
            box = [(start, min(last, start + DOWN_SLAB_ROWS[level])), *plane]
            slab = self._pair(maps[_at(box, 4)], self._down[level], pieces)
            pooled[_at(_halved(box))] = functional.max_pool3d(slab, 2)
            _copy_common_part(slab, [a for a, _ in box], skip, corner)
            del slab  # before the next one is made
        return pooled, skip

    def _turn(
        self, maps: torch.Tensor, spans: list[Spans], observer: DeepestMapsObserver | None, pieces: Pieces
    ) -> torch.Tensor:
        """Return the maps of the lowest level."""
        box = [axis["down3"] for axis in spans]
        size = [side - 4 for side in maps.shape[2:]]
        deepest = self._pair(maps[_at(box, 4)], self._down[3], pieces)
        if observer is not None:
            z, y, x = (start for start, _ in box)
            observer(deepest, (z, y, x))
        return self._placed("down3", size, box, deepest)

    def _go_up(
        self, low: torch.Tensor, skip: torch.Tensor, step: int, spans: list[Spans], pieces: Pieces
    ) -> torch.Tensor:
        """Return the maps of a level of the way up from those of the level below and the kept ones of this level."""
        name = f"up{2 - step}"
        box = [axis[name] for axis in spans]
        size = [side - 4 for side in skip.shape[2:]]
        maps = self._join_and_convolve(low[_at(_halved(box), 2)], skip[_at(box, 4)], step, pieces)
        return self._placed(name, size, box, maps)

    def _last_level(
        self,
        low: torch.Tensor,
        skip: torch.Tensor,
        spans: list[Spans],
        pieces: Pieces,
        head_maps: HeadMapsObserver | None,
    ) -> torch.Tensor:
        """Return the logits from the maps of the level below and the kept maps of the first level."""
        (first, last), *plane = [axis["up0"] for axis in spans]
        logits = self._room("logits", [side - 4 for side in skip.shape[2:]], [(first, last), *plane])
        for start in range(first, last, LAST_SLAB_ROWS):
            box = [(start, min(last, start + LAST_SLAB_ROWS)), *plane]
            maps = self._join_and_convolve(low[_at(_halved(box), 2)], skip[_at(box, 4)], 2, pieces)
            if head_maps is not None:
                z, y, x = (first for first, _ in box)
                head_maps(maps, (z, y, x))
            head_rows = HEAD_ROWS if self.device.type == "cpu" else LAST_SLAB_ROWS
            for row in range(0, maps.shape[2], head_rows):
                part = [(start + row, min(start + row + head_rows, box[0][1])), *plane]
                logits[_at(part)] = self._head_of(maps[:, :, row : row + head_rows])
            del maps
        return logits

    def _pair(
        self, maps: torch.Tensor, weights: list[tuple[torch.Tensor, torch.Tensor]], pieces: Pieces
    ) -> torch.Tensor:
        """Apply two valid 3x3x3 convolutions, each followed by a ReLU."""
        for kernel, bias in weights:
            maps = self._convolved(maps, kernel, bias, pieces)
        return maps

    def _convolved(self, maps: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor, pieces: Pieces) -> torch.Tensor:
        """Apply a valid 3x3x3 convolution and a ReLU."""

        def convolved(first: int, last: int) -> torch.Tensor:
            return functional.relu(functional.conv3d(maps[:, :, first : last + 2], kernel, bias), inplace=True)

        return self._in_pieces(convolved, maps, kernel, 27.0 * kernel.shape[1], pieces)

    def _join_and_convolve(self, low: torch.Tensor, skip: torch.Tensor, step: int, pieces: Pieces) -> torch.Tensor:
        """Apply a pair of convolutions of the way up to the maps of the level below and the kept ones of this level."""
        from_low, from_skip, bias, second, second_bias = self._up[step]

        def joined(first: int, last: int) -> torch.Tensor:
            maps = functional.conv3d(skip[:, :, first : last + 2], from_skip, bias).to(second.dtype)
            maps += functional.conv_transpose3d(low[:, :, first // 2 : last // 2 + 1], from_low, stride=2, padding=2)
            return functional.relu(maps, inplace=True)

        taps = 27.0 * from_skip.shape[1] + 8.0 * from_low.shape[0]
        maps = self._in_pieces(joined, skip, from_skip, taps, pieces, second.dtype)
        return self._convolved(maps, second, second_bias, pieces)

    def _in_pieces(
        self,
        rows: Callable[[int, int], torch.Tensor],
        maps: torch.Tensor,
        kernel: torch.Tensor,
        taps: float,
        pieces: Pieces,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """Return what a layer, valid and 3x3x3, makes of maps; ``rows`` computes some rows of it along z.

        ``taps`` are the multiply-adds for a number of it; ``dtype`` is its precision (None: that of the kernel).
        """
        depth, height, width = (side - 2 for side in maps.shape[2:])
        per_row = taps * kernel.shape[0] * height * width
        at_once = pieces.rows_at_once(depth, depth * per_row)
        if at_once >= depth:
            result = rows(0, depth)
            pieces.done(depth * per_row, kernel.dtype)
            return result
        size = (1, kernel.shape[0], depth, height, width)
        result = torch.empty(size, device=self.device, dtype=dtype or kernel.dtype, memory_format=self.memory_format)
        for first in range(0, depth, at_once):
            last = min(depth, first + at_once)
            result[:, :, first:last] = rows(first, last)
            pieces.done((last - first) * per_row, kernel.dtype)
        return result

    def _head_of(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the logits of maps of the last level; of half precision in float32, less the largest of each voxel."""
        logits = functional.conv3d(maps.to(self._head[0].dtype), *self._head)
        return logits.sub_(logits.amax(dim=1, keepdim=True)) if self._is_half else logits

    def _up_weights(self, pair: ConvolutionPair, second: torch.dtype) -> tuple[torch.Tensor, ...]:
        """Split the first convolution of a pair of the way up into its part for the level below and for this level.

        ``second`` is the precision of the pair's second convolution.
        """
        weight = pair.first.weight.detach()
        low_channels = weight.shape[1] * 2 // 3
        return (
            self._ready(repeated_then_convolved(weight[:, :low_channels])),
            *self._convolution(pair.first, weight[:, low_channels:]),
            *self._convolution(pair.second, dtype=second),
        )

    def _convolution(
        self, layer: torch.nn.Conv3d, weight: torch.Tensor | None = None, dtype: torch.dtype | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a copy of a layer's weights (or a part of them) and bias as this network, or ``dtype``, wants them."""
        assert layer.bias is not None
        bias = layer.bias.detach().to(self.device, dtype or self.dtype, copy=True)
        return self._ready((layer.weight if weight is None else weight).detach().clone(), dtype), bias

    def _ready(self, values: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return a 5D tensor on this network's device in its precision (or another) and memory format."""
        return values.to(self.device, dtype or self.dtype).contiguous(memory_format=self.memory_format)

    def _room(self, name: str, size_zyx: Sequence[int], box: Sequence[Span]) -> torch.Tensor:
        """Return room for maps of a size, which hold their answer to padding unless the box to be written is all."""
        channels = self.classes if name == "logits" else self._channels(name)
        room = torch.empty(
            (1, channels, *size_zyx), device=self.device, dtype=self.dtype, memory_format=self.memory_format
        )
        is_all = all(start <= 0 and stop >= size for (start, stop), size in zip(box, size_zyx, strict=True))
        return room if is_all else room.copy_(self._constants[name])

    def _placed(self, name: str, size_zyx: Sequence[int], box: Sequence[Span], maps: torch.Tensor) -> torch.Tensor:
        """Return maps of the whole size of which those given are a box."""
        if list(maps.shape[2:]) == list(size_zyx):
            return maps
        room = self._room(name, size_zyx, box)
        room[_at(box)] = maps
        return room

    def _channels(self, name: str) -> int:
        """Return the number of channels of the maps that a level hands on."""
        level = int(name[-1])
        return self.width * 2 ** (level + 1)


def _at(box: Sequence[Span], more: int = 0) -> tuple[slice, ...]:
    """Return the index of a box of maps (N, C, z, y, x), longer by ``more`` voxels along each axis."""
    return (slice(None), slice(None), *(slice(start, stop + more) for start, stop in box))


def _halved(box: Sequence[Span]) -> list[Span]:
    """Return a box with even ends at half the resolution."""
    return [(start // 2, stop // 2) for start, stop in box]


def _copy_common_part(
    source: torch.Tensor, source_corner: Sequence[int], target: torch.Tensor, target_corner: Sequence[int]
) -> None:
    """Copy what two maps, given with the position of their first voxels, have in common."""
    starts = [max(a, b) for a, b in zip(source_corner, target_corner, strict=True)]
    ends = [
        min(a + have, b + want)
        for a, have, b, want in zip(source_corner, source.shape[2:], target_corner, target.shape[2:], strict=True)
    ]
    if all(start < end for start, end in zip(starts, ends, strict=True)):
        common = [
            [(start - corner, end - corner) for start, end, corner in zip(starts, ends, corners, strict=True)]
            for corners in (source_corner, target_corner)
        ]
        target[_at(common[1])] = source[_at(common[0])]
