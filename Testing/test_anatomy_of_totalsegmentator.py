"""The names of TotalSegmentator's structures: each becomes a readable name with its side, a colour and a code."""

from __future__ import annotations

import json
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from TransferSegLib.anatomy import describe_structure, readable_name
from TransferSegLib.structures import LabelSet, Structure, structure_key, swap_side

TASKS: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "Data" / "totalsegmentator" / "class_names.json").read_text(encoding="utf-8")
)
#: What lies in the body only once, or is not the same on both sides, though its name has a side.
WITHOUT_PARTNER = {"left atrial appendage", "right middle lobe of lung", "right coronary cusp", "left coronary cusp"}


def structures(task: str) -> list[Structure]:
    """Return the structures as the importer makes them."""
    names = [readable_name(name.replace("_", " ")) for name in TASKS[task]]
    return list(LabelSet(tuple(describe_structure(name, label) for label, name in enumerate(names, start=1))))


def distance(one: Structure, other: Structure) -> float:
    return sum((a - b) ** 2 for a, b in zip(one.color, other.color, strict=True)) ** 0.5


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_distinct_readable_names(task: str) -> None:
    found = structures(task)  # LabelSet refuses names that repeat
    assert len(found) == len(TASKS[task])
    for name, structure in zip(TASKS[task], found, strict=True):
        assert "_" not in structure.name and readable_name(structure.name) == structure.name
        given, readable = structure_key(name).split(), structure.key.split()
        for side in ("left", "right"):
            assert (side in given) == (side in readable), name


@pytest.mark.parametrize("task", TASKS)
def test_left_and_right_are_partners(task: str) -> None:
    found = {structure.key: structure for structure in structures(task)}
    for key, structure in found.items():
        partner = found.get(swap_side(key))
        if swap_side(key) == key or key in WITHOUT_PARTNER or "medial rectus" in key:
            continue
        if task in ("aortic_sinuses", "pulmonary_artery_landmarks"):
            continue
        assert partner is not None, key
        assert partner.color != structure.color
        if structure.modifier is not None and partner.modifier is not None:
            assert structure.terminology == partner.terminology and structure.modifier != partner.modifier


def test_names_that_clinicians_know() -> None:
    expected = {
        "kidney_left": "left kidney",
        "lung_upper_lobe_right": "right upper lobe of lung",
        "lung_middle_lobe_right": "right middle lobe of lung",
        "vertebrae_L1": "vertebra L1",
        "vertebrae_S1": "vertebra S1",
        "rib_left_10": "left rib 10",
        "esophagus": "oesophagus",
        "urinary_bladder": "bladder",
        "iliac_vena_right": "right iliac vein",
        "clavicula_left": "left clavicle",
        "autochthon_left": "left deep muscles of back",
        "hip_right": "right hip bone",
        "atrial_appendage_left": "left atrial appendage",
        "portal_vein_and_splenic_vein": "portal vein and splenic vein",
        "ventricle_temporal_horn_left": "left inferior horn of lateral ventricle",
        "upper_right_central_incisor_fdi11": "upper right central incisor",
        "lower_left_canine_pulp_fdi133": "pulp of lower left canine",
        "body_trunc": "trunk",
    }
    assert {name: readable_name(name) for name in expected} == expected


@pytest.mark.parametrize(("task", "coded"), [("total", 107), ("total_v3", 106), ("total_mr", 41), ("teeth", 37)])
def test_share_of_structures_with_a_code(task: str, coded: int) -> None:
    assert sum(structure.terminology is not None for structure in structures(task)) == coded


@pytest.mark.parametrize(
    ("name", "code", "side"),
    [
        ("rib_left_1", "48535007", "7771000"),
        ("rib_right_12", "43993008", "24028007"),
        ("vertebrae_C1", "14806007", None),
        ("vertebrae_T12", "23215003", None),
        ("lung_middle_lobe_right", "72481006", None),
        ("lung_lower_lobe_left", "90572001", "7771000"),
        ("heart_ventricle_right", "53085002", None),
        ("gluteus_medius_left", "78333006", "7771000"),
        ("upper_left_first_molar_fdi26", "23427002", None),
        ("liver_segment_8", "277962002", None),
    ],
)
def test_codes(name: str, code: str, side: str | None) -> None:
    structure = describe_structure(readable_name(name), 1)
    assert structure.terminology is not None and structure.terminology[0] == code
    assert (structure.modifier and structure.modifier[0]) == side


@pytest.mark.parametrize(
    ("name", "another"),
    [
        ("subclavian_artery_left", "29700009"),  # the right subclavian artery
        ("upper_left_canine_fdi23", "17505006"),  # a deciduous first molar
        ("teeth_lower", "38199008"),  # a tooth of any jaw
        ("psoas_major_left", "64038003"),  # the intercostal lymph node
    ],
)
def test_codes_that_mean_something_else_are_not_taken_over(name: str, another: str) -> None:
    """These are in TotalSegmentator's own table; DICOM PS3.16 gives what they mean."""
    structure = describe_structure(readable_name(name), 1)
    assert structure.terminology is None or structure.terminology[0] != another


@pytest.mark.parametrize("task", TASKS)
def test_colours_are_distinct(task: str) -> None:
    for one, other in combinations(structures(task), 2):
        assert distance(one, other) >= 5, (one, other)


def test_neighbours_in_a_row_are_easily_told_apart() -> None:
    found = structures("total")
    vertebrae = [structure for structure in found if structure.name.startswith("vertebra ")]
    ribs = [structure for structure in found if structure.name.startswith("left rib")]
    assert len(vertebrae) == 25 and len(ribs) == 12
    for row in (vertebrae, ribs):
        assert all(distance(one, other) > 25 for one, other in pairwise(row))
