"""Folders of scans on the command line, and lists of them: which scans they stand for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from TransferSegLib.datasets.pairing import natural_key, volume_suffix
from TransferSegLib.errors import TransferSegError
from TransferSegLib.images.formats.dicom.series import is_dicom_file


def scans_in(given: Path, series: str | None, output: Path) -> list[Path]:
    """Return the scans that a path on the command line stands for: itself, or all volumes and DICOM folders in it.

    A folder of DICOM files is one scan, and so is any folder where ``series`` chooses a DICOM series. Other files
    beside DICOM folders (notes, tables, Thumbs.db) are none, nor are files in the output folder, which are results.
    Raises TransferSegError for a folder that cannot be read or holds no scan.
    """
    if not given.is_dir() or series is not None:
        return [given]
    try:
        entries = [entry for entry in given.iterdir() if not entry.name.startswith(".") and entry != output]
        volumes = [entry for entry in entries if entry.is_file() and volume_suffix(entry)]
        others = [entry for entry in entries if entry.is_file()] if not volumes else []
        folders = [entry for entry in entries if _may_be_dicom(entry, output)]
        # What none of the files shows to be DICOM is for the reader to say, where there is nothing else.
        is_scan = any(map(_is_dicom, others)) if folders else bool(others)
    except OSError as error:
        raise TransferSegError(f"The folder {given} cannot be read: {error.strerror or error}.") from error
    if not volumes and (is_scan or len(folders) == 1):
        return [given]  # a DICOM folder, or one with a DICOMDIR
    found = volumes + folders
    if given.resolve() == output.resolve():
        found = [scan for scan in found if not scan.name.lower().endswith(_RESULT_ENDINGS)]
    if not found:
        raise TransferSegError(f"There is no scan in {given}: give a folder with scan files or with DICOM folders.")
    return sorted(found, key=lambda path: natural_key(path.name))


#: Names of results, which may lie in the folder of the scans.
_RESULT_ENDINGS = (
    "_segmentation.nii.gz",
    "_segmentation.nrrd",
    "_segmentation.seg.nrrd",
    "_segmentation.dcm",
    "_segmentation_structures",
    "_doubt.nii.gz",
)


def _may_be_dicom(path: Path, output: Path) -> bool:
    """Tell whether a folder holds files of which none is a volume of its own, as a DICOM folder does."""
    if not path.is_dir() or path.resolve() == output.resolve():
        return False
    files = [entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith(".")]
    return bool(files) and not any(volume_suffix(entry) for entry in files)


def listed_scans(given: Path, output: Path) -> list[Path]:
    """Return the scans of a list: a text file with a path in each line, or all below a folder.

    Paths count from the folder of the list; empty lines and lines that begin with '#' say nothing. Raises
    TransferSegError for a list that cannot be read or names no scan.
    """
    try:
        if given.is_dir():
            scans = list(_scans_below(given, output.resolve()))
        else:
            scans = _paths(given.read_text(encoding="utf-8-sig"), given.parent)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise TransferSegError(f"The list {given} cannot be read: {reason}.") from error
    if not scans:
        raise TransferSegError(f"There is no scan in {given}.")
    if not any(os.path.lexists(scan) for scan in scans):
        raise TransferSegError(
            f"None of the {len(scans)} paths in {given} exists. A list has a path in each line, which counts from the "
            "folder of the list."
        )
    return list(dict.fromkeys(scans))


def _paths(text: str, folder: Path) -> list[Path]:
    lines = (line.strip() for line in text.splitlines())
    return [folder / line for line in lines if line and not line.startswith("#")]


def _scans_below(folder: Path, output: Path) -> Iterator[Path]:
    """Yield the volumes and the DICOM folders in all folders below one, in natural order; results are no scans."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        below = [name for name in folders if _is_input(name) and (here / name).resolve() != output]
        folders[:] = sorted(below, key=natural_key)
        names = sorted(filter(_is_input, files), key=natural_key)
        volumes = [here / name for name in names if volume_suffix(here / name)]
        yield from volumes
        if not volumes and any(_is_dicom(here / name) for name in names[:_LOOKED_AT]):
            yield here


def _is_input(name: str) -> bool:
    """Tell whether a name is neither hidden nor that of a result."""
    return not name.startswith(".") and not name.endswith(_RESULT_ENDINGS)


#: So many files of a folder are looked at to see whether it is a DICOM folder.
_LOOKED_AT = 10


def _is_dicom(file: Path) -> bool:
    """Tell whether a file is of a DICOM series, or lists the files of some."""
    try:
        return file.name.upper() == "DICOMDIR" or is_dicom_file(file)
    except OSError:
        return False
