"""Making a dataset from folders of images and label maps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from TransferSegLib.datasets.annotated_table import read_annotated_table
from TransferSegLib.datasets.copying import copy_annotated_part, copy_image, copy_label_map
from TransferSegLib.datasets.dataset import FILE_NAME, Case, Dataset, write_dataset
from TransferSegLib.datasets.pairing import Pair, pair_files
from TransferSegLib.datasets.structure_names import (
    ignored_problem,
    ignored_value,
    joined_segment_names,
    read_label_set_and_ignored,
    segment_key,
    segment_names,
    split_ignored,
)
from TransferSegLib.errors import DatasetError, ScanError
from TransferSegLib.images.formats.slicer_segmentation import has_layers
from TransferSegLib.images.label_values import count_values
from TransferSegLib.images.notices import notices_of
from TransferSegLib.images.read import read_label_map
from TransferSegLib.own_files import refuse_links
from TransferSegLib.paths import as_path
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet
from TransferSegLib.wording import listed

_PROBLEMS_SHOWN = 20


@dataclass(frozen=True)
class FolderSource:
    """Where images and label maps lie, and how to understand them.

    ``structures``: a JSON file (see ``structure_names``), names by label value, or None to take the names in the
    headers of .seg.nrrd files, else a ``labels.json`` or ``dataset.json`` beside the label maps.
    ``annotated``: 'present' (the structures with voxels in a case: sparse labels), 'all' (every structure in every
    case), or a CSV table (see ``annotated_table``). ``image_pattern``, ``label_pattern``: see ``pairing``.
    ``group_pattern``: a regular expression found in the case id; its first bracket, else all it matches, is the
    patient. ``keep_names``: do not replace names by those of the catalogue of anatomy. ``overlap_priority``: the
    segments that win where segments of a .seg.nrrd file overlap, the first before the others (default: the later one in
    the file); such files must be copied then.
    """

    images: Path
    labels: Path
    structures: Path | Mapping[int, str] | None = None
    annotated: Literal["present", "all"] | Path = "present"
    image_pattern: str | None = None
    label_pattern: str | None = None
    group_pattern: str | None = None
    keep_names: bool = False
    overlap_priority: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Take paths as text, too; raises DatasetError for what is none."""
        for name in ("images", "labels"):
            object.__setattr__(self, name, as_path(getattr(self, name), f"The folder of {name}", DatasetError))
        if isinstance(self.structures, str):
            object.__setattr__(self, "structures", Path(self.structures))


@dataclass(frozen=True)
class DatasetFacts:
    """What a person should know of a dataset; an empty name becomes that of the folder."""

    name: str = ""
    description: str = ""
    license: str = ""
    modality: str = ""


@dataclass(frozen=True)
class Made:
    """A new dataset, and lines for a person about what was left out or renamed."""

    dataset: Dataset
    notes: tuple[str, ...]


def dataset_from_folders(
    source: FolderSource,
    output: Path | str,
    facts: DatasetFacts | None = None,
    *,
    copy: bool = False,
    replace: bool = False,
    task: Task | None = None,
) -> Made:
    """Write ``dataset.json`` into ``output`` for the images that have a label map, and return the dataset.

    The dataset points at the files where they are; with ``copy`` they are copied into ``output`` (and label maps of
    .seg.nrrd files that number their segments differently are given one numbering, and voxels with nnU-Net's label
    "ignore" become the part that is not annotated; a case that is wholly "ignore" is left out). Images are read only
    to be copied, label maps also to find what is 'present'. Raises DatasetError that names everything found wrong at
    once, also when ``output`` holds a ``dataset.json`` already and ``replace`` is not set. Raises Cancelled: files that
    are copied stay then, and there is no ``dataset.json``.
    """
    output = as_path(output, "The folder of the dataset", DatasetError)
    facts = facts or DatasetFacts()
    reading, copying = (task or Task()).split(1, 2 if copy else 0)
    output = output.resolve()
    if (output / FILE_NAME).exists() and not replace:
        raise DatasetError(f"{output} already holds a {FILE_NAME}. Choose another folder, or ask to replace it.")
    pairing = pair_files(source.images.resolve(), source.labels.resolve(), source.image_pattern, source.label_pattern)
    notes = [f"left out, no label map: {path}" for path in pairing.images_without_labels]
    named_segments = _segment_names(pairing.pairs)
    label_set, ignored = _label_set(source, named_segments)
    if ignored is not None and not copy:
        raise DatasetError(f"The label maps in {source.labels} cannot stay as they are: {ignored_problem(ignored)}")
    numberings = _numberings(pairing.pairs, named_segments, label_set, source, copy)
    groups = _groups(pairing.pairs, source.group_pattern)
    annotated = _annotated(source, pairing.pairs, label_set, numberings, ignored, notes, reading)
    files: dict[str, tuple[Path, Path]] = {pair.id: (pair.image, pair.labels) for pair in pairing.pairs}
    judged: dict[str, Path] = {}
    if copy:
        folders = [output / name for name in ("images", "labels", "judged")]
        refuse_links(output, *folders, error_type=DatasetError)
        for pair, part in copying.named("Copying").each(pairing.pairs, lambda pair: pair.id):
            if ignored is None or pair.labels in numberings:
                files[pair.id] = _copied(pair, source, output, numberings, label_set, replace, notes, part)
                continue
            of_labels, of_image = part.split(1, 3)  # the image only of a case of which something is known
            known = copy_annotated_part(pair.labels, output, pair.id, ignored, label_set, replace, of_labels)
            if known is None:
                del files[pair.id]
                notes.append(f"left out, all of its label map is 'ignore': {pair.id}")
                continue
            labels, mask = known
            files[pair.id] = copy_image(pair.image, output / "images", pair.id, replace, notes, of_image), labels
            if mask is not None:
                judged[pair.id] = mask
                notes.append(f"{pair.id}: what nothing is known of ('ignore') is the part that is not annotated")
    if pairing.pairs and not files:
        raise DatasetError(
            f"Nothing is known of any case: the label maps in {source.labels} hold nothing but 'ignore'. Annotate a "
            "part of a case first."
        )
    dataset = Dataset(
        folder=output,
        name=facts.name or output.name,
        description=facts.description,
        license=facts.license,
        modality=facts.modality,
        label_set=label_set,
        cases=tuple(Case(id, *files[id], annotated[id], judged.get(id), groups[id]) for id in files),
    )
    write_dataset(dataset, output)
    return Made(dataset, tuple(notes))


def _copied(
    pair: Pair,
    source: FolderSource,
    output: Path,
    numberings: Mapping[Path, dict[int, int]],
    label_set: LabelSet,
    replace: bool,
    notes: list[str],
    task: Task,
) -> tuple[Path, Path]:
    """Copy the image and the label map of a case of which everything is known, and return the copies."""
    of_image, of_labels = task.split(3, 1)
    image = copy_image(pair.image, output / "images", pair.id, replace, notes, of_image)
    numbering, first = numberings.get(pair.labels), source.overlap_priority
    return image, copy_label_map(
        pair.labels, output / "labels", pair.id, numbering, label_set, replace, first, of_labels
    )


def _raise_all(headline: str, problems: list[str]) -> None:
    """Raise DatasetError with the problems, when there are any."""
    if problems:
        raise DatasetError(listed(headline, problems, _PROBLEMS_SHOWN))


def _segment_names(pairs: tuple[Pair, ...]) -> dict[Path, dict[int, str]]:
    """Return the segment names of the .seg.nrrd files among the label maps; raises DatasetError with all bad files."""
    found: dict[Path, dict[int, str]] = {}
    problems = []
    for pair in pairs:
        try:
            names = segment_names([pair.labels])
            found |= names
            problems += [
                f"{path}: {ignored_problem(value)}"
                for path, here in names.items()
                if (value := ignored_value(here)) is not None
            ]
        except ScanError as error:
            problems.append(str(error))
    _raise_all("Some label maps cannot be read:", problems)
    return found


def _label_set(source: FolderSource, named_segments: Mapping[Path, Mapping[int, str]]) -> tuple[LabelSet, int | None]:
    """Return the structures, from wherever their names are, and the value of nnU-Net's label "ignore" (None: none).

    Raises DatasetError when the names are nowhere.
    """
    if isinstance(source.structures, Path):
        return read_label_set_and_ignored(source.structures, source.keep_names)
    if source.structures is not None:
        return split_ignored(source.structures, source.keep_names)
    if named_segments:
        return joined_segment_names(named_segments, source.keep_names), None
    for folder in (source.labels, source.labels.resolve().parent):
        for name in ("labels.json", FILE_NAME):
            if (folder / name).is_file():
                return read_label_set_and_ignored(folder / name, source.keep_names)
    raise DatasetError(
        f"The label maps in {source.labels} do not say which structure a value stands for. "
        'Name the structures in a JSON file such as {"1": "spleen", "2": "left kidney"}.'
    )


def _numberings(
    pairs: tuple[Pair, ...],
    named_segments: Mapping[Path, Mapping[int, str]],
    label_set: LabelSet,
    source: FolderSource,
    copy: bool,
) -> dict[Path, dict[int, int]]:
    """Return, per file that numbers its named segments unlike the label set, the new value of each of its values.

    Segments that are no structure of the label set become background. Files with layers are among them when overlaps
    are not decided as usual. Raises DatasetError when there are such files and they are not to be copied, because then
    they stay as they are.
    """
    numberings = {}
    problems = []
    keep_names = source.keep_names
    layered = [path for path in named_segments if source.overlap_priority and has_layers(path)]
    if layered and not copy:
        raise DatasetError(
            f"{layered[0]} has segments in layers: which of them wins an overlap can only be chosen for files that are "
            "copied (option --copy)."
        )
    for pair in pairs:
        names = named_segments.get(pair.labels, {})
        found = {value: label_set.find(segment_key(name, keep_names)) for value, name in names.items()}
        numbering = {value: 0 if structure is None else structure.label for value, structure in found.items()}
        if pair.labels in layered:
            numberings[pair.labels] = numbering
        elif any(value != label for value, label in numbering.items()):
            numberings[pair.labels] = numbering
            problems.append(f"{pair.labels}: " + ", ".join(f"{value} is '{name}'" for value, name in names.items()))
    if not copy:
        numbers = ", ".join(f"{structure.label} is '{structure.name}'" for structure in label_set)
        _raise_all(
            f"The structures of the dataset are numbered {numbers}, but some files number their segments otherwise. "
            "Copy the files (option --copy), then the copies are numbered alike:",
            problems,
        )
    return numberings


def _groups(pairs: tuple[Pair, ...], pattern: str | None) -> dict[str, str]:
    """Return the group of every case id; raises DatasetError when the pattern is wrong or does not fit an id."""
    if pattern is None:
        return {pair.id: pair.id for pair in pairs}
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DatasetError(f"The group pattern '{pattern}' is not a regular expression: {error}.") from error
    groups = {}
    problems = []
    for pair in pairs:
        match = expression.search(pair.id)
        group = "" if match is None else (match.group(1) if expression.groups else match.group(0)) or ""
        groups[pair.id] = group
        if not group:
            problems.append(pair.id)
    _raise_all(f"The group pattern '{pattern}' finds no patient in these case ids:", problems)
    return groups


def _annotated(
    source: FolderSource,
    pairs: tuple[Pair, ...],
    label_set: LabelSet,
    numberings: Mapping[Path, Mapping[int, int]],
    ignored: int | None,
    notes: list[str],
    task: Task,
) -> dict[str, tuple[str, ...]]:
    """Return the annotated structures by case id, as ``source.annotated`` says; raises DatasetError."""
    if source.annotated == "all":
        return {pair.id: label_set.names for pair in pairs}
    if source.annotated == "present":
        return _present(pairs, label_set, numberings, source, ignored, notes, task)
    table = read_annotated_table(Path(source.annotated), label_set)
    missing = [pair.id for pair in pairs if pair.id not in table]
    _raise_all(f"{source.annotated} has no row for these cases:", missing)
    found = {pair.id for pair in pairs}
    notes += [f"left out, no image and label map: {id}" for id in table if id not in found]
    return {pair.id: table[pair.id] for pair in pairs}


def _present(
    pairs: tuple[Pair, ...],
    label_set: LabelSet,
    numberings: Mapping[Path, Mapping[int, int]],
    source: FolderSource,
    ignored: int | None,
    notes: list[str],
    task: Task,
) -> dict[str, tuple[str, ...]]:
    """Return the structures with voxels by case id; raises DatasetError for unreadable files and nameless values."""
    task = task.named("Reading label maps")
    present: dict[str, tuple[str, ...]] = {}
    problems = []
    for pair, part in task.each(pairs, lambda pair: pair.id):
        try:
            reading, looking = part.split(3, 1)
            label_map = read_label_map(pair.labels, first=source.overlap_priority, task=reading)
            notes += notices_of(label_map)
            values = looking.wait(partial(count_values, label_map))
            numbering = numberings.get(pair.labels, {})
            labels = {numbering.get(value, value) for value in values}
            nameless = sorted(labels - {*label_set.label_values, ignored})
            if nameless:
                problems.append(f"{pair.labels}: no structure has the label value {', '.join(map(str, nameless))}")
            present[pair.id] = tuple(structure.name for structure in label_set if structure.label in labels)
        except ScanError as error:
            problems.append(str(error))
    _raise_all("Some label maps cannot be used:", problems)
    return present
