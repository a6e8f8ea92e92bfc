"""Where things go in a preview, how large they are, and its colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from TransferSegLib.pictures.drawing import Color

BACKGROUND: Color = (18, 20, 24)
BLACK: Color = (0, 0, 0)
WHITE: Color = (240, 242, 245)
TEXT: Color = (214, 218, 224)
QUIET: Color = (138, 144, 153)
ABSENT: Color = (122, 128, 137)
LETTERS: Color = (255, 226, 122)

#: Panels in a row are as wide as their part of the scan, within these ratios of width to height.
_ROW_ASPECTS = (0.65, 1.9)
#: Thin stacks: when coronal and sagittal are wider than the first, they stand above each other, up to the second.
_STRIP_ASPECTS = (1.6, 6.0)

#: A box in pixels: top, left, height, width.
Place = tuple[int, int, int, int]


@dataclass(frozen=True)
class Sizes:
    """Distances and heights of capitals in pixels, for a picture of a certain width."""

    unit: float

    @property
    def edge(self) -> int:
        """The space around everything."""
        return round(24 * self.unit)

    @property
    def gap(self) -> int:
        """The space between panels."""
        return round(10 * self.unit)

    @property
    def title(self) -> float:
        """The title's capitals."""
        return max(11.0, 17 * self.unit)

    @property
    def panels_top(self) -> int:
        """The row where panels begin, below the title."""
        return self.edge + round(2.2 * self.title)

    @property
    def text(self) -> float:
        """The legend's capitals."""
        return max(9.0, 12 * self.unit)

    @property
    def small(self) -> float:
        """The capitals of captions and details."""
        return max(8.0, 10.5 * self.unit)


def panel_places(aspects: Sequence[float], width: int, sizes: Sizes) -> list[Place]:
    """Return the boxes of the axial, coronal and sagittal panels, given the width to height ratios they would like."""
    top, left, gap = sizes.panels_top, sizes.edge, sizes.gap
    right = width - sizes.edge
    if min(aspects[1:]) > _STRIP_ASPECTS[0]:
        axial = _within(aspects[0], _ROW_ASPECTS)
        strips = [_within(aspect, _STRIP_ASPECTS) for aspect in aspects[1:]]
        # Strips of width w are w / aspect high; with the gap that is the height of the axial panel beside them.
        slope = sum(1 / aspect for aspect in strips)
        strip_width = (right - left - gap - axial * gap) / (axial * slope + 1)
        first, second = (round(strip_width / aspect) for aspect in strips)
        column = right - round(strip_width)
        return [
            (top, left, first + gap + second, column - gap - left),
            (top, column, first, right - column),
            (top + first + gap, column, second, right - column),
        ]
    row = [_within(aspect, _ROW_ASPECTS) for aspect in aspects]
    height = int((right - left - 2 * gap) / sum(row))
    first, second = (round(height * aspect) for aspect in row[:2])
    third_left = left + first + second + 2 * gap
    return [
        (top, left, height, first),
        (top, left + first + gap, height, second),
        (top, third_left, height, right - third_left),
    ]


def _within(value: float, limits: tuple[float, float]) -> float:
    """Return the value, or the limit it exceeds."""
    return min(max(value, limits[0]), limits[1])
