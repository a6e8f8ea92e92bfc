"""Which DICOM files there are: in a folder, in its sub-folders, or listed by the DICOMDIR of a patient's CD."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.dicom.elements import open_dicom
from TransferSegLib.images.formats.dicom.frames import VOLUME_CLASSES, DicomFile, read_dicom_file

_MOST_FILES = 100_000
_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
#: Classes that hold no scan, by the names people know.
_OTHER_CLASSES = {
    _DICOMDIR_CLASS: "DICOMDIR (an index)",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT (contours)",
    "1.2.840.10008.5.1.4.1.1.481.5": "RTPLAN (a treatment plan)",
    "1.2.840.10008.5.1.4.1.1.481.8": "RTPLAN (an ion treatment plan)",
    "1.2.840.10008.5.1.4.1.1.481.2": "RTDOSE (a dose distribution)",
    "1.2.840.10008.5.1.4.1.1.66.1": "a spatial registration",
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG (a segmentation)",
    "1.2.840.10008.5.1.4.1.1.66.5": "a surface segmentation",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
    "1.2.840.10008.5.1.4.1.1.88.11": "a structured report",
    "1.2.840.10008.5.1.4.1.1.88.22": "a structured report",
    "1.2.840.10008.5.1.4.1.1.88.33": "a structured report",
    "1.2.840.10008.5.1.4.1.1.88.59": "a key object selection",
    "1.2.840.10008.5.1.4.1.1.88.67": "a dose report",
    "1.2.840.10008.5.1.4.1.1.11.1": "a presentation state",
    "1.2.840.10008.5.1.4.1.1.104.1": "an encapsulated PDF",
}


@dataclass(frozen=True)
class FoundFiles:
    """The image files, the names of the other DICOM objects, and notices about what was not found."""

    images: list[DicomFile]
    others: list[str]
    notices: tuple[str, ...] = ()


def class_name(uid: str) -> str:
    """Return a name for a class of DICOM objects."""
    return (
        _OTHER_CLASSES.get(uid) or VOLUME_CLASSES.get(uid) or (f"of class {uid}" if uid else "no readable DICOM image")
    )


def sop_class_of(path: Path) -> str:
    """Return what kind of object (class UID) a DICOM file holds, '' when that is not stated or it is no DICOM file."""
    with open_dicom(path) as header:
        return "" if header is None else header.sop_class


def read_image_file(path: Path) -> DicomFile | None:
    """Return the description of a DICOM image file, None when it holds something else."""
    found = read_dicom_file(path)
    return None if found is None or found.sop_class in _OTHER_CLASSES else found


def is_dicomdir(path: Path) -> bool:
    """Return whether a file is the index of a DICOM medium."""
    return sop_class_of(path) == _DICOMDIR_CLASS


def files_in_folder(folder: Path) -> FoundFiles:
    """Return what the DICOM files of a folder hold, with those of its sub-folders where it has no image itself."""
    own = _sorted_out(folder, folder.iterdir())
    return own if own.images else _sorted_out(folder, folder.rglob("*"))


def files_of_dicomdir(index: Path) -> FoundFiles:
    """Return what the files hold that a DICOMDIR lists and that lie below its folder; raises ScanError.

    Files that were renamed or moved within the folder are found by the image they hold (SOPInstanceUID); an index that
    fits no file at all is ignored.
    """
    with open_dicom(index) as header:
        records = () if header is None else header.data.items(0x00041220)
        listed = [(record.texts(0x00041500), record.text(0x00041511)) for record in records if record.texts(0x00041500)]
    if not listed:
        raise ScanError(f"{index} lists no files: it is damaged, or the medium is empty. Give the folder of the scan.")
    root = index.parent.resolve()
    found = [(_listed_file(root, parts), instance) for parts, instance in listed]
    sorted_out = _sorted_out(index, dict.fromkeys(file for file, _ in found if file is not None))
    missing = {instance for file, instance in found if file is None}
    if not missing:
        return sorted_out
    beside = _sorted_out(index, _files_inside(root))
    if all(file is None for file, _ in found) and not any(one.instance in missing for one in beside.images):
        if not beside.images:
            raise ScanError(f"{index} lists {len(found)} files, and none is there. Copy the whole medium.")
        notice = f"{index} lists {len(found)} files, and none is there: the DICOM files beside it were read instead."
        return FoundFiles(beside.images, beside.others, (notice,))
    moved = [one for one in beside.images if one.instance and one.instance in missing]
    lost = sum(file is None for file, _ in found) - len({one.instance for one in moved})
    notices = sorted_out.notices
    if lost:
        notices = (*notices, f"{index} lists {lost} files that are not there: the scan may lack slices.")
    return FoundFiles([*sorted_out.images, *moved], sorted_out.others, notices)


def no_images_error(path: Path, others: list[str]) -> ScanError:
    """Return the error for a folder or index without DICOM images, saying what there is instead."""
    if others:
        return ScanError(
            f"{path} holds no DICOM images, only {', '.join(sorted(set(others)))}. Give the scan's folder."
        )
    files = sorted(file.name for file in path.iterdir() if file.is_file()) if path.is_dir() else []
    if not files:
        return ScanError(f"{path} holds no DICOM images: it has no files. Give the folder of one scan.")
    return ScanError(f"{path} holds no DICOM images. To read a scan in another format give its file, e.g. {files[0]}.")


def _sorted_out(place: Path, files: Iterable[Path]) -> FoundFiles:
    """Return the images among files, the names of the other DICOM objects, and a notice about empty files."""
    images, others, empty = [], [], []
    for path in _some(place, files):
        image = read_image_file(path)
        if image is not None:
            images.append(image)
        elif sop_class := sop_class_of(path):
            others.append(class_name(sop_class))
        elif path.stat().st_size == 0 and not path.name.startswith("."):
            empty.append(path.name)
    names = ", ".join(empty[:3]) + (" ..." if len(empty) > 3 else "")
    notice = f"{place} holds {len(empty)} empty files ({names}): if they were slices, the scan lacks them."
    return FoundFiles(images, others, (notice,) if empty and images else ())


def _some(place: Path, files: Iterable[Path]) -> Iterator[Path]:
    """Yield the ordinary files in order of their names; raises ScanError when there are too many."""
    ordinary = []
    for path in files:
        if path.is_file():
            ordinary.append(path)
        if len(ordinary) > _MOST_FILES:
            raise ScanError(f"{place} holds more than {_MOST_FILES:,} files. Give the folder of one scan.")
    yield from sorted(ordinary)


def _files_inside(root: Path) -> Iterator[Path]:
    """Yield the files below a folder, none to which a link leads from outside it."""
    for path in root.rglob("*"):
        if path.is_file() and path.resolve().is_relative_to(root):
            yield path


def _listed_file(root: Path, parts: tuple[str, ...]) -> Path | None:
    """Return the file that a directory record names, None when it is not there or not inside the medium's folder.

    Names are in capital letters on the medium; a copy may have them in small ones.
    """
    path = root
    try:
        for part in parts:
            if part in ("", ".", "..") or any(sign in part for sign in "/\\:\0"):
                return None
            path = path / part if (path / part).exists() else _alike(path, part)
        resolved = path.resolve()
        return resolved if resolved.is_file() and resolved.is_relative_to(root) else None
    except (OSError, RuntimeError):  # e.g. a name too long, links in a circle
        return None


def _alike(folder: Path, name: str) -> Path:
    """Return the entry of a folder with this name in whatever case, else the name as it is."""
    try:
        entries = {entry.name.upper(): entry for entry in folder.iterdir()}
    except OSError:
        return folder / name
    return entries.get(name.upper(), folder / name)
