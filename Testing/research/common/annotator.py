"""A simulated person who draws a structure slice by slice until it is good enough, and what that takes.

The person sees the truth, but draws it with a hand of limited precision: the contour is off by a smooth random
displacement. There are two ways to work:

- **correct** a prediction: the worst slice first (the one with the largest errors that can be seen), then the next,
  until the surface Dice reaches the target. In a slice only the parts are drawn anew that are visibly wrong.
- **interpolate**: draw the first, the last and every k-th slice, let the computer fill the slices between (by signed
  distances, as *Fill between slices* of 3D Slicer does), then correct what is still too wrong.

A prediction of which too little is right is thrown away. The effort is what ``TransferSegLib.evaluation.effort``
measures in every slice as it is drawn: from what was there to what the person left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter, label

from TransferSegLib.evaluation.effort import drawing_effort, slice_axis_of
from TransferSegLib.evaluation.surface_distance import bounding_box, surface_dice

Spacing = tuple[float, float, float]

#: The hand's displacements change over this many pixels along a contour.
_SMOOTH_PIXELS = 3.0
#: An error is seen where it is deeper than this many pixels.
_SEEN_PIXELS = 1.0
#: A slice is drawn at most so often; each time the hand is twice as exact.
_MOST_TIMES = 4
#: Pixels that share a side or a corner belong to one error.
_TOUCHING = np.ones((3, 3), bool)


@dataclass(frozen=True)
class Person:
    """How a person draws: ``precision_pixels`` is the standard deviation of the hand, in pixels of the slice.

    Work on a structure ends at ``target``, a surface Dice at ``tolerance_voxels`` times the smallest voxel side. A
    prediction whose surface Dice is below ``worth_correcting`` is thrown away. ``every`` is the distance of the slices
    that are drawn when interpolating. The same ``seed`` draws the same.
    """

    precision_pixels: float = 0.5
    target: float = 0.95
    tolerance_voxels: float = 2.0
    worth_correcting: float = 0.5
    every: int = 3
    seed: int = 1


@dataclass
class Drawn:
    """What a person made of a structure: the mask (zyx), the contour drawn in mm, how many slices were drawn.

    A slice that is drawn twice counts twice. ``before`` and ``after`` are the surface Dice of the prediction (0.0
    without one) and of the result; ``interpolated`` says that there was none worth correcting.
    """

    mask_zyx: np.ndarray
    path_mm: float = 0.0
    slices: int = 0
    before: float = 0.0
    after: float = 0.0
    interpolated: bool = False


def draw_structure(
    predicted_zyx: np.ndarray | None, truth_zyx: np.ndarray, spacing_zyx_mm: Spacing, person: Person
) -> Drawn:
    """Return what the person makes of a prediction (boolean, zyx; None: none) where the structure is ``truth_zyx``.

    Raises ValueError when the shapes differ.
    """
    if predicted_zyx is not None and predicted_zyx.shape != truth_zyx.shape:
        raise ValueError(f"The prediction has the shape {predicted_zyx.shape}, the truth {truth_zyx.shape}.")
    start = np.zeros_like(truth_zyx) if predicted_zyx is None else predicted_zyx
    box = bounding_box(start | truth_zyx, margin=2)
    if box is None:
        return Drawn(start.copy(), before=1.0, after=1.0)
    work = _Work.of(start[box], truth_zyx[box], spacing_zyx_mm, person)
    before = work.quality()
    interpolates = before < person.worth_correcting and bool(truth_zyx.any())
    if interpolates and start.any():  # thrown away: a click, nothing is drawn
        drawn = draw_structure(None, truth_zyx, spacing_zyx_mm, person)
        drawn.before = before
        return drawn
    if interpolates:
        work.interpolate()
    work.correct()
    mask_zyx = start.copy()
    mask_zyx[box] = np.moveaxis(work.mask, 0, work.axis)
    return Drawn(mask_zyx, work.path_mm, work.slices, before, work.quality(), interpolates)


@dataclass(frozen=True)
class SomeSlices:
    """A structure of which a few slices were drawn: ``judged`` slices (by number along ``axis``) are right.

    Those are the drawn ones and all beyond the first and the last of them, where the structure is not. The ``mask_zyx``
    is the prediction elsewhere; ``interpolated_zyx`` was drawn from nothing, with the computer filling in between, for
    ``interpolated_path_mm``. ``slices`` counts those in which something was drawn.
    """

    mask_zyx: np.ndarray
    judged: np.ndarray
    axis: int
    path_mm: float
    slices: int
    interpolated_zyx: np.ndarray
    interpolated_path_mm: float


def draw_some_slices(
    predicted_zyx: np.ndarray, truth_zyx: np.ndarray, spacing_zyx_mm: Spacing, person: Person, count: int
) -> SomeSlices:
    """Draw the first, the last and some slices between them, ``count`` in all and evenly apart."""
    axis = slice_axis_of(spacing_zyx_mm)
    there = np.flatnonzero(np.moveaxis(truth_zyx, axis, 0).any(axis=(1, 2)))
    chosen = [int(number) for number in np.unique(np.rint(np.linspace(there[0], there[-1], count)))]
    judged = np.ones(truth_zyx.shape[axis], bool)
    judged[there[0] : there[-1] + 1] = False
    judged[chosen] = True
    corrected = _Work.of(predicted_zyx, truth_zyx, spacing_zyx_mm, person)
    corrected.mask[: there[0]] = corrected.mask[there[-1] + 1 :] = False
    anew = _Work.of(np.zeros_like(truth_zyx), truth_zyx, spacing_zyx_mm, person)
    for number in chosen:
        corrected.draw(number)
        anew.draw(number)
    for low, high in pairwise(chosen):
        anew.mask[low : high + 1] = filled_between(anew.mask[low], anew.mask[high], high - low)
    masks = (np.moveaxis(one.mask, 0, axis) for one in (corrected, anew))
    mask_zyx, interpolated_zyx = masks
    return SomeSlices(mask_zyx, judged, axis, corrected.path_mm, corrected.slices, interpolated_zyx, anew.path_mm)


@dataclass
class _Work:
    """A structure being drawn, slices first; ``mask`` is what it looks like now."""

    mask: np.ndarray
    truth: np.ndarray
    #: Distances in pixels to the truth's contour, within each slice; positive inside.
    depth: np.ndarray
    axis: int
    spacing_mm: Spacing
    person: Person
    path_mm: float = 0.0
    slices: int = 0
    #: How often each slice was drawn.
    times: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.times = np.zeros(len(self.mask), int)

    @staticmethod
    def of(start_zyx: np.ndarray, truth_zyx: np.ndarray, spacing_zyx_mm: Spacing, person: Person) -> _Work:
        axis = slice_axis_of(spacing_zyx_mm)
        first, row, column = (spacing_zyx_mm[axis], *(step for n, step in enumerate(spacing_zyx_mm) if n != axis))
        mask, truth = (np.moveaxis(one, axis, 0).copy() for one in (start_zyx, truth_zyx))
        depth = np.stack([signed_distance(one) for one in truth])
        return _Work(mask, truth, depth, axis, (first, row, column), person)

    def quality(self) -> float:
        """Return the surface Dice of what is drawn."""
        tolerance_mm = self.person.tolerance_voxels * min(self.spacing_mm)
        found = surface_dice(self.mask, self.truth, self.spacing_mm, tolerance_mm)
        return 1.0 if np.isnan(found) else found

    def interpolate(self) -> None:
        """Draw the first, the last and every k-th slice of the structure, and fill the slices between."""
        there = np.flatnonzero(self.truth.any(axis=(1, 2)))
        chosen = sorted({*range(there[0], there[-1], self.person.every), int(there[-1])})
        for number in chosen:
            self.draw(number)
        for low, high in pairwise(chosen):
            self.mask[low : high + 1] = filled_between(self.mask[low], self.mask[high], high - low)

    def correct(self) -> None:
        """Draw the worst slice until the target is reached; whoever draws a slice again draws it with more care."""
        while self.quality() < self.person.target:
            errors = self.mask ^ self.truth
            seen = (errors & (np.abs(self.depth) > _SEEN_PIXELS)).sum(axis=(1, 2))
            # Whoever sees nothing wrong looks closer.
            cost = np.where(seen.any(), seen, errors.sum(axis=(1, 2))).astype(float)
            cost[self.times >= _MOST_TIMES] = 0
            if not cost.any():
                return
            self.draw(int(np.argmax(cost)))

    def draw(self, number: int) -> None:
        """Draw what is visibly wrong in a slice, everything where nothing is seen."""
        before, truth = self.mask[number], self.truth[number]
        errors, count = label(before ^ truth, _TOUCHING)
        deep = np.unique(errors[np.abs(self.depth[number]) > _SEEN_PIXELS])
        deep = deep[deep > 0] if (deep > 0).any() else np.arange(1, count + 1)
        wrong = np.isin(errors, deep)
        # Around what is wrong the hand meets the old contour.
        near = distance_transform_edt(~wrong) <= 1.5 if wrong.any() else wrong
        after = np.where(near, self.by_hand(number), before)
        effort = drawing_effort(before[None], after[None], self.spacing_mm, slice_axis=0)
        self.mask[number] = after
        self.path_mm += effort.added_path_mm
        self.slices += effort.slices_touched
        self.times[number] += 1

    def by_hand(self, number: int) -> np.ndarray:
        """Return a slice of the truth as the hand draws it."""
        depth = self.depth[number]
        if not self.truth[number].any() or self.person.precision_pixels == 0:
            return self.truth[number]
        random = np.random.default_rng([self.person.seed, number, int(self.truth.sum()), int(self.times[number])])
        deviation = self.person.precision_pixels / 2 ** self.times[number]
        return np.asarray(depth + displacements(depth.shape, deviation, random) > 0)


def displacements(shape: tuple[int, ...], deviation: float, random: np.random.Generator) -> np.ndarray:
    """Return a smooth field of random numbers (rows, columns) with mean 0 and a standard deviation."""
    # Of white noise that is smoothed by a Gaussian in two dimensions 1 / (2 sqrt(pi) sigma) is left. The field may be
    # narrower than the smoothing, so it is cut out of a larger one.
    margin = round(4 * _SMOOTH_PIXELS)
    noise = gaussian_filter(random.normal(size=tuple(side + 2 * margin for side in shape)), _SMOOTH_PIXELS)
    inner = noise[tuple(slice(margin, -margin) for _ in shape)]
    return np.asarray(inner * deviation * 2 * np.sqrt(np.pi) * _SMOOTH_PIXELS)


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Return the distance in pixels from each pixel's centre to the edge of a mask, positive inside.

    Without a pixel outside or inside it is infinite.
    """
    if not mask.any():
        return np.full(mask.shape, -np.inf)
    if mask.all():
        return np.full(mask.shape, np.inf)
    return np.where(mask, distance_transform_edt(mask) - 0.5, 0.5 - distance_transform_edt(~mask))


def filled_between(first: np.ndarray, last: np.ndarray, steps: int) -> np.ndarray:
    """Return ``steps`` + 1 slices from one mask to another by their signed distances, mixed in proportion.

    From or to an empty slice there is nothing in between.
    """
    result = np.zeros((steps + 1, *first.shape), bool)
    result[0], result[-1] = first, last
    if first.any() and last.any():
        begin, end = signed_distance(first), signed_distance(last)
        for number in range(1, steps):
            share = number / steps
            result[number] = (1 - share) * begin + share * end > 0
    return result
