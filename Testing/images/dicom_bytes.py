"""DICOM files made byte by byte, so that a test knows every number in them (PS3.5, chapter 7)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
CT, MR, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.2.1"
_LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")

#: Value representation and value by tag; a sequence's value is a list of such mappings.
Elements = Mapping[int, tuple[str, Any]]


def encode(elements: Elements, syntax: str = EXPLICIT, undefined: bool = False) -> bytes:
    """Return a data set's elements in order of their tags; sequences with undefined lengths when asked for."""
    order = ">" if syntax == BIG_ENDIAN else "<"
    parts = []
    for tag, (vr, value) in sorted(elements.items()):
        content = _value(vr, value, order, syntax, undefined)
        is_open = vr == "SQ" and undefined
        length = 0xFFFFFFFF if is_open else len(content)
        head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
        if syntax == IMPLICIT:
            head += struct.pack("<I", length)
        elif vr.encode() in _LONG:
            head += vr.encode() + struct.pack(order + "HI", 0, length)
        else:
            head += vr.encode() + struct.pack(order + "H", length)
        parts.append(head + content + (struct.pack(order + "HHI", 0xFFFE, 0xE0DD, 0) if is_open else b""))
    return b"".join(parts)


def _value(vr: str, value: Any, order: str, syntax: str, undefined: bool) -> bytes:
    if vr == "SQ":
        items = b""
        for item in value:
            content = encode(item, syntax, undefined)
            items += struct.pack(order + "HHI", 0xFFFE, 0xE000, 0xFFFFFFFF if undefined else len(content)) + content
            items += struct.pack(order + "HHI", 0xFFFE, 0xE00D, 0) if undefined else b""
        return items
    if isinstance(value, bytes):
        return value + b"\0" * (len(value) % 2)
    if vr in ("US", "SS", "UL", "FD"):
        letter = {"US": "H", "SS": "h", "UL": "I", "FD": "d"}[vr]
        return b"".join(struct.pack(order + letter, one) for one in np.atleast_1d(value).tolist())
    text = str(value).encode()
    return text + (b"\0" if vr == "UI" else b" ") * (len(text) % 2)


def dicom_file(elements: Elements, syntax: str = EXPLICIT, undefined: bool = False, pixels: bytes = b"") -> bytes:
    """Return a whole file; ``pixels`` are encapsulated pixels, written after the elements as they are."""
    sop_class = elements.get(0x00080016, ("UI", CT))[1]
    meta = encode({0x00020002: ("UI", sop_class), 0x00020003: ("UI", "1.2.3"), 0x00020010: ("UI", syntax)})
    data = encode(elements, syntax, undefined)
    if syntax == DEFLATED:
        packer = zlib.compressobj(wbits=-15)
        data = packer.compress(data) + packer.flush()
    if pixels:
        data += struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF) + pixels
        data += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return bytes(128) + b"DICM" + encode({0x00020000: ("UL", len(meta))}) + meta + data


def decimal(values: Sequence[float], places: int = 6) -> tuple[str, str]:
    """Return numbers as a DS element writes them."""
    return "DS", "\\".join(f"{value:.{places}f}" for value in values)


def pixel_elements(
    stored: np.ndarray, bits_stored: int | None = None, high_bit: int | None = None, order: str = "<"
) -> dict[int, tuple[str, Any]]:
    """Return the elements of pixels, an array (rows, columns) or (frames, rows, columns) of 8 or 16 bit numbers."""
    bits = 8 * stored.itemsize
    bits_stored = bits_stored or bits
    elements: dict[int, tuple[str, Any]] = {
        0x00280002: ("US", 1),
        0x00280004: ("CS", "MONOCHROME2"),
        0x00280010: ("US", stored.shape[-2]),
        0x00280011: ("US", stored.shape[-1]),
        0x00280100: ("US", bits),
        0x00280101: ("US", bits_stored),
        0x00280102: ("US", bits_stored - 1 if high_bit is None else high_bit),
        0x00280103: ("US", int(stored.dtype.kind == "i")),
        0x7FE00010: ("OW", stored.astype(stored.dtype.newbyteorder(order)).tobytes()),
    }
    if stored.ndim == 3:
        elements[0x00280008] = ("IS", len(stored))
    return elements


def ct_slice(
    stored: np.ndarray,
    height_mm: float,
    number: int,
    changes: Elements | None = None,
    without: Sequence[int] = (),
    order: str = "<",
    **bits: int,
) -> dict[int, tuple[str, Any]]:
    """Return the elements of an axial CT slice with the rescale 1 and -1024; pixels of 0.5 (x) by 0.75 (y) mm."""
    elements: dict[int, tuple[str, Any]] = {
        0x00080008: ("CS", "ORIGINAL\\PRIMARY\\AXIAL"),
        0x00080016: ("UI", CT),
        0x00080018: ("UI", f"1.2.3.4.{number + 1}"),
        0x00080060: ("CS", "CT"),
        0x00100020: ("LO", "P7"),
        0x0020000D: ("UI", "1.2.3"),
        0x0020000E: ("UI", "1.2.3.4"),
        0x00200013: ("IS", number + 1),
        0x00200032: decimal((10.0, -20.0, 30.0 + height_mm)),
        0x00200037: decimal((1, 0, 0, 0, 1, 0)),
        0x00280030: decimal((0.75, 0.5)),
        0x00281052: ("DS", "-1024"),
        0x00281053: ("DS", "1"),
        **pixel_elements(stored, order=order, **bits),
        **(changes or {}),
    }
    return {tag: value for tag, value in elements.items() if tag not in without}


def enhanced_ct(
    stored: np.ndarray, frames: Sequence[Elements], shared: Elements, changes: Elements | None = None
) -> dict[int, tuple[str, Any]]:
    """Return the elements of an enhanced CT with these functional groups of every frame and of all."""
    return {
        0x00080016: ("UI", ENHANCED_CT),
        0x00080018: ("UI", "1.2.3.5.1"),
        0x00080060: ("CS", "CT"),
        0x0020000E: ("UI", "1.2.3.5"),
        0x52009229: ("SQ", [shared]),
        0x52009230: ("SQ", list(frames)),
        **pixel_elements(stored),
        **(changes or {}),
    }


def group(tag: int, elements: Elements) -> dict[int, tuple[str, Any]]:
    """Return a functional group: a sequence of one item."""
    return {tag: ("SQ", [elements])}


def frame_groups(
    position_mm: Sequence[float], rescale: tuple[float, float] | None = None
) -> dict[int, tuple[str, Any]]:
    """Return the groups of a frame at a position, with slope and intercept."""
    groups = group(0x00209113, {0x00200032: decimal(position_mm)})
    if rescale is not None:
        groups |= group(0x00289145, {0x00281053: ("DS", rescale[0]), 0x00281052: ("DS", rescale[1])})
    return groups


def shared_groups(orientation: Sequence[float] = (1, 0, 0, 0, 1, 0)) -> dict[int, tuple[str, Any]]:
    """Return the groups that all frames share: directions, and pixels of 0.5 (x) by 0.75 (y) mm."""
    return group(0x00209116, {0x00200037: decimal(orientation)}) | group(
        0x00289110, {0x00280030: decimal((0.75, 0.5)), 0x00180050: ("DS", "2.5")}
    )


def write_slices(folder: Path, slices: Sequence[Elements], syntax: str = EXPLICIT, undefined: bool = False) -> Path:
    """Write one file for every slice and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, elements in enumerate(slices):
        (folder / f"IM{number:04d}").write_bytes(dicom_file(elements, syntax, undefined))
    return folder
