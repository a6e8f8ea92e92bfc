"""Reading one DICOM series as a volume, after checking that its slices make one.

Every file is examined on its own first: its series, where its slices lie, how its numbers become intensities. A reader
that stacks files in some order silently distorts the volume when a slice is missing, the gantry was tilted, or two
phases share a series. Runs in the child process of ``isolated_reading``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.dicom.files import (
    class_name,
    files_in_folder,
    files_of_dicomdir,
    is_dicomdir,
    no_images_error,
    read_image_file,
    sop_class_of,
)
from TransferSegLib.images.formats.dicom.frames import VOLUME_CLASSES, DicomFile, Slice
from TransferSegLib.images.formats.dicom.intensities import check_rescales, intensities, intensity_type
from TransferSegLib.images.formats.dicom.pixels import check_storage, read_stored, stored_range
from TransferSegLib.images.formats.dicom.placement import place
from TransferSegLib.images.formats.dicom.resampling import resample_slices
from TransferSegLib.images.formats.dicom.selection import choose_series, slices_of_volume, without_copies
from TransferSegLib.images.geometry_checks import check_size
from TransferSegLib.images.notices import MODALITY, add_notice

#: Group length, character set, image type or class as the first element of a file without a preamble.
_OLD_BEGINNINGS = (b"\x08\0\0\0", b"\x08\0\5\0", b"\x08\0\x08\0", b"\x08\0\x16\0", b"\2\0\0\0")


def read_dicom(path: Path, series: str | None = None) -> sitk.Image:
    """Return the volume of one series in a folder or DICOMDIR, or of the series that one file belongs to.

    Its voxels are intensities (rescale applied); its notices report what the user should know. Raises ScanError
    when there is no or no single series, and when its slices do not make a regular volume.
    """
    files, notices, place_name = chosen_files(path, series)
    if any(max(len(one.frames), one.frame_count) > 1 for one in files):
        return _read_multi_frame(files, notices, place_name)
    name = f"{place_name} (series ...{files[0].series[-12:]})"
    kept, more = without_copies(files, name)
    return _read_volume(kept, [*notices, *more], name)


def chosen_files(path: Path, series: str | None = None) -> tuple[list[DicomFile], list[str], Path]:
    """Return the files of the series that ``read_dicom`` reads, notices, and what to call their folder."""
    if path.is_dir():
        found, place_name = files_in_folder(path), path
    elif is_dicomdir(path):
        found, place_name = files_of_dicomdir(path), path
    else:
        own = read_image_file(path)
        if own is None:
            raise ScanError(
                f"{path} holds no scan: it is {class_name(sop_class_of(path))}. Give the folder of the scan."
            )
        if own.damaged:
            check_storage(own)
        if own.frame_count > 1:
            return [own], [], path
        found, place_name, series = files_in_folder(path.parent), path.parent, own.series
    if not found.images:
        raise no_images_error(path, found.others)
    return choose_series(place_name, found.images, series), list(found.notices), place_name


def is_dicom_file(path: Path) -> bool:
    """Return whether a file begins as DICOM files do: 128 bytes, then DICM; old ones with group 8 at once."""
    with path.open("rb") as stream:
        head = stream.read(132)
    return head[128:] == b"DICM" or head[:4] in _OLD_BEGINNINGS or path.suffix.lower() == ".dcm"


def _read_multi_frame(files: Sequence[DicomFile], notices: list[str], folder: Path) -> sitk.Image:
    """Return the volume of one multi-frame file after checking where its frames lie."""
    kept, more = without_copies(files, str(folder))
    if len(kept) > 1:
        raise ScanError(
            f"{folder}: the series holds several multi-frame files. Give one of them, e.g. {kept[0].path.name}."
        )
    one = kept[0]
    assert one.pixels is not None
    if one.pixels.samples > 1:
        raise ScanError(f"{one.path} holds colour images, which are no scan.")
    if one.sop_class not in VOLUME_CLASSES:
        raise ScanError(
            f"{one.path} holds {one.pixels.frames} frames that are no volume (DICOM class "
            f"{one.sop_class or 'unknown'}, e.g. a film). Give a CT, MR or PET scan."
        )
    if len(one.frames) != one.pixels.frames or any(frame.position_mm is None for frame in one.frames):
        raise ScanError(
            f"{one.path} does not state clearly where its frames lie. Convert it to NIfTI, e.g. with dcm2niix."
        )
    return _read_volume([one], [*notices, *more], str(one.path))


def _read_volume(files: Sequence[DicomFile], notices: list[str], name: str) -> sitk.Image:
    """Return the volume of the slices in files that belong to one series."""
    slices, left_out = slices_of_volume(files, name)
    notices += left_out
    try:
        placement = place(slices, name)
    except ScanError as error:  # what was left out may be the slice that is missing now
        raise ScanError(" ".join([str(error), *left_out])) from error
    check_size(placement.size_xyz, Path(name))
    notices += placement.notices
    voxels_zyx = _read_voxels(slices, notices, name)
    if placement.heights_mm is not None:
        voxels_zyx = resample_slices(voxels_zyx, placement)
    image = sitk.GetImageFromArray(voxels_zyx)
    image.SetOrigin(placement.origin_mm.tolist())
    image.SetSpacing(placement.spacing_mm.tolist())
    image.SetDirection(placement.direction.ravel().tolist())
    if slices[0].file.modality:
        image.SetMetaData(MODALITY, slices[0].file.modality)
    for line in notices:
        add_notice(image, line)
    return image


def _read_voxels(slices: Sequence[Slice], notices: list[str], name: str) -> np.ndarray:
    """Return the intensities of all slices (zyx) in their order, and add to the notices."""
    first = slices[0]
    rescales = [one.frame.rescale for one in slices]
    tables = [one.file.lookup_table for one in slices]
    if all(table is None for table in tables):
        notices += check_rescales(rescales, first.file.modality, name)
    elif not all(table is not None and table.values for table in tables):
        raise ScanError(f"{name}: the lookup table of a slice is damaged or missing. Export the scan again.")
    if first.storage.photometric == "MONOCHROME1" and first.file.modality != "CT":
        notices.append(f"{name} is stored to be shown inverted (MONOCHROME1); its intensities were taken as stored.")
    kind = intensity_type((stored_range(check_storage(one.file)) for one in slices), rescales, tables)
    voxels = np.empty((len(slices), first.storage.rows, first.storage.columns), kind)
    padding = _Padding()
    of_file: dict[Path, np.ndarray] = {}
    for number, one in enumerate(slices):
        if one.file.path not in of_file:
            of_file = {one.file.path: read_stored(one.file)}
        stored = of_file[one.file.path][one.number]
        voxels[number] = intensities(stored, one.frame.rescale, one.file.lookup_table, kind, str(one.file.path))
        padding.look_at(number, stored, voxels[number], one.storage.padding)
    if padding.replace_in(voxels):
        notices.append(f"{name}: voxels marked as outside the field of view got the lowest intensity of the scan.")
    return voxels


class _Padding:
    """Pixels that mean 'nothing was measured here', kept as they are unless they are the brightest of all.

    Padding below every intensity looks like air, and a value within the range is often a mistake in the header (0 is
    water in a CT).
    """

    def __init__(self) -> None:
        self._values: dict[int, float] = {}
        self._lowest = np.inf
        self._highest = -np.inf

    def look_at(self, number: int, stored: np.ndarray, values: np.ndarray, padding: tuple[int, int] | None) -> None:
        """Take note of one slice: its padding, and the range of everything else."""
        is_padding = None
        if padding is not None:
            is_padding = (stored >= padding[0]) & (stored <= padding[1])
            if is_padding.any():
                self._values[number] = float(values[is_padding].min())
                values = values[~is_padding]
        if values.size:
            self._lowest = min(self._lowest, float(values.min()))
            self._highest = max(self._highest, float(values.max()))

    def replace_in(self, voxels: np.ndarray) -> bool:
        """Give padding brighter than everything else the lowest intensity; returns whether there was any."""
        replaced = False
        for number, value in self._values.items():
            if value > self._highest and np.isfinite(self._lowest):
                voxels[number][voxels[number] >= value] = self._lowest
                replaced = True
        return replaced
