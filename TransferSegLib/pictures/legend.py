"""The legend of a preview: colour, name and volume of every structure, and the names of those not found."""

from __future__ import annotations

from dataclasses import dataclass

from TransferSegLib.pictures.drawing import Canvas, Color
from TransferSegLib.pictures.layout import ABSENT, QUIET, TEXT, Sizes
from TransferSegLib.pictures.slices import StructureExtents
from TransferSegLib.pictures.text import shortened, text_width, wrapped
from TransferSegLib.structures import LabelSet, Structure

#: The strongest of a colour's channels is brought up to this.
_BRIGHTEST_CHANNEL = 228
#: Space in a column of the legend besides name and volume, in heights of capitals.
_COLUMN_SPACE = 7.0


def luminous(color: Color) -> Color:
    """Return a structure's colour, made as bright as is needed to be seen on grey tissue; the hue stays."""
    factor = max(1.0, _BRIGHTEST_CHANNEL / max(1, *color))
    red, green, blue = (min(255, round(channel * factor)) for channel in color)
    return red, green, blue


def volume_text(volume_ml: float) -> str:
    """Return a volume for a person, with as many digits as it deserves: 0.042, 0.42, 4.2, 42.0, 420, 4,200 ml."""
    if volume_ml >= 100:
        return f"{volume_ml:,.0f} ml"
    if volume_ml < 0.001:
        return "< 0.001 ml"
    decimals = 1 if volume_ml >= 1 else 2 if volume_ml >= 0.1 else 3
    return f"{volume_ml:.{decimals}f} ml"


@dataclass(frozen=True)
class Legend:
    """The legend: (structure, volume) in columns of ``rows`` rows, ``pitch`` pixels apart, and the absent ones."""

    entries: list[tuple[Structure, str]]
    absent: list[str]
    rows: int
    pitch: float
    row_height: int

    @property
    def height(self) -> int:
        """The height of all rows in pixels."""
        gap = round(0.3 * self.row_height) if self.entries and self.absent else 0
        return (self.rows + len(self.absent)) * self.row_height + gap


def lay_out_legend(
    label_set: LabelSet, extents: StructureExtents, voxel_mm3: float, width: int, sizes: Sizes
) -> Legend:
    """Return the legend for a picture ``width`` pixels wide."""
    size = sizes.text
    entries, missing = [], []
    for structure, voxels in zip(label_set, extents.voxels, strict=True):
        if voxels:
            entries.append((structure, volume_text(int(voxels) * voxel_mm3 / 1000)))
        else:
            missing.append(structure.name)
    absent = wrapped("Not found: " + ", ".join(missing), size, width) if missing else []
    row_height = round(2.15 * size)
    if not entries:
        return Legend([], absent, 0, float(width), row_height)
    names = max(text_width(structure.name, size) for structure, _ in entries)
    volumes = max(text_width(volume, size) for _, volume in entries)
    needed = names + volumes + _COLUMN_SPACE * size
    columns = max(1, min(len(entries), int((width + 3 * size) / needed)))
    rows = -(-len(entries) // columns)
    columns = -(-len(entries) // rows)
    return Legend(entries, absent, rows, min((width + 3 * size) / columns, 1.3 * needed), row_height)


def draw_legend(canvas: Canvas, legend: Legend, top: int, sizes: Sizes) -> None:
    """Draw swatch, name and volume of every structure, column by column, then what was not found."""
    size = sizes.text
    swatch = round(1.25 * size)
    for number, (structure, volume) in enumerate(legend.entries):
        left = round(sizes.edge + (number // legend.rows) * legend.pitch)
        middle = top + (number % legend.rows) * legend.row_height + legend.row_height // 2
        baseline = round(middle + size / 2)
        right = left + legend.pitch - 3 * size
        canvas.box(middle - swatch // 2, left, swatch, swatch, luminous(structure.color), radius=0.25 * swatch)
        room = right - left - 1.7 * swatch - text_width(volume, size) - size
        canvas.text(left + 1.7 * swatch, baseline, shortened(structure.name, size, room), size, TEXT)
        canvas.text(right, baseline, volume, size, QUIET, align="right")
    lowest = top + legend.height - legend.row_height // 2
    for number, line in enumerate(reversed(legend.absent)):
        canvas.text(sizes.edge, lowest - number * legend.row_height + size / 2, line, size, ABSENT)
