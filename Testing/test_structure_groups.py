"""Groups of structures and the search, on the 117 names of TotalSegmentator and on names as people write them."""

from __future__ import annotations

import pytest

from TransferSegLib.anatomy import describe_structure
from TransferSegLib.errors import TransferSegError
from TransferSegLib.structure_groups import GROUPS, groups_of, groups_of_set, matches, named_structures
from TransferSegLib.structures import LabelSet, Structure

#: The names of TotalSegmentator's task "total", in groups as a reader of anatomy would make them.
VERTEBRAE = ["S1", *(f"L{n}" for n in range(1, 6)), *(f"T{n}" for n in range(1, 13)), *(f"C{n}" for n in range(1, 8))]
PAIRED_BONES = ["humerus", "scapula", "clavicula", "femur", "hip"]
PAIRED_MUSCLES = ["gluteus_maximus", "gluteus_medius", "gluteus_minimus", "autochthon", "iliopsoas"]
PAIRED_VESSELS = ["subclavian_artery", "common_carotid_artery", "brachiocephalic_vein", "iliac_artery", "iliac_vena"]
EXPECTED = {
    "organs": [
        *("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas"),
        *("adrenal_gland_right", "adrenal_gland_left", "lung_upper_lobe_left", "lung_lower_lobe_left"),
        *("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right", "esophagus", "trachea"),
        *("thyroid_gland", "small_bowel", "duodenum", "colon", "urinary_bladder", "prostate"),
        *("heart", "brain", "spinal_cord"),
    ],
    "vertebrae": [f"vertebrae_{each}" for each in VERTEBRAE],
    "ribs": [*(f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13)), "costal_cartilages"],
    "muscles": [f"{each}_{side}" for each in PAIRED_MUSCLES for side in ("left", "right")],
    "bones": ["sacrum", "skull", "sternum", *(f"{each}_{side}" for each in PAIRED_BONES for side in ("left", "right"))],
    "vessels": [
        *("aorta", "pulmonary_vein", "brachiocephalic_trunk", "superior_vena_cava", "inferior_vena_cava"),
        *("portal_vein_and_splenic_vein", *(f"{each}_{side}" for each in PAIRED_VESSELS for side in ("left", "right"))),
    ],
    "heart": ["heart", "atrial_appendage_left"],
    "brain": ["brain"],
}
EXPECTED["bones"] += [*EXPECTED["vertebrae"], *EXPECTED["ribs"][:-1]]
UNGROUPED = ["kidney_cyst_left", "kidney_cyst_right"]


def label_set(names) -> LabelSet:
    return LabelSet(tuple(describe_structure(name, number) for number, name in enumerate(names, start=1)))


@pytest.fixture(scope="module")
def total() -> LabelSet:
    every = {name for names in EXPECTED.values() for name in names} | set(UNGROUPED)
    assert len(every) == 117
    return label_set(sorted(every))


def test_the_117_structures_of_totalsegmentator_fall_into_the_groups_an_anatomist_would_make(total: LabelSet):
    assert {group: sorted(names) for group, names in groups_of_set(total).items()} == {
        group: sorted(names) for group, names in EXPECTED.items()
    }
    assert [structure.name for structure in total if not groups_of(structure)] == UNGROUPED


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("left kidney", ("organs",)),
        ("L5", ("vertebrae", "bones")),
        ("Rib 3 left", ("ribs", "bones")),
        ("liver vessels", ("vessels",)),
        ("Liver tumour", ()),
        ("hip implant", ()),
        ("levator scapulae", ("muscles",)),
        ("sternocleidomastoid left", ("muscles",)),
        ("thyroid cartilage", ()),
        ("left ventricle", ("heart",)),
        ("third ventricle", ("brain",)),
        ("ventricles", ("brain",)),
        ("coronary arteries", ("vessels", "heart")),
        ("intervertebral discs", ()),
        ("prevertebral left", ("muscles",)),
        ("brainstem", ("brain",)),
        ("left parotid gland", ("organs",)),
        ("mandible", ("bones",)),
    ],
)
def test_single_structures_by_name(name: str, expected: tuple[str, ...]):
    assert groups_of(describe_structure(name, 1)) == expected


def test_the_meaning_of_a_code_tells_what_the_name_does_not():
    coded = Structure("OAR 7", 1, (0, 0, 0), ("64033007", "Kidney"))
    assert groups_of(coded) == ("organs",) and groups_of(Structure("OAR 7", 1, (0, 0, 0))) == ()
    assert matches(coded, "kidney") and not matches(coded, "liver")


def test_a_search_finds_names_by_the_parts_of_their_words(total: LabelSet):
    def found(search: str) -> list[str]:
        return [structure.name for structure in total if matches(structure, search)]

    assert found("kid left") == ["kidney_cyst_left", "kidney_left"]
    assert found("L5") == found("vertebrae_l5") == ["vertebrae_L5"]
    assert len(found("")) == len(found("  ")) == 117 and found("tooth") == []
    assert matches(describe_structure("oesophagus", 1), "esophagus"), "as its code calls it"


def test_names_and_groups_are_mixed_freely_and_come_in_the_models_order(total: LabelSet):
    chosen = named_structures(total, ["spleen", "Vertebrae", "kidney left"])
    assert chosen == tuple(s.name for s in total if s.name in {*EXPECTED["vertebrae"], "kidney_left", "spleen"})
    assert named_structures(total, ["all"]) == total.names
    assert named_structures(label_set(["heart", "left ventricle"]), ["heart"]) == ("heart",), "a name before a group"
    with pytest.raises(TransferSegError, match=r"no structure 'tooth' here.*groups: organs, vertebrae"):
        named_structures(total, ["tooth"])
    with pytest.raises(TransferSegError, match="no structure 'ribs' here"):
        named_structures(label_set(["liver"]), ["ribs"])


def test_every_group_is_offered_under_its_word():
    assert set(EXPECTED) == set(GROUPS)
