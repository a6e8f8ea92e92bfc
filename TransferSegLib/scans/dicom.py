"""Reading one DICOM series as a volume, after checking that its slices make one.

Every file is looked at on its own first: which series it belongs to, where its slice lies. GDCM reads whatever it is
given in some order; a missing slice, a tilted gantry or two phases in one series would distort the volume silently.
Runs in the child process of ``isolated_reading``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.scans.geometry_checks import sheared_error, size_text
from TransferSegLib.scans.notices import MODALITY

#: A slice may lie this far from its place, in mm or as a part of the slice distance, whichever is more.
_DISTANCE_TOLERANCE_MM = 0.1
_DISTANCE_TOLERANCE = 0.01
#: Slices may drift sideways by this much per mm of height: 0.1 degrees.
_TILT_TOLERANCE = 1.75e-3
_MOST_FILES = 100_000
#: Classes of objects that hold many slices in one file and say where each lies.
_VOLUME_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT",
    "1.2.840.10008.5.1.4.1.1.4.1": "Enhanced MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "Legacy Converted Enhanced MR",
    "1.2.840.10008.5.1.4.1.1.130": "Enhanced PET",
    "1.2.840.10008.5.1.4.1.1.128.1": "Legacy Converted Enhanced PET",
    "1.2.840.10008.5.1.4.1.1.13.1.1": "X-Ray 3D Angiographic",
    "1.2.840.10008.5.1.4.1.1.13.1.2": "X-Ray 3D Craniofacial",
}
#: Classes that hold no scan, by the names people know.
_OTHER_CLASSES = {
    "1.2.840.10008.1.3.10": "DICOMDIR (an index)",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT (contours)",
    "1.2.840.10008.5.1.4.1.1.481.5": "RTPLAN (a treatment plan)",
    "1.2.840.10008.5.1.4.1.1.481.2": "RTDOSE (a dose distribution)",
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG (a segmentation)",
    "1.2.840.10008.5.1.4.1.1.88.11": "a structured report",
    "1.2.840.10008.5.1.4.1.1.88.33": "a structured report",
    "1.2.840.10008.5.1.4.1.1.88.67": "a dose report",
    "1.2.840.10008.5.1.4.1.1.11.1": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.104.1": "an encapsulated PDF",
}


@dataclass(frozen=True)
class DicomSlice:
    """What one DICOM image file says of itself; ``orientation`` holds the directions of a row and of a column."""

    path: Path
    series: str
    description: str
    sop_class: str
    modality: str
    size_xyz: tuple[int, int, int]
    components: int
    pixel_type: int
    spacing_mm: tuple[float, float]
    position_mm: np.ndarray | None
    orientation: np.ndarray | None


def read_dicom(path: Path, series: str | None = None) -> sitk.Image:
    """Return the volume of one series in a folder, or of the series that one file belongs to; rescale applied.

    Raises ScanError when there is no or no single series, and when its slices do not make a regular volume.
    """
    folder = path if path.is_dir() else path.parent
    own = None if path.is_dir() else _read_slice(path)
    if path.is_file() and own is None:
        raise ScanError(f"{path} holds no scan: it is {_class_name(sop_class_of(path))}. Give the folder of the scan.")
    if own is not None and own.size_xyz[2] > 1:
        return _read_multi_frame(own)
    slices, others = _read_folder(folder)
    if not slices:
        raise _no_images_error(folder, others)
    chosen = _choose(folder, slices, own.series if own is not None else series)
    if len(chosen) > 1 and any(one.size_xyz[2] > 1 for one in chosen):
        raise ScanError(
            f"{folder}: the series holds several multi-frame files. Give one of them, e.g. {chosen[0].path.name}."
        )
    return _read_multi_frame(chosen[0]) if chosen[0].size_xyz[2] > 1 else _read_stack(chosen, folder)


def is_dicom_file(path: Path) -> bool:
    """Tell whether a file begins as DICOM files do (a preamble of 128 bytes, then DICM)."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM" or path.suffix.lower() == ".dcm"


def sop_class_of(path: Path) -> str:
    """Return the class UID in a DICOM file's meta header (what kind of object it is), '' when there is none."""
    with path.open("rb") as stream:
        head = stream.read(4096)
    if head[128:132] != b"DICM":
        return ""
    position = 132
    while position + 12 <= len(head) and head[position : position + 2] == b"\x02\x00":  # group 0002, explicit VR
        element, kind = struct.unpack_from("<H2s", head, position + 2)
        long = kind in (b"OB", b"UN", b"OW", b"SQ", b"UT")
        length = struct.unpack_from("<I" if long else "<H", head, position + (8 if long else 6))[0]
        start = position + (12 if long else 8)
        if element == 0x0002:
            return head[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")
        position = start + length
    return ""


def _class_name(uid: str) -> str:
    """Return a name for a class of DICOM objects."""
    return (
        _OTHER_CLASSES.get(uid) or _VOLUME_CLASSES.get(uid) or (f"of class {uid}" if uid else "no readable DICOM image")
    )


def _read_folder(folder: Path) -> tuple[list[DicomSlice], list[str]]:
    """Return the image files of a folder (of its sub-folders where it has none itself) and the other objects' names."""
    for files in (folder.iterdir(), folder.rglob("*")):
        slices, others = [], []
        for number, path in enumerate(sorted(file for file in files if file.is_file())):
            if number >= _MOST_FILES:
                raise ScanError(f"{folder} holds more than {_MOST_FILES:,} files. Give the folder of one scan.")
            one = _read_slice(path) if _may_be_dicom(path) else None
            if one is not None:
                slices.append(one)
            elif sop_class_of(path):
                others.append(_class_name(sop_class_of(path)))
        if slices or others:
            return slices, others
    return [], []


def _may_be_dicom(path: Path) -> bool:
    """Tell whether to try a file: marked as DICOM, or beginning as DICOM files without a preamble do."""
    with path.open("rb") as stream:
        head = stream.read(132)
    return head[128:] == b"DICM" or head[:2] in (b"\x02\x00", b"\x08\x00")


def _no_images_error(folder: Path, others: list[str]) -> ScanError:
    """Return the error for a folder without DICOM images, saying what there is instead."""
    if others:
        return ScanError(
            f"{folder} holds no DICOM images, only {', '.join(sorted(set(others)))}. Give the scan's folder."
        )
    files = sorted(file.name for file in folder.iterdir() if file.is_file())
    if not files:
        return ScanError(f"{folder} holds no DICOM images: it has no files. Give the folder of one scan.")
    return ScanError(
        f"{folder} holds no DICOM images. To read a scan in another format give its file, e.g. {files[0]}."
    )


def read_dicom_header(path: Path) -> sitk.ImageFileReader | None:
    """Return a reader that knows what a DICOM image file says of itself, None when it is no image.

    A damaged file can end the process: only for child processes.
    """
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    return reader


def _read_slice(path: Path) -> DicomSlice | None:
    """Return what a DICOM image file says of itself, None when it is no image."""
    if sop_class_of(path) in _OTHER_CLASSES:
        return None
    reader = read_dicom_header(path)
    if reader is None:
        return None

    def text(tag: str) -> str:
        return reader.GetMetaData(tag).strip(" \0") if reader.HasMetaDataKey(tag) else ""

    size = (*reader.GetSize(), 1)[:3]
    spacing = _numbers(text("0028|0030"), 2)
    return DicomSlice(
        path=path,
        series=text("0020|000e"),
        description=text("0008|103e").encode("utf-8", "replace").decode("utf-8"),
        sop_class=text("0008|0016"),
        modality=text("0008|0060"),
        size_xyz=(int(size[0]), int(size[1]), int(size[2])),
        components=int(reader.GetNumberOfComponents()),
        pixel_type=int(reader.GetPixelIDValue()),
        # PixelSpacing states the distance between rows first, which is the spacing along y.
        spacing_mm=(0.0, 0.0) if spacing is None else (float(spacing[1]), float(spacing[0])),
        position_mm=_numbers(text("0020|0032"), 3),
        orientation=_numbers(text("0020|0037"), 6),
    )


def _numbers(text: str, count: int) -> np.ndarray | None:
    r"""Read DICOM numbers such as '1.0\2.5', None unless there are so many of them."""
    try:
        values = np.array([float(part) for part in text.split("\\")])
    except ValueError:
        return None
    return values if len(values) == count and np.all(np.isfinite(values)) else None


def _choose(folder: Path, slices: list[DicomSlice], wanted: str | None) -> list[DicomSlice]:
    """Return the slices of the wanted series, or of the only one; raises ScanError with the list of series."""
    series: dict[str, list[DicomSlice]] = {}
    for one in slices:
        series.setdefault(one.series, []).append(one)
    matching = [uid for uid in series if wanted is None or uid == wanted]
    if not matching and wanted:
        matching = [uid for uid in series if uid.endswith(wanted)]
    if len(matching) == 1:
        return series[matching[0]]
    listed = "; ".join(
        _series_text(uid, group) for uid, group in sorted(series.items(), key=lambda item: -len(item[1]))
    )
    if wanted:
        return _raise(f"{folder} has {len(matching) or 'no'} series ending in '{wanted}'. It holds: {listed}.")
    return _raise(f"{folder} holds {len(series)} series. Choose one by the end of its UID (series=...): {listed}.")


def _raise(message: str) -> list[DicomSlice]:
    """Raise ScanError with this message."""
    raise ScanError(message)


def _series_text(uid: str, group: list[DicomSlice]) -> str:
    """Return one series for the list to choose from: end of UID, description, number of slices, size."""
    slices = sum(one.size_xyz[2] for one in group)
    return f"...{uid[-12:]} '{group[0].description}' {slices} slices of {size_text(group[0].size_xyz[:2])}"


def _read_multi_frame(one: DicomSlice) -> sitk.Image:
    """Return the volume of one multi-frame file after checking where its frames lie."""
    if one.components > 1:
        raise ScanError(f"{one.path} holds colour images, which are no scan.")
    if one.sop_class not in _VOLUME_CLASSES:
        raise ScanError(
            f"{one.path} holds {one.size_xyz[2]} frames that are no volume (DICOM class {one.sop_class or 'unknown'}, "
            "e.g. a film). Give a CT, MR or PET scan."
        )
    positions = _frame_positions(one.path, one.size_xyz[2])
    if positions is None:
        raise ScanError(
            f"{one.path} does not say clearly where its frames lie. Convert it to NIfTI, e.g. with dcm2niix."
        )
    image = _execute(one.path)
    normal = np.array(image.GetDirection()).reshape(3, 3)[:, 2]
    distance = _slice_distance(positions, normal, one.path)
    if np.any((positions[1:] - positions[:-1]) @ normal < 0) or abs(image.GetSpacing()[2] - distance) > 0.01 * distance:
        raise ScanError(f"{one.path} stores its frames in an unusual order. Convert it to NIfTI, e.g. with dcm2niix.")
    return image


def _frame_positions(path: Path, frames: int) -> np.ndarray | None:
    """Return ImagePositionPatient of every frame (frames x 3), None unless there is exactly one for each.

    SimpleITK does not give the items of sequences, so the data set is searched for the element's tag.
    """
    content = path.read_bytes()
    found, start = [], content.find(b"\x20\x00\x32\x00")
    while start >= 0:
        explicit = content[start + 4 : start + 6] == b"DS"
        length = struct.unpack_from("<H" if explicit else "<I", content, start + (6 if explicit else 4))[0]
        numbers = _numbers(content[start + 8 : start + 8 + min(length, 64)].decode("ascii", "replace").strip(" \0"), 3)
        if numbers is not None:
            found.append(numbers)
        start = content.find(b"\x20\x00\x32\x00", start + 4)
        if start > len(content) - 12:
            break
    return np.array(found) if len(found) == frames else None


def _execute(path: Path) -> sitk.Image:
    """Read one file; raises ScanError."""
    try:
        return sitk.ReadImage(str(path), imageIO="GDCMImageIO")
    except RuntimeError as error:
        raise ScanError(f"{path} cannot be read: it is damaged or compressed in an unknown way.") from error


def _read_stack(slices: list[DicomSlice], folder: Path) -> sitk.Image:
    """Return the volume of single-slice files, ordered along their normal, after checking that they make one."""
    name = f"{folder} (series ...{slices[0].series[-12:]})"
    _check_alike(slices, name)
    first = slices[0]
    assert first.orientation is not None
    row, column = first.orientation[:3], first.orientation[3:]
    if abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01 or abs(row @ column) > 1e-3:
        raise sheared_error(Path(name))
    normal = np.cross(row, column)
    positions = np.array([one.position_mm for one in slices])
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    distance = _slice_distance(positions, normal, Path(name))
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(slices[index].path) for index in order])
    if len({one.pixel_type for one in slices}) > 1:  # a rescale of each slice's own, as in PET
        reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise ScanError(f"{name} cannot be read: a slice is damaged or compressed in an unknown way.") from error
    image.SetOrigin([float(value) for value in positions[0]])
    image.SetSpacing([*first.spacing_mm, distance])
    image.SetDirection(np.column_stack([row, column, normal]).ravel().tolist())
    image.SetMetaData(MODALITY, first.modality)
    return image


def _check_alike(slices: list[DicomSlice], name: str) -> None:
    """Raise ScanError unless the slices have one size, voxel size and orientation, a position each and no colour."""
    first = slices[0]
    if any(one.components > 1 for one in slices):
        raise ScanError(f"{name} holds colour images, which are no scan. Choose the original series.")
    if len(slices) < 2:
        raise ScanError(f"{name} has only one slice, which is no 3D scan. Give the folder with all its slices.")
    if any(one.position_mm is None or one.orientation is None for one in slices):
        raise ScanError(
            f"{name}: some slices do not say where they lie (ImagePositionPatient), so they make no volume."
        )
    sizes = sorted({size_text(one.size_xyz[:2]) for one in slices})
    if len(sizes) > 1:
        raise ScanError(f"{name} mixes slices of different sizes ({', '.join(sizes)}). Separate them first.")
    if min(first.spacing_mm) <= 0 or any(
        not np.allclose(one.spacing_mm, first.spacing_mm, rtol=0.01) for one in slices
    ):
        raise ScanError(f"{name}: its slices have no pixel size, or not the same. Separate them first.")
    if any(np.abs(_difference(one.orientation, first.orientation)).max() > 1e-3 for one in slices):
        raise ScanError(f"{name} mixes slices of different orientations (a localiser?). Separate them first.")


def _difference(first: np.ndarray | None, second: np.ndarray | None) -> np.ndarray:
    """Return the difference of two vectors, infinite where one is missing."""
    return np.array([np.inf]) if first is None or second is None else first - second


def _slice_distance(positions_mm: np.ndarray, normal: np.ndarray, name: Path) -> float:
    """Return the distance of neighbouring slices, ordered along the normal, in mm.

    Raises ScanError for slices at the same place, at uneven distances, missing, or shifted sideways (a tilted gantry).
    """
    heights = positions_mm @ normal
    gaps = np.abs(np.diff(heights))
    distance = float(np.median(gaps))
    tolerance = max(_DISTANCE_TOLERANCE_MM, _DISTANCE_TOLERANCE * distance)
    same = int(np.count_nonzero(gaps < min(0.01, 0.1 * max(distance, 0.01))))
    if same or distance <= 0:
        raise ScanError(
            f"{name} has {same} slices at the place of another one: several phases, echoes or copies in one series. "
            "Separate them first, e.g. with dcm2niix."
        )
    uneven = np.flatnonzero(np.abs(gaps - distance) > min(tolerance, 0.5 * distance))
    if len(uneven):
        worst = int(uneven[np.argmax(np.abs(gaps[uneven] - distance))])
        times = gaps[uneven] / distance
        missing = bool(np.all(np.abs(times - np.round(times)) < 0.05)) and bool(np.all(times > 1.5))
        what = f"misses {int(np.sum(np.round(times) - 1))} slices" if missing else "has slices at uneven distances"
        raise ScanError(
            f"{name} {what}: {distance:.4g} mm apart as a rule, {gaps[worst]:.4g} mm after slice {worst + 1} of "
            f"{len(heights)}. Export the whole series, or resample it to even distances first."
        )
    drift = positions_mm[-1] - positions_mm[0]
    sideways = np.linalg.norm(drift - (drift @ normal) * normal)
    if sideways > max(_TILT_TOLERANCE * abs(heights[-1] - heights[0]), _DISTANCE_TOLERANCE_MM):
        raise sheared_error(name)
    return float(abs(heights[-1] - heights[0]) / (len(heights) - 1))
