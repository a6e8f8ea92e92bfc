"""A new task's own grid: voxels small enough for its structures, and training patches that they fill.

A model of the whole head works at 3 mm; a hippocampus needs 1.25 mm. The parent's grid stays where it costs the
structures little, or where the new version keeps structures of the parent, which knows them at that scale only.

>>> configuration, notes = with_own_grid(configuration, surveys, names, change, parent)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.label_change import LabelChange
from TransferSegLib.finetuning.resolution_cap import StructureMask, Triple, resolution_cap
from TransferSegLib.images.preparation import Preparation, spacing_text
from TransferSegLib.models.description import ModelDescription

if TYPE_CHECKING:
    from TransferSegLib.finetuning.cases import CaseSurvey

#: A grid on which every structure could reach this Dice is kept ...
CAP_TO_STAY = 0.90
#: ... another one lets all of them reach this, if a scan has not too many voxels then.
WANTED_CAP = 0.95
#: A structure that the parent knows may lose more before a person is told.
CAP_OF_KNOWN = 0.80
#: A scan with more voxels takes minutes to segment on a processor.
MOST_VOXELS = 8e6
#: Neighbouring candidates differ by this factor, and spacings are multiples of so many mm.
_STEP, _ROUNDED_MM, _CLOSE = 2**0.25, 0.05, 1.1
#: A patch holds the largest structure and so many voxels around it. Few, so that more patches are seen in the same
#: time; a handful of runs on hippocampi, not all of equal length, favoured sides of 40 and 48 over 56 and 64.
_CONTEXT_VOXELS = 4


@dataclass(frozen=True)
class Candidate:
    """A grid: what each structure could reach on it (mean Dice over a few cases), and the voxels of a mean scan."""

    spacing_zyx_mm: Triple
    caps: Mapping[str, float]
    voxels: float

    @property
    def worst(self) -> str:
        """The structure that could reach least."""
        return min(self.caps, key=lambda name: self.caps[name])

    @property
    def cap(self) -> float:
        """What the structure could reach that could reach least."""
        return self.caps[self.worst]

    @property
    def spacing_text(self) -> str:
        """The spacing for a person, x first."""
        return spacing_text(self.spacing_zyx_mm)


@dataclass(frozen=True)
class GridChoice:
    """The grid of a new task: the parent's, or ``chosen``; ``native_zyx_mm`` is the median spacing of the scans.

    ``bounded``: a finer grid would have been better, and a scan has too many voxels then.
    """

    of_parent: Candidate
    chosen: Candidate
    native_zyx_mm: Triple
    bounded: bool = False

    @property
    def is_own(self) -> bool:
        """Whether the grid is another one than the parent's."""
        return self.chosen.spacing_zyx_mm != self.of_parent.spacing_zyx_mm

    @property
    def text(self) -> str:
        """Why it is this grid, in a sentence or two for a person."""
        old, new = self.of_parent, self.chosen
        if not self.is_own and not self.bounded:
            return f"Voxels of {old.spacing_text}, as the parent's: they let {old.worst} reach a Dice of {old.cap:.2f}."
        least = f"at the parent's {old.spacing_text} even a perfect network could not exceed a Dice of {old.cap:.2f}"
        text = f"Voxels of {new.spacing_text}: {least} for {old.worst}"
        text += f", at {new.spacing_text} {new.caps[old.worst]:.2f}." if self.is_own else "."
        if self.bounded:
            text += " Smaller ones would allow more, but scans this large would take minutes each."
        return text


def with_own_grid(
    configuration: FineTuningConfiguration,
    surveys: Collection[CaseSurvey],
    names: Collection[str],
    change: LabelChange,
    parent: ModelDescription,
) -> tuple[FineTuningConfiguration, tuple[str, ...]]:
    """Return the settings with the grid and the patch of a new task, and a note that says why; ``names`` are drawn.

    Nothing is chosen where the settings name a spacing. The grid stays the parent's where one of its structures does:
    what the parent finds of it, which the new version is held to and compared with, is found at that scale.
    """
    if configuration.spacing_mm is not None or not any(one.masks for one in surveys):
        return configuration, ()
    preparation = configuration.preparation(parent)
    if any(fate != "new" for fate in change.fates):
        return configuration, _note_on_parents_grid(surveys, names, change, preparation)
    choice = choose_grid(surveys, names, preparation)
    if choice.is_own:
        z, y, x = choice.chosen.spacing_zyx_mm
        configuration = replace(configuration, spacing_mm=z if z == y == x else (x, y, z))
    usual = configuration.patch
    configuration = _with_patch(configuration, surveys, names, parent)
    patches = f" Training patches have {configuration.patch} voxels a side." if configuration.patch != usual else ""
    return configuration, (choice.text + patches,)


def _note_on_parents_grid(
    surveys: Collection[CaseSurvey], names: Collection[str], change: LabelChange, preparation: Preparation
) -> tuple[str, ...]:
    """Return a note where the parent's grid, which stays, costs a structure much."""
    fates = dict(zip(change.label_set.names, change.fates, strict=True))
    caps = resolution_caps(masks_by_structure(surveys, names), preparation.spacing_zyx_mm, preparation.axes)
    low = {name: cap for name, cap in caps.items() if cap < (CAP_TO_STAY if fates[name] == "new" else CAP_OF_KNOWN)}
    if not low:
        return ()
    worst = min(low, key=lambda name: low[name])
    return (
        f"At the parent's {preparation.spacing_text} even a perfect network could not exceed a Dice of "
        f"{low[worst]:.2f} for {worst}. Smaller voxels are chosen where the new version keeps no structure of the "
        "parent (--drop on the command line), or can be asked for (--spacing-mm).",
    )


def _with_patch(
    configuration: FineTuningConfiguration,
    surveys: Collection[CaseSurvey],
    names: Collection[str],
    parent: ModelDescription,
) -> FineTuningConfiguration:
    """Return the settings with a smaller patch where the structures need no more; one that was asked for stays.

    Networks that predict in windows of their training patch keep to it.
    """
    tiling, usual = parent.backbone.tiling, FineTuningConfiguration.patch
    if configuration.patch != usual or tiling.blend != "exact":
        return configuration
    side = patch_side(surveys, names, configuration.preparation(parent), configuration.frame, max(tiling.multiple_zyx))
    return replace(configuration, patch=min(usual, max(side, *tiling.smallest_zyx)))


def choose_grid(surveys: Collection[CaseSurvey], names: Iterable[str], preparation: Preparation) -> GridChoice:
    """Return the grid for structures that are all new to the parent, whose ``preparation`` is given.

    The coarsest candidate on which every structure can reach ``WANTED_CAP``, where the parent's does not let them reach
    ``CAP_TO_STAY``; else the best of those with at most ``MOST_VOXELS`` in a mean scan.
    """
    masks = masks_by_structure(surveys, names)
    native = native_spacing(surveys, preparation.axes)
    volume_mm3 = float(np.mean([one.volume_mm3 for one in surveys]))
    of_parent = _candidate(preparation.spacing_zyx_mm, masks, preparation.axes, volume_mm3)
    best = of_parent
    if of_parent.cap >= CAP_TO_STAY:
        return GridChoice(of_parent, of_parent, native)
    for spacing in candidate_spacings(preparation.spacing_zyx_mm, native):
        if volume_mm3 / math.prod(spacing) > MOST_VOXELS:
            return GridChoice(of_parent, best, native, bounded=True)
        found = _candidate(spacing, masks, preparation.axes, volume_mm3)
        best = max(best, found, key=lambda one: one.cap)
        if best.cap >= WANTED_CAP:
            break
    return GridChoice(of_parent, best, native)


def masks_by_structure(surveys: Collection[CaseSurvey], names: Iterable[str]) -> dict[str, list[StructureMask]]:
    """Return the masks of structures, those of which there are any."""
    found = {name: [one.masks[name] for one in surveys if name in one.masks] for name in names}
    return {name: masks for name, masks in found.items() if masks}


def native_spacing(surveys: Collection[CaseSurvey], axes: str) -> Triple:
    """Return the median spacing (zyx, mm) of scans along a model's axes."""
    z, y, x = np.median([one.axes.along(one.axes.spacing_xyz_mm, axes) for one in surveys], axis=0)
    return float(z), float(y), float(x)


def candidate_spacings(parent_zyx_mm: Triple, native_zyx_mm: Triple) -> Iterator[Triple]:
    """Return spacings from the parent's, which is left out, to the scans' own, coarse ones first.

    Along no axis are they coarser than the parent's, whose filters expect the anatomy no smaller, or finer than the
    scans', where there is nothing more to see. That keeps voxels of thick slices nearly cubes.
    """
    finest, last = min(native_zyx_mm), parent_zyx_mm
    level = max(parent_zyx_mm)
    while level > finest:
        level = max(level / _STEP, finest)
        rounded = max(round(level / _ROUNDED_MM) * _ROUNDED_MM, _ROUNDED_MM)
        z, y, x = (
            # Close to the scans' own voxels those themselves: nothing is lost on the way then.
            round(min(parent, native if rounded < _CLOSE * native else rounded), 3)
            for parent, native in zip(parent_zyx_mm, native_zyx_mm, strict=True)
        )
        if (z, y, x) != last:
            last = (z, y, x)
            yield last


def resolution_caps(
    masks: Mapping[str, Iterable[StructureMask]], spacing_zyx_mm: Triple, axes: str
) -> dict[str, float]:
    """Return what each structure could reach on a grid: its mean Dice over some cases."""
    return {
        name: float(np.mean([resolution_cap(mask, spacing_zyx_mm, axes) for mask in of_cases]))
        for name, of_cases in masks.items()
    }


def _candidate(
    spacing_zyx_mm: Triple, masks: Mapping[str, Iterable[StructureMask]], axes: str, volume_mm3: float
) -> Candidate:
    caps = resolution_caps(masks, spacing_zyx_mm, axes)
    return Candidate(spacing_zyx_mm, caps, volume_mm3 / math.prod(spacing_zyx_mm))


def patch_side(
    surveys: Collection[CaseSurvey], names: Collection[str], preparation: Preparation, frame: int, multiple: int
) -> int:
    """Return the side of a training patch (voxels) in which the largest structure lies with some context.

    It is a multiple of ``multiple``, and beside the frame no larger than the scans.
    """
    spacing = np.array(preparation.spacing_zyx_mm)
    structures = [
        np.array(one.axes.along(mask.size_xyz_mm, preparation.axes))
        for one in surveys
        for name, mask in one.masks.items()
        if name in names
    ]
    scans = [np.array(one.axes.along(one.size_xyz_mm, preparation.axes)) for one in surveys]
    needed = np.max(structures, axis=0) / spacing + 2 * _CONTEXT_VOXELS
    side = float(np.minimum(needed, np.max(scans, axis=0) / spacing).max()) + 2 * frame
    return multiple * math.ceil(side / multiple - 1e-6)
