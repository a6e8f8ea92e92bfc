"""The names of structures: what they mean, their SNOMED CT codes and display colours.

The table of structures is in ``TransferSegLib.anatomy_catalogue`` and ``anatomy_rows``.
"""

from __future__ import annotations

import re

from TransferSegLib.anatomy_catalogue import CATALOGUE
from TransferSegLib.anatomy_rows import Anatomy, Color
from TransferSegLib.structures import Structure, default_color, structure_key

__all__ = ["CATALOGUE", "Anatomy", "describe_structure", "readable_name"]

#: (code value, code meaning) of the words that may stand before or after a structure's name.
MODIFIERS = {
    "left": ("7771000", "Left"),
    "right": ("24028007", "Right"),
    "anterior": ("255549009", "Anterior"),
    "posterior": ("255551008", "Posterior"),
}
#: Structures of the same kind are told apart: these are drawn lighter than their partners.
_LIGHTER = ("left", "posterior")


def describe_structure(name: str, label: int) -> Structure:
    """Return a structure of that name and label value, with the catalogue's code and colour when it is known.

    The name is kept as given; sides are recognised in it ('left kidney', 'kidney_left', 'LeftKidney').
    """
    anatomy, modifier = _find(name)
    if anatomy is None:
        return Structure(name, label, default_color(label))
    color = _lighter(anatomy.color) if modifier in _LIGHTER else anatomy.color
    if anatomy.terminology is None or modifier is None:
        return Structure(name, label, color, anatomy.terminology)
    return Structure(name, label, color, anatomy.terminology, MODIFIERS[modifier])


def readable_name(name: str) -> str:
    """Return the catalogue's name for a name or synonym ('RightParotid' -> 'right parotid gland').

    A name that is not in the catalogue is kept, unless a side is hidden in it ('LeftFemur' -> 'left femur').
    """
    anatomy, modifier = _find(name)
    if anatomy is not None:
        return anatomy.name if modifier is None else f"{modifier} {anatomy.name}"
    words = _words(name)
    hidden = {"left", "right"} & set(words.split()) - set(structure_key(name).split())
    return words if hidden else name.strip()


def _find(name: str) -> tuple[Anatomy | None, str | None]:
    """Return the catalogue's entry for a name and the modifier (a key of MODIFIERS) that the name adds to it."""
    words = _words(name)
    if words in _BY_NAME:
        return _BY_NAME[words], None
    parts = words.split()
    for modifier in MODIFIERS:
        if parts.count(modifier) == 1:
            rest = " ".join(part for part in parts if part != modifier)
            if rest in _BY_NAME:
                return _BY_NAME[rest], modifier
    return None, None


def _words(name: str) -> str:
    """Return a name in lower case with single spaces; 'LeftKidney' and 'kidney_left' are taken apart."""
    return structure_key(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.strip()))


def _lighter(color: Color) -> Color:
    """Return the colour mixed with a third of white."""
    red, green, blue = (round(value + (255 - value) / 3) for value in color)
    return red, green, blue


_BY_NAME = {structure_key(key): anatomy for anatomy in CATALOGUE for key in (anatomy.name, *anatomy.synonyms)}
