"""The elements of a DICOM file that may be malformed: bounded depth, bounded work, no value outside the file.

Only the data set itself and the few sequences that place and scale frames (or list files, in a DICOMDIR) are read: the
same tag in a private element, in an icon or in the description of another image does not describe this one.
Encoding: DICOM PS3.5, chapter 7 and annex A.
"""

from __future__ import annotations

import mmap
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
PIXEL_DATA = 0x7FE00010
#: The length of a value that ends with a delimiter.
UNDEFINED = 0xFFFFFFFF

_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
#: Value representations with a length of four bytes.
_LONG_FORMS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_WALKED_SEQUENCES = frozenset(
    (
        0x00041220,  # the records of a DICOMDIR
        0x00189114,  # MR echo
        0x00189117,  # MR diffusion
        0x00189226,  # MR image frame type
        0x00189329,  # CT image frame type
        0x00209111,  # frame content
        0x00209113,  # plane position
        0x00209116,  # plane orientation
        0x00283000,  # modality lookup table
        0x00289110,  # pixel measures
        0x00289145,  # pixel value transformation
        0x52009229,  # shared functional groups
        0x52009230,  # functional groups of every frame
    )
)
_DEEPEST = 16
_MOST_ELEMENTS = 1_500_000
_LONGEST_INFLATED = 256 * 2**20
#: Values longer than this, other than pixels and lookup tables, are not read.
_LONGEST_VALUE = 2**20

Buffer = bytes | mmap.mmap


class DamagedDicom(Exception):
    """The bytes are no DICOM data set from here on; never leaves the package's DICOM files."""


@dataclass(frozen=True)
class Element:
    """Where the value of one element lies (``length`` may be UNDEFINED for pixels), and the items of a sequence."""

    vr: bytes
    start: int
    length: int
    items: tuple[DataSet, ...] = ()


@dataclass
class DataSet:
    """The elements of a data set or item by tag, with their values on demand."""

    buffer: Buffer
    order: str
    elements: dict[int, Element] = field(default_factory=dict)
    damaged: bool = False

    def __contains__(self, tag: int) -> bool:
        return tag in self.elements

    def value(self, tag: int) -> bytes:
        """Return an element's bytes; none when it is missing, very long or a sequence."""
        element = self.elements.get(tag)
        if element is None or element.length > _LONGEST_VALUE:
            return b""
        return bytes(self.buffer[element.start : element.start + element.length])

    def text(self, tag: int) -> str:
        """Return a text without its padding, '' when it is missing; unknown characters are replaced."""
        return self.value(tag).decode("utf-8", "replace").strip(" \0")

    def texts(self, tag: int) -> tuple[str, ...]:
        """Return the parts of a text between backslashes."""
        text = self.text(tag)
        return tuple(part.strip(" \0") for part in text.split("\\")) if text else ()

    def numbers(self, tag: int) -> tuple[float, ...]:
        """Return decimal or whole numbers written as text; none unless all of them are finite numbers."""
        parts = self.texts(tag)
        if not all(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", part) and len(part) < 40 for part in parts):
            return ()
        values = tuple(float(part) for part in parts)
        return values if all(abs(value) < 1e30 for value in values) else ()

    def number(self, tag: int) -> float | None:
        """Return the first of an element's ``numbers``, None when there is none."""
        numbers = self.numbers(tag)
        return numbers[0] if numbers else None

    def whole(self, tag: int, signed: bool = False) -> int | None:
        """Return the first binary whole number of two or four bytes, None when it is missing."""
        value = self.value(tag)
        kind = {2: "h", 4: "i"}.get(min(len(value), 4) // 2 * 2)
        if kind is None or len(value) == 3:
            return None
        return int(struct.unpack_from(self.order + (kind if signed else kind.upper()), value)[0])

    def double(self, tag: int) -> float | None:
        """Return the first binary floating-point number of eight bytes, None when it is missing."""
        value = self.value(tag)
        return float(struct.unpack_from(self.order + "d", value)[0]) if len(value) >= 8 else None

    def items(self, tag: int) -> tuple[DataSet, ...]:
        """Return the items of a sequence, none when it is missing."""
        element = self.elements.get(tag)
        return () if element is None else element.items


@dataclass(frozen=True)
class DicomHeader:
    """A file's meta header (transfer syntax and class) and its data set, as far as it can be read."""

    syntax: str
    sop_class: str
    data: DataSet


@contextmanager
def open_dicom(path: Path) -> Iterator[DicomHeader | None]:
    """Yield what a DICOM file holds, None for another file; its values can be read while it is open.

    A file that ends early or cannot be parsed gives the elements up to there, marked as ``damaged``. Raises OSError.
    """
    with path.open("rb") as stream:
        head = stream.read(132)
        if len(head) < 12 or not (head[128:] == b"DICM" or head[:2] in (b"\x02\x00", b"\x08\x00")):
            yield None
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield read_header(content, 132 if head[128:] == b"DICM" else 0)


def read_header(content: Buffer, start: int) -> DicomHeader:
    """Return the meta header and the data set of a file's content, whose elements begin at ``start``."""
    meta, position = _read_meta(content, start)
    syntax = meta.text(0x00020010)
    order = ">" if syntax == EXPLICIT_BIG_ENDIAN else "<"
    if syntax == DEFLATED:
        content, position = inflated(content, position), 0
    data = DataSet(content, order)
    walk = _Walk(content, order)
    try:
        walk.read_elements(data, position, len(content), _is_explicit(content, position), 0)
    except (DamagedDicom, struct.error):
        data.damaged = True
    return DicomHeader(syntax, meta.text(0x00020002) or data.text(0x00080016), data)


def inflated(content: Buffer, start: int) -> bytes:
    """Return a deflated data set, empty when it is damaged or larger than anything read here."""
    decompressor = zlib.decompressobj(-15)
    try:
        result = decompressor.decompress(content[start:], _LONGEST_INFLATED)
    except zlib.error:
        return b""
    return b"" if decompressor.unconsumed_tail else result


def fragments(content: Buffer, start: int) -> Iterator[tuple[int, int]]:
    """Yield start and length of every item of encapsulated pixels, the offset table first; raises DamagedDicom."""
    position = start
    while True:
        tag, length = _tag_and_length(content, "<", position)
        if tag == _SEQUENCE_END:
            return
        if tag != _ITEM or position + 8 + length > len(content):
            raise DamagedDicom("a fragment is cut off")
        yield position + 8, length
        position += 8 + length


def _read_meta(content: Buffer, position: int) -> tuple[DataSet, int]:
    """Return the meta header (group 2, explicit little endian) and where it ends."""
    meta = DataSet(content, "<")
    walk = _Walk(content, "<")
    while content[position : position + 2] == b"\x02\x00":
        try:
            tag, vr, start, length = walk.element_header(position, True)
        except (DamagedDicom, struct.error):
            break
        if length == UNDEFINED or start + length > len(content):
            break
        meta.elements.setdefault(tag, Element(vr, start, length))
        position = start + length
    return meta, position


def _is_explicit(content: Buffer, position: int) -> bool:
    """Return whether the first element has a value representation; the transfer syntax may be wrong about it."""
    return re.fullmatch(rb"[A-Z]{2}", bytes(content[position + 4 : position + 6])) is not None


def _tag_and_length(content: Buffer, order: str, position: int) -> tuple[int, int]:
    """Return the tag and the length of an item or delimiter."""
    try:
        group, element, length = struct.unpack_from(order + "HHI", content, position)
    except struct.error as error:
        raise DamagedDicom("the file ends early") from error
    return group << 16 | element, length


class _Walk:
    """Reads elements one after another and counts them."""

    def __init__(self, content: Buffer, order: str) -> None:
        self._content = content
        self._order = order
        self._explicit, self._length = struct.Struct(order + "HH2sH"), struct.Struct(order + "I")
        self._count = 0

    def element_header(self, position: int, explicit: bool) -> tuple[int, bytes, int, int]:
        """Return tag, value representation ('' when implicit), start and length of the value at a position."""
        self._count += 1
        if self._count > _MOST_ELEMENTS:
            raise DamagedDicom("more elements than any image has")
        group, element, vr, length = self._explicit.unpack_from(self._content, position)
        tag = group << 16 | element
        if group == 0xFFFE or not explicit:
            (length,) = self._length.unpack_from(self._content, position + 4)
            return tag, b"", position + 8, length
        if vr in _LONG_FORMS:
            (length,) = self._length.unpack_from(self._content, position + 8)
            return tag, vr, position + 12, length
        if not (vr.isalpha() and vr.isupper()):
            raise DamagedDicom("no value representation where one must be")
        return tag, vr, position + 8, length

    def read_elements(self, data: DataSet, position: int, end: int, explicit: bool, depth: int) -> int:
        """Read elements into a data set up to ``end``, its pixels or an item's delimiter; returns where they end.

        Of elements that are there twice the first one counts.
        """
        while position < end:
            tag, vr, start, length = self.element_header(position, explicit)
            if tag == _ITEM_END:
                return start
            if tag == PIXEL_DATA and depth == 0:
                data.elements.setdefault(tag, Element(vr, start, length))
                return end
            if length != UNDEFINED and start + length > end:
                raise DamagedDicom("an element is longer than what holds it")
            items: tuple[DataSet, ...] = ()
            if tag in _WALKED_SEQUENCES or length == UNDEFINED:
                stop = end if length == UNDEFINED else start + length
                # Sequences of unknown representation are written implicitly (PS3.5, 6.2.2).
                within = explicit and vr != b"UN"
                items, position = self._read_items(start, stop, length == UNDEFINED, within, depth + 1)
            else:
                position = start + length
            if not tag & 0x10000:  # odd groups are private
                data.elements.setdefault(tag, Element(vr, start, 0 if length == UNDEFINED or items else length, items))
        return position

    def _read_items(
        self, position: int, end: int, delimited: bool, explicit: bool, depth: int
    ) -> tuple[tuple[DataSet, ...], int]:
        """Return the items of a sequence, which ends at ``end`` or with a delimiter before, and where it ends."""
        if depth > _DEEPEST:
            raise DamagedDicom("sequences in sequences, deeper than in any image")
        items: list[DataSet] = []
        while position < end:
            tag, length = _tag_and_length(self._content, self._order, position)
            position += 8
            self._count += 1
            if tag == _SEQUENCE_END and delimited:
                return tuple(items), position
            if tag != _ITEM or (length != UNDEFINED and position + length > end):
                raise DamagedDicom("no item where one must be")
            item = DataSet(self._content, self._order)
            if length == UNDEFINED:
                position = self.read_elements(item, position, end, explicit, depth)
            else:
                self.read_elements(item, position, position + length, explicit, depth)
                position += length
            items.append(item)
        if delimited:
            raise DamagedDicom("a sequence has no end")
        return tuple(items), end
