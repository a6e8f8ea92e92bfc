"""Many corrected cases at once: the pairs of image and label map in folders, or in a CSV table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from TransferSegLib.datasets.annotated_table import read_rows
from TransferSegLib.datasets.pairing import find_pairs, pair_listed, volume_suffix
from TransferSegLib.errors import DatasetError
from TransferSegLib.wording import did_you_mean

_COLUMNS = ("image", "labels", "case", "reviewed", "patient", "group", "prediction", "notes")
_NEEDS = "'image' and 'labels', and perhaps 'case', 'reviewed', 'patient', 'group', 'prediction', 'notes'"


@dataclass(frozen=True)
class PairToAdd:
    """An image and its label map, and what a table says of them; '' and () where it says nothing."""

    image: Path
    labels: Path
    id: str = ""
    reviewed: tuple[str, ...] = ()
    patient: str = ""
    group: str = ""
    prediction: Path | None = None
    notes: str = ""


@dataclass(frozen=True)
class NotPaired:
    """A file or a row that makes no pair, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class FilesToAdd:
    """Many cases as they are named: a folder or CSV table (``labels`` None), two folders, or lists of files."""

    images: Path | tuple[Path, ...]
    labels: Path | tuple[Path, ...] | None = None


def pairs_to_add(
    files: FilesToAdd, image_pattern: str | None = None, label_pattern: str | None = None
) -> tuple[list[PairToAdd], list[NotPaired]]:
    """Return the pairs of image and label map, and what makes no pair; the patterns are for folders.

    Raises DatasetError when a folder or the table cannot be read, or there is nothing in it.
    """
    images, labels = files.images, files.labels
    if isinstance(images, tuple) or isinstance(labels, tuple):
        if image_pattern or label_pattern:
            raise DatasetError("--image-pattern and --label-pattern are for folders: leave them out.")
        image_files, label_files = _listed(images), _listed(labels)
        if not isinstance(labels, tuple):  # a folder, which may be that of the images, too
            label_files = [file for file in label_files if file not in image_files]
        found, advice = pair_listed(image_files, label_files), "Name them alike, or list them in a CSV table"
    elif labels is None and images.suffix.lower() == ".csv" and not images.is_dir():
        return _rows_of(images)
    else:
        found = find_pairs(images, labels or images, image_pattern, label_pattern)
        advice = "Say how the files are named with --image-pattern and --label-pattern"
    if not found.pairs and not found.images_without_labels:
        raise DatasetError(f"{'; '.join(found.problems[:5])}. {advice}.")
    pairs = [PairToAdd(pair.image, pair.labels) for pair in found.pairs]
    without = [NotPaired(image.name, "no label map is named like it") for image in found.images_without_labels]
    return pairs, [*without, *(NotPaired("-", problem) for problem in found.problems)]


def _listed(given: Path | tuple[Path, ...] | None) -> list[Path]:
    """Return a list of files as it is, of a folder the volumes in it, and of another path itself."""
    if given is None:
        return []
    if isinstance(given, tuple):
        return list(given)
    try:
        return sorted(entry for entry in given.iterdir() if volume_suffix(entry)) if given.is_dir() else [given]
    except OSError as error:
        raise DatasetError(f"The folder {given} cannot be read: {error.strerror or error}.") from error


def _rows_of(source: Path) -> tuple[list[PairToAdd], list[NotPaired]]:
    """Return the pairs of a table; paths count from its folder."""
    header, rows = read_rows(source, _NEEDS)
    names = {column.strip().casefold(): column for column in header}
    for column in ("image", "labels"):
        if column not in names:
            raise DatasetError(f"{source} has no column '{column}'. Its first line needs the columns {_NEEDS}.")
    unknown = [column for name, column in names.items() if name not in _COLUMNS]
    if unknown:
        raise DatasetError(
            f"{source} has a column '{unknown[0]}', which means nothing here. Known are: {', '.join(_COLUMNS)}."
            f"{did_you_mean(unknown[0], _COLUMNS)}"
        )
    pairs, problems = [], []
    for number, row in enumerate(rows, 2):
        cells = {name: (row.get(column) or "").strip() for name, column in names.items()}
        if not any(cells.values()):
            continue
        if not cells["image"] or not cells["labels"]:
            problems.append(NotPaired(f"line {number}", "it names no image or no label map"))
        else:
            pairs.append(_pair_of(cells, source.parent))
    if not pairs and not problems:
        raise DatasetError(f"{source} lists no cases below its header.")
    return pairs, problems


def _pair_of(cells: Mapping[str, str], folder: Path) -> PairToAdd:
    prediction = cells.get("prediction")
    return PairToAdd(
        image=folder / cells["image"],
        labels=folder / cells["labels"],
        id=cells.get("case", ""),
        reviewed=tuple(name.strip() for name in cells.get("reviewed", "").split(";") if name.strip()),
        patient=cells.get("patient", ""),
        group=cells.get("group", ""),
        prediction=folder / prediction if prediction else None,
        notes=cells.get("notes", ""),
    )
