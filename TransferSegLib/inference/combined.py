"""Segment a scan with a combination of models, one after another, so that one network is in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.display_colors import distinguishable
from TransferSegLib.doubt.places import doubtful_places
from TransferSegLib.doubt.scan_doubt import ScanDoubt
from TransferSegLib.errors import ModelError, ScanError
from TransferSegLib.fit.reasons import NOTHING_FOUND, Fit
from TransferSegLib.images.label_resampling import smallest_label_type
from TransferSegLib.images.read import scan_given
from TransferSegLib.inference.devices import Device, choose_device
from TransferSegLib.inference.options import USUAL, PredictionOptions
from TransferSegLib.inference.segmenter import Scan, Segmentation, Segmenter
from TransferSegLib.models.combination import is_combination
from TransferSegLib.models.combined_parts import Part, parts_of
from TransferSegLib.models.store import load_model
from TransferSegLib.progress import CancelToken, ProgressCallback, Task
from TransferSegLib.structures import LabelSet


def open_segmenter(
    path: Path,
    device: str | Device = "auto",
    memory_gb: float | None = None,
    options: PredictionOptions = USUAL,
    features: bool = False,
) -> Segmenter | CombinedSegmenter:
    """Return what segments with a model or a combination; the arguments and errors are those of ``Segmenter``."""
    if is_combination(path) and features:
        raise ModelError(f"Features of a combination of models ({path.name}) cannot be kept: name one of its models.")
    if is_combination(path):
        return CombinedSegmenter(path, device, memory_gb, options)
    return Segmenter(load_model(path), device, memory_gb, options, features)


class CombinedSegmenter:
    """A combination on a device. The models are loaded anew for each scan."""

    def __init__(
        self,
        path: Path,
        device: str | Device = "auto",
        memory_gb: float | None = None,
        options: PredictionOptions = USUAL,
    ) -> None:
        """Look at the parts, load none; the arguments and errors are those of ``Segmenter``."""
        self.label_set, self._parts = parts_of(path)
        for part in self._parts:
            options.check(part.description.backbone.tiling)
        self._device = choose_device(device) if isinstance(device, str) else device
        self._memory_gb, self._options = memory_gb, options

    def segment(
        self,
        image: Scan | Mapping[str, Scan],
        structures: Iterable[str] | None = None,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
        known_modality: str = "",
        doubt: bool = False,
    ) -> Segmentation:
        """Segment one scan; see ``Segmenter.segment``."""
        scan = scan_given(image, cancel)
        return self.segment_within(Task("Segmenting", progress, cancel), scan, structures, known_modality, doubt)

    def segment_within(
        self,
        task: Task,
        image: sitk.Image | Mapping[str, sitk.Image],
        structures: Iterable[str] | None = None,
        known_modality: str = "",
        doubt: bool = False,
    ) -> Segmentation:
        """Segment one scan as a part of a larger task; models without one of the ``structures`` are left out."""
        if isinstance(image, Mapping):
            raise ScanError("A combination of models takes one image of each scan: give it without a name.")
        started = time.monotonic()
        shown = distinguishable(self.label_set)
        selected = shown if structures is None else shown.select(structures)
        wanted = {structure.key for structure in selected}
        parts = [part for part in self._parts if wanted & {s.key for s in part.description.label_set}]
        labels = np.zeros(image.GetSize()[::-1], smallest_label_type(self.label_set.label_values))
        found: list[_Found] = []
        for number, part in enumerate(parts):
            here = task.share(number, len(parts)).named(f"Model {number + 1} of {len(parts)}")
            found.append(self._add(part, image, labels, here, known_modality, doubt))
        others = [structure.label for structure in self.label_set if structure.key not in wanted]
        labels[np.isin(labels, others)] = 0
        label_map = sitk.GetImageFromArray(labels)
        label_map.CopyInformation(image)
        seconds, fit = time.monotonic() - started, _joined(found, selected.names)
        notices = tuple(dict.fromkeys(notice for each in found for notice in each.notices))
        doubts = tuple(one for each in found for one in each.doubts)
        places = doubtful_places(doubts, image, selected.names, task=Task("", None, task.cancel))
        task.done()
        return Segmentation(label_map, selected, found[-1].device, seconds, notices, fit, {}, doubts, places)

    def _add(
        self, part: Part, image: sitk.Image, labels: np.ndarray, task: Task, known_modality: str, doubt: bool
    ) -> _Found:
        """Write one model's labels over those of the models before it."""
        task.at(0.0, "loading the model")
        segmenter = Segmenter(load_model(part.path), self._device, self._memory_gb, self._options)
        segmentation = segmenter.segment_within(task, image, None, known_modality, doubt)
        becomes = np.zeros(max(segmentation.label_set.label_values) + 1, labels.dtype)
        for structure in segmentation.label_set:
            becomes[structure.label] = _label(self.label_set, structure.name)
        mapped = becomes[sitk.GetArrayViewFromImage(segmentation.label_map)]
        np.copyto(labels, mapped, where=mapped != 0)
        return _Found(segmentation.device, segmentation.notices, segmentation.fit, segmentation.doubts)


@dataclass(frozen=True)
class _Found:
    """What is kept of one model's segmentation: all but its label map."""

    device: str
    notices: tuple[str, ...]
    fit: Fit
    doubts: tuple[ScanDoubt, ...]


def _label(label_set: LabelSet, name: str) -> int:
    """Return the label of a structure that a label set has."""
    structure = label_set.find(name)
    assert structure is not None
    return structure.label


def _joined(found: list[_Found], names: tuple[str, ...]) -> Fit:
    """Return the fit of all models together, each reason once; that one of them finds nothing is usual."""
    empty = [any(reason.kind == NOTHING_FOUND for reason in each.fit.reasons) for each in found]
    reasons = dict.fromkeys(reason for each in found for reason in each.fit.reasons)
    kept = [reason for reason in reasons if all(empty) or reason.kind != NOTHING_FOUND]
    return Fit.of(kept, names, tuple(dict.fromkeys(name for each in found for name in each.fit.unchecked)))
