"""Reading in a child process, so that a file which crashes its reader ends the child and not the caller.

Used for DICOM, and for every format and header that is not checked in Python beforehand. The child writes the
voxels to a temporary .npy file and the geometry with notices and modality, or the error, to a JSON file beside it.

Run as ``python -m TransferSegLib.scans.isolated_reading FOLDER PATH [SERIES]``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.child_process import RESULT_FILE, Reading, read_in_child
from TransferSegLib.errors import ScanError
from TransferSegLib.progress import CancelToken
from TransferSegLib.scans.dicom import is_dicom_file, read_dicom
from TransferSegLib.scans.geometry_checks import check_volume
from TransferSegLib.scans.notices import MODALITY, add_notice, forget_notices, modality_of, notices_of

#: A scan that takes longer than this, in seconds, hangs.
_LONGEST = 3600
_VOXELS = "voxels.npy"
#: Formats that never compress, so that the file must be as long as its voxels; ITK does not notice when it is not.
_UNCOMPRESSED_SUFFIXES = (".gipl", ".mrc", ".rec", ".spr", ".sdt")


def read_isolated(
    path: Path, series: str | None, interpreter: Path | None = None, cancel: CancelToken | None = None
) -> sitk.Image:
    """Return a checked 3D image, read in a child process by ``interpreter`` (None: find one).

    Raises ScanError for whatever is wrong with the file, and when reading it crashes or hangs; Cancelled.
    """
    reading = Reading(
        "TransferSegLib.scans.isolated_reading",
        path,
        ScanError,
        "Copy or export it again.",
        _LONGEST,
        words=(series,) if series else (),
        without_python="Save it as NIfTI or NRRD.",
    )
    with read_in_child(reading, interpreter, cancel) as (folder, result):
        image = sitk.GetImageFromArray(np.load(folder / _VOXELS, allow_pickle=False))
    image.SetSpacing(result["spacing_mm"])
    image.SetOrigin(result["origin_mm"])
    image.SetDirection(result["direction"])
    for line in result["notices"]:
        add_notice(image, line)
    if result["modality"]:
        image.SetMetaData(MODALITY, result["modality"])
    return image


def first_line(error: Exception) -> str:
    """Return what ITK says is wrong, without the places in its sources and addresses in memory."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception thrown", "in file", "/"))]
    text = (told or lines or ["unknown error"])[0]
    return text.removeprefix("sitk::ERROR: ").removeprefix("ITK ERROR: ").split("): ", 1)[-1].rstrip(".")[:300]


def _read_other_format(path: Path) -> sitk.Image:
    """Read a file of whatever format ITK recognises, checking its claims before its voxels."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ScanError(
            f"{path} is not an image in a format that is read here ({first_line(error)}). "
            "Save it as NIfTI (.nii.gz), NRRD or MetaImage, or give a DICOM folder."
        ) from error
    size = reader.GetSize()
    voxels = float(np.prod([float(number) for number in size])) * reader.GetNumberOfComponents()
    # A pixel takes one byte at least; deflate, the strongest compression in use, shrinks a thousandfold.
    if voxels > 1100.0 * path.stat().st_size and path.suffix.lower() not in (".nhdr", ".mhd", ".hdr"):
        raise ScanError(f"{path} claims {voxels:,.0f} voxels, far more than it can hold: its header is damaged.")
    try:
        image = reader.Execute()
    except (RuntimeError, MemoryError) as error:
        raise ScanError(f"{path} cannot be read: {first_line(error)}.") from error
    bytes_held = sitk.GetArrayViewFromImage(image).nbytes if "complex" not in image.GetPixelIDTypeAsString() else 0
    if bytes_held > path.stat().st_size and _never_compressed(path):
        raise ScanError(f"{path} is cut off: it is shorter than its {bytes_held:,} bytes of voxels. Copy it again.")
    forget_notices(image)
    return image[..., 0] if image.GetDimension() == 4 and image.GetSize()[3] == 1 else image


def _never_compressed(path: Path) -> bool:
    """Tell whether a file's format stores its voxels as they are."""
    if path.suffix.lower() == ".vtk":
        return b"BINARY" in path.open("rb").read(512)
    return path.suffix.lower() in _UNCOMPRESSED_SUFFIXES


def _main(folder: Path, path: Path, series: str | None) -> None:
    """Read one scan and leave the result in the folder (the child's side)."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = read_dicom(path, series) if path.is_dir() or is_dicom_file(path) else _read_other_format(path)
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
        result = {"error": str(error)}
    except (OSError, MemoryError, RuntimeError) as error:
        result = {"error": f"{path} cannot be read: {first_line(error)}."}
    (folder / RESULT_FILE).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
