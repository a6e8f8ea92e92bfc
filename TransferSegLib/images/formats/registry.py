"""The formats whose headers are checked in Python before ITK reads a file; all others are read in a child process.

To add a format, write one file beside this one with a function from a path to ``HeaderFacts``, and add its line here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from TransferSegLib.images.formats.header_facts import HeaderFacts, check_facts
from TransferSegLib.images.formats.metaimage_header import read_metaimage_header
from TransferSegLib.images.formats.nifti_header import read_nifti_header
from TransferSegLib.images.formats.nrrd_header import read_nrrd_header

#: File name suffixes (lower case) -> the function that reads such a header.
HEADER_READERS: dict[tuple[str, ...], Callable[[Path], HeaderFacts]] = {
    (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz"): read_nifti_header,
    (".nrrd", ".nhdr"): read_nrrd_header,
    (".mha", ".mhd"): read_metaimage_header,
}


def read_header(path: Path) -> HeaderFacts | None:
    """Return the claims of a file's header, None for a format that is not listed; raises ScanError, OSError."""
    for suffixes, reader in HEADER_READERS.items():
        if path.name.lower().endswith(suffixes):
            return reader(path)
    return None


def read_checked_header(path: Path) -> HeaderFacts | None:
    """Return the claims of a file's header after checking that the file holds them; see ``read_header``."""
    facts = read_header(path)
    if facts is not None:
        check_facts(facts, path)
    return facts
