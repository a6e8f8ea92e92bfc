"""Colours that the structures of a model can be told apart by, in views, lists, pictures and written files.

Slicer's terminologies have one green for all salivary glands, and the same cream for many bones. A colour that is the
usual one of its structure, chosen by nobody, gives way where another structure's is too close; all others stay.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from TransferSegLib.anatomy import describe_structure
from TransferSegLib.structures import LabelSet, Structure, default_color

Color = tuple[int, int, int]

#: Colours closer than this (CIE76, in CIE Lab) are told apart only side by side: thin contours in a view are not.
CLOSE = 25.0
#: Of more structures than these, colours may be closer, or no structure of a large model would keep its usual one.
_FEW = 12
#: Lightness counts less than hue: a structure is drawn through, over dark and bright tissue.
_LIGHTNESS_WEIGHT = 0.5
#: Lightness (CIE L*) of a colour that was moved: it is seen on black and on white.
_LIGHTNESSES = (45.0, 55.0, 65.0, 75.0, 85.0)
#: Chroma of a colour that was moved, and the steps of its hue, degrees.
_CHROMAS, _HUE_STEP = (30.0, 50.0, 70.0), 10
#: Linear RGB of sRGB's primaries in XYZ, and the white that Lab refers to (D65).
_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = _TO_XYZ.sum(axis=1)


@functools.lru_cache(maxsize=32)
def distinguishable(label_set: LabelSet, taken: tuple[Color, ...] = ()) -> LabelSet:
    """Return the structures with colours that differ from each other's, and from those that are ``taken``.

    The same structures always get the same colours. Of two that are too close the later one moves, to the nearest
    colour that is free; where none is free, to the one that is farthest from all others.
    """
    least = least_distance(len(label_set) + len(taken))
    colors: dict[int, Color] = {s.label: s.color for s in label_set if not _is_usual(s)}
    occupied = [*taken, *colors.values()]
    for structure in label_set:
        if structure.label not in colors:
            colors[structure.label] = _free(structure.color, occupied, least)
            occupied.append(colors[structure.label])
    return LabelSet(tuple(replace(structure, color=colors[structure.label]) for structure in label_set))


def least_distance(count: int) -> float:
    """Return how far apart the colours of so many structures are to be; each has its area of hues and chromas."""
    return CLOSE * min(1.0, (_FEW / max(1, count)) ** 0.5)


def color_distance(one: Color, other: Color) -> float:
    """Return how different two sRGB colours look on a scan: a distance in CIE Lab, in which lightness counts half."""
    return float(np.linalg.norm(_places([one]) - _places([other])))


def _places(colors: Sequence[Color]) -> np.ndarray:
    """Return where colours are in the space in which distances are measured, a row each."""
    return np.array([_lab_of(color) for color in colors]) * [_LIGHTNESS_WEIGHT, 1.0, 1.0]


@functools.cache
def _lab_of(color: Color) -> np.ndarray:
    """Return the CIE Lab coordinates of an sRGB colour: lightness, and the two axes of hue and chroma."""
    values = np.asarray(color, float) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    ratio = _TO_XYZ @ linear / _WHITE
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def _is_usual(structure: Structure) -> bool:
    """Tell whether a structure has the colour that it has where nobody chose one."""
    usual = (describe_structure(structure.name, structure.label).color, default_color(structure.label))
    return structure.color in usual


def _free(color: Color, occupied: Sequence[Color], least: float) -> Color:
    """Return a colour that is not too close to others: this one, or the nearest one, or the farthest from others."""
    if not occupied:
        return color
    (own,), others = _places([color]), _places(occupied)
    if np.linalg.norm(others - own, axis=1).min() >= least:
        return color
    palette = _palette()
    places = _places(palette)
    gaps = np.linalg.norm(places[:, None] - others[None], axis=2).min(axis=1)
    free = np.flatnonzero(gaps >= least)
    if len(free):
        return palette[free[np.linalg.norm(places[free] - own, axis=1).argmin()]]
    return palette[int(gaps.argmax())]


@functools.cache
def _palette() -> tuple[Color, ...]:
    """Return the colours that others are moved to, those of sRGB at regular places of Lab."""
    found: dict[Color, None] = {}
    for lightness in _LIGHTNESSES:
        for chroma in _CHROMAS:
            for hue in np.deg2rad(np.arange(0, 360, _HUE_STEP)):
                color = _color_of(np.array([lightness, chroma * np.cos(hue), chroma * np.sin(hue)]))
                if color is not None:
                    found[color] = None
    return tuple(found)


def _color_of(lab: np.ndarray) -> Color | None:
    """Return the sRGB colour at a place of Lab, None where there is none."""
    y = (lab[0] + 16) / 116
    roots = np.array([y + lab[1] / 500, y, y - lab[2] / 200])
    ratio = np.where(roots**3 > 216 / 24389, roots**3, (116 * roots - 16) * 27 / 24389)
    linear = np.linalg.solve(_TO_XYZ, ratio * _WHITE)
    if linear.min() < 0 or linear.max() > 1:
        return None
    red, green, blue = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return round(255 * red), round(255 * green), round(255 * blue)
