"""What a model or a combination of models segments, and the models that do it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from TransferSegLib.anatomy import describe_structure
from TransferSegLib.errors import ModelError
from TransferSegLib.models.combination import Combination, is_combination, load_combination
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_description
from TransferSegLib.models.versions.state import version_name
from TransferSegLib.structures import LabelSet


@dataclass(frozen=True)
class Part:
    """A model that segments: where it is, and what it says of itself."""

    path: Path
    description: ModelDescription


@dataclass(frozen=True)
class Described:
    """What a model or a combination says of itself; a combination's ``version`` has those of its parts: '0+2+0'."""

    name: str
    version: str
    modality: str
    label_set: LabelSet
    parts: tuple[Part, ...]


def described(path: Path) -> Described:
    """Return what the panel and the console tell of a model or a combination; raises as ``parts_of`` does."""
    label_set, parts = parts_of(path)
    version = "+".join(version_name(part.path, part.description.version) for part in parts)
    if is_combination(path):
        combination = load_combination(path)
        return Described(combination.name, version, combination.modality, label_set, parts)
    (model,) = parts
    return Described(model.description.name, version, model.description.modality, label_set, parts)


def parts_of(path: Path) -> tuple[LabelSet, tuple[Part, ...]]:
    """Return what a model or a combination segments, and its models in their order.

    The labels of a combination count its structures from 1 on; what fine-tuning has added to a part comes after them.
    Raises ModelError naming a part that is missing, damaged, or takes several images.
    """
    if not is_combination(path):
        description = load_description(path)
        return description.label_set, (Part(path, description),)
    combination = load_combination(path)
    parts = tuple(_part(name, combination, path.parent) for name in combination.parts)
    structures = [describe_structure(name, label) for label, name in enumerate(combination.structures, start=1)]
    known = {structure.key: number for number, structure in enumerate(structures)}
    for part in parts:
        for structure in part.description.label_set:
            number = known.setdefault(structure.key, len(structures))
            if number == len(structures):
                structures.append(replace(structure, label=number + 1))
            structures[number] = replace(structure, label=number + 1)
    return LabelSet(tuple(structures)), parts


def _part(name: str, combination: Combination, library: Path) -> Part:
    """Return a part of a combination that lies in a library."""
    try:
        path = find_model(name, library)
        if is_combination(path):
            raise ModelError(f"'{name}' is a combination itself.")
        part = Part(path, load_description(path))
        part.description.check_one_image("A combination")
        part.description.check_single_structures("A combination")
    except ModelError as error:
        raise ModelError(f"A part of '{combination.name}' cannot be used. {error}") from error
    return part
