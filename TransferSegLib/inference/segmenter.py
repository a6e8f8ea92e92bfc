"""Segment a scan with a model: the one place where scan, model, network and label map meet.

>>> segmenter = Segmenter(load_model(find_model("head-neck-ct")))
>>> segmentation = segmenter.segment(read_scan("scan.nii.gz"))
>>> segmentation.volumes_ml()
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.display_colors import distinguishable
from TransferSegLib.doubt.places import DoubtfulPlace, doubtful_places
from TransferSegLib.doubt.scan_doubt import DoubtCollector, ScanDoubt, doubt_volume
from TransferSegLib.errors import ScanError, TransferSegError
from TransferSegLib.fit.check import check_fit, scan_reasons
from TransferSegLib.fit.feature_profile import ScanFeatures
from TransferSegLib.fit.features import FeatureCollector
from TransferSegLib.fit.reasons import Fit
from TransferSegLib.fit.shapes import ScanShapes, shapes_of
from TransferSegLib.images.copied_labels import label_writer
from TransferSegLib.images.notices import notices_of
from TransferSegLib.images.preprocess import PreprocessedScan, preprocess
from TransferSegLib.images.read import scan_given
from TransferSegLib.images.several_images import check_one_grid, in_order
from TransferSegLib.inference.devices import Device, choose_device
from TransferSegLib.inference.first_scan import other_axes_notices, remember_axes
from TransferSegLib.inference.kept_features import FeatureKeeper, KeptFeatures
from TransferSegLib.inference.memory import default_memory_gb
from TransferSegLib.inference.options import USUAL, PredictionOptions
from TransferSegLib.inference.postprocessing import keep_largest_part
from TransferSegLib.inference.predict import predictor_of
from TransferSegLib.inference.wanted_features import WantedFeatures
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.store import Model
from TransferSegLib.progress import CancelToken, ProgressCallback, Task
from TransferSegLib.structures import LabelSet

#: A scan as people give it: an image, a file or a DICOM folder.
Scan = sitk.Image | Path | str

#: Python, torch and SimpleITK themselves, measured after their first use.
_PROCESS_BYTES = 4e8
#: For weighing the parts of the work, roughly: voxels of a scan that are brought to the model's grid in a second, and
#: of its label map that are looked through for parts; seconds for a voxel of the model's grid and a weight.
_PREPARED_PER_SECOND, _KEPT_PER_SECOND = 3e8, 2e8
_NETWORK_S = {"cpu": 3.8e-13, "cuda": 6.3e-16, "mps": 6.3e-15}
#: The share of writing labels in the time of a box.
_WRITING_LABELS = 0.1
#: The share of the memory that a tile takes where its features are kept.
_BESIDE_FEATURES = 0.7


@dataclass(frozen=True)
class Segmentation:
    """A label map on the scan's own grid, the structures in it, what computed it and in how many seconds.

    ``notices`` are lines for a person about how the scan was read, ``fit`` tells whether the result can be trusted.
    ``own_labels`` holds the values that a structure consists of where that is not its label alone. Where doubt was
    asked for, ``doubts`` holds that of each model, ``places`` where to look, the most doubtful first, and ``features``
    what kind of scan it is to a network that shows its deepest maps.
    """

    label_map: sitk.Image
    label_set: LabelSet
    device: str
    seconds: float
    notices: tuple[str, ...] = ()
    fit: Fit = field(default_factory=Fit)
    own_labels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    doubts: tuple[ScanDoubt, ...] = ()
    places: tuple[DoubtfulPlace, ...] = ()
    features: ScanFeatures | None = None

    @property
    def doubt_is_calibrated(self) -> bool:
        """Whether doubts are shares of wrong voxels on held-out cases, and not only in the right order."""
        return all(doubt.calibration is not None for doubt in self.doubts)

    def doubt_volume(self, task: Task | None = None) -> sitk.Image:
        """Return the doubt about the structures (float32, 0 to 1) on the scan's grid.

        Raises TransferSegError where the scan was segmented without ``doubt``, and Cancelled from the task.
        """
        if not self.doubts:
            raise TransferSegError("The doubt of this segmentation is not known: segment the scan with doubt=True.")
        return doubt_volume(self.doubts, self.label_map, self.label_set.names, task)

    def volumes_ml(self) -> dict[str, float]:
        """Return the volume of every structure in millilitres, in the order of the label set; 0 for one not found."""
        voxel_ml = float(np.prod(self.label_map.GetSpacing())) / 1000
        labels = sitk.GetArrayViewFromImage(self.label_map)
        consists_of = {s.name: self.own_labels.get(s.name, (s.label,)) for s in self.label_set}
        largest = max(value for values in consists_of.values() for value in values)
        counts = np.zeros(max(largest, *self.label_set.label_values) + 1, np.int64)
        for plane in labels:
            counts += np.bincount(plane.ravel(), minlength=len(counts))
        return {name: float(counts[list(set(values))].sum() * voxel_ml) for name, values in consists_of.items()}


class Segmenter:
    """A model on a device, loaded once for many scans."""

    def __init__(
        self,
        model: Model,
        device: str | Device = "auto",
        memory_gb: float | None = None,
        options: PredictionOptions = USUAL,
        features: bool = False,
    ) -> None:
        """Load the network; ``device`` as in ``choose_device``, or one that was chosen already.

        ``memory_gb`` is for the whole process on a CPU; None: 6, or half of the computer's memory where that is less.
        With ``features`` it can fill a ``FeatureKeeper``, and compute those of some voxels (``features_within``).

        Raises DeviceError when the device asked for is not there, TransferSegError for options that are not for the
        model.
        """
        options.check(model.description.backbone.tiling)
        self.model = model
        self._memory_bytes = (default_memory_gb() if memory_gb is None else memory_gb) * 1e9
        self._networks = model.networks()
        self._backbone = model.description.backbone
        device = choose_device(device) if isinstance(device, str) else device
        regions = bool(model.description.regions)
        self._predictor = predictor_of(
            self._networks, self._backbone, device, options=options, regions=regions, features=features
        )

    def segment(
        self,
        image: Scan | Mapping[str, Scan],
        structures: Iterable[str] | None = None,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
        known_modality: str = "",
        doubt: bool = False,
    ) -> Segmentation:
        """Segment one scan; ``structures`` names those to write (None: all), the others become background.

        ``image`` is a SimpleITK image, a file or a DICOM folder; several by name, ``{"T1": ..., "T2": ...}``, for a
        model of several images. ``known_modality`` is the scan's DICOM modality where the image does not store it.
        With ``doubt`` it is also kept how doubtful each voxel is. Raises ScanError for what is no scan,
        TransferSegError for an unknown structure, DeviceError for too little memory, Cancelled when asked to stop.
        """
        scan = scan_given(image, cancel)
        return self.segment_within(Task("Segmenting", progress, cancel), scan, structures, known_modality, doubt)

    def segment_within(
        self,
        task: Task,
        image: sitk.Image | Mapping[str, sitk.Image],
        structures: Iterable[str] | None = None,
        known_modality: str = "",
        doubt: bool = False,
        keeper: FeatureKeeper | None = None,
    ) -> Segmentation:
        """Segment one scan as a part of a larger task, ``keeper`` collecting features; see ``segment``."""
        started = time.monotonic()
        description = self.model.description
        shown = distinguishable(description.label_set)
        selected = shown if structures is None else shown.select(structures)
        images: tuple[sitk.Image, ...] = in_order(image, description.preparation)
        for each in images:
            _check_is_scan(each)
        check_one_grid(images, description.preparation.image_names or ("",))
        first = images[0]
        task.at(0.0, f"on {self._predictor.device}")
        expected_s = self._expected_s(first)
        preparing, predicting, keeping, checking, looking = task.split(*expected_s, expected_s[-1] if doubt else 0)
        scan = preprocess(images, description.preparation, preparing)
        _check_are_numbers(scan)
        known = description.fit.features if description.fit is not None else None
        usual = None if known is None else known.usual
        collector = self._collector(scan, usual) if known is not None or doubt else None
        # Every structure, be it asked for or not, tells whether the others lie where they should.
        label_map, doubts = self._label_map(first, scan, predicting, keeping, collector, doubt, keeper)
        if keeper is not None:
            keeper.finish(first, self.model, checking)
        features = None if collector is None else collector.features(0.0 if known is None else known.familiar)
        fit = checking.wait(
            lambda: check_fit(
                scan_reasons(first, description.modality, known_modality),
                shapes_of(label_map, description.label_set, description.single_part),
                description.fit,
                description.label_set.names,
                None if known is None else features,
                selected.names,
            ),
            expected_s[-1],
        )
        label_map = _with_only(label_map, description, selected)
        places = doubtful_places(doubts, first, selected.names, task=looking)
        notices = (*notices_of(first), *other_axes_notices(description, first))
        remember_axes(description, first)
        task.done()
        seconds = time.monotonic() - started
        device, own_labels = str(self._predictor.device), description.own_labels if description.regions else {}
        return Segmentation(label_map, selected, device, seconds, notices, fit, own_labels, doubts, places, features)

    def features_within(self, task: Task, image: sitk.Image, wanted: WantedFeatures) -> KeptFeatures:
        """Compute the features that are asked for, and no more of the scan than that takes; see ``segment``."""
        _check_is_scan(image)
        preparing, predicting, *_ = task.split(*self._expected_s(image))
        scan = preprocess(image, self.model.description.preparation, preparing)
        _check_are_numbers(scan)
        tile_bytes = _BESIDE_FEATURES * (self._memory_bytes - self._bytes_besides_tiles(image, scan))
        prediction = self._predictor.predict(
            scan.intensities_czyx, scan.padding_values, tile_bytes, predicting, features=True, within=wanted.wanted_zyx
        )
        for box in prediction:
            wanted.add(box)
            del box  # before the next one is computed
        task.done()
        return wanted.kept(image, self.model)

    def look_at(
        self, image: sitk.Image, cancel: CancelToken | None = None
    ) -> tuple[ScanShapes, FeatureCollector | None]:
        """Return what a model's profile is made of: the structures found in a scan, and its deepest maps if any."""
        description = self.model.description
        _check_is_scan(image)
        preparing, predicting, keeping, _ = Task("Looking at a scan", None, cancel).split(*self._expected_s(image))
        scan = preprocess(image, description.preparation, preparing)
        collector = self._collector(scan, keep=True)
        label_map, _doubts = self._label_map(image, scan, predicting, keeping, collector)
        return shapes_of(label_map, description.label_set, description.single_part), collector

    def _collector(
        self, scan: PreprocessedScan, usual: np.ndarray | None = None, keep: bool = False
    ) -> FeatureCollector | None:
        """Return a collector of the network's deepest maps, None for a family that shows none."""
        lattice = self._predictor.deepest_lattice
        if lattice is None:
            return None
        return FeatureCollector(scan.intensities_czyx[0], scan.padding_values[0], lattice, usual, keep)

    def _label_map(
        self,
        image: sitk.Image,
        scan: PreprocessedScan,
        predicting: Task,
        keeping: Task,
        observer: FeatureCollector | None,
        doubt: bool = False,
        keeper: FeatureKeeper | None = None,
    ) -> tuple[sitk.Image, tuple[ScanDoubt, ...]]:
        """Predict box by box, write each box's labels to the scan's own voxels, and collect the doubt if asked to."""
        every = self.model.description.label_set
        values = [0, *(structure.label for structure in every)]
        tile_bytes = self._memory_bytes - self._bytes_besides_tiles(image, scan)
        prediction = self._predictor.predict(
            scan.intensities_czyx,
            scan.padding_values,
            tile_bytes * (_BESIDE_FEATURES if keeper is not None else 1.0),
            predicting,
            observer,
            _WRITING_LABELS,
            keeper is not None,
        )
        resampler = label_writer(scan.grid, values, prediction.background_channel)
        collector = None
        if doubt:
            collector = DoubtCollector(scan.grid.size_zyx, every.classes, prediction.background_channel)
        if keeper is not None:
            keeper.begin(scan.grid)
        for box in prediction:
            if collector is not None:
                collector.add(box)
            if keeper is not None:
                keeper.add(box)
            resampler.write(box, box.start_zyx, box.task)
            del box  # before the next one is computed
        single = self.model.description.single_part
        keep_largest_part(resampler.labels_zyx, [s.label for s in every if s.name in single], keeping)
        doubts = () if collector is None else (collector.doubt(scan.grid, every, self.model.description.doubt),)
        return resampler.label_map(image), doubts

    def _expected_s(self, image: sitk.Image) -> tuple[float, float, float, float]:
        """Return roughly the seconds of preparing, predicting, filtering and the fit, in proportion to each other."""
        voxels = float(image.GetNumberOfPixels())
        on_grid = voxels * float(np.prod(image.GetSpacing())) / self.model.description.preparation.voxel_mm3
        weights = self._backbone.parameters * len(self._networks)
        network_s = on_grid * weights * _NETWORK_S[self._predictor.device.kind]
        return voxels / _PREPARED_PER_SECOND, network_s, voxels / _KEPT_PER_SECOND, voxels / _KEPT_PER_SECOND

    def _bytes_besides_tiles(self, image: sitk.Image, scan: PreprocessedScan) -> float:
        """Return the memory that the process, the network, the scan and its labels take."""
        weights = sum(values.nbytes for each in self._networks for values in each.state_dict().values())
        voxels = image.GetNumberOfPixels()
        own = voxels * (image.GetSizeOfPixelComponent() + 2)  # the scan, its labels and their copy in the image
        return _PROCESS_BYTES + 3.0 * weights + own + 1.5 * scan.intensities_czyx.nbytes


def _with_only(label_map: sitk.Image, description: ModelDescription, selected: LabelSet) -> sitk.Image:
    """Return a label map without the structures that were not selected.

    Of regions that overlap a voxel gets the label of the last selected one that its value belongs to.
    """
    every = description.label_set
    if all(selected.find(structure.name) is not None for structure in every):
        return label_map
    labels = sitk.GetArrayFromImage(label_map)
    becomes = np.zeros(max(every.label_values) + 1, labels.dtype)
    for structure in selected:
        values = [value for value in description.own_labels[structure.name] if value < len(becomes)]
        becomes[values] = structure.label
    kept = sitk.GetImageFromArray(becomes[labels])
    kept.CopyInformation(label_map)
    return kept


def _check_are_numbers(scan: PreprocessedScan) -> None:
    """Raise ScanError for intensities that are not finite."""
    if not all(np.isfinite(plane).all() for channel in scan.intensities_czyx for plane in channel):
        raise ScanError("The scan has intensities that are not numbers (NaN or infinite): repair or export it again.")


def _check_is_scan(image: sitk.Image) -> None:
    """Raise ScanError for an image that is not one 3D volume of numbers."""
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise ScanError(
            f"A scan is one 3D volume of numbers; this image has {image.GetDimension()} dimensions and "
            f"{image.GetNumberOfComponentsPerPixel()} values per voxel."
        )
    if "complex" in image.GetPixelIDTypeAsString():
        raise ScanError("The scan has complex voxels: export its magnitude.")
