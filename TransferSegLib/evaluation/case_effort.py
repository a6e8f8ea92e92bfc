"""Drawing effort of all reviewed structures of a case, and how ``dataset.json`` keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.ndimage import find_objects

from TransferSegLib.evaluation.effort import DrawingEffort, drawing_effort, slice_axis_of, slices_changed
from TransferSegLib.evaluation.scores import DEFAULT_TOLERANCE_MM, box_of_label, joint_box
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet, structure_key

#: Axes of the stored image, in the order of the arrays (z, y, x).
_AXES = ("z", "y", "x")
_LENGTHS = ("added_path_mm", "added_path_beyond_mm", "path_mm")
#: Decimals of lengths in mm and of the surface Dice: what is kept is what is written.
_LENGTH_DECIMALS, _DICE_DECIMALS = 2, 5


@dataclass(frozen=True)
class CaseEffort:
    """What it took to correct the prediction of a case: of each reviewed structure, by name.

    ``slices_touched`` are the slices in which any of them changed, along ``slice_axis``, an axis of the stored image
    (x, y or z). ``tolerance_mm`` is that of the surface Dice.
    """

    structures: Mapping[str, DrawingEffort] = field(hash=False)
    slices_touched: int
    slice_axis: str
    tolerance_mm: float

    @property
    def added_path_mm(self) -> float:
        """The contour that had to be drawn, of all structures."""
        return sum(one.added_path_mm for one in self.structures.values())

    @property
    def path_mm(self) -> float:
        """The whole contour of all structures: what drawing them without a prediction takes."""
        return sum(one.path_mm for one in self.structures.values())

    @property
    def surface_dice(self) -> float | None:
        """The mean surface Dice of the structures that have one; None where none has."""
        known = [one.surface_dice for one in self.structures.values() if one.surface_dice is not None]
        return sum(known) / len(known) if known else None

    def renamed(self, old: str, new: str) -> CaseEffort:
        """Return the effort with another name of a structure."""
        names = {name: new if structure_key(name) == structure_key(old) else name for name in self.structures}
        return replace(self, structures={names[name]: one for name, one in self.structures.items()})

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {
            "slice_axis": self.slice_axis,
            "slices_touched": self.slices_touched,
            "tolerance_mm": self.tolerance_mm,
            "structures": {
                name: {key: getattr(one, key) for key in (*_LENGTHS, "slices_touched", "slices", "surface_dice")}
                for name, one in self.structures.items()
            },
        }

    @staticmethod
    def from_json(entry: Any) -> CaseEffort | None:
        """Read a description written by ``to_json``; None for anything else: effort can be computed anew."""
        try:
            tolerance_mm = float(entry["tolerance_mm"])
            structures = {
                str(name): DrawingEffort(
                    **{key: float(one[key]) for key in _LENGTHS},
                    slices_touched=int(one["slices_touched"]),
                    slices=int(one["slices"]),
                    surface_dice=None if one["surface_dice"] is None else float(one["surface_dice"]),
                    tolerance_mm=tolerance_mm,
                )
                for name, one in entry["structures"].items()
            }
            axis = entry["slice_axis"]
            return CaseEffort(structures, int(entry["slices_touched"]), axis, tolerance_mm) if axis in _AXES else None
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return None


def measure_case_effort(
    predicted_zyx: np.ndarray,
    predicted_set: LabelSet,
    corrected_zyx: np.ndarray,
    corrected_set: LabelSet,
    reviewed: Iterable[str],
    spacing_zyx_mm: tuple[float, float, float],
    region_zyx: np.ndarray | None = None,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
    task: Task | None = None,
) -> CaseEffort:
    """Return what correcting the reviewed structures took, only in the region (boolean; None: everywhere).

    The arrays hold label values (integers, zyx) on one grid. A structure that a label set does not know, or that has no
    voxels, is absent there. Lengths are rounded to 0.01 mm. Raises ValueError when shapes differ, Cancelled.
    """
    task, names, axis = task or Task(), list(reviewed), slice_axis_of(spacing_zyx_mm)
    if predicted_zyx.shape != corrected_zyx.shape:
        raise ValueError(f"The label maps have the shapes {predicted_zyx.shape} and {corrected_zyx.shape}.")
    finding, measuring = task.split(1, 4)
    boxes = [
        finding.share(n, 2).wait(partial(find_objects, array)) for n, array in enumerate((predicted_zyx, corrected_zyx))
    ]
    touched = np.zeros(corrected_zyx.shape[axis], bool)
    structures = {}
    for number, name in enumerate(names):
        labels = [_label(predicted_set, name), _label(corrected_set, name)]
        box = joint_box(*(box_of_label(found, label) for found, label in zip(boxes, labels, strict=True)))
        part = measuring.share(number, len(names))
        if box is None:
            structures[name] = DrawingEffort(0.0, 0.0, 0.0, 0, 0, None, tolerance_mm)
            continue
        predicted, corrected = _mask(predicted_zyx[box], labels[0]), _mask(corrected_zyx[box], labels[1])
        region = None if region_zyx is None else region_zyx[box]
        found = part.wait(partial(drawing_effort, predicted, corrected, spacing_zyx_mm, tolerance_mm, region, axis))
        structures[name] = _rounded(found)
        changed = predicted ^ corrected if region is None else (predicted ^ corrected) & region
        touched[box[axis]] |= slices_changed(changed, axis)
    task.done()
    return CaseEffort(structures, int(np.count_nonzero(touched)), _AXES[axis], tolerance_mm)


def _label(label_set: LabelSet, name: str) -> int:
    """Return the value of a structure, 0 where the label set does not know it."""
    structure = label_set.find(name)
    return 0 if structure is None else structure.label


def _mask(labels_zyx: np.ndarray, label: int) -> np.ndarray:
    """Return where a structure is; one without a value is nowhere."""
    return np.asarray(labels_zyx == label) if label else np.zeros(labels_zyx.shape, bool)


def _rounded(effort: DrawingEffort) -> DrawingEffort:
    """Return an effort with the decimals that are kept."""
    lengths = {key: round(getattr(effort, key), _LENGTH_DECIMALS) for key in _LENGTHS}
    nsd = effort.surface_dice
    return replace(effort, **lengths, surface_dice=None if nsd is None else round(nsd, _DICE_DECIMALS))
