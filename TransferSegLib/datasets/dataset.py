"""The one dataset format: a folder with a ``dataset.json`` that lists scans, label maps and what is annotated in each.

The format is described in ``docs/dataset-format.md``. Reading checks the file's own structure only; whether the
images fit is the work of ``TransferSegLib.datasets.validate``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import DatasetError, TransferSegError
from TransferSegLib.json_fields import read_json
from TransferSegLib.output_checks import why_no_folder
from TransferSegLib.structures import LabelSet
from TransferSegLib.wording import listed

FORMAT_VERSION = 1
FILE_NAME = "dataset.json"

_TEXT_KEYS = ("name", "description", "license", "modality")
_DATASET_KEYS = {"format_version", *_TEXT_KEYS, "structures", "cases"}
_CASE_KEYS = {"id", "image", "labels", "annotated", "judged", "group"}


@dataclass(frozen=True)
class Case:
    """One scan with its label map; the paths are absolute.

    ``annotated`` names the structures that are drawn wherever they are in this scan: label 0 means 'not this structure'
    only for these. ``judged`` is a mask on the scan's grid of the annotated region (None: everywhere).
    ``group`` is the patient: cases of one group are never separated. ``extra`` holds keys this version does not know.
    """

    id: str
    image: Path
    labels: Path
    annotated: tuple[str, ...]
    judged: Path | None = None
    group: str = ""
    extra: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Let a case without a group be its own."""
        if not self.group:
            object.__setattr__(self, "group", self.id)


@dataclass(frozen=True)
class Dataset:
    """Cases that share one label set; ``folder`` is where their ``dataset.json`` lies."""

    folder: Path
    name: str
    description: str
    license: str
    modality: str
    label_set: LabelSet
    cases: tuple[Case, ...]
    extra: dict[str, Any] = field(default_factory=dict, hash=False)

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.cases)

    @property
    def ids(self) -> tuple[str, ...]:
        """The cases' ids in their order."""
        return tuple(case.id for case in self.cases)

    @property
    def retired_labels(self) -> frozenset[int]:
        """Label values of structures that this dataset had once ('retired_structures'): like background, no error."""
        retired = self.extra.get("retired_structures")
        entries = retired if isinstance(retired, list) else []
        labels = [entry.get("label") for entry in entries if isinstance(entry, dict)]
        return frozenset(label for label in labels if isinstance(label, int))

    def case(self, id: str) -> Case:
        """Return the case of that id; raises DatasetError when there is none."""
        for case in self.cases:
            if case.id == id:
                return case
        raise DatasetError(f"The dataset '{self.name}' in {self.folder} has no case '{id}'.")

    def select(self, ids: Iterable[str]) -> Dataset:
        """Return the dataset with only these cases, in this dataset's order; raises DatasetError for unknown ids."""
        wanted = set(ids)
        unknown = sorted(wanted - set(self.ids))
        if unknown:
            raise DatasetError(f"The dataset '{self.name}' in {self.folder} has no case {', '.join(unknown)}.")
        return replace(self, cases=tuple(case for case in self.cases if case.id in wanted))

    def annotated_counts(self) -> dict[str, int]:
        """Return, per structure in the label set's order, in how many cases it is annotated."""
        counts = Counter(name for case in self.cases for name in set(case.annotated))
        return {name: counts[name] for name in self.label_set.names}


def read_dataset(folder: Path | str) -> Dataset:
    """Read the ``dataset.json`` of a folder (or that file itself named).

    Raises DatasetError that names every problem of the file's structure at once, each with its case and key.
    """
    path = Path(folder)
    # A project of corrected cases keeps a backup beside the file: dataset.json.bak.
    path = path if path.name.startswith(FILE_NAME) and not path.is_dir() else path / FILE_NAME
    content = read_json(
        path,
        DatasetError,
        missing=f"There is no dataset in {path.parent}: {path.name} is missing. Make one from your images with "
        "'transferseg dataset make'.",
    )
    dataset, problems = _parse(content, path.parent.resolve())
    if dataset is None or problems:
        raise DatasetError(_problem_message(path, problems))
    return dataset


def write_dataset(dataset: Dataset, folder: Path | str) -> Path:
    """Write a dataset's ``dataset.json`` into a folder (made if it is not there) and return the file's path.

    The file appears whole or not at all. Images and label maps stay where they are; the file points at them, by a
    relative path where they lie in the folder or share a parent with it. Raises DatasetError when the dataset could
    not be read back or the folder cannot be written.
    """
    target = Path(folder).resolve() / FILE_NAME
    text = dataset_text(dataset, target.parent)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text_durably(target, text)
    except OSError as error:
        raise DatasetError(f"{target} cannot be written: {why_no_folder(target.parent, error)}.") from error
    return target


def dataset_text(dataset: Dataset, folder: Path) -> str:
    """Return the text of a ``dataset.json`` in ``folder`` (absolute); raises DatasetError if it could not be read."""
    content = dataset_to_json(dataset, folder)
    parsed, problems = _parse(content, folder)
    if parsed is None or problems:
        raise DatasetError(_problem_message(folder / FILE_NAME, problems))
    return _layout(content)


def dataset_to_json(dataset: Dataset, folder: Path) -> dict[str, Any]:
    """Return the JSON-ready content of ``dataset.json`` for a dataset kept in ``folder`` (absolute)."""
    content: dict[str, Any] = {"format_version": FORMAT_VERSION}
    content.update({key: getattr(dataset, key) for key in _TEXT_KEYS})
    content.update({key: value for key, value in dataset.extra.items() if key not in _DATASET_KEYS})
    content["structures"] = dataset.label_set.to_json()
    content["cases"] = [case_to_json(case, folder) for case in dataset.cases]
    return content


def case_to_json(case: Case, folder: Path) -> dict[str, Any]:
    """Return the JSON-ready description of a case, leaving out what has its default."""
    entry: dict[str, Any] = {
        "id": case.id,
        "image": portable_path(case.image, folder),
        "labels": portable_path(case.labels, folder),
        "annotated": list(case.annotated),
    }
    if case.judged is not None:
        entry["judged"] = portable_path(case.judged, folder)
    if case.group != case.id:
        entry["group"] = case.group
    entry.update({key: value for key, value in case.extra.items() if key not in _CASE_KEYS})
    return entry


def portable_path(path: Path, folder: Path) -> str:
    """Return a path as ``dataset.json`` holds it: with forward slashes, relative where that survives a move.

    Relative inside the folder, or beside it (the two share more than the file system's root and one folder below it);
    absolute otherwise. Both paths are absolute.
    """
    if path.is_relative_to(folder):
        return path.relative_to(folder).as_posix()
    shared = 0
    for ours, theirs in zip(folder.parts, path.parts, strict=False):
        if ours != theirs:
            break
        shared += 1
    if shared <= 2:
        return path.as_posix()
    return Path(*[".."] * (len(folder.parts) - shared), *path.parts[shared:]).as_posix()


def _layout(content: dict[str, Any]) -> str:
    """Return the file's text: a line a key, and within lists of objects a line an entry, for people and for git."""
    lines = []
    for key, value in content.items():
        if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
            entries = ",\n".join(f"    {json.dumps(entry, ensure_ascii=False)}" for entry in value)
            text = f"[\n{entries}\n  ]" if entries else "[]"
        else:
            text = json.dumps(value, ensure_ascii=False)
        lines.append(f"  {json.dumps(key, ensure_ascii=False)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _problem_message(path: Path, problems: list[str]) -> str:
    return listed(f"{path} is not a dataset this version can use:", problems, len(problems))


def _parse(content: Any, folder: Path) -> tuple[Dataset | None, list[str]]:
    """Return the dataset described by the content of a ``dataset.json``, or None, and all problems found."""
    if not isinstance(content, dict):
        return None, ["it must hold one object with 'format_version', 'structures' and 'cases'"]
    problems = _version_problems(content.get("format_version"))
    if problems:
        return None, problems
    texts = {}
    for key in _TEXT_KEYS:
        texts[key] = content.get(key, "")
        if not isinstance(texts[key], str):
            problems.append(f"'{key}' must be text")
    label_set = None
    try:
        label_set = LabelSet.from_json(content.get("structures"))
    except TransferSegError as error:
        problems.append(f"'structures': {error}")
    cases = _parse_cases(content.get("cases"), folder, label_set, problems)
    if label_set is None or problems:
        return None, problems
    extra = {key: value for key, value in content.items() if key not in _DATASET_KEYS}
    return Dataset(folder=folder, label_set=label_set, cases=cases, extra=extra, **texts), []


def _version_problems(version: Any) -> list[str]:
    """Return why a format version cannot be read; nothing else of the file means anything then."""
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        return [f"'format_version' must be {FORMAT_VERSION}, not {version!r}"]
    if version > FORMAT_VERSION:
        return [
            f"it has format version {version} and was written by a newer TransferSeg; "
            f"this one reads version {FORMAT_VERSION}: update TransferSeg"
        ]
    return []


def _parse_cases(entries: Any, folder: Path, label_set: LabelSet | None, problems: list[str]) -> tuple[Case, ...]:
    """Return the cases, adding to ``problems`` what is wrong with them."""
    if not isinstance(entries, list):
        problems.append("'cases' must be a list")
        return ()
    cases = []
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            problems.append(f"case number {number}: must be an object with 'id', 'image', 'labels' and 'annotated'")
            continue
        found, case = _parse_case(entry, folder, label_set)
        name = entry["id"] if isinstance(entry.get("id"), str) and entry["id"] else f"number {number}"
        problems += [f"case {name}: {problem}" for problem in found]
        if case is not None:
            cases.append(case)
    counts = Counter(case.id for case in cases)
    problems += [f"case {id}: 'id' is used {count} times" for id, count in counts.items() if count > 1]
    return tuple(cases)


def case_from_json(entry: Any, folder: Path, label_set: LabelSet) -> Case:
    """Read what ``case_to_json`` returned for this folder (absolute); raises DatasetError with all problems."""
    if not isinstance(entry, dict):
        raise DatasetError("A case must be an object with 'id', 'image', 'labels' and 'annotated'.")
    problems, case = _parse_case(entry, folder, label_set)
    if case is None:
        raise DatasetError(f"Case {entry.get('id')}: {'; '.join(problems)}.")
    return case


def _parse_case(entry: dict[str, Any], folder: Path, label_set: LabelSet | None) -> tuple[list[str], Case | None]:
    """Return the problems of one case's description, and the case when there are none."""
    problems = [
        f"'{key}' must be text and not empty"
        for key in ("id", "image", "labels")
        if not isinstance(entry.get(key), str) or not entry[key].strip()
    ]
    problems += [
        f"'{key}' must be text and not empty, or left out"
        for key in ("judged", "group")
        if entry.get(key) is not None and (not isinstance(entry[key], str) or not entry[key].strip())
    ]
    if not problems and not is_safe_id(entry["id"]):
        problems.append("'id' must not be '.', '..' or contain slashes or line breaks: files are named after it")
    annotated, found = _parse_annotated(entry.get("annotated"), label_set)
    problems += found
    if problems:
        return problems, None
    judged = entry.get("judged")
    return [], Case(
        id=entry["id"],
        image=_located(folder, entry["image"]),
        labels=_located(folder, entry["labels"]),
        annotated=annotated,
        judged=None if judged is None else _located(folder, judged),
        group=entry.get("group") or entry["id"],
        extra={key: value for key, value in entry.items() if key not in _CASE_KEYS},
    )


def is_safe_id(id: str) -> bool:
    """Tell whether a case id can be part of a file name."""
    return bool(id.strip()) and id not in (".", "..") and id.isprintable() and not set(id) & {"/", "\\"}


def _parse_annotated(names: Any, label_set: LabelSet | None) -> tuple[tuple[str, ...], list[str]]:
    """Return the annotated structures as the label set spells and orders them, and what is wrong with the list."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return (), ["'annotated' must be a list of structure names (empty when nothing is annotated)"]
    if label_set is None:
        return (), []
    unknown = [name for name in names if label_set.find(name) is None]
    if unknown:
        return (), [f"'annotated' names {', '.join(map(repr, unknown))}, not among 'structures'"]
    known = {structure.name for name in names if (structure := label_set.find(name)) is not None}
    return tuple(name for name in label_set.names if name in known), []


def _located(folder: Path, text: str) -> Path:
    """Return the absolute path meant by a path in ``dataset.json``.

    A link in place of a file is kept as it is, so that a rewritten file still names the link. Only a path that
    goes up ('..') has its folders resolved, because going up from a linked folder depends on where it leads.
    """
    path = folder / text
    return path.parent.resolve() / path.name if ".." in path.parts else path
