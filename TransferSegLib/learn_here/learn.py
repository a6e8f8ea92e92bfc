"""Learn here: fit the last layer of a model to the corrected part of a scan and redraw the rest of that scan.

>>> learned = learn_here("scan.nii.gz", "corrected.seg.nrrd", "z:10,20,30,40", model="head-neck-ct")
>>> write_label_map(learned.label_map, "redrawn.seg.nrrd", learned.label_set)

The result is a segmentation; the model stays as it is. No voxel that was judged ever changes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from TransferSegLib.corrections.inputs import (
    ImageSource,
    JudgedSlices,
    Structures,
    read_image,
    read_judged,
    read_named_labels,
)
from TransferSegLib.errors import DatasetError, ModelError
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.images.preprocess import preprocess
from TransferSegLib.inference.kept_features import (
    BUDGET_MB,
    KeptFeatures,
    bytes_of_a_voxel,
    grown_mm,
    joined,
    load_features,
    model_key,
    save_features,
    scan_key,
)
from TransferSegLib.inference.segmenter import Segmenter
from TransferSegLib.inference.wanted_features import WantedFeatures
from TransferSegLib.learn_here.head_features import HeadFeatures, voxels_around
from TransferSegLib.learn_here.redraw import Corrected, StructureRegion, drop_islands, put_together, redraw_structure
from TransferSegLib.learn_here.refit import Recipe
from TransferSegLib.models.combination import is_combination
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import Model, load_model
from TransferSegLib.progress import CancelToken, ProgressCallback, Task
from TransferSegLib.structures import LabelSet, Structure

#: Features that were kept are used where they cover this share of the voxels that may change.
_ENOUGH = 0.98
#: Features are computed so far around where they are needed, as far as there is room.
_SLACK_MM = (12.0, 6.0, 3.0)


@dataclass(frozen=True)
class LearnedStructure:
    """What learning did to a structure: ``changed_voxels`` of the scan got or lost it.

    ``slices`` counts its judged slices; ``weight`` is that of the interpolation between them, 0 without one.
    """

    name: str
    changed_voxels: int
    slices: int
    weight: float


@dataclass(frozen=True)
class LearnedHere:
    """A label map whose voxels that were not judged are redrawn, what became of the structures, and the seconds.

    ``features_kept`` tells whether the features were there already; otherwise they were computed.
    """

    label_map: sitk.Image
    label_set: LabelSet
    structures: tuple[LearnedStructure, ...]
    seconds: float
    features_kept: bool

    def to_json(self) -> dict[str, Any]:
        """Return JSON values of what was done."""
        return {
            "seconds": round(self.seconds, 2),
            "features_kept": self.features_kept,
            "structures": [
                {"name": one.name, "judged_slices": one.slices, "changed_voxels": one.changed_voxels}
                for one in self.structures
            ],
        }


def learn_here(
    scan: ImageSource,
    corrected: ImageSource,
    judged: ImageSource | JudgedSlices,
    model: Model | Path | str | None = None,
    structures: Sequence[str] | None = None,
    *,
    names: Structures | None = None,
    features: Path | str | None = None,
    budget_mb: float = BUDGET_MB,
    device: str = "auto",
    memory_gb: float | None = None,
    recipe: Recipe | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    task: Task | None = None,
) -> LearnedHere:
    """Learn from the ``judged`` part of a ``corrected`` label map, and redraw the rest of it.

    ``judged`` is a mask on the scan's grid, or slices ("z:10,20", ``JudgedSlices``). ``structures`` are redrawn (None:
    those that the judged part holds); the model need not know them. ``names`` are those of the label values, if the
    label map does not tell. ``features`` is the file that segmenting kept them in; if they are not there they are
    computed, and kept in it within ``budget_mb``. Raises ModelError for a model that cannot do it, DatasetError,
    ScanError, Cancelled.
    """
    started = time.monotonic()
    task = task or Task("Learning here", progress, cancel)
    loaded = _usable(model)
    reading, computing, learning = task.split(1, 6, 3)
    image = read_image(scan, task=reading)
    labels = read_named_labels(corrected, "the corrected label map", image, names, loaded.description.label_set)
    if isinstance(judged, str) and not Path(judged).exists():
        judged = JudgedSlices.parse(judged)
    mask = read_judged(judged, image)
    if mask is None:
        raise DatasetError("All of the scan was judged: there is nothing left to redraw.")
    reading.done()
    path = None if features is None else Path(features)
    key = scan_key(image), model_key(loaded)
    kept = None if path is None else load_features(path, *key)
    # The grid of some preparations depends on the intensities, so the scan is prepared in any case.
    grid = preprocess(image, loaded.description.preparation, computing.split(1, 9)[0]).grid
    chosen = _chosen(labels.label_set, labels.image, mask, structures)
    here = _Scan(image, labels.image, mask, grid, [one.label for one in chosen])
    wanted = None if here.are_enough(loaded, kept) else here.voxels_needed(loaded, kept, budget_mb, computing)
    were_kept = wanted is None
    if wanted is not None:
        kept = joined(kept, _computed(loaded, image, wanted, device, memory_gb, computing.split(1, 9)[1]), budget_mb)
        if path is not None:
            save_features(kept, path)
    computing.done()
    assert kept is not None
    found = here.learn(loaded, kept, chosen, recipe or Recipe(), learning)
    return LearnedHere(here.label_map(), labels.label_set, found, time.monotonic() - started, were_kept)


def check_can_learn(path: Path) -> None:
    """Raise ModelError, before any work, for a combination of models; other reasons are in the model."""
    if is_combination(path):
        raise ModelError("Learn here needs one model, not a combination: name the one that knows the structure.")


def _usable(model: Model | Path | str | None) -> Model:
    """Load a model and raise ModelError for one whose last layer cannot be fitted alone."""
    if not isinstance(model, Model):
        path = find_model(model)
        check_can_learn(path)
        model = load_model(path)
    model.description.check_single_structures("Learning from one scan")
    tiling = model.description.backbone.tiling
    if tiling.blend != "exact" and tiling.linear_head is None:
        raise ModelError(
            f"Learning from one scan is not possible with '{model.description.name}': its network's last layer does "
            "not see one voxel at a time. Fine-tune the model instead."
        )
    return model


def _chosen(
    label_set: LabelSet, label_map: sitk.Image, mask: sitk.Image, names: Sequence[str] | None
) -> list[Structure]:
    """Return the structures that are redrawn; raises DatasetError for names that there are not, or for none."""
    if names is not None:
        return list(label_set.select(names))
    inside = sitk.GetArrayViewFromImage(label_map)[sitk.GetArrayViewFromImage(mask) != 0]
    found = set(np.unique(inside).tolist())
    chosen = [structure for structure in label_set if structure.label in found]
    if not chosen:
        raise DatasetError("The judged part of the scan holds no structure: name those to redraw.")
    return chosen


def _computed(
    model: Model,
    image: sitk.Image,
    wanted_zyx: np.ndarray,
    device: str,
    memory_gb: float | None,
    task: Task,
) -> KeptFeatures:
    """Compute the features of some voxels of the model's grid (a mask), in the part of the scan that holds them."""
    segmenter = Segmenter(model, device, memory_gb, features=True)
    return segmenter.features_within(task.named("Computing features", "features"), image, WantedFeatures(wanted_zyx))


class _Scan:
    """A scan with its corrected label map, as arrays along the axes of the model's grid."""

    def __init__(
        self, image: sitk.Image, corrected: sitk.Image, mask: sitk.Image, grid: ModelGrid, labels: Sequence[int]
    ) -> None:
        self._image, self._grid = image, grid
        self._labels = sitk.GetArrayFromImage(corrected)
        self._oriented = grid.oriented(self._labels)
        self._judged = grid.oriented(sitk.GetArrayViewFromImage(mask) != 0)
        z, y, x = (float(image.GetSpacing()[axis]) for axis in reversed(grid.order.axes))
        before = Corrected(self._oriented.copy(), self._judged, (z, y, x))
        regions = {label: StructureRegion(before, label, grid) for label in labels}
        self._before, self._regions = before, {label: one for label, one in regions.items() if one.is_there}

    def are_enough(self, model: Model, kept: KeptFeatures | None) -> bool:
        """Tell whether features were kept of nearly all voxels that may change."""
        if kept is None or kept.size_zyx != self._grid.size_zyx:
            return False
        head = HeadFeatures(model, kept, self._grid)
        known = (head.known_at(one.places(one.needed & ~one.judged)) for one in self._regions.values())
        return all(each.mean() >= _ENOUGH for each in known if each.size)

    def voxels_needed(self, model: Model, kept: KeptFeatures | None, budget_mb: float, task: Task) -> np.ndarray | None:
        """Return of which voxels of the model's grid (mask) features are to be computed; ModelError for too many.

        Those that were kept are not computed again if there is room for all. Where not even those that are needed fit
        into the budget, the inside of large structures is left as it is; None, if those that were kept are enough then.
        """
        self._check_there()
        most = budget_mb * 1e6 / bytes_of_a_voxel(model)
        wanted_zyx = self._around_needed(task)
        if np.count_nonzero(wanted_zyx) > most:
            for one in self._regions.values():
                one.leave_inside()
            if self.are_enough(model, kept):
                return None
            wanted_zyx = self._around_needed(task)
        needed = np.count_nonzero(wanted_zyx)
        if needed > most:
            fewer = "learn fewer structures at once, or " if len(self._regions) > 1 else ""
            raise ModelError(
                f"The features around the structures take {needed * bytes_of_a_voxel(model) / 1e6:.1f} MB, more than "
                f"the {budget_mb:g} MB that are allowed: {fewer}fine-tune the model."
            )
        # What is redrawn may be larger than before, and the next click needs what is around that.
        for margin_mm in _SLACK_MM:
            grown_zyx = grown_mm(wanted_zyx, margin_mm, self._grid)
            if np.count_nonzero(grown_zyx) <= most:
                wanted_zyx = grown_zyx
                break
        if kept is not None and kept.size_zyx == self._grid.size_zyx:
            missing_zyx = wanted_zyx & (kept.rows() < 0)
            if len(kept.voxels) + np.count_nonzero(missing_zyx) <= most:
                return missing_zyx
        return wanted_zyx

    def _around_needed(self, task: Task) -> np.ndarray:
        """Return the voxels of the model's grid (mask) around those whose features are needed."""
        around_zyx = np.zeros(self._grid.size_zyx, bool)
        for one in self._regions.values():
            task.check()
            around_zyx |= voxels_around(self._grid, one.places(one.needed))
        return around_zyx

    def _check_there(self) -> None:
        if not self._regions:
            raise DatasetError(
                "There is nothing to learn: the judged part of the scan must hold a part of a structure, not all of it."
            )

    def learn(
        self, model: Model, kept: KeptFeatures, chosen: Sequence[Structure], recipe: Recipe, task: Task
    ) -> tuple[LearnedStructure, ...]:
        """Redraw the chosen structures and return what became of them; raises DatasetError where there is nothing."""
        head = HeadFeatures(model, kept, self._grid)
        known = model.description.label_set.names
        redrawn, named = {}, [one for one in chosen if one.label in self._regions]
        self._check_there()
        for structure, part in task.named("Learning", "learning").each(named, lambda one: one.name):
            own = model.description.label_set.find(structure.name)
            channel = None if own is None else known.index(own.name) + 1
            redrawn[structure.label] = redraw_structure(self._regions[structure.label], head, channel, recipe, part)
        put_together(self._oriented, redrawn)
        single = {name.casefold() for name in model.description.single_part}
        for structure in named:
            if structure.name.casefold() in single:
                drop_islands(self._oriented, self._judged, structure.label)
        return tuple(self._learned(one, redrawn[one.label].weight, redrawn[one.label].slices) for one in named)

    def _learned(self, structure: Structure, weight: float, slices: int) -> LearnedStructure:
        before, after = (labels == structure.label for labels in (self._before.labels, self._oriented))
        return LearnedStructure(structure.name, int(np.count_nonzero(before ^ after)), slices, weight)

    def label_map(self) -> sitk.Image:
        """Return the redrawn label map on the scan's grid."""
        result = sitk.GetImageFromArray(self._labels)
        result.CopyInformation(self._image)
        return result
