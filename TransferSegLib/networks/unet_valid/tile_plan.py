"""Which tiles a volume is cut into: the fewest multiply-adds that fit into a memory budget.

All tiles of a plan have one shape (not necessarily a cube), and their origins differ by multiples of 8 voxels, so that
they agree to rounding where they overlap. An output side is always 4 more than a multiple of 8: neighbours one step of
``output side - 4`` apart share 4 voxels, which is what interpolating across their border needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from TransferSegLib.errors import DeviceError
from TransferSegLib.networks.interface import Span, Tile, Triple
from TransferSegLib.networks.unet_valid.geometry import ALIGNMENT, MARGIN, SMALLEST_INPUT_SIDE
from TransferSegLib.networks.unet_valid.tile_cost import (
    ComputedLengths,
    TileSides,
    largest_map,
    memory_bytes,
    multiply_adds,
)

#: Voxels by which an output side exceeds a multiple of ALIGNMENT: what two neighbouring tiles share.
OVERLAP = (SMALLEST_INPUT_SIDE - 2 * MARGIN) % ALIGNMENT
#: The step from tile to tile is so much less than the input side.
_SIDE_MINUS_STEP = OVERLAP + 2 * MARGIN
_SMALLEST_STEP = SMALLEST_INPUT_SIDE - _SIDE_MINUS_STEP

#: A map must have fewer numbers: libraries of GPUs count them in 32 bits.
_MOST_NUMBERS = 2**31


@dataclass(frozen=True)
class TilePlan:
    """Tiles of one input shape that cover ``region_start_zyx`` to ``region_stop_zyx`` of a volume, each voxel once."""

    region_start_zyx: Triple
    region_stop_zyx: Triple
    input_zyx: Triple

    @property
    def step_zyx(self) -> Triple:
        """Voxels between the origins of neighbouring tiles, multiples of ALIGNMENT."""
        z, y, x = (side - _SIDE_MINUS_STEP for side in self.input_zyx)
        return z, y, x

    @property
    def counts_zyx(self) -> Triple:
        """How many tiles lie along each axis."""
        z, y, x = (
            tiles_along(stop - start, step)
            for start, stop, step in zip(self.region_start_zyx, self.region_stop_zyx, self.step_zyx, strict=True)
        )
        return z, y, x

    def __len__(self) -> int:
        """Return the number of tiles."""
        return int(np.prod(self.counts_zyx))

    def __iter__(self) -> Iterator[Tile]:
        """Iterate over the tiles, z slowest."""
        for position in product(*(range(count) for count in self.counts_zyx)):
            starts, stops = [], []
            for axis, number in enumerate(position):
                start = self.region_start_zyx[axis] + number * self.step_zyx[axis]
                is_last = number == self.counts_zyx[axis] - 1
                starts.append(start)
                # The last tile also owns the voxels it would share with a next one.
                stops.append(self.region_stop_zyx[axis] if is_last else start + self.step_zyx[axis])
            yield Tile((starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2]))


def tiles_along(length: int, step: int) -> int:
    """Return how many tiles cover ``length`` voxels of one axis."""
    return max(1, -(-(length - OVERLAP) // step))


def plan_tiles(
    size_zyx: Triple,
    width: int,
    classes: int,
    tile_bytes: float,
    itemsize: int = 4,
    longest_side: int | None = None,
    region: tuple[Triple, Triple] | None = None,
    content_zyx: Sequence[Span] | None = None,
) -> TilePlan:
    """Return the plan with the fewest multiply-adds of which one tile takes at most ``tile_bytes``.

    ``itemsize`` is the bytes of one activation (2 for bfloat16), ``longest_side`` caps the input sides in voxels,
    ``region`` (start, stop) restricts the plan to a box whose start is a multiple of ALIGNMENT, ``content_zyx`` is the
    box of the volume outside of which there is nothing to see (None: the volume). Raises DeviceError when not even the
    smallest tile fits.
    """
    start, stop = region if region is not None else ((0, 0, 0), size_zyx)
    lengths = [last - first for first, last in zip(start, stop, strict=True)]
    choices = [candidate_sides(length, longest_side) for length in lengths]
    grids = np.meshgrid(*choices, indexing="ij", sparse=True)
    sides = (TileSides(grids[0]), TileSides(grids[1]), TileSides(grids[2]))
    contents = content_zyx if content_zyx is not None else [(0, size) for size in size_zyx]
    cost = multiply_adds(computed_lengths(choices, start, stop, contents), width, classes)
    needed = memory_bytes(sides, width, classes, itemsize)
    if float(needed.min()) > tile_bytes:
        raise DeviceError(
            f"The smallest tile needs {float(needed.min()) / 1e9:.2f} GB, but the memory limit leaves "
            f"{max(0.0, tile_bytes) / 1e9:.2f} GB for it: raise the limit or choose a narrower model."
        )
    fits = (needed <= tile_bytes) & ((largest_map(sides, width, classes) < _MOST_NUMBERS) | (needed == needed.min()))
    z, y, x = np.unravel_index(int(np.where(fits, cost, np.inf).argmin()), cost.shape)
    return TilePlan(start, stop, (int(choices[0][z]), int(choices[1][y]), int(choices[2][x])))


def _contents(side: int, start: int, stop: int, content: Span) -> list[Span]:
    """Return the content of each tile of that side along an axis, in the tile's voxels; some see none."""
    step = side - _SIDE_MINUS_STEP
    corners = [start + number * step - MARGIN for number in range(tiles_along(stop - start, step))]
    spans = [(max(0, content[0] - corner), min(side, content[1] - corner)) for corner in corners]
    return [(first, end) for first, end in spans if first < end]


def computed_lengths(
    choices: Sequence[np.ndarray], start: Triple, stop: Triple, contents: Sequence[Span]
) -> tuple[ComputedLengths, ...]:
    """Return what is computed along each axis for each choice of its side; they broadcast over all three."""
    rows = []
    for axis, (sides, first, last, content) in enumerate(zip(choices, start, stop, contents, strict=True)):
        whole = [int(side) for side in sides]
        row = ComputedLengths(whole, [_contents(side, first, last, content) for side in whole])
        shape = [1, 1, 1]
        shape[axis] = -1
        row.lengths = {name: values.reshape(shape) for name, values in row.lengths.items()}
        rows.append(row)
    return tuple(rows)


def candidate_sides(length: int, longest_side: int | None = None) -> np.ndarray:
    """Return the input sides worth trying along an axis: for every number of tiles the smallest side that covers."""
    sides = set()
    step, count = _SMALLEST_STEP + ALIGNMENT, 1
    while step > _SMALLEST_STEP:
        share = -(-max(1, length - OVERLAP) // count)
        step = max(_SMALLEST_STEP, -(-share // ALIGNMENT) * ALIGNMENT)
        sides.add(step + _SIDE_MINUS_STEP)
        count += 1
    cap = max(SMALLEST_INPUT_SIDE, longest_side or max(sides))
    return np.array(sorted(side for side in sides | {SMALLEST_INPUT_SIDE} if side <= cap), dtype=np.int64)


def tile_memory_bytes(input_zyx: Triple, width: int, classes: int, itemsize: int = 4) -> float:
    """Return the most memory that one tile takes, in bytes; see ``tile_cost``."""
    z, y, x = (TileSides(np.array(side)) for side in input_zyx)
    return float(memory_bytes((z, y, x), width, classes, itemsize))


def region_around(content_zyx: Sequence[Span], size_zyx: Triple) -> tuple[Triple, Triple]:
    """Return (start, stop) of the box of a volume outside of which the network sees nothing of its content.

    Where the box ends before the volume does, its outermost voxels are such voxels too, so that interpolating across
    its border is the same on both sides. A voxel p is known to be one when a smallest tile at a multiple of ALIGNMENT
    gives an answer for it without seeing any content.
    """
    starts, stops = [], []
    smallest_output = SMALLEST_INPUT_SIDE - 2 * MARGIN
    for (first, end), size in zip(content_zyx, size_zyx, strict=True):
        # The last smallest tile that ends its view before the content; what it answers for is known up to its end.
        before = (first - smallest_output - MARGIN) // ALIGNMENT * ALIGNMENT
        starts.append(max(0, before + smallest_output - OVERLAP))
        # The first smallest tile that begins its view behind the content, and one voxel of it.
        behind = -(-(end + MARGIN) // ALIGNMENT) * ALIGNMENT
        stops.append(min(size, behind + 1))
    return (starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2])
