"""Reading in a child process, so that a file which crashes its reader ends the child and not the caller.

Used for DICOM, and for every format and header that is not checked in Python beforehand. The child writes the
voxels to a temporary .npy file and the geometry with notices and modality, or the error, to a JSON file beside it.

Run as ``python -m TransferSegLib.images.isolated_reading FOLDER PATH [SERIES [layers] [permissive]]``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.child_process import RESULT_FILE, IsolatedRead, read_in_child
from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.data_files import check_partners
from TransferSegLib.images.formats.dicom.series import is_dicom_file, read_dicom
from TransferSegLib.images.formats.header_facts import check_memory
from TransferSegLib.images.geometry_checks import check_layers, check_volume
from TransferSegLib.images.notices import MODALITY, add_notice, forget_notices, modality_of, notices_of
from TransferSegLib.process_limits import (
    Limits,
    allow_memory,
    held_bytes,
    is_out_of_memory,
    limit_this_process,
    one_open_file,
    own_limits,
)
from TransferSegLib.progress import Task

#: A scan that takes longer than this, in seconds, hangs.
_LONGEST = 3600
_VOXELS = "voxels.npy"
_LAYERS, _PERMISSIVE = "layers", "permissive"
#: Formats that never compress, so that the file must be as long as its voxels; ITK does not notice when it is not.
_UNCOMPRESSED_SUFFIXES = (".gipl", ".mrc", ".rec", ".spr", ".sdt")
#: Headers whose voxels lie in other files beside them.
_HEADER_SUFFIXES = (".nhdr", ".mhd", ".hdr", ".par", ".spr", ".sdt")
#: Formats on the HDF5 library (also MINC) begin so; a data set of theirs can lie in any other file.
_HDF5_BEGIN = b"\x89HDF"
#: Deflate, the strongest packing in use, shrinks a thousandfold; a voxel takes one byte at least.
_STRONGEST_PACKING = 1100.0
#: Reading holds so many copies of a volume: as stored, as the image, converted.
_COPIES = 4


def read_isolated(
    path: Path,
    series: str | None,
    interpreter: Path | None = None,
    task: Task | None = None,
    *,
    layers: bool = False,
    permissive: bool = False,
) -> sitk.Image:
    """Return a checked 3D image, read in a child process by ``interpreter`` (None: find one).

    With ``layers`` a voxel may hold several numbers; ``permissive`` reads NIfTI files whose axes are not quite at right
    angles, which ITK refuses otherwise. Raises ScanError for whatever is wrong with the file, and when reading it
    crashes or hangs; Cancelled from the task, once the child has ended.
    """
    reading = IsolatedRead(
        "TransferSegLib.images.isolated_reading",
        path,
        ScanError,
        "Copy or export it again.",
        _LONGEST,
        args=(series or "", *(option for option, wanted in ((_LAYERS, layers), (_PERMISSIVE, permissive)) if wanted)),
        with_folder=_takes_its_folder(path),
        without_python="Save it as NIfTI or NRRD.",
    )
    with read_in_child(reading, interpreter, task=task) as (folder, result):
        try:
            voxels = np.load(folder / _VOXELS, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as problem:  # numpy does not notice every full disk when it writes
            raise ScanError(
                f"{path} cannot be read: the disk with the folder for temporary files, {folder.parent}, is full."
            ) from problem
        image = sitk.GetImageFromArray(voxels, isVector=layers)
        del voxels  # Windows removes no file that is mapped
    image.SetSpacing(result["spacing_mm"])
    image.SetOrigin(result["origin_mm"])
    image.SetDirection(result["direction"])
    for line in result["notices"]:
        add_notice(image, line)
    if result["modality"]:
        image.SetMetaData(MODALITY, result["modality"])
    return image


def first_line(error: Exception) -> str:
    """Return the problem from an ITK error, without source locations and memory addresses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    problems = [line for line in lines if not line.startswith(("Exception thrown", "in file", "/"))]
    text = (problems or lines or ["unknown error"])[0]
    return text.removeprefix("sitk::ERROR: ").removeprefix("ITK ERROR: ").split("): ", 1)[-1].rstrip(".")[:300]


def _read_other_format(path: Path) -> sitk.Image:
    """Read a file of any format that ITK recognises, checking its claims before its voxels."""
    check_partners(path)
    if _begins_as_hdf5(path) and sys.platform == "win32":
        raise ScanError(
            f"{path} is an HDF5 or MINC file. On Windows these are not read, because they can take voxels from any "
            "other file. Save it as NIfTI (.nii.gz) or NRRD."
        )
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ScanError(
            f"{path} is not an image in a format that is read here ({first_line(error)}). "
            "Save it as NIfTI (.nii.gz), NRRD or MetaImage, or give a DICOM folder."
        ) from error
    _check_claims(reader, path)
    with one_open_file() if _begins_as_hdf5(path) else nullcontext():
        image = reader.Execute()
    bytes_held = sitk.GetArrayViewFromImage(image).nbytes if "complex" not in image.GetPixelIDTypeAsString() else 0
    if bytes_held > path.stat().st_size and _never_compressed(path):
        raise ScanError(f"{path} is cut off: it is shorter than its {bytes_held:,} bytes of voxels. Copy it again.")
    forget_notices(image)
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    if "vector" in image.GetPixelIDTypeAsString() and image.GetNumberOfComponentsPerPixel() == 1:
        image = sitk.VectorIndexSelectionCast(image, 0)
    return image


def _check_claims(reader: sitk.ImageFileReader, path: Path) -> None:
    """Raise ScanError for more voxels than the file, or the memory, can hold; let this process take what they need."""
    size = reader.GetSize()
    voxels = float(np.prod([float(number) for number in size])) * reader.GetNumberOfComponents()
    if voxels > _STRONGEST_PACKING * held_bytes(path, path.suffix.lower() in _HEADER_SUFFIXES):
        raise ScanError(f"{path} claims {voxels:,.0f} voxels, far more than it can hold: its header is damaged.")
    claimed = voxels * sitk.Image([1, 1], reader.GetPixelIDValue()).GetSizeOfPixelComponent()
    check_memory(int(claimed), path)
    limits = own_limits()
    if limits is not None:
        allow_memory(max(limits.memory_bytes, int(_COPIES * claimed) + (256 << 20)))


def _takes_its_folder(path: Path) -> bool:
    """Return whether the files beside a file are read with it: the slices of a series, or the data of a header."""
    try:
        return path.is_file() and (path.suffix.lower() in _HEADER_SUFFIXES or is_dicom_file(path))
    except OSError:
        return False  # the reader reports what is wrong


def _begins_as_hdf5(path: Path) -> bool:
    """Return whether a file is read by the HDF5 library."""
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    return any(head[start : start + 4] == _HDF5_BEGIN for start in (0, 512, 1024, 2048, 4096, 8192, 16384, 32768))


def _never_compressed(path: Path) -> bool:
    """Return whether a file's format stores its voxels as they are."""
    if path.suffix.lower() == ".vtk":
        return b"BINARY" in path.open("rb").read(512)
    return path.suffix.lower() in _UNCOMPRESSED_SUFFIXES


def _main(folder: Path, path: Path, series: str | None, options: Sequence[str]) -> None:
    """Read one scan and leave the result in the folder (the child's side)."""
    if _PERMISSIVE in options:
        os.environ["ITK_NIFTI_SFORM_PERMISSIVE"] = "1"
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    limits = own_limits()
    limit_this_process(limits)
    result: dict[str, object]
    try:
        image = read_dicom(path, series) if path.is_dir() or is_dicom_file(path) else _read_other_format(path)
        if _LAYERS in options:
            check_layers(image, path)
        else:
            check_volume(image, path)
        np.save(folder / _VOXELS, sitk.GetArrayViewFromImage(image), allow_pickle=False)
        result = {
            "spacing_mm": image.GetSpacing(),
            "origin_mm": image.GetOrigin(),
            "direction": image.GetDirection(),
            "notices": notices_of(image),
            "modality": modality_of(image),
        }
    except ScanError as error:
        result = {"error": _of_memory(error.__cause__, limits, path) or str(error)}
    except (OSError, MemoryError, RuntimeError) as error:
        result = {"error": _of_memory(error, limits, path) or f"{path} cannot be read: {first_line(error)}."}
    (folder / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")


def _of_memory(error: BaseException | None, limits: Limits | None, path: Path) -> str:
    """Return the line for a file that took more memory than allowed, '' for other errors."""
    return limits.memory_text(path) if error is not None and limits is not None and is_out_of_memory(error) else ""


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), (sys.argv[3] if len(sys.argv) > 3 else "") or None, sys.argv[4:])
