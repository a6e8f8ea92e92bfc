"""A simulated person who corrects a few slices of a structure, clicks Learn here, and then corrects what is left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from Testing.research.common.annotator import Drawn, Person, SomeSlices, Spacing, draw_some_slices, draw_structure
from TransferSegLib.evaluation.effort import slice_axis_of
from TransferSegLib.evaluation.surface_distance import surface_dice
from TransferSegLib.images.label_values import image_like
from TransferSegLib.inference.kept_features import KeptFeatures, save_features
from TransferSegLib.inference.segment import Segmentation
from TransferSegLib.learn_here.learn import learn_here
from TransferSegLib.models.store import Model


@dataclass(frozen=True)
class Segmented:
    """A scan, what a model made of it, and the features that were kept, in a file of their own."""

    scan: sitk.Image
    found: Segmentation
    model: Model
    features: Path

    @staticmethod
    def keeping(scan: sitk.Image, found: Segmentation, model: Model, kept: KeptFeatures, path: Path) -> Segmented:
        """Write the features to a file."""
        save_features(kept, path)
        return Segmented(scan, found, model, path)


def judged_mask(drawn: SomeSlices, shape: tuple[int, ...]) -> np.ndarray:
    """Return the mask (uint8, zyx) of the judged slices."""
    mask = np.zeros(shape, np.uint8)
    np.moveaxis(mask, drawn.axis, 0)[drawn.judged] = 1
    return mask


def draw_and_learn(
    segmented: Segmented, name: str, truth_zyx: np.ndarray, spacing_zyx_mm: Spacing, person: Person, slices: int
) -> Drawn:
    """Return what the person makes of a structure of which some ``slices`` are drawn before Learn here.

    Where the prediction is good enough or not worth correcting, or the structure lies in fewer than twice as many
    slices, the person works as without Learn here.
    """
    structure = segmented.found.label_set.find(name)
    assert structure is not None
    labels_zyx = sitk.GetArrayFromImage(segmented.found.label_map)
    start = labels_zyx == structure.label
    tolerance_mm = person.tolerance_voxels * min(spacing_zyx_mm)
    before = surface_dice(start, truth_zyx, spacing_zyx_mm, tolerance_mm)
    there = np.moveaxis(truth_zyx, slice_axis_of(spacing_zyx_mm), 0).any(axis=(1, 2))
    if not person.worth_correcting <= before < person.target or np.count_nonzero(there) < 2 * slices:
        return draw_structure(start, truth_zyx, spacing_zyx_mm, person)
    drawn = draw_some_slices(start, truth_zyx, spacing_zyx_mm, person, slices)
    labels_zyx[start] = 0
    labels_zyx[drawn.mask_zyx] = structure.label
    learned = learn_here(
        segmented.scan,
        image_like(labels_zyx, segmented.scan),
        image_like(judged_mask(drawn, truth_zyx.shape), segmented.scan),
        segmented.model,
        [name],
        names=segmented.found.label_set,
        features=segmented.features,
    )
    redrawn = sitk.GetArrayFromImage(learned.label_map) == structure.label
    result = draw_structure(redrawn, truth_zyx, spacing_zyx_mm, replace(person, worth_correcting=0.0))
    result.before, result.path_mm = before, result.path_mm + drawn.path_mm
    result.slices += drawn.slices
    return result
