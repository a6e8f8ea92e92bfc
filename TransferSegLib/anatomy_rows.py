"""Structures that come in rows: vertebrae, ribs, segments of the liver, teeth.

Neighbours in a row are drawn in clearly different hues, which Slicer's terminologies do not do.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Anatomy:
    """A structure without its side: readable name, (SNOMED CT code, meaning), colour, synonyms."""

    name: str
    terminology: tuple[str, str] | None
    color: Color
    synonyms: tuple[str, ...] = ()


def _row(colors: tuple[Color, ...], number: int, rows: int) -> Color:
    """Return the colour of a member of a row: neighbours differ in hue, the whole row darkens from 0 to ``rows``."""
    color = colors[number % len(colors)]
    hue, lightness, saturation = colorsys.rgb_to_hls(*(value / 255 for value in color))
    red, green, blue = colorsys.hls_to_rgb(hue, lightness * (1 - 0.4 * number / rows), saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


_VERTEBRAE = {
    "C1": "14806007",
    "C2": "39976000",
    "C3": "113205007",
    "C4": "5329002",
    "C5": "36978003",
    "C6": "36054005",
    "C7": "87391001",
    "T1": "64864005",
    "T2": "53733008",
    "T3": "1626008",
    "T4": "73071006",
    "T5": "56401006",
    "T6": "45296009",
    "T7": "62487009",
    "T8": "11068009",
    "T9": "82687006",
    "T10": "7610001",
    "T11": "12989004",
    "T12": "23215003",
    "L1": "66794005",
    "L2": "14293000",
    "L3": "36470004",
    "L4": "11994002",
    "L5": "49668003",
    "L6": "",
    "S1": "65985001",
}
_RIBS = {
    "First": "48535007",
    "Second": "78247007",
    "Third": "25888004",
    "Fourth": "25523003",
    "Fifth": "15339008",
    "Sixth": "59558009",
    "Seventh": "24915002",
    "Eighth": "5953002",
    "Ninth": "22565002",
    "Tenth": "77644006",
    "Eleventh": "58830002",
    "Twelfth": "43993008",
}
_LIVER_SEGMENTS = (
    "71133005",
    "277956007",
    "277957003",
    "277958008",
    "277959000",
    "277960005",
    "277961009",
    "277962002",
)
_ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII")
#: By quadrant, its digit in FDI's numbers and the eight codes from the middle outwards.
_TEETH = {
    "upper right": (1, "22120004 11712009 80647007 57826002 36492000 5140004 7121006 68085002"),
    "upper left": (2, "31982000 25748002 72876007 61897005 23226009 23427002 66303006 87704003"),
    "lower left": (3, "113278005 77130001 39844006 2400006 24573005 89625000 48402004 74344005"),
    "lower right": (4, "15422005 82628004 47055002 80140008 8873007 28480000 40005008 38994002"),
}
_TOOTH_NAMES = (
    *("central incisor", "lateral incisor", "canine", "first premolar", "second premolar"),
    *("first molar", "second molar", "third molar"),
)
_BONE_COLORS = ((241, 214, 145), (226, 165, 110), (205, 214, 130))
_TOOTH_COLORS = ((255, 246, 214), (255, 220, 160), (225, 238, 200))
_PULP_COLORS = ((240, 160, 160), (220, 140, 190), (230, 175, 130))
_SEGMENT_COLORS = ((221, 130, 101), (190, 150, 70), (170, 100, 130), (120, 150, 110))


def vertebrae() -> tuple[Anatomy, ...]:
    """Return the vertebrae from C1 to S1."""
    return tuple(
        Anatomy(
            f"vertebra {level}",
            (code, f"{level} vertebra") if code else None,
            _row(_BONE_COLORS, number, len(_VERTEBRAE)),
            (f"vertebrae {level}",),
        )
        for number, (level, code) in enumerate(_VERTEBRAE.items())
    )


def ribs() -> tuple[Anatomy, ...]:
    """Return the twelve ribs of a side."""
    colors = ((253, 232, 158), (240, 150, 120), (200, 215, 190))
    return tuple(
        Anatomy(f"rib {number}", (code, f"{which} rib"), _row(colors, number - 1, 13))
        for number, (which, code) in enumerate(_RIBS.items(), start=1)
    )


def liver_segments() -> tuple[Anatomy, ...]:
    """Return Couinaud's eight segments of the liver."""
    return tuple(
        Anatomy(
            f"liver segment {number}",
            (code, f"Couinaud hepatic segment {_ROMAN[number - 1]}"),
            _row(_SEGMENT_COLORS, number - 1, 8),
            (f"liver segment {_ROMAN[number - 1]}",) if number > 1 else (),
        )
        for number, code in enumerate(_LIVER_SEGMENTS, start=1)
    )


def teeth() -> tuple[Anatomy, ...]:
    """Return the permanent teeth and their pulps; their side belongs to the concept, so they take no modifier."""
    teeth, pulps = [], []
    for where, (quadrant, codes) in _TEETH.items():
        jaw, side = where.split()
        bone = "Maxillary" if jaw == "upper" else "Mandibular"
        for place, (tooth, code) in enumerate(zip(_TOOTH_NAMES, codes.split(), strict=True), start=1):
            name, fdi, number = f"{where} {tooth}", f"{quadrant}{place}", 8 * (quadrant - 1) + place - 1
            meaning = f"{bone} {side} {tooth} tooth"
            teeth.append(Anatomy(name, (code, meaning), _row(_TOOTH_COLORS, number, 32), (f"{name} fdi{fdi}",)))
            pulps.append(Anatomy(f"pulp of {name}", None, _row(_PULP_COLORS, number, 32), (f"{name} pulp fdi1{fdi}",)))
    return (*teeth, *pulps)
