"""Where the names of label values come from: a JSON file, nnU-Net's ``dataset.json``, or Slicer's segmentations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from TransferSegLib.anatomy import describe_structure, readable_name
from TransferSegLib.errors import DatasetError, TransferSegError
from TransferSegLib.images.formats.segments import is_segmentation
from TransferSegLib.images.formats.slicer_segmentation import read_segmentation_names
from TransferSegLib.json_fields import read_json
from TransferSegLib.structures import LabelSet, structure_key

_BACKGROUND = "background"
#: nnU-Net's name for the value of voxels about which nothing is said.
_IGNORE = "ignore"
_SHAPES = '{"1": "spleen"}, {"spleen": 1}, or the dataset.json of nnU-Net'


def read_label_set(source: Path, keep_names: bool = False) -> LabelSet:
    """Read a label set from a JSON file; raises DatasetError when it is none of the known shapes.

    Known are {"1": "spleen"}, {"spleen": 1}, either under the key "labels" (nnU-Net), and the structures of a
    ``dataset.json`` of this project, taken as they are. nnU-Net's label "ignore" is refused.
    """
    label_set, ignored = read_label_set_and_ignored(source, keep_names)
    if ignored is not None:
        raise DatasetError(f"{source}: {ignored_problem(ignored)}")
    return label_set


def read_label_set_and_ignored(source: Path, keep_names: bool = False) -> tuple[LabelSet, int | None]:
    """Read a label set as ``read_label_set`` does, without nnU-Net's label "ignore", whose value is returned beside it.

    None when there is no such label.
    """
    content = read_json(source, DatasetError)
    try:
        if isinstance(content, dict) and isinstance(content.get("structures"), list):
            return LabelSet.from_json(content["structures"]), None
        if isinstance(content, dict) and isinstance(content.get("labels"), dict):
            content = content["labels"]
        return split_ignored(_names_by_value(content), keep_names)
    except TransferSegError as error:
        raise DatasetError(f"{source} does not name structures as {_SHAPES}: {error}") from error


def ignored_problem(value: int) -> str:
    """Return what is said of a label map with nnU-Net's label "ignore" where it cannot be used."""
    return (
        f"the label '{_IGNORE}' ({value}) is no structure: nnU-Net marks with it the voxels of which nothing is known. "
        "`transferseg dataset make --copy` makes of them the part of a case that is not annotated. Else leave the name "
        "out, set these voxels to 0, and give a mask of the annotated region (0 there, 1 elsewhere) as 'judged'."
    )


def ignored_value(names: Mapping[int, str]) -> int | None:
    """Return the value of nnU-Net's label "ignore" among names by label value, None when there is none."""
    return next((value for value, name in names.items() if value > 0 and structure_key(name) == _IGNORE), None)


def split_ignored(names: Mapping[int, str], keep_names: bool = False) -> tuple[LabelSet, int | None]:
    """Return the label set of names by label value without nnU-Net's label "ignore", and its value (None: none)."""
    ignored = ignored_value(names)
    return label_set_of({value: name for value, name in names.items() if value != ignored}, keep_names), ignored


def label_set_of(names: Mapping[int, str], keep_names: bool = False) -> LabelSet:
    """Return the label set of names by label value, ordered by value, the background left out.

    Names that the catalogue of anatomy knows by another word are given its word, so that data sets from different
    places agree; ``keep_names`` keeps them. Raises DatasetError for no names, repeated names, values below 1, and
    nnU-Net's label "ignore".
    """
    if (ignored := ignored_value(names)) is not None:
        raise DatasetError(f"The structures cannot be used: {ignored_problem(ignored)}")
    kept = {
        value: name.strip()
        for value, name in sorted(names.items())
        if not (value == 0 and structure_key(name) in (_BACKGROUND, "", "unlabeled", "clear label"))
    }
    readable = kept if keep_names else {value: readable_name(name) for value, name in kept.items()}
    if len({structure_key(name) for name in readable.values()}) < len(readable):
        readable = kept
    problems = [f"the label value {value} of '{name}' is below 1" for value, name in kept.items() if value < 1]
    problems += [f"the label value {value} has no name" for value, name in kept.items() if not name]
    if problems:
        raise DatasetError("; ".join(problems) + ".")
    try:
        return LabelSet(tuple(describe_structure(name, value) for value, name in readable.items()))
    except TransferSegError as error:
        raise DatasetError(str(error)) from error


def segment_names(label_maps: Iterable[Path]) -> dict[Path, dict[int, str]]:
    """Return the names by label value of every segmentation of 3D Slicer that names its segments; raises ScanError."""
    found = {path: read_segmentation_names(path) for path in label_maps if is_segmentation(path)}
    return {path: names for path, names in found.items() if names}


def joined_segment_names(names_by_file: Mapping[Path, Mapping[int, str]], keep_names: bool = False) -> LabelSet:
    """Return one label set for all named segments of some files.

    The label values of the files are kept where they agree; where one name has several values, or one value several
    names, all structures are numbered anew in the order they were met.
    """
    names: dict[str, str] = {}
    values: dict[str, set[int]] = {}
    for entries in names_by_file.values():
        for value, name in sorted(entries.items()):
            key = segment_key(name, keep_names)
            names.setdefault(key, name)
            values.setdefault(key, set()).add(value)
    every_value = [value for found in values.values() for value in found]
    if len(every_value) == len(names) == len(set(every_value)):
        return label_set_of({min(values[key]): name for key, name in names.items()}, keep_names)
    return label_set_of(dict(enumerate(names.values(), start=1)), keep_names)


def segment_key(name: str, keep_names: bool = False) -> str:
    """Return the form of a segment's name under which files are compared."""
    return structure_key(name if keep_names else readable_name(name))


def _names_by_value(content: Any) -> dict[int, str]:
    """Return the names by label value of {"1": "spleen"} or {"spleen": 1}; raises DatasetError."""
    if not isinstance(content, dict) or not content:
        raise DatasetError("it is not an object with names and label values.")
    names: dict[int, str] = {}
    for key, value in content.items():
        if isinstance(value, list):
            raise DatasetError(f"'{key}' stands for several label values (an nnU-Net region): give each its own name.")
        if isinstance(value, str) and _whole(key) is not None:
            number, name = int(key), value
        elif not isinstance(value, bool) and _whole(value) is not None:
            number, name = int(value), key
        else:
            raise DatasetError(
                f"'{key}': {value!r} is neither a label value with a name nor a name with a label value."
            )
        if number in names:
            raise DatasetError(f"the label value {number} has two names, '{names[number]}' and '{name}'.")
        names[number] = name
    return names


def _whole(value: Any) -> int | None:
    """Return a whole number given as a number or as text, None for anything else."""
    try:
        return int(value) if isinstance(value, (int, str)) else None
    except ValueError:
        return None
