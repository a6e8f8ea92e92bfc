"""Writing label maps: completely or not at all, in the format given by the file's suffix."""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path

import SimpleITK as sitk
from scipy import ndimage

from TransferSegLib.durable_writing import replace_file
from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.registry import read_checked_header
from TransferSegLib.images.formats.slicer_segmentation import segmentation_fields
from TransferSegLib.images.isolated_reading import first_line
from TransferSegLib.images.label_values import smallest_label_type
from TransferSegLib.output_checks import why_no_folder
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet

#: The formats written, by the end of the file name; the longer one wins.
LABEL_MAP_SUFFIXES = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha")

#: Voxels of a label map that are written in a second, roughly.
_WRITTEN_PER_SECOND = 2e8

_Extent = tuple[int, int, int, int, int, int]


def label_map_suffix(path: Path | str) -> str:
    """Return which of LABEL_MAP_SUFFIXES a file name has; raises ScanError, listing them, when it has none."""
    name = Path(path).name.lower()
    for suffix in LABEL_MAP_SUFFIXES:
        if name.endswith(suffix) and name != suffix:
            return suffix
    raise ScanError(f"{path} cannot be written: give a file name that ends in {', '.join(LABEL_MAP_SUFFIXES)}.")


def write_label_map(
    label_map: sitk.Image,
    path: Path | str,
    label_set: LabelSet,
    *,
    compress: bool = True,
    task: Task | None = None,
) -> None:
    """Write a 3D label map whose values are those of ``label_set``; its folder is made, a file of that name replaced.

    ``.seg.nrrd`` opens in 3D Slicer as a segmentation with names, colours and terminology; structures without voxels
    are listed too. Nothing of the scan's own metadata (patient's name) is written. Raises ScanError for an unknown
    ending, values that no structure has, and when the file cannot be written completely; Cancelled from the task, and
    nothing is written then.
    """
    looking, writing, checking = (task or Task()).split(1, 2, 1)
    expected_s = label_map.GetNumberOfPixels() / _WRITTEN_PER_SECOND
    path = Path(path)
    suffix = label_map_suffix(path)
    image, extents = looking.wait(lambda: _prepare(label_map, label_set, path), expected_s)
    if suffix == ".seg.nrrd":
        for key, value in segmentation_fields(image, label_set, extents).items():
            image.SetMetaData(key, value)
    _write(image, path, suffix, compress, expected_s, writing, checking)


def write_volume(image: sitk.Image, path: Path | str, task: Task | None = None) -> None:
    """Write a 3D image of numbers, compressed; its folder is made, a file of that name replaced.

    Raises ScanError for an unknown ending and when the file cannot be written completely; Cancelled from the task, and
    nothing is written then.
    """
    writing, checking = (task or Task()).split(2, 1)
    path = Path(path)
    suffix = volume_file_suffix(path)
    _write(image, path, suffix, True, image.GetNumberOfPixels() / _WRITTEN_PER_SECOND, writing, checking)


def volume_file_suffix(path: Path | str) -> str:
    """Return which ending of an image's file a file name has; raises ScanError, listing them, when it has none."""
    suffix = label_map_suffix(path)
    if suffix == ".seg.nrrd":
        raise ScanError(f"{path} cannot be written: .seg.nrrd files hold segmentations. Give a name ending in .nrrd.")
    return suffix


def _write(
    image: sitk.Image, path: Path, suffix: str, compress: bool, expected_s: float, writing: Task, checking: Task
) -> None:
    """Write an image beside its place and put it there when it is complete; raises ScanError and Cancelled."""
    partial = path.with_name(f".{uuid.uuid4().hex}.partial{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Never abandoned: the thread of an abandoned writer would leave a partial file behind.
        writing.wait(
            lambda: sitk.WriteImage(image, str(partial), useCompression=compress and suffix != ".nii"),
            expected_s,
            leave=False,
        )
        # ITK's NIfTI writer does not notice a full disk: check what was written.
        checking.wait(lambda: read_checked_header(partial), expected_s, leave=False)
        checking.check()
        replace_file(partial, path)
    except (OSError, RuntimeError) as error:
        reason = why_no_folder(path.parent, error) if isinstance(error, OSError) else first_line(error)
        raise ScanError(f"{path} cannot be written: {reason}. Check the folder's permissions and the disk.") from error
    except ScanError as error:
        raise ScanError(f"{path} cannot be written completely: is the disk full?") from error
    finally:
        with suppress(OSError):  # where its folder could not be made there is nothing to remove
            partial.unlink(missing_ok=True)


def _prepare(label_map: sitk.Image, label_set: LabelSet, path: Path) -> tuple[sitk.Image, dict[int, _Extent]]:
    """Return the label map in the smallest type for its label set, without metadata, and the extents of its labels."""
    if label_map.GetDimension() != 3 or label_map.GetNumberOfComponentsPerPixel() != 1:
        raise ScanError(f"{path} cannot be written: a label map is a 3D image with one value in each voxel.")
    voxels = sitk.GetArrayViewFromImage(label_map)
    if voxels.dtype.kind not in "iu":
        raise ScanError(f"{path} cannot be written: a label map holds whole numbers, not {voxels.dtype}.")
    largest = max(label_set.label_values)
    if voxels.min() < 0 or voxels.max() > largest:
        raise ScanError(
            f"{path} cannot be written: it holds values from {voxels.min()} to {voxels.max()}, "
            f"and the structures' label values end at {largest}."
        )
    image = sitk.Cast(label_map, smallest_label_type(largest))
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    extents = {}
    for label, found in enumerate(ndimage.find_objects(sitk.GetArrayViewFromImage(image), largest), start=1):
        if found is not None:
            along_z, along_y, along_x = ((axis.start, axis.stop - 1) for axis in found)
            extents[label] = (*along_x, *along_y, *along_z)
    unknown = sorted(set(extents) - set(label_set.label_values))
    if unknown:
        raise ScanError(
            f"{path} cannot be written: no structure has the label value {', '.join(map(str, unknown))}. "
            f"Known are {', '.join(f'{structure.label} {structure.name}' for structure in label_set)}."
        )
    return image, extents
