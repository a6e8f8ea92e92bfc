"""Folders of scans on the command line: which scans are in one, and which of them were segmented before.

The record of what was segmented lies in the output folder as ``segmented.json``. It says of each result from which
scan and with which model and settings it was made, so that a run that was stopped is continued, and a result of another
model is not taken for one of this model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from TransferSegLib.datasets.pairing import natural_key, volume_suffix
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import ScanError, TransferSegError
from TransferSegLib.inference.segment_file import ScanToSegment

RECORD = "segmented.json"


def scans_in(given: Path, series: str | None, output: Path) -> list[Path]:
    """Return the scans that a path on the command line stands for: itself, or all volumes and DICOM folders in it.

    A folder of DICOM files is one scan, and so is any folder where ``series`` chooses a DICOM series. Files in the
    output folder are results, not scans. Raises TransferSegError for a folder that cannot be read or holds no scan.
    """
    if not given.is_dir() or series is not None:
        return [given]
    try:
        entries = [entry for entry in given.iterdir() if not entry.name.startswith(".") and entry != output]
        volumes = [entry for entry in entries if entry.is_file() and volume_suffix(entry)]
        has_other_files = any(entry.is_file() for entry in entries)
        folders = [entry for entry in entries if _may_be_dicom(entry, output)]
    except OSError as error:
        raise TransferSegError(f"The folder {given} cannot be read: {error.strerror or error}.") from error
    if not volumes and (has_other_files or len(folders) == 1):
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
    "_segmentation_structures",
    "_doubt.nii.gz",
)


def _may_be_dicom(path: Path, output: Path) -> bool:
    """Tell whether a folder holds files of which none is a volume of its own, as a DICOM folder does."""
    if not path.is_dir() or path.resolve() == output.resolve():
        return False
    files = [entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith(".")]
    return bool(files) and not any(volume_suffix(entry) for entry in files)


class SegmentedRecord:
    """What was segmented into a folder before; ``settings`` are the model and all that decides about the labels."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Read the record of a folder, which need not exist; a damaged record is none."""
        self._file = folder / RECORD
        self._settings = json.loads(json.dumps(settings))
        self._results: dict[str, Any] = {}
        with suppress(OSError, ValueError, AttributeError):
            results = json.loads(self._file.read_text(encoding="utf-8")).get("results")
            self._results = results if isinstance(results, dict) else {}

    def is_done(self, each: ScanToSegment) -> bool:
        """Tell whether a scan has its result; raises ScanError when a file of that name is something else."""
        if not each.output.exists():
            return False
        entry = self._results.get(each.output.name)
        if not isinstance(entry, dict):
            raise ScanError(
                f"{each.output} exists and was not made by such a run: choose another output folder, or give --replace "
                "to overwrite it."
            )
        if entry.get("settings") != self._settings or entry.get("scan") != _state_of(each.scan):
            raise ScanError(
                f"{each.output} was made from another scan, or with another model or other settings: choose another "
                "output folder, or give --replace to overwrite it."
            )
        return True

    def was_changed(self, each: ScanToSegment) -> bool:
        """Tell whether a result is not as it was written, because someone corrected it, for example."""
        return bool(self._results[each.output.name].get("output") != _state_of(each.output))

    def add(self, each: ScanToSegment) -> None:
        """Note that a scan was segmented; raises OSError."""
        self._results[each.output.name] = {
            "scan": _state_of(each.scan),
            "settings": self._settings,
            "output": _state_of(each.output),
        }
        text = json.dumps({"format": 1, "results": self._results}, indent=1, ensure_ascii=False)
        write_text_durably(self._file, text + "\n")


def _state_of(path: Path) -> list[Any]:
    """Return what changes when a file, or any file in a folder, does: path, number of files, bytes, latest change."""
    files: Iterable[Path] = path.rglob("*") if path.is_dir() else [path]
    stats = [file.stat() for file in files if file.is_file()]
    return [
        str(path.resolve()),
        len(stats),
        sum(stat.st_size for stat in stats),
        max((stat.st_mtime_ns for stat in stats), default=0),
    ]
