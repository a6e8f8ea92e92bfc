"""Which tiles a volume is cut into: the fewest multiply-adds that fit into a memory budget.

All tiles of a plan have one shape (not necessarily a cube), and their origins differ by multiples of 8 voxels, so that
they agree to rounding where they overlap. An output side is always 4 more than a multiple of 8: neighbours one step of
``output side - 4`` apart share 4 voxels, which is what interpolating across their border needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from TransferSegLib.errors import DeviceError
from TransferSegLib.network.geometry import (
    ALIGNMENT,
    MARGIN,
    SMALLEST_INPUT_SIDE,
    convolution_channels,
    level_sides,
    multiply_adds,
)

#: Voxels by which an output side exceeds a multiple of ALIGNMENT: what two neighbouring tiles share.
OVERLAP = (SMALLEST_INPUT_SIDE - 2 * MARGIN) % ALIGNMENT

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Tile:
    """One tile: it owns the voxels ``start_zyx`` to ``stop_zyx`` (not included) of the volume."""

    start_zyx: Triple
    stop_zyx: Triple


@dataclass(frozen=True)
class TilePlan:
    """Tiles of one input shape that cover ``region_start_zyx`` to ``region_stop_zyx`` of a volume, each voxel once."""

    size_zyx: Triple
    region_start_zyx: Triple
    region_stop_zyx: Triple
    input_zyx: Triple

    @property
    def step_zyx(self) -> Triple:
        """Voxels between the origins of neighbouring tiles, multiples of ALIGNMENT."""
        z, y, x = (side - 2 * MARGIN - OVERLAP for side in self.input_zyx)
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
        counts = self.counts_zyx
        for index in product(*(range(count) for count in counts)):
            starts, stops = [], []
            for axis, number in enumerate(index):
                start = self.region_start_zyx[axis] + number * self.step_zyx[axis]
                last = number == counts[axis] - 1
                starts.append(start)
                # The last tile also owns the voxels it would share with a next one.
                stops.append(self.region_stop_zyx[axis] if last else start + self.step_zyx[axis])
            yield Tile((starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2]))


def tiles_along(length: int, step: int) -> int:
    """Return how many tiles cover ``length`` voxels of one axis."""
    return max(1, -(-(length - OVERLAP) // step))


def plan_tiles(
    size_zyx: Triple,
    width: int,
    classes: int,
    memory_bytes: float,
    itemsize: int = 4,
    longest_side: int | None = None,
    region: tuple[Triple, Triple] | None = None,
) -> TilePlan:
    """Return the plan with the fewest multiply-adds whose tiles fit into ``memory_bytes``.

    ``itemsize`` is the bytes of one activation (2 for bfloat16), ``longest_side`` caps the input sides in voxels,
    ``region`` (start, stop) restricts the plan to a box whose start is a multiple of ALIGNMENT. Raises DeviceError
    when not even the smallest tile fits.
    """
    start, stop = region if region is not None else ((0, 0, 0), size_zyx)
    lengths = [last - first for first, last in zip(start, stop, strict=True)]
    sides = [_candidate_sides(length, longest_side) for length in lengths]
    best: tuple[float, TilePlan] | None = None
    for z, y, x in product(*sides):
        if tile_memory_bytes((z, y, x), width, classes, itemsize) > memory_bytes:
            continue
        plan = TilePlan(size_zyx, start, stop, (z, y, x))
        cost = float(len(plan)) * multiply_adds((z, y, x), width, classes)
        if best is None or cost < best[0]:
            best = (cost, plan)
    if best is None:
        smallest = SMALLEST_INPUT_SIDE
        needed = tile_memory_bytes((smallest, smallest, smallest), width, classes, itemsize)
        raise DeviceError(
            f"The smallest tile needs {needed / 1e9:.2f} GB, the memory limit leaves {memory_bytes / 1e9:.2f} GB: "
            "raise the limit or choose a narrower model."
        )
    return best[1]


def _candidate_sides(length: int, longest_side: int | None) -> list[int]:
    """Return the input sides worth trying along an axis: for every number of tiles the smallest side that covers."""
    sides = set()
    count = 1
    while True:
        step = max(SMALLEST_INPUT_SIDE - 2 * MARGIN - OVERLAP, _up(-(-(length - OVERLAP) // count)))
        side = step + OVERLAP + 2 * MARGIN
        if longest_side is None or side <= max(longest_side, SMALLEST_INPUT_SIDE):
            sides.add(side)
        if side == SMALLEST_INPUT_SIDE:
            return sorted(sides)
        count += 1


def _up(voxels: int) -> int:
    """Return the next multiple of ALIGNMENT."""
    return -(-voxels // ALIGNMENT) * ALIGNMENT


def tile_memory_bytes(input_zyx: Triple, width: int, classes: int, itemsize: int = 4) -> int:
    """Return the bytes of the largest set of maps alive at once while one tile passes through the network."""
    per_axis = [level_sides(side) for side in input_zyx]
    channels = convolution_channels(width)

    def voxels(index: int, position: int) -> int:
        return int(np.prod([axis[index][position] for axis in per_axis]))

    skips: list[int] = []
    most = 0
    for pair in range(7):
        first, second = 2 * pair, 2 * pair + 1
        inputs = channels[first][0] * voxels(first, 1)
        outputs = channels[second][1] * voxels(second, 2)
        low = 0
        if pair >= 4:
            low = channels[first - 1][1] * voxels(first, 1) // 8
            repeated = channels[first - 1][1] * voxels(first, 1)
            most = max(most, sum(skips) + low + repeated + inputs)
            skips.pop()
        most = max(most, sum(skips) + low + inputs + channels[first][1] * voxels(first, 2) + outputs)
        if pair < 3:
            skips.append(outputs)
    logits = classes * voxels(13, 2)
    return max(most * itemsize, (outputs + logits) * itemsize + logits * 4)
