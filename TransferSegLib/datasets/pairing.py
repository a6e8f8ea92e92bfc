"""Finding which label map belongs to which image, by the names of the files.

Without patterns the common conventions are known: the same name in two folders; nnU-Net's ``case_0000`` beside
``case``; ``case_ct``, ``case_mr``, ``case_image`` with ``case_label``, ``case_seg``, ``case_mask``. A pattern such as
``{case}_ct`` or ``{case}/ct`` (relative to the folder, ``*`` for anything but a slash) settles every other one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from TransferSegLib.datasets.dataset import is_safe_id
from TransferSegLib.errors import DatasetError
from TransferSegLib.wording import listed

#: Endings of the formats that hold a volume in one file or behind one header; the longest that fits is taken off.
VOLUME_SUFFIXES = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")

_IMAGE_ROLE = re.compile(r"[_-](0000|ct|cta|cbct|mri?|t1w?|t2w?|flair|pet|image|img|scan|volume|vol)$", re.IGNORECASE)
_LABEL_ROLE = re.compile(
    r"[_.-](labels?|label_?map|segs?|segmentations?|masks?|gt|ground_?truth|annotations?)([_-]manual)?$", re.IGNORECASE
)
_EXAMPLES = 5
_ADVICE = "Say how the files are named, e.g. with the image pattern '{case}_ct' and the label pattern '{case}_seg'."


@dataclass(frozen=True)
class Pair:
    """A case id with its image (a file, or a folder of DICOM files) and its label map."""

    id: str
    image: Path
    labels: Path


@dataclass(frozen=True)
class Pairing:
    """The pairs found, in natural order of their ids, and the images that no label map belongs to.

    ``problems`` are lines on files that are in no pair because it is not clear what belongs to them.
    """

    pairs: tuple[Pair, ...]
    images_without_labels: tuple[Path, ...]
    problems: tuple[str, ...] = ()


def pair_files(
    images: Path, labels: Path, image_pattern: str | None = None, label_pattern: str | None = None
) -> Pairing:
    """Pair the images and label maps of two folders, which may be the same one.

    Raises DatasetError, naming the files, when a label map has no image or several, when an image has several label
    maps or channels, or when nothing pairs.
    """
    pairing = find_pairs(images, labels, image_pattern, label_pattern)
    if pairing.problems:
        headline = "Images and label maps cannot be paired by their names:"
        raise DatasetError(f"{listed(headline, pairing.problems, _EXAMPLES)}\n{_ADVICE}")
    return pairing


def find_pairs(
    images: Path, labels: Path, image_pattern: str | None = None, label_pattern: str | None = None
) -> Pairing:
    """Pair as ``pair_files`` does, and leave out what is not clear, with a line for each problem.

    Raises DatasetError for a folder that cannot be read and a pattern that is none.
    """
    found_images = _keyed(images, image_pattern, _IMAGE_ROLE, with_folders=True)
    found_labels = _keyed(labels, label_pattern, _LABEL_ROLE, with_folders=False)
    if images.resolve() == labels.resolve():
        found_images, found_labels = _told_apart(found_images, found_labels, image_pattern, label_pattern)
    found = _paired(found_images, found_labels, f" in {images}", image_pattern)
    if not found.pairs and not found.problems:
        nothing = f"no label map was found in {labels}" if found_images else f"no image was found in {images}"
        return Pairing((), found.images_without_labels, (nothing,))
    return found


def pair_listed(images: Sequence[Path], labels: Sequence[Path]) -> Pairing:
    """Pair images (files or DICOM folders) with label maps by their names, as ``find_pairs`` does."""
    return _paired(_keys_of(images, _IMAGE_ROLE), _keys_of(labels, _LABEL_ROLE), "", None)


def told_apart(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Divide a list of files into images and label maps.

    Label maps are those that are named like one (``case_seg``, ``case.seg.nrrd``); if none is, those of a second
    folder. Raises DatasetError where neither tells.
    """
    labels = [path for path in files if len(_keys_of([path], _LABEL_ROLE)[path]) > 1 or path.name.endswith(".seg.nrrd")]
    if not labels:
        folders = list(dict.fromkeys(path.parent for path in files))
        labels = [path for path in files if path.parent == folders[1]] if len(folders) == 2 else []
    images = [path for path in files if path not in labels]
    if not images or not labels:
        raise DatasetError(
            f"Which of these {len(files)} files are label maps? Name them like case_seg, or give two patterns in "
            "quotes, e.g. 'scans/*.nii.gz' 'labels/*.nii.gz'."
        )
    return images, labels


def _paired(
    images: Mapping[Path, tuple[str, ...]],
    labels: Mapping[Path, tuple[str, ...]],
    where: str,
    image_pattern: str | None,
) -> Pairing:
    """Pair images and label maps with the ids that their names may stand for."""
    by_key: dict[str, list[Path]] = defaultdict(list)
    for path, keys in images.items():
        for key in keys:
            by_key[key].append(path)
    pairs, problems, faulty = [], [], set[Pair]()
    for path, keys in labels.items():
        candidates = [(key, by_key[key]) for key in keys if key in by_key]
        if not candidates:
            problems.append(f"{path} has no image named like it{where}")
            continue
        key, hits = candidates[0]
        if len(hits) > 1:
            problems.append(f"{path} could belong to {' and to '.join(hit.name for hit in hits)}")
        else:
            pairs.append(Pair(key, hits[0], path))
    for problem, concerned in _pair_problems(pairs, set(images), image_pattern):
        problems.append(problem)
        faulty.update(concerned)
    used = {pair.image for pair in pairs}
    without = tuple(path for path in images if path not in used)
    clear = [pair for pair in pairs if pair not in faulty]
    return Pairing(tuple(sorted(clear, key=lambda pair: natural_key(pair.id))), without, tuple(problems))


def volume_stem(path: Path) -> str:
    """Return a file's name without the ending of its volume format, a folder's name as it is."""
    return path.name[: len(path.name) - len(volume_suffix(path))]


def volume_suffix(path: Path) -> str:
    """Return which of VOLUME_SUFFIXES a file's name has, '' for none."""
    name = path.name.lower()
    return next((suffix for suffix in VOLUME_SUFFIXES if name.endswith(suffix) and name != suffix), "")


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Return a sort key that counts: 'pt_9' comes before 'pt_10'."""
    parts = re.split(r"([0-9]+)", text)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _keyed(folder: Path, pattern: str | None, role: re.Pattern[str], with_folders: bool) -> dict[Path, tuple[str, ...]]:
    """Return the volumes of a folder, each with the case ids its name may stand for, the likeliest first."""
    try:
        if pattern is not None:
            return _matching(folder, pattern, with_folders)
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        found = [path for path in entries if path.is_file() and volume_suffix(path)]
        if with_folders:
            found += [path for path in entries if _may_be_dicom(path)]
    except OSError as error:
        raise DatasetError(f"The folder {folder} cannot be read: {error.strerror or error}.") from error
    return _keys_of(found, role)


def _keys_of(paths: Iterable[Path], role: re.Pattern[str]) -> dict[Path, tuple[str, ...]]:
    """Return paths, each with the case ids its name may stand for, the likeliest first."""
    return {path: tuple(dict.fromkeys((volume_stem(path), role.sub("", volume_stem(path))))) for path in paths}


def _may_be_dicom(path: Path) -> bool:
    """Tell whether a folder holds files directly, none of them a volume of its own."""
    if not path.is_dir():
        return False
    files = [entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith(".")]
    return bool(files) and not any(volume_suffix(entry) for entry in files)


def _matching(folder: Path, pattern: str, with_folders: bool) -> dict[Path, tuple[str, ...]]:
    """Return the volumes whose path below the folder, with or without its ending, matches a pattern."""
    expression = _compiled(pattern)
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}.")
    found: dict[Path, tuple[str, ...]] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts):
            continue
        if not (path.is_file() and volume_suffix(path)) and not (with_folders and _may_be_dicom(path)):
            continue
        stem = relative.with_name(volume_stem(path)).as_posix()
        match = expression.fullmatch(stem) or expression.fullmatch(relative.as_posix())
        if match is not None:
            found[path] = (match.group("case"),)
    return found


def _compiled(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern; raises DatasetError when it has no '{case}'."""
    if "{case}" not in pattern:
        raise DatasetError(
            f"The pattern '{pattern}' must have '{{case}}' where the case's name stands, e.g. '{{case}}_ct'."
        )
    first, *rest = (re.escape(part).replace(r"\*", "[^/]*") for part in pattern.split("{case}"))
    text = f"{first}(?P<case>[^/]+)"
    for number, part in enumerate(rest):
        text += part if number == 0 else f"(?P=case){part}"
    return re.compile(text)


def _told_apart(
    images: dict[Path, tuple[str, ...]],
    labels: dict[Path, tuple[str, ...]],
    image_pattern: str | None,
    label_pattern: str | None,
) -> tuple[dict[Path, tuple[str, ...]], dict[Path, tuple[str, ...]]]:
    """Divide the volumes of one folder: label maps are those a pattern or a label's ending says are."""
    if label_pattern is None:
        labels = {
            path: keys[::-1] for path, keys in labels.items() if len(keys) > 1 or volume_suffix(path) == ".seg.nrrd"
        }
    if image_pattern is None:
        images = {path: keys for path, keys in images.items() if path not in labels}
    elif label_pattern is None:
        labels = {path: keys for path, keys in labels.items() if path not in images}
    return images, labels


def _pair_problems(
    pairs: list[Pair], images: set[Path], image_pattern: str | None
) -> list[tuple[str, tuple[Pair, ...]]]:
    """Return what is wrong with which pairs: images used twice, repeated or unusable ids, further channels."""
    problems: list[tuple[str, tuple[Pair, ...]]] = []
    by_image: dict[Path, list[Pair]] = defaultdict(list)
    by_id: dict[str, list[Pair]] = defaultdict(list)
    names = {(path.parent, volume_stem(path)) for path in images}
    for pair in pairs:
        by_image[pair.image].append(pair)
        by_id[pair.id].append(pair)
        if not is_safe_id(pair.id):
            problems.append((f"{pair.image}: '{pair.id}' cannot be the name of a case", (pair,)))
        stem = volume_stem(pair.image)
        if image_pattern is None and stem.endswith("_0000") and (pair.image.parent, f"{stem[:-1]}1") in names:
            advice = "choose one to train on, e.g. with the image pattern '{case}_0000'"
            problems.append((f"{pair.id} has several channels; {advice}", (pair,)))
    for path, several in by_image.items():
        if len(several) > 1:
            maps = ", ".join(pair.labels.name for pair in several)
            problems.append((f"{path} has several label maps: {maps}", tuple(several)))
    for id, several in by_id.items():
        if len({pair.image for pair in several}) > 1:
            twice = ", ".join(pair.image.name for pair in several)
            problems.append((f"case {id} is there twice: {twice}", tuple(several)))
    return problems
