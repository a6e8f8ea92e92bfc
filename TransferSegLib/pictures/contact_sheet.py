"""Small pictures of many cases, to look through: one each, and sheets that show them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from TransferSegLib.pictures.drawing import Canvas, Color, write_png
from TransferSegLib.pictures.layout import BACKGROUND, QUIET, TEXT, WHITE, Place, Sizes, panel_places
from TransferSegLib.pictures.legend import luminous
from TransferSegLib.pictures.panels import Panel, choose_panels, draw_panel
from TransferSegLib.pictures.preview import check_drawable
from TransferSegLib.pictures.slices import OrientedScan, StructureExtents, is_ct
from TransferSegLib.pictures.text import shortened, text_width, wrapped
from TransferSegLib.structures import LabelSet, Structure

#: Width of a small picture, and how many stand side by side and above each other on a sheet.
WIDTH, COLUMNS, ROWS = 640, 3, 4
_EDGE, _GAP, _FRAME = 20, 14, 4
_TITLE, _SMALL = 12.0, 10.0
_NOTE_LINES = 2
#: What is wrong is framed in red, what should be looked at in yellow.
_FRAMES: dict[str, Color] = {"error": (214, 64, 58), "warning": (226, 178, 60)}


@dataclass(frozen=True)
class CasePicture:
    """A case's picture; ``severity`` ('error', 'warning' or '') is the colour of its frame."""

    canvas: Canvas
    severity: str = ""


def case_picture(
    scan: tuple[sitk.Image, sitk.Image] | None, label_set: LabelSet, title: str, notes: Sequence[str], severity: str
) -> CasePicture:
    """Draw a case: three slices of its image with its label map on the same grid, a title, and up to two lines.

    ``scan`` None: there is nothing to draw but the lines. Raises ScanError where image and label map do not fit.
    """
    sizes = Sizes(WIDTH / 1500)
    lines = wrapped(" ".join(f"{note.rstrip('.')}." for note in notes), _SMALL, WIDTH - 2 * sizes.edge) if notes else []
    if len(lines) > _NOTE_LINES:
        lines = [
            *lines[: _NOTE_LINES - 1],
            shortened(" ".join(lines[_NOTE_LINES - 1 :]), _SMALL, WIDTH - 2 * sizes.edge),
        ]
    top = sizes.edge + round(2.0 * _TITLE)
    panels: list[Panel] = []
    places: list[Place] = []
    window = (0.0, 1.0)
    if scan is not None:
        image, label_map = scan
        check_drawable(image, label_map, WIDTH)
        oriented = OrientedScan.of(image, label_map, label_set)
        panels, window = choose_panels(oriented, StructureExtents.of(oriented, len(label_set)), is_ct(oriented))
        places = panel_places([panel.aspect for panel in panels], WIDTH, sizes)
        shift = top - min(place[0] for place in places)
        places = [(place[0] + shift, *place[1:]) for place in places]
    bottom = max((place[0] + place[2] for place in places), default=top)
    canvas = Canvas.blank(bottom + round(1.9 * _SMALL * len(lines)) + sizes.edge, WIDTH, BACKGROUND)
    name = shortened(title, _TITLE, WIDTH - 2 * sizes.edge)
    canvas.text(sizes.edge, sizes.edge + _TITLE, name, _TITLE, WHITE, bold=True)
    for panel, place in zip(panels, places, strict=True):
        draw_panel(canvas, panel, place, window, label_set, sizes)
    for number, line in enumerate(lines, start=1):
        color = _FRAMES.get(severity, QUIET)
        canvas.text(sizes.edge, bottom + round(1.9 * _SMALL * number), line, _SMALL, color)
    return CasePicture(canvas, severity)


def write_sheet(pictures: Sequence[CasePicture], label_set: LabelSet, title: str, path: Path) -> None:
    """Write up to COLUMNS x ROWS pictures side by side, below a title and above the structures' colours.

    Raises ScanError when the file cannot be written.
    """
    rows = [pictures[start : start + COLUMNS] for start in range(0, len(pictures), COLUMNS)]
    columns = min(COLUMNS, len(pictures))
    heights = [max(one.canvas.pixels.shape[0] for one in row) for row in rows]
    width = 2 * _EDGE + columns * WIDTH + (columns - 1) * _GAP
    top = _EDGE + round(2.4 * _TITLE)
    below = top + sum(heights) + _GAP * len(rows)
    legend = _legend_places(label_set, width)
    height = below + round(2.2 * _TITLE) * (1 + max((row for _, _, row in legend), default=-1)) + _EDGE
    canvas = Canvas.blank(height, width, tuple(max(0, part - 8) for part in BACKGROUND))  # type: ignore[arg-type]
    canvas.text(_EDGE, _EDGE + _TITLE, shortened(title, _TITLE, width - 2 * _EDGE), _TITLE, WHITE, bold=True)
    for row, row_height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            left = _EDGE + column * (WIDTH + _GAP)
            _put(canvas, picture, top, left, row_height)
        top += row_height + _GAP
    for structure, left, line in legend:
        baseline = below + round(2.2 * _TITLE) * line + _TITLE
        canvas.box(round(baseline - _TITLE), left, round(_TITLE), round(_TITLE), luminous(structure.color), radius=3)
        canvas.text(left + 1.6 * _TITLE, baseline, structure.name, _SMALL, TEXT)
    write_png(canvas, path)


def _put(canvas: Canvas, picture: CasePicture, top: int, left: int, height: int) -> None:
    """Put a picture on the sheet, at the upper edge of its place, with a frame where something is to be looked at."""
    frame = _FRAMES.get(picture.severity)
    if frame is not None:
        canvas.box(top - _FRAME, left - _FRAME, height + 2 * _FRAME, WIDTH + 2 * _FRAME, frame, radius=6)
    canvas.box(top, left, height, WIDTH, BACKGROUND)
    pixels = picture.canvas.pixels
    canvas.pixels[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels


def _legend_places(label_set: LabelSet, width: int) -> list[tuple[Structure, int, int]]:
    """Return for each structure its name, the column where its colour stands, and its line."""
    places, left, line = [], _EDGE, 0
    for structure in label_set:
        needed = round(text_width(structure.name, _SMALL) + 4 * _TITLE)
        if left + needed > width - _EDGE and left > _EDGE:
            left, line = _EDGE, line + 1
        places.append((structure, left, line))
        left += needed
    return places
