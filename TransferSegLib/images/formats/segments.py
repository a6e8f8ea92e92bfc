"""The segments of a .seg.nrrd file, and its layers as one label map: where segments overlap, one of them wins.

3D Slicer stores segments that share voxels in several layers, each a label map of its own with values of its own; it
keeps the layers when the overlaps are gone. One voxel of a label map belongs to one structure, so layers are merged by
a rule that the user can choose, and a notice reports it.

Source: Slicer's developer guide, "Segmentation labelmap file format (.seg.nrrd)", and vtkMRMLSegmentationStorageNode.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from TransferSegLib.anatomy import readable_name
from TransferSegLib.errors import ScanError
from TransferSegLib.structures import LARGEST_LABEL, structure_key

_KEY = re.compile(r"Segment(\d{1,6})_(?:ID|Name|LabelValue|Layer|Extent)")
_REPRESENTATION = "Segmentation_MasterRepresentation"
_OLD_REPRESENTATION = "Segmentation_SourceRepresentation"


@dataclass(frozen=True)
class Segment:
    """A segment of a file: its name, its layer (from 0), its value there, and its value in the merged label map.

    ``empty``: by the header it has no voxels.
    """

    name: str
    layer: int
    stored: int
    label: int
    empty: bool


def is_segmentation(path: Path) -> bool:
    """Return whether a file's name is that of a segmentation of 3D Slicer."""
    return path.name.lower().endswith((".seg.nrrd", ".seg.nhdr"))


def segments_of(pairs: Mapping[str, str], layers: int, path: Path) -> tuple[Segment, ...]:
    """Return the segments named in a header (``pairs``: its keys and values) of a file with ``layers`` layers.

    A segment's value in the label map is the one it is stored with, as long as no segment before has it; where several
    layers use one value, the later segments get new values above all others. Raises ScanError for what is no number.
    """
    representation = pairs.get(_REPRESENTATION, pairs.get(_OLD_REPRESENTATION, ""))
    if "fractional" in representation.lower():
        raise ScanError(
            f"{path} holds shares of voxels (a fractional label map of 3D Slicer), not labels. In 3D Slicer, make a "
            "binary label map of it (module Segmentations, Representations) and save that."
        )
    numbers = sorted({int(found.group(1)) for key in pairs if (found := _KEY.fullmatch(key))})
    places: dict[tuple[int, int], list[int]] = {}
    entries: list[tuple[str, int, int]] = []
    for number in numbers:
        name = _name(pairs, number)
        # Slicer's own defaults: a layer for each segment, in which it has the value 1.
        stored = _whole(pairs, number, "LabelValue", "1", name, path)
        layer = _whole(pairs, number, "Layer", "0" if layers == 1 else str(number), name, path)
        if layer >= layers and not _is_empty(pairs, number):
            raise ScanError(
                f"{path}: the segment '{name}' is in layer {layer}, but the file has {layers} (they count from 0). "
                "Save it again in 3D Slicer."
            )
        places.setdefault((layer, stored), []).append(len(entries))
        entries.append((name, layer, stored))
    owners = {_owner(same, [numbers[one] for one in same], pairs, entries, path) for same in places.values()}
    highest = max((stored for _, _, stored in entries), default=0)
    taken: set[int] = set()
    segments = []
    for index, (name, layer, stored) in enumerate(entries):
        label = stored
        if index not in owners or stored in taken:
            highest += 1
            label = highest
        taken.add(label)
        empty = index not in owners or _is_empty(pairs, numbers[index])
        segments.append(Segment(name, layer if index in owners else -1, stored, label, empty))
    return tuple(segments)


def merge_layers(
    layers_zyxc: np.ndarray, segments: Sequence[Segment], path: Path, first: Sequence[str] = ()
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the label map (zyx, uint32) of a segmentation's layers, and lines on who won voxels from whom.

    Where segments overlap, the one that ``first`` names (earlier names before later ones) wins, else the one that comes
    later in the file. Raises ScanError for values in a layer that belong to no segment.
    """
    ranks = _ranks(segments, first)
    most = max((one.stored for one in segments), default=0)
    labels_zyx = np.zeros(layers_zyxc.shape[:3], np.uint32)
    rank_by_label = np.full(max((one.label for one in segments), default=0) + 1, -1)
    for one in segments:
        rank_by_label[one.label] = ranks[one]
    taken: dict[tuple[int, int], int] = {}
    for layer in range(layers_zyxc.shape[3]):
        label_by_stored = np.zeros(most + 1, np.uint32)
        for one in segments:
            if one.layer == layer:
                label_by_stored[one.stored] = one.label
        for z, stored_yx in enumerate(layers_zyxc[..., layer]):
            _check_values(stored_yx, label_by_stored, layer, path)
            new_yx, old_yx = label_by_stored[stored_yx], labels_zyx[z]
            both_yx = (new_yx > 0) & (old_yx > 0)
            wins_yx = (new_yx > 0) & (~both_yx | (rank_by_label[new_yx] > rank_by_label[old_yx]))
            _count(taken, new_yx[both_yx & wins_yx], old_yx[both_yx & wins_yx])
            _count(taken, old_yx[both_yx & ~wins_yx], new_yx[both_yx & ~wins_yx])
            labels_zyx[z] = np.where(wins_yx, new_yx, old_yx)
    names = {one.label: one.name for one in segments}
    return labels_zyx, _overlap_lines(taken, names, path)


def _name(pairs: Mapping[str, str], number: int) -> str:
    """Return the name of a segment, or else its ID, in one line."""
    for key in ("Name", "ID"):
        name = " ".join(_unescaped(pairs.get(f"Segment{number}_{key}", "")).split())
        if name:
            return name
    return f"segment {number + 1}"


def _whole(pairs: Mapping[str, str], number: int, key: str, default: str, name: str, path: Path) -> int:
    """Return a number of a segment; raises ScanError when it is none."""
    text = pairs.get(f"Segment{number}_{key}", default).strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) <= LARGEST_LABEL):
        what = "label value" if key == "LabelValue" else "layer"
        raise ScanError(
            f"{path}: the segment '{name}' has the {what} '{text[:40]}'; numbers from 0 to {LARGEST_LABEL:,} are read."
        )
    return int(text)


def _is_empty(pairs: Mapping[str, str], number: int) -> bool:
    """Return whether the header states that a segment has no voxels."""
    try:
        bounds = [int(bound) for bound in pairs.get(f"Segment{number}_Extent", "").split()]
    except ValueError:
        return False
    return len(bounds) == 6 and any(bounds[axis] > bounds[axis + 1] for axis in (0, 2, 4))


def _owner(
    same: list[int], numbers: list[int], pairs: Mapping[str, str], entries: list[tuple[str, int, int]], path: Path
) -> int:
    """Return which of the segments with one value in one layer has its voxels: the others must be empty."""
    full = [index for index, number in zip(same, numbers, strict=True) if not _is_empty(pairs, number)]
    if len(full) > 1:
        name, layer, stored = entries[full[0]]
        raise ScanError(
            f"{path}: the segments '{name}' and '{entries[full[1]][0]}' share the label value {stored} in layer "
            f"{layer}, so whose voxels these are is not known. Save it again in 3D Slicer."
        )
    return full[0] if full else same[0]


def _ranks(segments: Sequence[Segment], first: Sequence[str]) -> dict[Segment, int]:
    """Return a number for each segment; where two overlap, the one with the higher number wins."""
    wanted = [structure_key(readable_name(name)) for name in first]
    wanted_as_typed = [structure_key(name) for name in first]
    ranks = {}
    for index, one in enumerate(segments):
        ranks[one] = index
        for names, key in (
            (wanted_as_typed, structure_key(one.name)),
            (wanted, structure_key(readable_name(one.name))),
        ):
            if key in names:
                ranks[one] = len(segments) + len(first) - names.index(key)
                break
    return ranks


def _check_values(stored_yx: np.ndarray, label_by_stored: np.ndarray, layer: int, path: Path) -> None:
    """Raise ScanError for values of a layer that belong to none of its segments."""
    known = label_by_stored > 0
    known[0] = True
    smallest, largest = int(stored_yx.min(initial=0)), int(stored_yx.max(initial=0))
    # A negative value would count from the end of the table.
    outside = next((value for value in (smallest, largest) if not 0 <= value < known.size), None)
    if outside is not None or not known[stored_yx].all():
        value = int(stored_yx[~known[stored_yx]][0]) if outside is None else outside
        raise ScanError(
            f"{path}: layer {layer} holds the value {value}, which belongs to no segment. Save it again in 3D Slicer."
        )


def _count(taken: dict[tuple[int, int], int], winners: np.ndarray, losers: np.ndarray) -> None:
    """Add how many voxels each winner takes from each loser."""
    pairs, counts = np.unique(np.stack([winners, losers]), axis=1, return_counts=True)
    for (winner, loser), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
        taken[winner, loser] = taken.get((winner, loser), 0) + count


def _overlap_lines(taken: Mapping[tuple[int, int], int], names: Mapping[int, str], path: Path) -> tuple[str, ...]:
    """Return a line for every pair of segments that overlapped."""
    return tuple(
        f"{path}: '{names[winner]}' and '{names[loser]}' overlap: '{names[winner]}' has the {count:,} shared "
        f"{'voxel' if count == 1 else 'voxels'}. (The later segment wins; --overlap-priority NAME chooses.)"
        for (winner, loser), count in sorted(taken.items())
    )


def _unescaped(value: str) -> str:
    r"""Return a NRRD value with its escapes \\ and \n resolved."""
    return re.sub(r"\\(.)", lambda found: " " if found.group(1) == "n" else found.group(1), value)
