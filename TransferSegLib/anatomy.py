"""A small catalogue of anatomy: names and synonyms, SNOMED CT codes and display colours.

Codes and colours are those of 3D Slicer's terminologies (General Anatomy and DICOM Master lists) where these have
the structure, so that a label map opens in Slicer as if it had been drawn there. The portal and splenic vein's code
is that of the TotalSegmentator extension of Slicer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from TransferSegLib.structures import Structure, default_color, structure_key

Color = tuple[int, int, int]

#: (code value, code meaning) of the words that may stand before or after a structure's name.
MODIFIERS = {
    "left": ("7771000", "Left"),
    "right": ("24028007", "Right"),
    "anterior": ("255549009", "Anterior"),
    "posterior": ("255551008", "Posterior"),
}
#: Structures of the same kind are told apart: these are drawn lighter than their partners.
_LIGHTER = ("left", "posterior")


@dataclass(frozen=True)
class Anatomy:
    """A structure of the catalogue, without its side: readable name, (SNOMED CT code, meaning), colour, synonyms."""

    name: str
    terminology: tuple[str, str] | None
    color: Color
    synonyms: tuple[str, ...] = ()


#: What the models and data sets of this project name; extend it freely, nothing depends on its order.
CATALOGUE = (
    # "Brainstem structure"; Slicer's DICOM list has 119238007 instead, which SNOMED CT calls "Brain stem part".
    Anatomy("brainstem", ("15926001", "Brainstem"), (145, 92, 109), ("brain stem",)),
    Anatomy("spinal cord", ("2748008", "Spinal cord"), (244, 214, 49), ("spinalcord", "cord")),
    Anatomy("parotid gland", ("45289007", "Parotid gland"), (70, 163, 117), ("parotid",)),
    Anatomy("oesophagus", ("32849002", "Esophagus"), (211, 171, 143), ("esophagus",)),
    Anatomy("larynx", ("4596009", "Larynx"), (150, 208, 243)),
    Anatomy("mandible", ("91609006", "Mandible"), (222, 198, 101), ("lower jaw",)),
    Anatomy("aorta", ("15825003", "Aorta"), (224, 97, 76)),
    Anatomy("bladder", ("89837001", "Bladder"), (222, 154, 132), ("urinary bladder",)),
    Anatomy("duodenum", ("38848004", "Duodenum"), (255, 253, 229)),
    Anatomy("gallbladder", ("28231008", "Gallbladder"), (139, 150, 98), ("gall bladder",)),
    Anatomy("heart", ("80891009", "Heart"), (206, 110, 84)),
    Anatomy("inferior vena cava", ("64131007", "Inferior vena cava"), (0, 151, 206), ("postcava", "ivc")),
    Anatomy("adrenal gland", ("23451007", "Adrenal gland"), (249, 186, 150), ("adrenal", "suprarenal gland")),
    Anatomy("kidney", ("64033007", "Kidney"), (185, 102, 83)),
    Anatomy("lung", ("39607008", "Lung"), (197, 165, 145)),
    # No code could be confirmed, and a wrong one is worse than none: the TotalSegmentator extension's 64038003 is the
    # intercostal lymph node in SNOMED CT (DICOM's CID 7600 has it, too).
    Anatomy("psoas major", None, (192, 104, 88), ("psoas", "psoas muscle", "psoas major muscle")),
    Anatomy("liver", ("10200004", "Liver"), (221, 130, 101)),
    Anatomy("pancreas", ("15776009", "Pancreas"), (249, 180, 111)),
    Anatomy(
        "portal vein and splenic vein",
        ("110765007", "Portal vein and splenic vein"),
        (73, 130, 198),
        ("portal and splenic vein", "portal vein & splenic vein"),
    ),
    Anatomy("spleen", ("78961009", "Spleen"), (157, 108, 162)),
    Anatomy("sternum", ("56873002", "Sternum"), (244, 217, 154)),
    Anatomy("stomach", ("69695003", "Stomach"), (216, 132, 105)),
    Anatomy("trachea", ("44567001", "Trachea"), (182, 228, 255)),
    Anatomy("hippocampus", ("5366008", "Hippocampus"), (220, 216, 20)),
    # Its side belongs to the concept, so it takes no modifier.
    Anatomy("left ventricle", ("87878005", "Left ventricle"), (152, 55, 13), ("left ventricle cavity", "lv")),
)


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


_BY_NAME = {key: anatomy for anatomy in CATALOGUE for key in (anatomy.name, *anatomy.synonyms)}
