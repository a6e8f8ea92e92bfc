"""Which part of a tile's maps has to be computed: the rest is what the network answers to padding.

Beyond the scan, and in air that the intensity rule clips, a tile holds one intensity everywhere. There every map of the
network is constant too, as far as its field of view sees nothing else, and these constants are known beforehand. So
each layer is computed in a box around the content only; of a 256-voxel cube in one tile that is half of the work. The
answer is the same to rounding. All of this is arithmetic along one axis at a time.
"""

from __future__ import annotations

import numpy as np

from TransferSegLib.networks.interface import Span

#: The spans along one axis by the name of the map: "down0" to "down3", "up2" to "up0", at their own resolution.
Spans = dict[str, Span]

_LEVELS = 4
#: Voxels that a pair of valid 3x3x3 convolutions takes away along an axis.
_PAIR = 4


def map_spans(input_side: int, content: Span | None = None) -> Spans:
    """Return what is computed of every map along one axis of a tile of ``input_side`` voxels.

    ``content`` spans the voxels that may differ from the padding value; None: all of them. The spans have even
    ends, but for the lowest level, because pooling and up-sampling go by pairs.
    """
    spans: Spans = {}
    sizes: dict[int, int] = {}
    seen, size = content if content is not None else (0, input_side), input_side
    for level in range(_LEVELS):
        spans[f"down{level}"] = _after_pair(seen, size, even=level < _LEVELS - 1)
        size -= _PAIR
        sizes[level] = size
        if level < _LEVELS - 1:
            seen, size = _halved(spans[f"down{level}"]), size // 2
    low, size = spans[f"down{_LEVELS - 1}"], sizes[_LEVELS - 1]
    for level in reversed(range(_LEVELS - 1)):
        size *= 2
        joined = _joined((2 * low[0], 2 * low[1]), _inside(spans[f"down{level}"], sizes[level], size))
        low = _after_pair(joined, size)
        spans[f"up{level}"] = low
        size -= _PAIR
    return spans


def content_spans(values_zyx: np.ndarray, padding_value: float) -> tuple[Span, Span, Span] | None:
    """Return the box (zyx) of the values other than padding; None when there are none."""
    is_content = values_zyx != np.float32(padding_value)
    spans = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(is_content.any(axis=others))
        if not found.size:
            return None
        spans.append((int(found[0]), int(found[-1]) + 1))
    return spans[0], spans[1], spans[2]


def _after_pair(seen: Span, size: int, even: bool = True) -> Span:
    """Return where a pair of valid convolutions of a map of that size can differ from its answer to padding."""
    grain, most = 2 if even else 1, size - _PAIR
    # There is always something to compute, be it what the map holds anyway.
    start = min(max(0, seen[0] - _PAIR), most - 1) // grain * grain
    stop = max(-(-min(most, seen[1]) // grain) * grain, start + grain)
    return start, stop


def _halved(span: Span) -> Span:
    """Return the span after pooling by two."""
    return span[0] // 2, span[1] // 2


def _inside(span: Span, size: int, kept: int) -> Span | None:
    """Return a span in the coordinates of the map's centre of ``kept`` voxels; None when it lies outside of it."""
    first = (size - kept) // 2
    start, stop = max(0, span[0] - first), min(kept, span[1] - first)
    return (start, stop) if start < stop else None


def _joined(first: Span, second: Span | None) -> Span:
    """Return the span that holds both."""
    return first if second is None else (min(first[0], second[0]), max(first[1], second[1]))
