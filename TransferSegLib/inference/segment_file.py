"""One scan from its file to the files of its label map and picture.

Nothing here imports torch: front ends check what they were asked before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib.errors import ScanError
from TransferSegLib.progress import Task

if TYPE_CHECKING:
    from SimpleITK import Image

    from TransferSegLib.inference.combined import CombinedSegmenter
    from TransferSegLib.inference.segment import Segmentation, Segmenter


@dataclass(frozen=True)
class ScanToSegment:
    """A scan, the file its label map goes to, the picture that is drawn of it and the file of its doubt (None: none).

    ``images`` holds the files of a scan that consists of several images by the model's names; ``scan`` is one of them.
    ``features`` is the file that features for Learn here are kept in (None: none are).
    ``series`` is the DICOM series of the scan, where a folder holds several and the result is a DICOM file.
    """

    scan: Path
    output: Path
    preview: Path | None = None
    images: Mapping[str, Path] = field(default_factory=dict)
    doubt: Path | None = None
    series: str | None = None
    features: Path | None = None


#: A result that ends so is a DICOM Segmentation.
DICOM_SEG_SUFFIX = ".dcm"


def segment_file(
    segmenter: Segmenter | CombinedSegmenter,
    each: ScanToSegment,
    structures: Iterable[str] | None = None,
    series: str | None = None,
    task: Task | None = None,
    *,
    strict: bool = False,
    modality: str = "",
    places: bool = False,
    before_writing: Callable[[Segmentation], None] | None = None,
) -> Segmentation:
    """Read, segment and write one scan; raises ScanError naming the file, and whatever ``Segmenter.segment`` raises.

    ``modality`` is the scan's DICOM modality where the file does not store it. With ``strict`` a scan that
    does not fit the model is a ScanError, and nothing is written. With ``places``, or where there is a file for the
    doubt, the segmentation tells where to look. ``before_writing`` gets it before its files are written. Where the task
    is cancelled nothing is written either: all that takes long comes before the first file has its name.
    """
    task = task or Task()
    of_doubt = 8 if each.doubt is not None else 0
    reading, segmenting, writing = task.split(8, 82, (5 if each.preview is not None else 0) + of_doubt + 5)
    task.say("(reading the scan)")
    images = read_images(each, series, reading)
    segmentation = segment_images(segmenter, each, images, structures, segmenting, strict, modality, places)
    if before_writing is not None:
        before_writing(segmentation)
    write_results(each, images, segmentation, writing)
    task.done(look=False)
    return segmentation


def read_images(each: ScanToSegment, series: str | None, task: Task) -> Mapping[str, Image] | Image:
    """Return the scan, or its images by name if there are several; raises ScanError."""
    from TransferSegLib.images.read import read_scan

    if not each.images:
        return read_scan(each.scan, series, task=task)
    return {name: read_scan(each.images[name], series, task=part) for name, part in task.each(list(each.images))}


def segment_images(
    segmenter: Segmenter | CombinedSegmenter,
    each: ScanToSegment,
    images: Mapping[str, Image] | Image,
    structures: Iterable[str] | None,
    task: Task,
    strict: bool = False,
    modality: str = "",
    places: bool = False,
) -> Segmentation:
    """Segment a scan that was read; the errors are those of ``segment_file``."""
    doubt = places or each.doubt is not None
    try:
        if each.features is None:
            found = segmenter.segment_within(task, images, structures, modality, doubt)
        else:
            found = _segment_and_keep(segmenter, images, structures, modality, doubt, each.features, task)
    except ScanError as error:
        raise ScanError(f"{each.scan}: {error}") from error
    if strict and not found.fit.fits:
        raise ScanError(f"{each.scan}: {' '.join(found.fit.lines())} Nothing was written.")
    return found


def _segment_and_keep(
    segmenter: Segmenter | CombinedSegmenter,
    images: Mapping[str, Image] | Image,
    structures: Iterable[str] | None,
    modality: str,
    doubt: bool,
    file: Path,
    task: Task,
) -> Segmentation:
    """Segment a scan and keep its features in a file; the segmenter was opened with ``features``."""
    from TransferSegLib.inference.kept_features import FeatureKeeper, save_features
    from TransferSegLib.inference.segmenter import Segmenter

    assert isinstance(segmenter, Segmenter)
    keeper = FeatureKeeper()
    found = segmenter.segment_within(task, images, structures, modality, doubt, keeper)
    if keeper.kept is not None:
        save_features(keeper.kept, file)
    return found


def write_results(
    each: ScanToSegment, images: Mapping[str, Image] | Image, segmentation: Segmentation, task: Task
) -> None:
    """Write the files of a segmented scan; raises ScanError, and Cancelled before the first file has its name."""
    from TransferSegLib.images.write import write_label_map, write_volume
    from TransferSegLib.pictures.drawing import check_png_path, write_png
    from TransferSegLib.pictures.preview import preview

    of_doubt = 8 if each.doubt is not None else 0
    drawing, doubting, writing = task.split(5 if each.preview is not None else 0, of_doubt, 5)
    canvas = None
    if each.preview is not None:
        check_png_path(each.preview)
        image = first_image(images)
        label_map, label_set, title = segmentation.label_map, segmentation.label_set, each.scan.name
        canvas = drawing.wait(lambda: preview(image, label_map, label_set, title=title), 2.0)
    if each.doubt is not None:
        computing, writing_doubt = doubting.split(2, 1)
        write_volume(segmentation.doubt_volume(computing), each.doubt, writing_doubt)
    if each.output.suffix.lower() == DICOM_SEG_SUFFIX:
        from TransferSegLib.images.dicom_seg import write_dicom_seg

        write_dicom_seg(
            segmentation.label_map, each.output, segmentation.label_set, each.scan, each.series, task=writing
        )
    else:
        write_label_map(segmentation.label_map, each.output, segmentation.label_set, task=writing)
    if each.preview is not None and canvas is not None:
        write_png(canvas, each.preview)


def first_image(images: Mapping[str, Image] | Image) -> Image:
    """Return a scan, or the first of its images."""
    return next(iter(images.values())) if isinstance(images, Mapping) else images


def segmented_entry(each: ScanToSegment, segmentation: Segmentation) -> dict[str, Any]:
    """Return JSON values of a segmented scan: files, device, seconds, volumes in ml, notices, fit, doubt."""
    several = {"images": {name: str(file) for name, file in each.images.items()}} if each.images else {}
    entry = {
        "scan": str(each.scan),
        **several,
        "output": str(each.output),
        "device": segmentation.device,
        "seconds": round(segmentation.seconds, 2),
        "volumes_ml": {name: round(volume, 3) for name, volume in segmentation.volumes_ml().items()},
        "notices": list(segmentation.notices),
        "fit": segmentation.fit.to_json(),
    }
    if segmentation.doubts:
        entry["doubt"] = {
            "file": None if each.doubt is None else str(each.doubt),
            "calibrated": segmentation.doubt_is_calibrated,
            "places": [place.to_json() for place in segmentation.places],
        }
    return entry
