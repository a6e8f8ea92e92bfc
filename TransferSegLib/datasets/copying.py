"""Copying images and label maps into a dataset's folder, each file completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.datasets.pairing import volume_suffix
from TransferSegLib.durable_writing import replace_file
from TransferSegLib.errors import DatasetError
from TransferSegLib.images.label_values import image_like, renumbered
from TransferSegLib.images.notices import notices_of
from TransferSegLib.images.read import read_label_map, read_scan
from TransferSegLib.images.write import write_label_map
from TransferSegLib.output_checks import why_no_folder
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet

#: Formats in which one file is everything; of the others a copied file would miss its voxels.
_WHOLE_FILES = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha")
#: Bytes that are copied before the next look at the cancel token.
_COPIED_AT_ONCE = 2**22


def copy_image(
    source: Path,
    folder: Path,
    id: str,
    replace: bool = False,
    notes: list[str] | None = None,
    task: Task | None = None,
) -> Path:
    """Copy an image into a folder under its case's id and return the copy.

    A format of one file is copied byte for byte; a DICOM folder, or a header with voxels elsewhere, becomes a .nrrd
    file without its metadata, and what reading it has to say is added to ``notes``. Raises DatasetError when it cannot
    be written or something else is there, ScanError when it cannot be read, Cancelled from the task.
    """
    task = task or Task()
    if volume_suffix(source) in _WHOLE_FILES:
        return _copy_file(source, folder / f"{id}{volume_suffix(source)}", replace, task)
    reading, writing = task.split(2, 1)
    image = read_scan(source, task=reading)
    if notes is not None:
        notes += notices_of(image)
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    target = folder / f"{id}.nrrd"

    def write(partial: Path) -> None:
        # Quickly, because this cannot be stopped; waited for whatever happens, because its part is removed then.
        writing.wait(lambda: sitk.WriteImage(image, str(partial), useCompression=True, compressionLevel=1), leave=False)

    return _write(target, replace, write)


def copy_label_map(
    source: Path,
    folder: Path,
    id: str,
    numbering: Mapping[int, int] | None,
    label_set: LabelSet,
    replace: bool = False,
    first: Sequence[str] = (),
    task: Task | None = None,
) -> Path:
    """Copy a label map into a folder under its case's id and return the copy.

    With a ``numbering`` (new value by old value; what it does not name becomes background) it is written anew with
    the names of ``label_set``; of its segments that overlap those named in ``first`` win. Raises DatasetError and
    ScanError as ``copy_image`` does, and Cancelled.
    """
    task = task or Task()
    suffix = volume_suffix(source)
    if numbering is None and suffix in _WHOLE_FILES:
        return _copy_file(source, folder / f"{id}{suffix}", replace, task)
    reading, writing = task.split(1, 1)
    labels = read_label_map(source, first=first, task=reading)
    if numbering is not None:
        labels = renumbered(labels, numbering)
    target = folder / f"{id}{'.seg.nrrd' if numbering is not None else '.nrrd'}"
    return _write(target, replace, lambda partial: write_label_map(labels, partial, label_set, task=writing))


def copy_annotated_part(
    source: Path,
    output: Path,
    id: str,
    ignored: int,
    label_set: LabelSet,
    replace: bool = False,
    task: Task | None = None,
) -> tuple[Path, Path | None] | None:
    """Copy a label map in which one value means that nothing is known: return the copy, and the mask of what is known.

    They go into the folders ``labels`` and ``judged`` of a dataset's folder. Where no voxel has the value there is no
    mask (None). Where every voxel has it nothing is copied: return None. Raises as ``copy_label_map`` does.
    """
    reading, copying, writing = (task or Task()).split(2, 2, 1)
    labels = read_label_map(source, task=reading)
    values_zyx = sitk.GetArrayViewFromImage(labels)
    known_zyx = values_zyx != ignored
    if known_zyx.all():
        return copy_label_map(source, output / "labels", id, None, label_set, replace, task=copying), None
    if not known_zyx.any():
        return None
    drawn = image_like(np.where(known_zyx, values_zyx, 0), labels)
    mask = image_like(known_zyx.astype(np.uint8), labels)
    copy = _write(
        output / "labels" / f"{id}.nrrd",
        replace,
        lambda partial: write_label_map(drawn, partial, label_set, task=copying),
    )

    def write(partial: Path) -> None:
        writing.wait(lambda: sitk.WriteImage(mask, str(partial), useCompression=True), leave=False)

    return copy, _write(output / "judged" / f"{id}.nrrd", replace, write)


def _copy_file(source: Path, target: Path, replace: bool, task: Task) -> Path:
    """Copy one file; a file that is already where it should be stays."""
    if target.exists() and target.samefile(source):
        return target

    def write(partial: Path) -> None:
        size = source.stat().st_size
        with source.open("rb") as here, partial.open("xb") as there:
            while block := here.read(_COPIED_AT_ONCE):
                there.write(block)
                task.at(there.tell() / max(size, 1))

    return _write(target, replace, write)


def _write(target: Path, replace: bool, write: Callable[[Path], object]) -> Path:
    """Let ``write`` make a file of another name in the same folder, then give it its name; raises DatasetError."""
    if target.exists() and not replace:
        raise DatasetError(f"{target} is there already. Choose another folder, or ask to replace it.")
    partial = target.with_name(f".{os.getpid()}.partial.{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(partial)
            replace_file(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        reason = why_no_folder(target.parent, error) if isinstance(error, OSError) else str(error).strip()
        raise DatasetError(f"{target} cannot be written: {reason}.") from error
    return target
