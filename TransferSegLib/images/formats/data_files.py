"""Data files that a header names must lie in the header's own folder.

Otherwise a header from elsewhere could name any file of this computer, whose bytes would be copied into a project as
voxels. Headers of NRRD and MetaImage name one file, a pattern for several ("slice%03d.raw 1 40 1"), or a list, one name
per line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from TransferSegLib.errors import ScanError

_MOST_FILES = 20_000


def check_data_files(header: Path, named: str, listed: Sequence[str] = ()) -> None:
    """Raise ScanError unless every data file lies in the header's own folder, no link leading out of it.

    ``named`` is the name or pattern in the header, ``listed`` the names of a list.
    """
    if len(listed) > _MOST_FILES:
        raise ScanError(f"{header} names more than {_MOST_FILES:,} data files: its header is damaged.")
    for text in (named, *(line.strip() for line in listed)):
        for name in _expanded(header, text):
            if re.search(r"[/\\\0]|^[A-Za-z]:|^-?$|^\.\.?$", name.removeprefix("./")) or leads_away(header, name):
                shown = name.encode("ascii", "backslashreplace").decode("ascii")[:120]
                raise ScanError(
                    f"{header} takes its voxels from {shown!r}, which is no file in the same folder. Voxels are only "
                    "read from there: put both files into one folder, the name alone in the header."
                )


def leads_away(header: Path, name: str) -> bool:
    """Return whether a name in the header's folder is a link to a place outside it (or a circle of links)."""
    file = header.parent / name
    try:
        return file.is_symlink() and file.resolve(strict=True).parent != header.parent.resolve()
    except FileNotFoundError:
        return False  # opening it reports that it is missing
    except (OSError, RuntimeError):
        return True


def check_partners(path: Path) -> None:
    """Raise ScanError when a file of the same name with another ending, which a reader may open, is a link outside."""
    stem = path.name.split(".")[0].casefold()
    for file in path.parent.iterdir():
        beside = file.name != path.name and file.name.split(".")[0].casefold() == stem
        if beside and leads_away(path, file.name):
            raise ScanError(
                f"{path} is not read while {file.name} beside it is a link to another folder: it may belong to the "
                "scan. Put the file itself there."
            )


def _expanded(header: Path, text: str) -> Iterator[str]:
    """Yield the text itself, then the names that it generates if it is a pattern with numbers."""
    yield text
    found = re.fullmatch(r"(\S*%0?\d{0,3}[dif]\S*)((?:\s+-?\d{1,9}){2,4})", text)
    if not found:
        return
    pattern, (first, last, *rest) = found.group(1), [int(number) for number in found.group(2).split()]
    step = rest[0] if rest else 1
    if step == 0 or abs(last - first) // abs(step) > _MOST_FILES or pattern.count("%") > 1:
        raise ScanError(f"{header} names its data files by a pattern that is damaged: {text[:80]!r}.")
    for number in range(first, last + (1 if step > 0 else -1), step):
        yield pattern % number
