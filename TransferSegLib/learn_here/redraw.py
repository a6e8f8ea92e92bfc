"""Redraw the voxels that were not judged, structure by structure, after a last layer was fitted to those that were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from TransferSegLib.evaluation.surface_distance import bounding_box
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.learn_here.head_features import HeadFeatures
from TransferSegLib.learn_here.judged_slices import (
    REACH_UNITS,
    BetweenSlices,
    between_slices,
    judged_slices,
    learning_region,
    slice_axis,
)
from TransferSegLib.learn_here.refit import Mix, Recipe, Voxels, best_weight, drawn, fit_layer, plausibility
from TransferSegLib.progress import Task

_NEIGHBOURS = np.ones((3, 3, 3), bool)
#: Log-odds above all others: those of a model and an interpolation stay far below.
_CERTAIN = np.float32(1e6)
_NO_WEIGHTS = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Corrected:
    """A corrected label map and where it was judged, as oriented arrays (zyx) of the part of a scan on the grid."""

    labels: np.ndarray
    judged: np.ndarray
    spacing_zyx_mm: tuple[float, float, float]


@dataclass(frozen=True)
class Redrawn:
    """What became of a structure: voxels (n, 3) that may change with their log-odds (n), and how it was learned.

    ``slices`` counts the judged slices that were interpolated between, ``weight`` is that of the interpolation.
    """

    places: np.ndarray
    log_odds: np.ndarray
    weight: float
    slices: int


class StructureRegion:
    """Where one structure may change: a box of the scan and the voxels in it, with what its judged slices say."""

    def __init__(self, corrected: Corrected, label: int, grid: ModelGrid) -> None:
        """Look at a structure; ``is_there`` tells whether there is anything to learn from and to redraw."""
        spacing = corrected.spacing_zyx_mm
        present = corrected.labels == label
        unit = max(float(np.mean(spacing)), float(np.mean(grid.spacing_zyx_mm)))
        reach = int(np.ceil(REACH_UNITS * unit / min(spacing)))
        box = bounding_box(present, margin=reach)
        self.is_there = box is not None
        if box is None:
            return
        self.start = np.array([part.start for part in box])
        self.present, self.judged = present[box], corrected.judged[box]
        axis = slice_axis(self.judged, spacing)
        steps = [step for n, step in enumerate(spacing) if n != axis]
        on_grid = [step for n, step in enumerate(grid.spacing_zyx_mm) if n != axis]
        unit = max(float(np.mean(steps)), float(np.mean(on_grid)))
        near = learning_region(self.present, unit, spacing, axis)
        slices = judged_slices(self.judged, near, axis)
        self.between = between_slices(self.present & self.judged, slices, axis, unit, spacing)
        self.slices = len(slices)
        self.region = learning_region(self.present | (self.between.distances > 0), unit, spacing, axis)
        self.is_there = bool((self.region & self.judged).any() and (self.region & ~self.judged).any())
        self._reach = [0 if n == axis else max(1, round(REACH_UNITS * unit / step)) for n, step in enumerate(spacing)]
        #: Where features are needed.
        self.needed = self.region

    def leave_inside(self) -> None:
        """Need no features deep inside the structure, unless the judged slices speak against it: it stays there."""
        size = tuple(2 * more + 1 for more in self._reach)
        deep = ndimage.minimum_filter(self.present.view(np.uint8), size, mode="constant") != 0
        self.needed = self.region & (~deep | (self.between.distances < 0))

    def places(self, mask: np.ndarray) -> np.ndarray:
        """Return the voxels (n, 3) of a mask in the oriented scan."""
        return np.argwhere(mask) + self.start


def redraw_structure(
    where: StructureRegion, head: HeadFeatures, channel: int | None, recipe: Recipe, task: Task
) -> Redrawn:
    """Learn one structure and return what becomes of its voxels that were not judged.

    ``channel`` is the model's, None for a structure that it does not know. Voxels without features stay as they are.
    """
    fitting, predicting = task.split(1, 2)
    rows_z = np.zeros(len(head.features), np.float32) if channel is None else head.log_odds(channel)
    between, judged, region = where.between, where.judged, where.region

    def voxels(mask: np.ndarray, distances: np.ndarray) -> tuple[Voxels, np.ndarray]:
        inside = drawn(np.flatnonzero(mask), recipe, fitting)
        places = np.column_stack(np.unravel_index(inside, mask.shape)) + where.start
        z, is_known = head.at(rows_z[:, None], places)
        inside, places, z = inside[is_known], places[is_known], z[is_known, 0]
        return Voxels(head.at(head.features, places)[0], z, distances.reshape(-1)[inside]), inside

    labelled, inside = voxels(where.needed & judged, between.at_slices)
    others, _ = voxels(where.needed & ~judged, between.distances)
    if not len(labelled.z) or not len(others.z):
        return Redrawn(np.zeros((0, 3), np.int64), _NO_WEIGHTS, 0.0, where.slices)
    is_structure = where.present.reshape(-1)[inside]
    mix = _mix(labelled, is_structure, inside, others, between, recipe, channel is not None)
    layer = fit_layer(labelled, is_structure, others, mix, recipe)
    fitting.done()
    # What is linear in the features is computed on the grid and interpolated as one number.
    on_grid = mix.trust * rows_z + head.features @ layer.w.astype(np.float32) + np.float32(layer.b)
    predicting.check()
    unjudged = np.flatnonzero(region & ~judged)
    places = np.column_stack(np.unravel_index(unjudged, region.shape)) + where.start
    log_odds, is_known = head.at(on_grid[:, None], places)
    log_odds = log_odds[:, 0] + mix.weight * between.distances.reshape(-1)[unjudged]
    # What was not needed is the inside of the structure, where no neighbour may take a voxel of it either.
    is_inside = ~where.needed.reshape(-1)[unjudged]
    log_odds[is_inside] = _CERTAIN
    decided = is_known | is_inside
    places, log_odds = places[decided], log_odds[decided]
    predicting.done()
    return Redrawn(places, log_odds, mix.weight, where.slices)


def _mix(
    labelled: Voxels,
    is_structure: np.ndarray,
    inside: np.ndarray,
    others: Voxels,
    between: BetweenSlices,
    recipe: Recipe,
    knows: bool,
) -> Mix:
    """Return how much the model and the interpolation count; ``inside`` are the labelled voxels' places in the box."""
    distances, is_known = (array.reshape(-1)[inside] for array in (between.distances, between.is_known))
    holds, is_between = distances != 0, others.d != 0  # slices that hold the structure, and those between them
    if not is_between.any():
        return Mix.of(0.0, recipe)
    weight = best_weight(labelled.only(is_known), is_structure[is_known], recipe, knows)
    if not knows:
        return Mix.of(weight, recipe)
    plausible = plausibility(labelled.only(holds), is_structure[holds], others.only(is_between), recipe)
    return Mix.of(weight, recipe, plausible)


def put_together(labels: np.ndarray, redrawn: dict[int, Redrawn]) -> None:
    """Write what became of the structures, by label, into a label map (in place).

    A voxel gets the structure with the largest log-odds above 0, else the background. Voxels of structures that were
    not redrawn stay as they are.
    """
    values = np.concatenate([np.full(len(one.log_odds), label) for label, one in redrawn.items()])
    places = np.concatenate([one.places for one in redrawn.values()])
    log_odds = np.concatenate([one.log_odds for one in redrawn.values()])
    may_change = np.isin(labels[tuple(places.T)], [0, *redrawn])
    values, places, log_odds = values[may_change], places[may_change], log_odds[may_change]
    order = np.argsort(log_odds, kind="stable")  # of a voxel's values the last one stays
    labels[tuple(places[order].T)] = np.where(log_odds[order] > 0, values[order], 0)


def drop_islands(labels: np.ndarray, judged: np.ndarray, label: int) -> None:
    """Remove (in place) the parts of a structure that hold nothing judged, unless they are its largest part."""
    box = bounding_box(labels == label)
    if box is None:
        return
    parts, count = ndimage.label(labels[box] == label, _NEIGHBOURS)
    if count < 2:
        return
    sizes = np.bincount(parts.reshape(-1))
    sizes[0] = 0
    kept = {int(sizes.argmax()), *np.unique(parts[judged[box]]).tolist()}
    labels[box][(parts != 0) & ~np.isin(parts, list(kept))] = 0
