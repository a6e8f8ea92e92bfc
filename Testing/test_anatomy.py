"""The catalogue of anatomy: codes, sides, synonyms, and names it does not know."""

from __future__ import annotations

import pytest

from TransferSegLib.anatomy import CATALOGUE, describe_structure, readable_name
from TransferSegLib.structures import LabelSet, default_color, structure_key

HEAD_AND_NECK = {
    "Brainstem": ("brainstem", "15926001", None),
    "SpinalCord": ("spinal cord", "2748008", None),
    "RightParotid": ("right parotid gland", "45289007", "24028007"),
    "LeftParotid": ("left parotid gland", "45289007", "7771000"),
    "Esophagus": ("oesophagus", "32849002", None),
    "Larynx": ("larynx", "4596009", None),
    "Mandible": ("mandible", "91609006", None),
}
PAPER = [
    *(
        "aorta",
        "bladder",
        "duodenum",
        "gallbladder",
        "heart",
        "inferior vena cava",
        "left adrenal gland",
        "left kidney",
    ),
    *("left lung", "left psoas major", "liver", "pancreas", "portal vein and splenic vein", "right adrenal gland"),
    *("right kidney", "right lung", "right psoas major", "spinal cord", "spleen", "sternum", "stomach", "trachea"),
]


@pytest.mark.parametrize("name", HEAD_AND_NECK)
def test_head_and_neck_names_become_readable_and_coded(name: str):
    readable, code, side = HEAD_AND_NECK[name]
    assert readable_name(name) == readable
    structure = describe_structure(readable, 3)
    assert (structure.name, structure.label) == (readable, 3)
    assert structure.terminology is not None and structure.terminology[0] == code
    assert (structure.modifier and structure.modifier[0]) == side


def test_every_structure_of_the_paper_is_known_and_keeps_its_name():
    assert len(PAPER) == 22
    label_set = LabelSet(tuple(describe_structure(name, label) for label, name in enumerate(PAPER, start=1)))
    assert label_set.names == tuple(PAPER)
    without_code = [structure.name for structure in label_set if structure.terminology is None]
    assert without_code == ["left psoas major", "right psoas major"], "only what could not be confirmed has no code"
    assert readable_name("right psoas") == readable_name("Right psoas muscle") == "right psoas major"
    for structure in label_set:
        assert (structure.modifier is None) == (
            structure.terminology is None
            or " " not in structure.key
            or structure.key.split()[0] not in ("left", "right")
        )


@pytest.mark.parametrize("name", ["kidney_left", "left kidney", "LeftKidney", "Left Kidney", "Kidney left"])
def test_a_side_is_recognised_wherever_it_stands(name: str):
    structure = describe_structure(name, 1)
    assert structure.name == name
    assert structure.terminology == ("64033007", "Kidney")
    assert structure.modifier == ("7771000", "Left")
    assert readable_name(name) == "left kidney"


def test_a_code_of_the_psoas_that_is_another_concept_is_not_taken():
    """64038003, in a public list for the psoas major, is the intercostal lymph node in SNOMED CT and DICOM."""
    assert all(anatomy.terminology is None or anatomy.terminology[0] != "64038003" for anatomy in CATALOGUE)


def test_the_left_ventricle_has_a_side_in_its_concept():
    structure = describe_structure("left ventricle", 1)
    assert structure.terminology == ("87878005", "Left ventricle")
    assert structure.modifier is None


def test_parts_of_the_hippocampus():
    anterior, posterior = describe_structure("anterior hippocampus", 1), describe_structure("posterior hippocampus", 2)
    assert anterior.terminology == posterior.terminology == ("5366008", "Hippocampus")
    assert anterior.modifier == ("255549009", "Anterior") and posterior.modifier == ("255551008", "Posterior")
    assert anterior.color != posterior.color


def test_the_two_sides_have_different_colours():
    left, right = describe_structure("left parotid gland", 1), describe_structure("right parotid gland", 2)
    assert right.color == (70, 163, 117), "Slicer's colour of salivary glands"
    assert left.color == (132, 194, 163), "a third of the way to white"


def test_an_unknown_structure_gets_a_colour_and_no_code():
    structure = describe_structure("GTVp", 4)
    assert structure.name == "GTVp" and structure.terminology is None and structure.modifier is None
    assert structure.color == default_color(4)
    assert readable_name("GTVp") == "GTVp"
    assert readable_name(" pancreas_tail ") == "pancreas_tail"
    assert readable_name("LeftFemur") == "left femur", "so that the side is seen when left and right change places"


def test_no_two_entries_share_a_word_or_a_code():
    words = [structure_key(word) for anatomy in CATALOGUE for word in (anatomy.name, *anatomy.synonyms)]
    assert len(words) == len(set(words))
    codes = [anatomy.terminology[0] for anatomy in CATALOGUE if anatomy.terminology is not None]
    assert len(codes) == len(set(codes)) and all(code.isdecimal() for code in codes)
    assert all(verhoeff_is_zero(code) for code in codes), "the last digit of a SNOMED CT code checks the others"


def verhoeff_is_zero(code: str) -> bool:
    """Tell whether a SNOMED CT identifier has a correct Verhoeff check digit."""
    rotations = ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 5, 7, 6, 2, 8, 3, 0, 9, 4))
    permutations = [rotations[0], rotations[1]]
    for _ in range(6):
        permutations.append(tuple(rotations[1][digit] for digit in permutations[-1]))
    check = 0
    for place, digit in enumerate(reversed(code)):
        check = dihedral(check, permutations[place % 8][int(digit)])
    return check == 0


def dihedral(first: int, second: int) -> int:
    """Multiply in the dihedral group of order 10."""
    if first < 5:
        return (first + second) % 5 if second < 5 else 5 + (first + second - 5) % 5
    return 5 + (first - 5 - second) % 5 if second < 5 else (first - second) % 5


def test_the_check_digit_test_can_fail():
    assert verhoeff_is_zero("91609006") and not verhoeff_is_zero("91609005") and not verhoeff_is_zero("96109006")
