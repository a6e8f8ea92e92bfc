"""Headers of NRRD files (.nrrd, .seg.nrrd, and .nhdr with a separate data file).

Source: the NRRD format definition of Teem (https://teem.sourceforge.net/nrrd/format.html).
"""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.data_files import check_data_files
from TransferSegLib.images.formats.header_facts import HeaderFacts, NumberKind, damaged_header, without_trailing_axes
from TransferSegLib.images.geometry_checks import check_spacing, is_sheared, sheared_error

#: Names of the voxel types (all spellings of the format definition) -> bytes.
_TYPES = {
    name: size
    for size, names in {
        1: "signed char,int8,int8_t,uchar,unsigned char,uint8,uint8_t",
        2: "short,short int,signed short,signed short int,int16,int16_t,"
        "ushort,unsigned short,unsigned short int,uint16,uint16_t",
        4: "int,signed int,int32,int32_t,uint,unsigned int,uint32,uint32_t,float",
        8: "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t,"
        "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t,double",
    }.items()
    for name in names.split(",")
}
#: Kinds of an axis that runs along space; every other kind holds several numbers of one voxel.
_SPACE_KINDS = ("domain", "space", "???", "none", "")
#: Fields that do not change where or how voxels are stored; a header with others is read in a child process.
_KNOWN_FIELDS = frozenset(
    (
        "type",
        "dimension",
        "space",
        "space dimension",
        "sizes",
        "space directions",
        "kinds",
        "endian",
        "encoding",
        "space origin",
        "spacings",
        "measurement frame",
        "content",
        "data file",
        "datafile",
        "space units",
        "units",
        "thicknesses",
        "centerings",
    )
)
_DATA_FILE = ("data file", "datafile")
_LARGEST_HEADER = 16 << 20
#: Fields with one value for each axis; those that are left out of a header written without its axes of length 1.
_PER_AXIS = ("sizes", "kinds", "space directions")
_LEFT_OUT = ("dimension", "centerings", "centers", "thicknesses", "units", "labels", "spacings")
#: Kinds that ITK takes for numbers of one voxel.
_KNOWN_LISTS = ("list", "vector")


@dataclass(frozen=True)
class NrrdHeader:
    """The text of a header: ``fields`` ("name: value", names in lower case), ``pairs`` ("key:=value"), and its end.

    ``listed`` are the file names after "data file: LIST"; ``data_names`` the values of "data file", of which there
    should be one at most.
    """

    fields: dict[str, str]
    pairs: dict[str, str]
    data_offset: int
    complete: bool
    listed: tuple[str, ...] = ()
    data_names: tuple[str, ...] = ()


def parse_nrrd(path: Path) -> NrrdHeader:
    """Split the header of a NRRD file into its lines; raises ScanError when it is none."""
    with path.open("rb") as stream:
        magic = stream.readline(64)
        if not re.fullmatch(rb"NRRD000[1-5]\r?\n", magic):
            raise ScanError(f"{path} is not a NRRD file: it does not begin with 'NRRD'. Export it again.")
        fields: dict[str, str] = {}
        pairs: dict[str, str] = {}
        listed: list[str] = []
        data_names: list[str] = []
        complete = False
        while stream.tell() < _LARGEST_HEADER:
            line = stream.readline(_LARGEST_HEADER)
            if not line:
                break
            text = _decoded(line).rstrip("\r\n")
            if not text:
                complete = True
                break
            if "\r" in text or "\0" in text:  # ITK may see the end of a line there
                raise damaged_header(path, "NRRD", "a line holds control characters")
            if any(name.upper().startswith("LIST") for name in data_names):
                listed.append(text)
            if text.startswith("#"):
                continue
            key, separator, value = text.partition(":=")
            name, colon, content = text.partition(": ")
            if colon and (not separator or len(name) < len(key)):
                fields[name.strip().lower()] = content.strip()
                if name.strip().lower() in _DATA_FILE:
                    data_names.append(content.strip())
            elif separator:
                pairs[key] = value
        return NrrdHeader(fields, pairs, stream.tell(), complete, tuple(listed), tuple(data_names))


def _decoded(line: bytes) -> str:
    """Return a line of a header: UTF-8, or the encoding of older programs in Western Europe."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("cp1252", "replace")


def read_nrrd_header(path: Path) -> HeaderFacts:
    """Return what a NRRD header claims; raises ScanError for a damaged or sheared one."""
    header = parse_nrrd(path)
    fields = header.fields
    try:
        dimension = int(fields["dimension"])
        sizes = tuple(int(number) for number in fields["sizes"].split())
        voxel_type = fields["type"].lower()
        encoding = fields["encoding"].lower()
    except (KeyError, ValueError) as error:
        raise damaged_header(path, "NRRD", error) from error
    if len(sizes) != dimension:
        raise damaged_header(path, "NRRD", f"{len(sizes)} sizes for {dimension} axes")
    if len(header.data_names) > 1:
        raise damaged_header(path, "NRRD", "it names its data file twice")
    data_name = header.data_names[0] if header.data_names else None
    if data_name is not None:
        check_data_files(path, data_name, header.listed)
    spatial, components, kind = _axes(fields, sizes, path)
    bytes_per_number = _TYPES.get(voxel_type, 0)
    gzip = encoding in ("gzip", "gz")
    offset = header.data_offset if data_name is None else 0
    vouched = (
        bytes_per_number > 0
        and (gzip or encoding == "raw")
        and (bytes_per_number == 1 or fields.get("endian", "").lower() in ("little", "big"))
        and (header.complete or data_name is not None)
        and (data_name is None or (not data_name.upper().startswith("LIST") and "%" not in data_name))
        and _KNOWN_FIELDS.issuperset(fields)
    )
    return HeaderFacts(
        image_io="NrrdImageIO",
        size=without_trailing_axes(spatial),
        components=components,
        kind=kind,
        bytes_per_number=bytes_per_number if vouched else 0,
        data_path=path if data_name is None or not vouched else path.parent / data_name,
        data_offset=0 if gzip else offset,
        stream_offset=offset if gzip else None,
        vouched=vouched,
        readable=without_single_axes,
    )


def layer_count(header: NrrdHeader, path: Path) -> int:
    """Return how many numbers a voxel has: the layers of a segmentation; 1 for a header that does not state it."""
    try:
        sizes = tuple(int(number) for number in header.fields["sizes"].split())
        return _axes(header.fields, sizes, path)[1]
    except (KeyError, ValueError, ScanError):
        return 1  # reading the voxels reports the problem


def _axes(fields: dict[str, str], sizes: tuple[int, ...], path: Path) -> tuple[tuple[int, ...], int, NumberKind]:
    """Return the sizes of the axes in space, the numbers in a voxel and their kind; checks the geometry."""
    kinds = [kind.lower() for kind in fields.get("kinds", "").split()] or [""] * len(sizes)
    vectors = _vectors(fields["space directions"], path) if "space directions" in fields else [()] * len(sizes)
    if len(kinds) != len(sizes) or len(vectors) != len(sizes):
        raise damaged_header(path, "NRRD", "not one kind and direction for every axis")
    in_space = [
        kind in _SPACE_KINDS and ("space directions" not in fields or vector is not None)
        for kind, vector in zip(kinds, vectors, strict=True)
    ]
    spatial = tuple(size for size, inside in zip(sizes, in_space, strict=True) if inside)
    components = math.prod(size for size, inside in zip(sizes, in_space, strict=True) if not inside)
    is_colour = any("color" in name for name in kinds)
    kind: NumberKind = "colour" if is_colour else "complex" if "complex" in kinds else "number"
    if not all(np.all(np.isfinite(vector)) for vector in _vectors(fields.get("space origin", ""), path) if vector):
        raise damaged_header(path, "NRRD", "its origin is not a number")
    axes = [vector for vector in vectors if vector]
    if len(axes) == 3 and len(spatial) == 3:
        matrix = np.array(axes, dtype=float).T if all(len(axis) == 3 for axis in axes) else np.zeros((3, 3))
        if not np.all(np.isfinite(matrix)):
            raise damaged_header(path, "NRRD", "its space directions are not numbers")
        check_spacing(np.linalg.norm(matrix, axis=0).tolist(), path)
        if is_sheared(matrix):
            raise sheared_error(path)
    return spatial, components, kind


def _vectors(text: str, path: Path) -> list[tuple[float, ...] | None]:
    """Read 'none (1,0,0) (0,1,0) (0,0,1)': one vector, or None for an axis outside space, per axis."""
    vectors: list[tuple[float, ...] | None] = []
    for part in re.findall(r"none|\([^)]*\)", text):
        try:
            vectors.append(None if part == "none" else tuple(float(number) for number in part[1:-1].split(",")))
        except ValueError as error:
            raise damaged_header(path, "NRRD", f"the direction {part} is no vector") from error
    return vectors


def _single_axes(header: NrrdHeader) -> tuple[int, ...]:
    """Return the axes of length 1 outside space that ITK would refuse, none for files that it reads as they are."""
    sizes = header.fields.get("sizes", "").split()
    vectors = _per_axis("space directions", header.fields.get("space directions", ""))
    kinds = header.fields.get("kinds", "").lower().split() or [""] * len(sizes)
    if len(sizes) != len(vectors) or len(kinds) != len(sizes) or header.data_names or not header.complete:
        return ()
    found = [axis for axis, vector in enumerate(vectors) if vector == "none"]
    if len(sizes) - len(found) != 3 or any(sizes[axis] != "1" for axis in found):
        return ()
    return () if all(kinds[axis] in _KNOWN_LISTS for axis in found) and len(found) == 1 else tuple(found)


def _per_axis(name: str, value: str) -> list[str]:
    """Return a field's values axis by axis; vectors may contain spaces."""
    return re.findall(r"none|\([^)]*\)", value) if name == "space directions" else value.split()


@contextmanager
def without_single_axes(path: Path) -> Iterator[Path]:
    """Yield a file that ITK reads: this one, or a temporary copy without its axes of length 1; raises OSError.

    ITK takes a fourth axis for one in space, and refuses it, where a program leaves out the kind of a list axis or
    calls it time or domain. As its length is 1, the voxels are the same without it: only the header is rewritten.
    """
    header = parse_nrrd(path)
    left_out = _single_axes(header)
    if not left_out:
        yield path
        return
    lines = ["NRRD0005", f"dimension: {len(header.fields['sizes'].split()) - len(left_out)}"]
    for name, value in header.fields.items():
        if name in _PER_AXIS:
            value = " ".join(one for axis, one in enumerate(_per_axis(name, value)) if axis not in left_out)
        if name not in _LEFT_OUT:
            lines.append(f"{name}: {value}")
    order = ("NRRD0005", "type", "dimension", "space", "sizes")  # what ITK must read first
    lines.sort(key=lambda line: order.index(line.split(":")[0]) if line.split(":")[0] in order else len(order))
    with tempfile.TemporaryDirectory(prefix="transferseg-") as folder:
        copy = Path(folder) / "volume.nrrd"
        with path.open("rb") as source, copy.open("xb") as target:
            target.write(("\n".join(lines) + "\n\n").encode("utf-8"))
            source.seek(header.data_offset)
            shutil.copyfileobj(source, target, 1 << 20)
        yield copy
