"""What one tile costs in ``InferenceNetwork``: multiply-adds, and the most memory it takes at any moment.

The memory is that of the maps alive together at each stage, as the code of ``InferenceNetwork`` keeps them, times a
factor measured on top of it. All functions take tile sides as arrays that broadcast, to weigh many shapes at once.
"""

from __future__ import annotations

import numpy as np

from TransferSegLib.networks.interface import Span
from TransferSegLib.networks.unet_valid.content import map_spans
from TransferSegLib.networks.unet_valid.inference_network import DOWN_SLAB_ROWS, LAST_SLAB_ROWS

#: Measured peak over the maps counted here, see ``memory_bytes``.
_MEASURED_OVER_COUNTED = 1.35
#: Narrower maps of float32 are padded to this width.
_NARROWEST_FLOAT32 = 16
#: What torch keeps besides, whatever the tile.
_CONSTANT_BYTES = 1.2e8

_Terms = list[tuple[float, str]]


class TileSides:
    """The lengths along one axis of all maps of a tile, by name; ``side`` holds input sides in voxels, of any shape."""

    def __init__(self, side: np.ndarray) -> None:
        """Work out the lengths of all maps, at their own level's resolution."""
        size = np.asarray(side, np.float64)
        self.lengths: dict[str, np.ndarray] = {"scan": size}
        for level in range(4):
            self.lengths[f"down{level}.first"] = size - 2
            self.lengths[f"down{level}"] = low = size - 4
            self.lengths[f"pooled{level}"] = size = low // 2
        for level in (2, 1, 0):
            self.lengths[f"up{level}.low"] = low
            self.lengths[f"kept{level}"] = 2 * low
            self.lengths[f"up{level}.first"] = 2 * low - 2
            self.lengths[f"up{level}"] = low = 2 * low - 4

    def slab(self) -> TileSides:
        """Return the lengths along z, where most levels only hold a slab of their own maps at a time."""
        part = TileSides.__new__(TileSides)
        part.lengths = dict(self.lengths)
        slabs = {"up0.first": LAST_SLAB_ROWS + 2}
        for level, rows in enumerate(DOWN_SLAB_ROWS):
            slabs |= {f"down{level}.first": rows + 2, f"down{level}": rows}
        for name, rows in slabs.items():
            part.lengths[f"{name}.slab"] = np.minimum(self.lengths[name], rows)
        return part


class ComputedLengths:
    """The lengths along one axis of what is computed of all maps, summed over a row of tiles.

    ``contents`` holds, for every choice of a side, the span of the content in each tile of the row.
    """

    def __init__(self, sides: list[int], contents: list[list[Span]]) -> None:
        """Add up the lengths; each of them becomes an array over the choices."""
        self.lengths: dict[str, np.ndarray] = {}
        rows = [[map_spans(side, content) for content in row] for side, row in zip(sides, contents, strict=True)]
        for name in map_spans(sides[0]):
            lengths = [[stop - start for start, stop in (spans[name] for spans in row)] for row in rows]
            self.lengths[name] = np.array([sum(row) for row in lengths], np.float64)
            self.lengths[f"{name}.first"] = np.array([sum(row) + 2 * len(row) for row in lengths], np.float64)


Sides = tuple[TileSides, TileSides, TileSides]


def multiply_adds(sides_zyx: Sides | tuple[ComputedLengths, ...], width: int, classes: int) -> np.ndarray:
    """Return the multiply-adds of a tile, or a grid of tiles, with repetition and convolution folded into 8 taps."""
    terms: _Terms = [(27.0 * width, "down0.first"), (27.0 * width * 2 * width, "down0")]
    for level in (1, 2, 3):
        here = width * 2**level
        terms += [(27.0 * here * here, f"down{level}.first"), (27.0 * here * 2 * here, f"down{level}")]
    for level in (2, 1, 0):
        here = width * 2 ** (level + 1)
        terms += [(27.0 * here * here + 8.0 * 2 * here * here, f"up{level}.first"), (27.0 * here * here, f"up{level}")]
    terms.append((2.0 * width * classes, "up0"))
    return _total(terms, sides_zyx)


def memory_bytes(sides_zyx: Sides, width: int, classes: int, itemsize: int) -> np.ndarray:
    """Return the most bytes that one tile takes while it passes through ``InferenceNetwork``.

    Measured on Linux with torch 2.13 as the growth of the peak resident set during one tile, see
    ``Testing/research/benchmarks/tile_memory.py``.
    """
    counted_width = max(width, _NARROWEST_FLOAT32) if itemsize == 4 else width
    return _MEASURED_OVER_COUNTED * counted_bytes(sides_zyx, counted_width, classes, itemsize) + _CONSTANT_BYTES


def largest_map(sides_zyx: Sides, width: int, classes: int) -> np.ndarray:
    """Return the numbers in the largest map that exists as a whole: above 2**31 GPU libraries lose count."""
    maps: _Terms = [
        (2.0 * width, "kept0"),
        (2.0 * width, "pooled0"),
        (4.0 * width, "down1.first"),
        (4.0 * width, "up1.first"),
        (float(classes), "up0"),
    ]
    largest: np.ndarray = np.maximum.reduce(np.broadcast_arrays(*(_total([term], sides_zyx) for term in maps)))
    return largest


def counted_bytes(sides_zyx: Sides, width: int, classes: int, itemsize: int) -> np.ndarray:
    """Return the most bytes of maps that ``InferenceNetwork`` keeps alive together."""
    sides = (sides_zyx[0].slab(), sides_zyx[1], sides_zyx[2])
    stages = [_total(stage, sides) * itemsize for stage in _stages(width, classes)]
    scan = _total([(1.0, "scan")], sides) * itemsize
    most: np.ndarray = np.maximum.reduce(np.broadcast_arrays(*stages))
    return most + scan


def _stages(width: int, classes: int) -> list[_Terms]:
    """Return, per stage of ``InferenceNetwork``, the maps alive together: channels and name."""
    kept: list[_Terms] = [[(2.0 * width * 2**level, f"kept{level}") for level in range(count)] for count in range(4)]
    stages: list[_Terms] = []
    for level in (0, 1, 2):
        here = float(width * 2**level)
        slab: _Terms = [(here, f"down{level}.first.slab"), (2 * here, f"down{level}.slab")]
        before: _Terms = [(here, f"pooled{level - 1}")] if level else []
        stages.append([*kept[level + 1], *before, (2 * here, f"pooled{level}"), *slab])
    here = 8.0 * width
    stages.append([*kept[3], (here, "pooled2"), (here, "down3.first"), (2 * here, "down3")])
    for level in (2, 1):
        here = float(width * 2 ** (level + 1))
        stages.append([*kept[level + 1], (2 * here, f"up{level}.low"), (2 * here, f"up{level}.first")])
    here = 2.0 * width
    stages.append([(2 * here, "up0.low"), *kept[1], (float(classes), "up0"), (2 * here, "up0.first.slab")])
    return stages


def _total(terms: _Terms, sides_zyx: Sides | tuple[ComputedLengths, ...]) -> np.ndarray:
    """Return the sum over terms of channels times voxels; names with a slab take it along z only."""
    total: np.ndarray = np.zeros(())
    for channels, name in terms:
        voxels = np.array(channels)
        for side in sides_zyx:
            lengths = side.lengths
            voxels = voxels * (lengths[name] if name in lengths else lengths[name.removesuffix(".slab")])
        total = total + voxels
    return total
