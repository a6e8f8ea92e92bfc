"""All the numbers of one structure in one case, and of all structures of a case at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import find_objects

from TransferSegLib.errors import TransferSegError
from TransferSegLib.evaluation.surface_distance import surface_agreement, widened
from TransferSegLib.structures import LabelSet

#: Default tolerance of the normalised surface Dice: about what two experts differ by when they outline organs, and not
#: finer than the voxels of most clinical scans (a tolerance below the voxel size asks for the very same voxels).
DEFAULT_TOLERANCE_MM = 3.0


@dataclass(frozen=True)
class Score:
    """How well one structure was found in one case; only the annotated region counts.

    ``dice`` 0 to 1. ``nsd`` (normalised surface Dice, 0 to 1) and ``hd95_mm`` (95 % Hausdorff distance) are nan where
    they were not measured; ``hd95_mm`` is infinite where the structure was missed, or claimed where there is none.
    ``volume_ml`` is what was found, ``reference_ml`` what is there.
    """

    dice: float
    nsd: float
    hd95_mm: float
    volume_ml: float
    reference_ml: float

    def to_json(self) -> dict[str, float | None]:
        """Return a JSON-ready description: null for nan, and for an infinite distance (``nsd`` is 0 there)."""
        values = vars(self)
        return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}

    @staticmethod
    def from_json(entry: Any) -> Score:
        """Read a description written by ``to_json``; raises TransferSegError when it is not one."""
        try:
            values = {name: entry[name] for name in ("dice", "nsd", "hd95_mm", "volume_ml", "reference_ml")}
            numbers = {name: float("nan") if value is None else float(value) for name, value in values.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise TransferSegError(f"This is not the score of a structure: {entry!r} ({error}).") from error
        if math.isnan(numbers["hd95_mm"]) and numbers["nsd"] == 0.0:
            numbers["hd95_mm"] = float("inf")
        return Score(**numbers)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice coefficient 2 |A and B| / (|A| + |B|) of two boolean arrays; nan when both are empty."""
    total = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    if total == 0:
        return float("nan")
    return 2.0 * int(np.count_nonzero(first & second)) / total


def score_structure(
    found_zyx: np.ndarray,
    reference_zyx: np.ndarray,
    spacing_zyx_mm: tuple[float, float, float],
    tolerance_mm: float | None = None,
    region_zyx: np.ndarray | None = None,
) -> Score | None:
    """Return the score of one structure (boolean arrays) in a region (None: everywhere), None where it is in neither.

    Surfaces are compared only when a tolerance is given.
    """
    found = found_zyx if region_zyx is None else found_zyx & region_zyx
    reference = reference_zyx if region_zyx is None else reference_zyx & region_zyx
    overlap = dice(found, reference)
    if math.isnan(overlap):
        return None
    nsd = hd95_mm = float("nan")
    if tolerance_mm is not None:
        surfaces = surface_agreement(found_zyx, reference_zyx, spacing_zyx_mm, tolerance_mm, region_zyx)
        nsd, hd95_mm = surfaces.nsd, surfaces.hd95_mm
    voxel_ml = float(np.prod(spacing_zyx_mm)) / 1000.0
    return Score(overlap, nsd, hd95_mm, np.count_nonzero(found) * voxel_ml, np.count_nonzero(reference) * voxel_ml)


def score_case(
    found_zyx: np.ndarray,
    found_set: LabelSet,
    reference_zyx: np.ndarray,
    reference_set: LabelSet,
    annotated: Sequence[str],
    spacing_zyx_mm: tuple[float, float, float],
    tolerance_mm: float | None = None,
    region_zyx: np.ndarray | None = None,
) -> dict[str, Score]:
    """Return the score of every annotated structure that both label sets know, matched and named as in ``found_set``.

    The arrays hold label values (integers, zyx) on one grid. Structures that are not annotated have no score, whatever
    was found of them; nor has one that is in neither array.
    """
    found_boxes, reference_boxes = find_objects(found_zyx), find_objects(reference_zyx)
    scores = {}
    for name in annotated:
        mine, theirs = found_set.find(name), reference_set.find(name)
        if mine is None or theirs is None:
            continue
        box = joint_box(box_of_label(found_boxes, mine.label), box_of_label(reference_boxes, theirs.label))
        if box is None:
            continue
        region = None if region_zyx is None else region_zyx[box]
        score = score_structure(
            found_zyx[box] == mine.label, reference_zyx[box] == theirs.label, spacing_zyx_mm, tolerance_mm, region
        )
        if score is not None:
            scores[mine.name] = score
    return scores


_Box = tuple[slice, ...]


def box_of_label(boxes: list[_Box | None], label: int) -> _Box | None:
    """Return the box of a label value from what ``find_objects`` returned, None where it does not occur, and for 0."""
    return boxes[label - 1] if 0 < label <= len(boxes) else None


def joint_box(first: _Box | None, second: _Box | None) -> _Box | None:
    """Return the box around both with a margin of one voxel, None where there is none."""
    there = [box for box in (first, second) if box is not None]
    if not there:
        return None
    axes = zip(*there, strict=True)
    return widened([slice(min(one.start for one in axis), max(one.stop for one in axis)) for axis in axes], 1)
