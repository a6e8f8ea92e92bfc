"""Groups of structures (organs, vertebrae, ribs ...) and a search, for models with many structures.

Both go by words in a structure's name and in the meaning of its SNOMED CT code, so that they work for any model whose
names are anatomical terms: 'kidney_left' and 'left kidney' alike.

>>> groups = groups_of_set(label_set)
>>> groups["ribs"]
('left rib 1', 'left rib 2')
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from TransferSegLib.errors import TransferSegError
from TransferSegLib.structures import LabelSet, Structure, structure_key
from TransferSegLib.wording import did_you_mean

#: The groups, in the order in which they are offered.
GROUPS = ("organs", "vertebrae", "ribs", "muscles", "bones", "vessels", "heart", "brain")
#: The word for all structures of a model, where the name of a group may stand.
ALL = "all"


def _words(*patterns: str) -> re.Pattern[str]:
    """Return a pattern that finds any of these as whole words."""
    return re.compile(rf"\b(?:{'|'.join(patterns)})\b")


#: What is no anatomy, whatever it lies in: 'kidney cyst' is no organ.
_FINDINGS = _words(
    *("cysts?", "tumou?rs?", "lesions?", "nodules?", "ha?emorrhages?", "effusions?", "infiltrates?", "aneurysms?"),
    *("implants?", "metastas[ie]s", "cancers?"),
)
_VERTEBRAE = re.compile(r"\bvertebra[el]?\b|^[ctls]\d{1,2}$")
_RIBS, _CARTILAGES = _words("ribs?"), _words("costal cartilages?")
_MUSCLES = _words(
    *("muscles?", "gluteus", "iliopsoas", "psoas", "autochthon", "quadriceps", "biceps", "triceps", "sartorius"),
    *("trapezius", "deltoid", "sternocleidomastoid", "masseter", "temporalis", "(?:lateral|medial) pterygoid"),
    *("digastric", "erector spinae", "transversospinalis", "(?:external|internal) oblique", "latissimus dorsi"),
    *("pectoralis", "quadratus lumborum", "rectus", "serratus", "coracobrachial(?:is)?", "infraspinatus"),
    *("supraspinatus", "subscapularis", "teres", "scalene", "platysma", "prevertebral", "(?:sterno|thyro) ?thyroid"),
    *("thyrohyoid", "pharyngeal constrictor", "levator", "thigh (?:medial|posterior) compartment"),
)
_VESSELS = _words(
    *("aort[ai]c?", "arter(?:y|ies)", "veins?", "vena", "cava", "vessels?", "venous"),
    *("(?:brachiocephalic|celiac|coeliac|pulmonary) trunk", "carotids?", "jugular"),
)
_BRAIN_VENTRICLES = re.compile(
    r"\b(third|fourth|lateral|3rd|4th) ventricles?\b|\bventricle (\w+ horn|body|trigone)\b|^ventricles?$"
)
_HEART = _words(
    *("heart", "cardiac", "myocardium", "atri(?:um|al)", "ventric(?:le|les|ular)", "coronary", "pericardium", "mitral"),
    *("tricuspid",),
)
_BRAIN = _words(
    *("brain", "brain ?stem", "cerebellum", "cerebrum", "cerebral", "hippocamp(?:us|i)", "thalamus", "hypothalamus"),
    *("caudate", "lentiform", "putamen", "pallidum", "amygdala", "insula", "insular", "corpus callosum", "midbrain"),
    *("(?:frontal|parietal|temporal|occipital) lobe", "(?:white|gr[ae]y) matter", "internal capsule", "pons"),
    *("septum pellucidum", "central sulcus", "subarachnoid space", "pituitary", "hypophysis"),
)
_BONES = _words(
    *("bones?", "skull", "cranium", "mandible", "maxilla", "jawbone", "sternum", "clavic(?:le|les|ula)", "scapula"),
    *("humerus", "radius", "ulna", "(?:meta)?carpals?", "femur", "patella", "tibia", "fibula", "(?:meta)?tarsals?"),
    *("phalanges", "hip", "pelvis", "sacrum", "coccyx", "ilium", "ischium", "pubis", "hyoid", "zygomatic arch"),
    *("styloid process",),
)
_ORGANS = _words(
    *("spleen", "kidneys?", "gall ?bladder", "liver", "stomach", "pancreas", "adrenal", "lungs?", "o?esophagus"),
    *("trachea", "bronch(?:us|i|ia)", "thyroid(?! cartilage)", "thymus", "bowel", "intestine", "duodenum", "jejunum"),
    *("ileum", "colon", "rectum", "bladder", "prostate", "seminal vesicles?", "uterus", "ovar(?:y|ies)", "testis"),
    *("breasts?", "eyes?", "eyeball", "parotid", "submandibular", "glands?", "larynx", "pharynx", "\\w+pharynx"),
    *("tongue", "heart", "spinal ?cord"),
)


def groups_of(structure: Structure) -> tuple[str, ...]:
    """Return the groups that a structure belongs to, in the order of ``GROUPS``; none for what is not recognised."""
    texts = _texts(structure)
    if _found(_FINDINGS, texts):
        return ()
    groups = set()
    if _found(_MUSCLES, texts):
        return ("muscles",)
    if _found(_VESSELS, texts):
        groups.add("vessels")
    if _found(_BRAIN, texts) or _found(_BRAIN_VENTRICLES, texts):
        groups.add("brain")
    elif _found(_HEART, texts):
        groups.add("heart")
    if not groups & {"vessels"}:
        groups.update(_of_the_skeleton(texts))
        if not groups & {"bones"} and (_found(_ORGANS, texts) or "brain" in texts):
            groups.add("organs")
    return tuple(group for group in GROUPS if group in groups)


def groups_of_set(label_set: LabelSet) -> dict[str, tuple[str, ...]]:
    """Return the names of the structures in each group that a label set has, in the label set's order."""
    members: dict[str, list[str]] = {group: [] for group in GROUPS}
    for structure in label_set:
        for group in groups_of(structure):
            members[group].append(structure.name)
    return {group: tuple(names) for group, names in members.items() if names}


def matches(structure: Structure, search: str) -> bool:
    """Tell whether each word of a search occurs in a structure's name or code: 'kid left' finds 'left kidney'."""
    text = " ".join(_texts(structure))
    return all(word in text for word in structure_key(search).split())


def named_structures(label_set: LabelSet, wanted: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the structures meant, in the label set's order: each word is a name, a group, or 'all'.

    A structure's own name counts before a group's. Raises TransferSegError for a word that is neither.
    """
    groups, chosen = groups_of_set(label_set), set()
    for word in wanted:
        key = structure_key(word)
        if label_set.find(word) is not None:
            chosen.add(key)
        elif key == ALL:
            chosen.update(map(structure_key, label_set.names))
        elif key in groups:
            chosen.update(map(structure_key, groups[key]))
        else:
            known = f"; groups: {', '.join(groups)}" if groups else ""
            raise TransferSegError(
                f"There is no structure '{word}' here. Known are: {', '.join(label_set.names)}{known}."
                f"{did_you_mean(word, [*label_set.names, *groups])}"
            )
    return tuple(structure.name for structure in label_set if structure.key in chosen)


def _of_the_skeleton(texts: tuple[str, ...]) -> Iterator[str]:
    """Yield which groups of bones a structure is in; cartilages of ribs are with the ribs and are no bones."""
    if _found(_CARTILAGES, texts):
        yield "ribs"
        return
    for group, pattern in (("vertebrae", _VERTEBRAE), ("ribs", _RIBS)):
        if _found(pattern, texts):
            yield from (group, "bones")
            return
    if _found(_BONES, texts):
        yield "bones"


def _texts(structure: Structure) -> tuple[str, ...]:
    """Return what a structure is called, in lower case: its name, and what its code means."""
    meaning = structure.terminology[1].lower() if structure.terminology is not None else ""
    return (structure.key, meaning) if meaning else (structure.key,)


def _found(pattern: re.Pattern[str], texts: tuple[str, ...]) -> bool:
    return any(pattern.search(text) for text in texts)
