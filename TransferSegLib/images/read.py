"""Reading scans and label maps: returns a scalar 3D image on a rectangular grid, or raises one clear error.

Files of the formats in ``formats/registry.py`` have their headers checked in Python and are read in this process; DICOM
and all other formats are read in a child process. ``docs/scan-formats.md`` lists what is accepted and refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.header_facts import HeaderFacts, check_facts
from TransferSegLib.images.formats.registry import read_checked_header, read_header
from TransferSegLib.images.formats.segments import is_segmentation, merge_layers
from TransferSegLib.images.formats.slicer_segmentation import read_segments
from TransferSegLib.images.geometry_checks import (
    check_intensities,
    check_layers,
    check_volume,
    components_error,
    corners_of,
)
from TransferSegLib.images.isolated_reading import first_line, read_isolated
from TransferSegLib.images.label_values import as_label_map, image_like
from TransferSegLib.images.lattice import to_scan_lattice
from TransferSegLib.images.notices import add_notice, forget_notices
from TransferSegLib.images.right_angles import with_right_angles
from TransferSegLib.paths import as_path
from TransferSegLib.progress import CancelToken, Task

#: Bytes of compressed files that are read in a second, roughly.
_READ_PER_SECOND = 5e7


def scan_given(given: object, cancel: CancelToken | None = None) -> sitk.Image | Mapping[str, sitk.Image]:
    """Return a scan that is given as an image, as a path, or as several of either by name, as images.

    Raises ScanError for anything else, and as ``read_scan`` does.
    """
    if isinstance(given, Mapping):
        return {str(name): _image_given(each, cancel) for name, each in given.items()}
    return _image_given(given, cancel)


def _image_given(given: object, cancel: CancelToken | None) -> sitk.Image:
    if isinstance(given, sitk.Image):
        return given
    if isinstance(given, str | os.PathLike):
        return read_scan(given, cancel=cancel)  # type: ignore[arg-type]
    raise ScanError(
        f"A scan is a file, a DICOM folder or a SimpleITK image, not {type(given).__name__}. Make an image of an array "
        "with SimpleITK.GetImageFromArray, and set its spacing."
    )


def read_scan(
    path: Path | str,
    series: str | None = None,
    *,
    interpreter: Path | None = None,
    cancel: CancelToken | None = None,
    task: Task | None = None,
) -> sitk.Image:
    """Return a scan as a scalar 3D image with its own voxel type; geometry in mm, LPS.

    ``path`` is a file in any format SimpleITK reads, a folder with one DICOM series, or one file of it; ``series``
    chooses among several by its UID or the end of it. ``interpreter`` runs the child process for formats whose
    readers may crash (None: this one, or PythonSlicer). ``cancel`` is used without a ``task`` only. Raises ScanError
    with what is wrong and what to do; Cancelled.

    ``notices_of(image)`` are the notices about how it was read, ``modality_of(image)`` DICOM's modality.
    """
    path = as_path(path, "The scan", ScanError)
    task = task or Task("Reading the scan", None, cancel)
    image = _read_volume(path, series, interpreter, task)
    task.check()
    check_intensities(image, path)
    task.at(1.0)
    return image


def read_label_map(
    path: Path | str, *, first: Sequence[str] = (), interpreter: Path | None = None, task: Task | None = None
) -> sitk.Image:
    """Return a label map as a 3D image of the smallest unsigned type that holds its values (it may be all zero).

    Floating-point numbers that are whole but for rounding are accepted. Of a Slicer segmentation with overlapping
    segments the later one wins, those named in ``first`` before all others, with a notice. Raises ScanError for
    negative or fractional values, Cancelled from the task.
    """
    path = Path(path)
    reading, checking = (task or Task()).split(3, 1)
    if is_segmentation(path) and path.is_file():
        try:
            facts = read_header(path)
            if facts is not None and facts.components > 1:
                return _read_layers(path, facts, first, interpreter, reading)
        except OSError as error:
            raise ScanError(f"{path} cannot be read: {error.strerror or error}.") from error
    image = _read_volume(path, None, interpreter, reading)
    return checking.wait(lambda: as_label_map(image, path), 0.3)


def read_label_map_on(
    scan: sitk.Image, path: Path | str, *, first: Sequence[str] = (), task: Task | None = None
) -> sitk.Image:
    """Return a label map on its scan's grid, padded, cropped, flipped or turned without loss; see ``lattice.py``.

    Raises ScanError as ``read_label_map`` does, and when its voxel centres are not those of the scan.
    """
    return to_scan_lattice(read_label_map(path, first=first, task=task), scan, str(path))


def read_mask_on(scan: sitk.Image, path: Path | str, task: Task | None = None) -> sitk.Image:
    """Return a mask (not 0: inside) as an image on a scan's grid, 0 where it does not reach.

    Raises ScanError when its voxel centres are not those of the scan, Cancelled from the task.
    """
    return to_scan_lattice(read_label_map(path, task=task), scan, str(path), may_drop=True)


def _read_layers(
    path: Path, facts: HeaderFacts, first: Sequence[str], interpreter: Path | None, task: Task
) -> sitk.Image:
    """Return the layers of a Slicer segmentation as one label map."""
    check_facts(facts, path, layers=True)
    segments = read_segments(path)
    if not segments:
        raise components_error(path, facts.components)
    reading, merging = task.split(1, 1)
    image = _read_checked(path, facts, None, interpreter, reading)
    check_layers(image, path)
    layers_zyxc = sitk.GetArrayViewFromImage(image)
    labels_zyx, lines = merging.wait(lambda: merge_layers(layers_zyxc, segments, path, first))
    labels = with_right_angles(as_label_map(image_like(labels_zyx, image), path), path)
    for line in lines:
        add_notice(labels, line)
    return labels


def _read_volume(path: Path, series: str | None, interpreter: Path | None, task: Task) -> sitk.Image:
    """Return a checked scalar 3D image, its intensities unchecked; raises ScanError, Cancelled."""
    looking, reading = task.split(1, 2)
    try:
        if not path.exists():
            raise ScanError(f"{path} does not exist. Check the name and the folder.")
        if path.is_dir():
            return read_isolated(path, series, interpreter, task=task)
        if path.stat().st_size == 0:
            raise ScanError(f"{path} is empty (0 bytes). Copy or export it again.")
        facts = looking.wait(lambda: read_checked_header(path), path.stat().st_size / _READ_PER_SECOND / 2)
    except OSError as error:
        raise ScanError(f"{path} cannot be read: {error.strerror or error}.") from error
    image = _read_checked(path, facts, series, interpreter, reading)
    check_volume(image, path)
    return with_right_angles(image, path)


def _read_checked(
    path: Path, facts: HeaderFacts | None, series: str | None, interpreter: Path | None, task: Task
) -> sitk.Image:
    """Return the image of a file whose header was checked (None: a format without such a check)."""
    if facts is None:
        return read_isolated(path, series, interpreter, task=task)
    if facts.vouched:
        try:
            image = task.wait(lambda: _read_vouched(path, facts), path.stat().st_size / _READ_PER_SECOND)
        except _NotOrthonormal:  # ITK is stricter than ``is_sheared``, which the header has passed
            image = read_isolated(path, None, interpreter, task=task, permissive=True)
            if facts.affines_lps:
                axes = facts.affines_lps[0][:3, :3]
                image.SetDirection((axes / np.linalg.norm(axes, axis=0)).ravel().tolist())
    else:
        image = read_isolated(path, series, interpreter, task=task, layers=facts.components > 1)
    image = _three_axes(image, facts)
    if image.GetDimension() == 3 and image.GetSize() != facts.size:
        raise components_error(path, image.GetNumberOfComponentsPerPixel())
    _check_affine(image, facts, path)
    return image


class _NotOrthonormal(Exception):
    """ITK refuses a file because its axes are not at right angles to the last digit."""


def _read_vouched(path: Path, facts: HeaderFacts) -> sitk.Image:
    """Read a file whose header was checked, in this process."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(facts.image_io)
    try:
        with facts.readable(path) as readable, _itk_warnings_silenced():
            reader.SetFileName(str(readable))
            image = reader.Execute()
    except OSError as error:
        raise ScanError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (RuntimeError, MemoryError) as error:
        if "orthonormal" in str(error):
            raise _NotOrthonormal from error
        raise ScanError(f"{path} cannot be read: {first_line(error)}.") from error
    forget_notices(image)
    return image


def _three_axes(image: sitk.Image, facts: HeaderFacts) -> sitk.Image:
    """Return an image without axes of length 1 that its header counts as no axis in space."""
    if image.GetDimension() > 3 and len(facts.size) == 3:
        if image.GetSize()[0] == 1 and image.GetSize()[3] != 1:
            image = image[0]
        while image.GetDimension() > 3 and image.GetSize()[-1] == 1:
            image = image[..., 0]
    if facts.components == 1 and "vector" in image.GetPixelIDTypeAsString():
        image = sitk.VectorIndexSelectionCast(image, 0)
    return image


@contextmanager
def _itk_warnings_silenced() -> Iterator[None]:
    """Keep ITK's warnings off stderr; the switch is global in ITK, so it is restored."""
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
    corners = corners_of([count - 1 for count in image.GetSize()])
    placed = np.array([image.TransformContinuousIndexToPhysicalPoint(corner.tolist()) for corner in corners])
    tolerance = 0.1 * min(image.GetSpacing())
    for affine in facts.affines_lps:
        stated = corners @ affine[:3, :3].T + affine[:3, 3]
        if np.abs(stated - placed).max() <= tolerance:
            return
    raise ScanError(
        f"{path} contradicts itself: its orientation, voxel size and position do not fit together. "
        "Convert it again from the original, or correct the header."
    )
