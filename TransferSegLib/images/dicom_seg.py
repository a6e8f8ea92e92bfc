"""Writing a label map as a DICOM Segmentation that refers to the series it was made from.

It needs the packages of the extra ``dicom`` (highdicom, which brings pydicom); nothing else in the library does, and
nothing inside 3D Slicer.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from TransferSegLib.durable_writing import replace_file
from TransferSegLib.errors import ScanError, TransferSegError
from TransferSegLib.images.formats.dicom.series import chosen_files, is_dicom_file
from TransferSegLib.output_checks import why_no_folder
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet, Structure
from TransferSegLib.version import code_version

#: CT Image Storage, MR Image Storage and PET Image Storage.
_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}
#: Written voxels lie on the source's pixels; how far off, in voxels, a pixel may lie from the label map's voxel.
_OFF_GRID = 0.05
#: SNOMED CT: Anatomical Structure; what a structure without a code of its own is said to be.
_ANATOMY = ("91723000", "SCT", "Anatomical Structure")


def check_dicom_seg() -> None:
    """Raise TransferSegError, saying how to install them, when the packages for DICOM Segmentations are missing."""
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise TransferSegError(
            "Writing DICOM Segmentations needs the Python package highdicom. Install it with: pip install '.[dicom]'"
        ) from error


def write_dicom_seg(
    label_map: sitk.Image,
    path: Path,
    label_set: LabelSet,
    scan: Path,
    series: str | None = None,
    task: Task | None = None,
) -> None:
    """Write a label map, made from a DICOM ``scan`` (a folder or a file of it), as a DICOM Segmentation.

    The file has the patient and study of the scan, one binary segment for each structure with voxels, and refers to
    the scan's slices. Raises ScanError when the scan is not DICOM with a file for each slice, does not have the label
    map's grid, or the file cannot be written; TransferSegError when highdicom is missing.
    """
    check_dicom_seg()
    import highdicom as hd

    task = task or Task()
    sources = _sources(scan, series)
    task.at(0.3)
    labels_zyx = _on_slices(label_map, sources, scan)
    found = set(np.unique(labels_zyx).tolist())
    present = [structure for structure in label_set if structure.label in found]
    if not present:
        raise ScanError(f"{scan}: nothing was found, and a DICOM Segmentation cannot be empty. Nothing was written.")
    numbers = np.zeros(max(label_set.label_values) + 1, np.uint8 if len(present) < 256 else np.uint16)
    for number, structure in enumerate(present, start=1):
        numbers[structure.label] = number
    segmentation = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=numbers[labels_zyx],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(structure, number) for number, structure in enumerate(present, start=1)],
        series_instance_uid=hd.UID(),
        series_number=int(getattr(sources[0], "SeriesNumber", None) or 0) + 1000,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="TransferSeg",
        manufacturer_model_name="TransferSeg",
        software_versions=code_version(),
        device_serial_number="-",
        series_description="TransferSeg: automatic segmentation, for research only",
        content_label="SEGMENTATION",
    )
    task.at(0.7)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial.dcm")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        segmentation.save_as(partial)
        task.check()
        replace_file(partial, path)
    except OSError as error:
        reason = why_no_folder(path.parent, error)
        raise ScanError(f"{path} cannot be written: {reason}. Check the folder's permissions and the disk.") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    task.done(look=False)


def _sources(scan: Path, series: str | None) -> list[Any]:
    """Return the slices of a scan as pydicom data sets without pixels; raises ScanError."""
    import pydicom

    if not (scan.is_dir() or is_dicom_file(scan)):
        raise ScanError(
            f"{scan} is no DICOM scan, so its result cannot be a DICOM Segmentation: choose another --format."
        )
    files, _, _ = chosen_files(scan, series)
    sources = [pydicom.dcmread(file.path, stop_before_pixels=True) for file in files]
    for number, one in enumerate(sources):
        if not one.get("SOPClassUID"):  # programs that remove names remove it sometimes, too
            one.SOPClassUID = _CLASSES.get(str(one.get("Modality", "")), pydicom.uid.SecondaryCaptureImageStorage)
        for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
            if not one.get(name):
                raise ScanError(f"{scan}: its slice {number} has no {name}, which a DICOM Segmentation refers to.")
        if "ImagePositionPatient" not in one or int(getattr(one, "NumberOfFrames", 1)) > 1:
            raise ScanError(
                f"{scan} has no file for each of its slices, as a DICOM Segmentation is written for: choose another "
                "--format."
            )
    return sources


def _on_slices(label_map: sitk.Image, sources: Sequence[Any], scan: Path) -> np.ndarray:
    """Return the labels (slices, rows, columns) at the pixels of the source's slices; raises ScanError."""
    stored_zyx = sitk.GetArrayViewFromImage(label_map)
    to_index = np.linalg.inv(np.array(label_map.GetDirection()).reshape(3, 3) @ np.diag(label_map.GetSpacing()))
    size_xyz = np.array(label_map.GetSize())
    slices = []
    for one in sources:
        across, down = np.array(one.ImageOrientationPatient, float).reshape(2, 3)
        row_mm, column_mm = (float(side) for side in one.PixelSpacing)  # between rows, between columns
        first = to_index @ (np.array(one.ImagePositionPatient, float) - np.array(label_map.GetOrigin()))
        steps = to_index @ (across * column_mm), to_index @ (down * row_mm)
        columns, rows = np.arange(int(one.Columns)), np.arange(int(one.Rows))
        index = first + rows[:, None, None] * steps[1] + columns[None, :, None] * steps[0]
        nearest = np.rint(index).astype(np.int64)
        inside = ((nearest >= 0) & (nearest < size_xyz)).all(axis=-1)
        if not inside.any() or np.abs(index - nearest)[inside].max() > _OFF_GRID:
            raise ScanError(
                f"{scan} was resampled to be segmented (see its notices), so its result does not lie on its slices: "
                "choose another --format."
            )
        x, y, z = (np.where(inside, nearest[..., axis], 0) for axis in range(3))
        slices.append(np.where(inside, stored_zyx[z, y, x], 0))
    return np.stack(slices)


def _description(structure: Structure, number: int) -> Any:
    """Return how a segment is described: its name, code and colour, and that a program made it."""
    import highdicom as hd
    from pydicom.sr.coding import Code

    value, meaning = structure.terminology or (_ANATOMY[0], _ANATOMY[2])
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=structure.name[:64],
        segmented_property_category=Code(*_ANATOMY),
        segmented_property_type=Code(value, "SCT", meaning[:64]),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="TransferSeg", version=code_version(), family=Code("123110", "DCM", "Artificial Intelligence")
        ),
        display_color=hd.color.CIELabColor.from_rgb(*structure.color),
    )
