"""Text as pixels: the strokes of ``glyphs`` drawn as distance fields, smooth at any size."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from TransferSegLib.pictures.glyphs import (
    CAP_HEIGHT,
    DESCENT,
    GLYPHS,
    MISSING,
    SIDE_BEARINGS,
    SUBSTITUTES,
    X_HEIGHT,
)

#: Width of the pen in units of the glyph table, and in pixels at least.
_PEN = 2.25
_THINNEST_PEN_PX = 1.15
#: Rounded corners: lines that stand for one, and how square it is (2 an ellipse, more is squarer).
_CORNER_LINES = 8
_SQUARENESS = 2.25
_POINT = re.compile(r"(\()?(-?[\d.]+),(-?[\d.]+)\)?")
_FORM = re.compile(r"([|(/])([\d.]+)([|)/])(.*)", re.DOTALL)


@dataclass(frozen=True)
class Glyph:
    """A glyph's advance and its lines (n x 4: x, y of both ends), both in units of the table, from the pen position."""

    advance: float
    lines: np.ndarray


@dataclass(frozen=True)
class Lettering:
    """Drawn text: how much of each pixel is ink (0 to 1, rows from the top), and which pixel its origin lies in."""

    ink: np.ndarray
    origin_row: int
    origin_column: int


def printable(text: str) -> str:
    """Return the text in characters of the glyph table where it has them: accents dropped, dashes made plain."""
    decomposed = unicodedata.normalize("NFKD", "".join(SUBSTITUTES.get(letter, letter) for letter in text))
    letters = (SUBSTITUTES.get(letter, letter) for letter in decomposed if not unicodedata.combining(letter))
    return " ".join("".join(letters).split())


def text_width(text: str, height_px: float) -> float:
    """Return how many pixels wide a text is whose capitals are ``height_px`` high."""
    return sum(_glyph(letter).advance for letter in printable(text)) * height_px / CAP_HEIGHT


def shortened(text: str, height_px: float, width_px: float) -> str:
    """Return the text, cut and ended with '...' when it is wider than ``width_px``."""
    text = printable(text)
    if text_width(text, height_px) <= width_px:
        return text
    while text and text_width(text + "...", height_px) > width_px:
        text = text[:-1]
    return text.rstrip() + "..."


def wrapped(text: str, height_px: float, width_px: float) -> list[str]:
    """Return the text in lines of at most ``width_px``, broken between words; a longer word is cut."""
    lines: list[str] = []
    for word in printable(text).split():
        if lines and text_width(f"{lines[-1]} {word}", height_px) <= width_px:
            lines[-1] += f" {word}"
        else:
            lines.append(shortened(word, height_px, width_px))
    return lines


def draw_text(text: str, height_px: float, *, start: float = 0.0, thicker_px: float = 0.0) -> Lettering:
    """Return a line of text as ink; capitals are ``height_px`` high.

    ``start`` (0 to 1) is the part of a pixel by which it begins after its origin; ``thicker_px`` widens the pen,
    for bold text or for the shadow behind it.
    """
    scale = height_px / CAP_HEIGHT
    pen = max(_PEN * scale, _THINNEST_PEN_PX) + thicker_px
    margin = int(np.ceil(pen)) + 1
    above, below = int(np.ceil(1.2 * height_px)) + margin, int(np.ceil(0.4 * height_px)) + margin
    width = int(np.ceil(text_width(text, height_px) + start)) + 2 * margin
    ink = np.zeros((above + below + 1, width), np.float32)
    position = margin + start
    for letter in printable(text):
        glyph = _glyph(letter)
        if len(glyph.lines):
            lines = glyph.lines * scale
            lines[:, 0::2] += position
            lines[:, 1::2] = above - _on_whole_pixels(glyph.lines[:, 1::2], scale)
            first = max(0, int(position - pen) - 1)
            last = min(width, int(position + glyph.advance * scale + pen) + 3)
            distance = _distance(lines, np.arange(ink.shape[0]), np.arange(first, last))
            part = ink[:, first:last]
            np.maximum(part, np.clip(pen / 2 + 0.5 - distance, 0.0, 1.0), out=part)
        position += glyph.advance * scale
    return Lettering(ink, above, margin)


def _on_whole_pixels(heights: np.ndarray, scale: float) -> np.ndarray:
    """Scale heights so that small letters and capitals end on whole pixels and their tops are equally sharp."""
    levels = np.array([DESCENT, 0.0, X_HEIGHT, CAP_HEIGHT])
    levels_px = np.array([DESCENT * scale, 0.0, round(X_HEIGHT * scale), round(CAP_HEIGHT * scale)])
    beyond = np.maximum(heights - CAP_HEIGHT, 0.0) + np.minimum(heights - DESCENT, 0.0)
    return np.interp(heights, levels, levels_px) + beyond * scale


@lru_cache(maxsize=256)
def _glyph(letter: str) -> Glyph:
    """Return the glyph of one character; characters without one get an empty box."""
    form = _FORM.fullmatch(GLYPHS.get(letter, MISSING))
    assert form is not None, f"the glyph of {letter!r} is malformed"
    left, width, right, strokes = form.groups()
    bearing = SIDE_BEARINGS[left]
    lines = [line for stroke in strokes.split(";") for line in _lines(stroke)]
    array = np.array(lines, np.float64).reshape(-1, 4)
    array[:, 0::2] += bearing
    return Glyph(bearing + float(width) + SIDE_BEARINGS[right], array)


def _lines(stroke: str) -> list[tuple[float, float, float, float]]:
    """Return the lines of one stroke, its rounded corners as short ones."""
    points = [(bool(corner), np.array([float(x), float(y)])) for corner, x, y in _POINT.findall(stroke)]
    path: list[np.ndarray] = []
    angles = np.linspace(0.0, np.pi / 2, _CORNER_LINES + 1)[1:-1]
    for index, (is_corner, point) in enumerate(points):
        if not is_corner:
            path.append(point)
            continue
        before, after = points[index - 1][1], points[index + 1][1]
        for towards, away in zip(np.sin(angles), np.cos(angles), strict=True):
            power = 2 / _SQUARENESS
            path.append(point + (before - point) * (1 - towards**power) + (after - point) * (1 - away**power))
    return [(*start, *end) for start, end in pairwise(path)]


def _distance(lines: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the distance (rows x columns) of pixel centres from the nearest of some lines (n x 4)."""
    x = columns[None, None, :] - lines[:, 0, None, None]
    y = rows[None, :, None] - lines[:, 1, None, None]
    run = (lines[:, 2] - lines[:, 0])[:, None, None]
    rise = (lines[:, 3] - lines[:, 1])[:, None, None]
    length = np.maximum(run**2 + rise**2, 1e-12)
    along = np.clip((x * run + y * rise) / length, 0.0, 1.0)
    return np.sqrt(((x - along * run) ** 2 + (y - along * rise) ** 2).min(axis=0))
