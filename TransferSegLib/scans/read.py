"""Reading scans and label maps: what comes back is a scalar 3D image on a sane grid, all else is one clear line.

NIfTI, NRRD and MetaImage headers are checked in Python first and read here; DICOM and all other formats are read in
a child process. ``docs/scan-formats.md`` lists what is accepted and refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.progress import CancelToken
from TransferSegLib.scans.geometry_checks import (
    check_intensities,
    check_volume,
    components_error,
    same_geometry,
    sheared_error,
)
from TransferSegLib.scans.header_facts import HeaderFacts, check_facts
from TransferSegLib.scans.isolated_reading import first_line, read_isolated
from TransferSegLib.scans.metaimage_header import read_metaimage_header
from TransferSegLib.scans.nifti_header import read_nifti_header
from TransferSegLib.scans.notices import copy_notices, forget_notices
from TransferSegLib.scans.nrrd_header import read_nrrd_header

__all__ = ["as_label_map", "read_label_map", "read_mask", "read_scan", "same_geometry"]

_HEADER_READERS = {
    (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz"): read_nifti_header,
    (".nrrd", ".nhdr"): read_nrrd_header,
    (".mha", ".mhd"): read_metaimage_header,
}


def read_scan(
    path: Path | str,
    series: str | None = None,
    *,
    interpreter: Path | None = None,
    cancel: CancelToken | None = None,
) -> sitk.Image:
    """Return a scan as a scalar 3D image with its own voxel type; geometry in mm, LPS.

    ``path`` is a file in any format SimpleITK reads, a folder with one DICOM series, or one file of it; ``series``
    chooses among several by its UID or the end of it. ``interpreter`` runs the child process for formats whose
    readers may crash (None: this one, or PythonSlicer), which ``cancel`` ends. Raises ScanError saying what is wrong
    and what to do; Cancelled.

    ``notices_of(image)`` holds what a person should know of how it was read, ``modality_of(image)`` DICOM's modality.
    """
    path = Path(path)
    image = _read_volume(path, series, interpreter, cancel)
    check_intensities(image, path)
    return image


def read_label_map(path: Path | str, *, interpreter: Path | None = None) -> sitk.Image:
    """Return a label map as a 3D image of the smallest unsigned type that holds its values (it may be all zero).

    Files of whole floating-point numbers are accepted. Raises ScanError for negative or fractional values, and for
    Slicer segmentations with overlapping segments.
    """
    path = Path(path)
    return as_label_map(_read_volume(path, None, interpreter), path)


def read_mask(path: Path | str, image: sitk.Image) -> np.ndarray:
    """Return where a mask is not 0 (booleans, zyx); raises ScanError when it does not lie on the image's grid."""
    mask = read_label_map(path)
    difference = same_geometry(image, mask)
    if difference is not None:
        raise ScanError(f"{path} does not lie on its scan's grid: {difference}")
    return sitk.GetArrayFromImage(mask) != 0


def as_label_map(image: sitk.Image, path: Path) -> sitk.Image:
    """Return a scalar 3D image as ``read_label_map`` does; ``path`` is what a ScanError calls it."""
    voxels = sitk.GetArrayViewFromImage(image)
    low, high = voxels.min(), voxels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ScanError(f"{path} is no label map: some of its voxels are NaN or infinite.")
    if low < 0:
        raise ScanError(f"{path} is no label map: it holds the value {low:g}. Label values are 0, 1, 2 and so on.")
    if voxels.dtype.kind == "f":
        for plane in voxels:
            fractions = plane[plane != np.floor(plane)]
            if fractions.size:
                raise ScanError(
                    f"{path} is no label map: it holds values such as {fractions[0]:g}, which are not whole. "
                    "Is it a scan, or a probability map?"
                )
    if high > 2**32 - 1:
        raise ScanError(f"{path} is no label map: it holds the value {high:g}.")
    labels = sitk.Cast(image, smallest_label_type(int(high)))
    copy_notices(image, labels)
    return labels


def smallest_label_type(largest: int) -> int:
    """Return SimpleITK's smallest unsigned pixel type that holds label values up to ``largest``."""
    if largest <= 255:
        return int(sitk.sitkUInt8)
    return int(sitk.sitkUInt16 if largest <= 65535 else sitk.sitkUInt32)


def _read_volume(
    path: Path, series: str | None, interpreter: Path | None, cancel: CancelToken | None = None
) -> sitk.Image:
    """Return a checked scalar 3D image, its intensities not yet looked at; raises ScanError."""
    try:
        if not path.exists():
            raise ScanError(f"{path} does not exist. Check the name and the folder.")
        if path.is_dir():
            return read_isolated(path, series, interpreter, cancel)
        if path.stat().st_size == 0:
            raise ScanError(f"{path} is empty (0 bytes). Copy or export it again.")
        facts = read_header(path)
    except OSError as error:
        raise ScanError(f"{path} cannot be read: {error.strerror or error}.") from error
    if facts is None or not facts.vouched:
        image = read_isolated(path, series, interpreter, cancel)
    else:
        image = _read_vouched(path, facts)
    check_volume(image, path)
    if facts is not None:
        _check_affine(image, facts, path)
    return image


def read_header(path: Path) -> HeaderFacts | None:
    """Return the checked claims of a file's header, None for the formats without a header check."""
    name = path.name.lower()
    for suffixes, read_header in _HEADER_READERS.items():
        if name.endswith(suffixes):
            facts = read_header(path)
            if name.endswith(".seg.nrrd") and facts.components > 1:
                raise ScanError(
                    f"{path} holds overlapping segments in {facts.components} layers. In 3D Slicer, save it with "
                    "'Export to labelmap', or remove the overlaps (Segment Editor: Logical operators)."
                )
            check_facts(facts, path)
            return facts
    return None


def _read_vouched(path: Path, facts: HeaderFacts) -> sitk.Image:
    """Read a file whose header was checked, in this process."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(facts.image_io)
    reader.SetFileName(str(path))
    try:
        with _itk_warnings_silenced():
            image = reader.Execute()
    except (RuntimeError, MemoryError) as error:
        if "orthonormal" in str(error):
            raise sheared_error(path) from error
        raise ScanError(f"{path} cannot be read: {first_line(error)}.") from error
    forget_notices(image)
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    if image.GetDimension() == 3 and image.GetSize() != facts.size:
        raise components_error(path, image.GetNumberOfComponentsPerPixel())
    return image


@contextmanager
def _itk_warnings_silenced() -> Iterator[None]:
    """Keep ITK's warnings off stderr for a while; the switch is global in ITK, so it is put back."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _check_affine(image: sitk.Image, facts: HeaderFacts, path: Path) -> None:
    """Raise ScanError unless ITK placed the voxels where one of the header's own orientations puts them."""
    if not facts.affines_lps:
        return
    size = np.array(image.GetSize())
    corners = np.array([[x, y, z] for x in (0, size[0] - 1) for y in (0, size[1] - 1) for z in (0, size[2] - 1)])
    placed = np.array([image.TransformIndexToPhysicalPoint(tuple(int(i) for i in corner)) for corner in corners])
    tolerance = 0.1 * min(image.GetSpacing())
    for affine in facts.affines_lps:
        stated = corners @ affine[:3, :3].T + affine[:3, 3]
        if np.abs(stated - placed).max() <= tolerance:
            return
    raise ScanError(
        f"{path} contradicts itself: its orientation, voxel size and position do not fit together. "
        "Convert it again from the original, or correct the header."
    )
