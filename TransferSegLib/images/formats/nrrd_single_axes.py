"""NRRD files with a fourth axis of length 1 that ITK takes for an axis in space and refuses: read without that axis.

The format says which kinds of axes lie in space; programs leave the kind of a list axis out, or call it time or domain.
As its length is 1, the voxels are the same without it: only the header is written anew, into a temporary file.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from TransferSegLib.images.formats.nrrd_header import NrrdHeader, parse_nrrd

#: What is said of every axis by a word; what is said in more than one word is left out of the new header.
_OF_EVERY_AXIS = ("sizes", "kinds", "space directions")
_LEFT_OUT = ("dimension", "centerings", "centers", "thicknesses", "units", "labels", "spacings")
#: Kinds that ITK takes for numbers of one voxel.
_KNOWN_LISTS = ("list", "vector")


def single_axes(header: NrrdHeader) -> tuple[int, ...]:
    """Return the axes of length 1 outside space that ITK would refuse, none for files that it reads as they are."""
    sizes = header.fields.get("sizes", "").split()
    vectors = _words("space directions", header.fields.get("space directions", ""))
    kinds = header.fields.get("kinds", "").lower().split() or [""] * len(sizes)
    if len(sizes) != len(vectors) or len(kinds) != len(sizes) or header.data_names or not header.complete:
        return ()
    found = [axis for axis, vector in enumerate(vectors) if vector == "none"]
    if len(sizes) - len(found) != 3 or any(sizes[axis] != "1" for axis in found):
        return ()
    return () if all(kinds[axis] in _KNOWN_LISTS for axis in found) and len(found) == 1 else tuple(found)


def _words(name: str, value: str) -> list[str]:
    """Return what a field says of each axis; vectors may have spaces in them."""
    return re.findall(r"none|\([^)]*\)", value) if name == "space directions" else value.split()


@contextmanager
def without_single_axes(path: Path) -> Iterator[Path]:
    """Give a file that ITK reads: this one, or a temporary copy without its axes of length 1; raises OSError."""
    header = parse_nrrd(path)
    left_out = single_axes(header)
    if not left_out:
        yield path
        return
    lines = ["NRRD0005", f"dimension: {len(header.fields['sizes'].split()) - len(left_out)}"]
    for name, value in header.fields.items():
        if name in _OF_EVERY_AXIS:
            value = " ".join(word for axis, word in enumerate(_words(name, value)) if axis not in left_out)
        if name not in _LEFT_OUT:
            lines.append(f"{name}: {value}")
    order = ("NRRD0005", "type", "dimension", "space", "sizes")  # what ITK wants to know first
    lines.sort(key=lambda line: order.index(line.split(":")[0]) if line.split(":")[0] in order else len(order))
    with tempfile.TemporaryDirectory(prefix="transferseg-") as folder:
        copy = Path(folder) / "volume.nrrd"
        with path.open("rb") as source, copy.open("xb") as target:
            target.write(("\n".join(lines) + "\n\n").encode("utf-8"))
            source.seek(header.data_offset)
            shutil.copyfileobj(source, target, 1 << 20)
        yield copy
