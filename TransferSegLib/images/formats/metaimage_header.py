"""Headers of MetaImage files (.mha, and .mhd with a separate data file).

Source: the MetaImage documentation of ITK (https://itk.org/Wiki/ITK/MetaIO/Documentation).
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.data_files import check_data_files
from TransferSegLib.images.formats.header_facts import HeaderFacts, damaged_header, without_trailing_axes
from TransferSegLib.images.geometry_checks import check_spacing

_TYPES = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_LONG_LONG": 8,
    "MET_ULONG_LONG": 8,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}
#: Tags of the format that are seldom written and change how voxels are found; tags ITK does not know are just notes.
_UNUSUAL_TAGS = frozenset(
    ("HeaderSize", "ElementSize", "ElementNBits", "Rotation", "Orientation", "Position", "Origin", "SequenceID")
)
_FLAGS = ("True", "False")
_LARGEST_HEADER = 1 << 20


def read_metaimage_header(path: Path) -> HeaderFacts:
    """Return what a MetaImage header claims; raises ScanError for a damaged one."""
    tags, offset, repeated = _parse(path)
    try:
        axes = int(tags["NDims"])
        size = tuple(int(number) for number in tags["DimSize"].split())
        channels = int(tags.get("ElementNumberOfChannels", "1"))
        spacing = [float(number) for number in tags.get("ElementSpacing", "").split()]
        element, data_name = tags["ElementType"], tags["ElementDataFile"]
        matrix = [float(number) for number in tags.get("TransformMatrix", "").split()]
        origin = [float(number) for number in tags.get("Offset", "").split()]
    except (KeyError, ValueError) as error:
        raise damaged_header(path, "MetaImage", error) from error
    lengths = ((size, axes), (spacing, axes), (matrix, axes * axes), (origin, axes))
    finite = all(math.isfinite(value) for value in (*matrix, *origin))
    if channels < 1 or not size or not finite or any(values and len(values) != count for values, count in lengths):
        raise damaged_header(path, "MetaImage", f"its values do not fit {axes} axes")
    if axes == 3:
        check_spacing(spacing, path)
    local = data_name.upper() == "LOCAL"
    if not local:
        check_data_files(path, data_name, _rest(path, offset) if data_name.upper().startswith("LIST") else ())
    compressed = tags.get("CompressedData", "False") == "True"
    vouched = (
        not repeated
        and element in _TYPES
        and tags.get("ObjectType", "Image") == "Image"
        and tags.get("BinaryData") == "True"
        and all(tags.get(flag, "False") in _FLAGS for flag in ("CompressedData", "BinaryDataByteOrderMSB"))
        and (not compressed or tags.get("CompressedDataSize", "").isdigit())
        and (local or ("%" not in data_name and not data_name.upper().startswith("LIST") and " " not in data_name))
        and _UNUSUAL_TAGS.isdisjoint(tags)
    )
    data_path = path if local or not vouched else path.parent / data_name
    start = offset if local else 0
    if vouched and compressed and data_path.is_file():
        held = data_path.stat().st_size - start
        if held < int(tags["CompressedDataSize"]):
            raise ScanError(
                f"{path} is cut off: it should hold {int(tags['CompressedDataSize']):,} bytes of compressed data and "
                f"holds {held:,}. Copy or export it again."
            )
    return HeaderFacts(
        image_io="MetaImageIO",
        size=without_trailing_axes(size),
        components=channels,
        kind="number",
        bytes_per_number=_TYPES[element] if vouched else 0,
        data_path=data_path,
        data_offset=0 if compressed else start,
        stream_offset=start if compressed else None,
        vouched=vouched,
    )


def _parse(path: Path) -> tuple[dict[str, str], int, bool]:
    """Return the tags up to ElementDataFile, which ends the header, the position after it, and whether some repeat.

    Stricter than ITK, which takes a colon for an equals sign, too: what ITK might understand in another way is damaged.
    """
    tags: dict[str, str] = {}
    repeated = False
    with path.open("rb") as stream:
        while stream.tell() < _LARGEST_HEADER and "ElementDataFile" not in tags:
            line = stream.readline(_LARGEST_HEADER)
            found = re.fullmatch(rb"([A-Za-z0-9_|. -]+?) *= *([^\r\n\0]*?)\r?\n?", line)
            if not found:
                break
            name = found.group(1).decode("ascii")
            repeated = repeated or name in tags
            tags[name] = found.group(2).decode("utf-8", "replace").strip()
        end = stream.tell()
    if "ElementDataFile" not in tags:
        raise ScanError(f"{path} is not a MetaImage file, or its header is damaged. Copy or export it again.")
    return tags, end, repeated


def _rest(path: Path, offset: int) -> list[str]:
    """Return the lines after the header: the names of a list of data files."""
    with path.open("rb") as stream:
        stream.seek(offset)
        return [line for line in stream.read(_LARGEST_HEADER).decode("utf-8", "replace").splitlines() if line.strip()]
