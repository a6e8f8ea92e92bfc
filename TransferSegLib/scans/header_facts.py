"""What the header of a scan file claims, and whether the file holds what it claims.

ITK believes headers: SimpleITK 2.5 reads a NIfTI file cut off in the middle without a word, and one kind of
5D NIfTI file ends the process. So headers are read here first, in Python, without touching the voxels.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from TransferSegLib.errors import ScanError
from TransferSegLib.scans.geometry_checks import (
    check_dimensions,
    check_size,
    complex_error,
    components_error,
    not_numbers_error,
    size_text,
)

#: What the numbers of a voxel are: a scalar (or vector) of real numbers, complex numbers, or colour channels.
NumberKind = Literal["number", "complex", "colour"]

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class HeaderFacts:
    """The claims of one header.

    ``size`` counts voxels along the axes in file order; ``image_io`` is ITK's name of the reader. ``affines_lps``
    are the 4x4 maps from voxel index to LPS mm that the header states, if it states any. ``stream_offset`` is where
    compressed data begin in ``data_path`` (None: not compressed), ``data_offset`` how many (uncompressed) bytes come
    before the voxels; ``bytes_per_number`` is 0 where all that is not known. ``vouched`` is False where the header
    uses something unusual, so that the file must be read in a child process. ``check_floats`` is the type of the
    voxels (e.g. "<f4") where ITK would turn NaN into 0 without a word, as it does for NIfTI.
    """

    image_io: str
    size: tuple[int, ...]
    components: int
    kind: NumberKind
    bytes_per_number: int
    data_path: Path
    data_offset: int
    stream_offset: int | None
    vouched: bool
    affines_lps: tuple[np.ndarray, ...] = ()
    check_floats: str | None = None

    @property
    def data_bytes(self) -> int:
        """Bytes of voxel data the header claims, uncompressed."""
        return math.prod(self.size) * self.components * self.bytes_per_number


def check_facts(facts: HeaderFacts, path: Path) -> None:
    """Raise ScanError unless the header claims a scalar 3D image and the file holds that many bytes."""
    if facts.kind == "complex":
        raise complex_error(path)
    if facts.components > 1 or facts.kind == "colour":
        raise components_error(path, max(3, facts.components) if facts.kind == "colour" else facts.components)
    check_dimensions(facts.size, path)
    check_size(facts.size, path)
    if not facts.data_path.is_file():
        raise ScanError(
            f"{path} says that its voxels are in {facts.data_path}, which does not exist. Keep both together."
        )
    wanted = facts.data_bytes
    if facts.stream_offset is None and facts.check_floats is None:
        held, not_numbers = facts.data_path.stat().st_size - facts.data_offset, 0
    else:
        held, not_numbers = _look_through(facts)
    if held < wanted:
        raise ScanError(
            f"{path} is cut off or damaged: its header claims {wanted:,} bytes for {size_text(facts.size)} voxels, "
            f"the file holds {max(0, held):,}. Copy or export it again."
        )
    if not_numbers:
        raise not_numbers_error(path, not_numbers, math.prod(facts.size))


def _look_through(facts: HeaderFacts) -> tuple[int, int]:
    """Return how many bytes of voxels there are (counted up to those claimed) and how many are no finite numbers.

    Keeps one block at a time, so that a file that unpacks to terabytes does no harm.
    """
    blocks = (
        _plain_blocks(facts.data_path) if facts.stream_offset is None else inflate(facts.data_path, facts.stream_offset)
    )
    held, not_numbers, rest = -facts.data_offset, 0, b""
    for block in blocks:
        before, held = held, held + len(block)
        if facts.check_floats is not None and held > 0:
            floats = rest + block[max(0, -before) : len(block) - max(0, held - facts.data_bytes)]
            whole = len(floats) // facts.bytes_per_number * facts.bytes_per_number
            rest = floats[whole:]
            numbers = np.frombuffer(floats[:whole], facts.check_floats)
            not_numbers += len(numbers) - int(np.count_nonzero(np.isfinite(numbers)))
        if held >= facts.data_bytes:
            break
    return held, not_numbers


def _plain_blocks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file in blocks."""
    with path.open("rb") as stream:
        while block := stream.read(4 * _CHUNK_BYTES):
            yield block


def inflate(path: Path, offset: int = 0) -> Iterator[bytes]:
    """Yield the uncompressed bytes of a gzip (one or more members) or zlib stream in blocks.

    A stream that ends too early just ends; raises ScanError for a damaged one.
    """
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by its first bytes
    with path.open("rb") as stream:
        stream.seek(offset)
        while chunk := stream.read(_CHUNK_BYTES):
            while chunk:
                try:
                    block = decoder.decompress(chunk, 4 * _CHUNK_BYTES)
                except zlib.error as error:
                    raise ScanError(
                        f"{path} is damaged: its compressed data cannot be unpacked ({error}). Copy or export it again."
                    ) from error
                if block:
                    yield block
                chunk = decoder.unconsumed_tail
                if decoder.eof:
                    chunk = decoder.unused_data
                    if not chunk.startswith(b"\x1f\x8b"):
                        return  # bytes after the last member are ignored, as gzip does
                    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)


def first_bytes(path: Path, count: int) -> bytes:
    """Return the first bytes of a file, uncompressed when it is a gzip file; fewer when there are no more."""
    with path.open("rb") as stream:
        head = stream.read(count)
    if not head.startswith(b"\x1f\x8b"):
        return head
    found = b""
    for block in inflate(path):
        found += block[: count - len(found)]
        if len(found) >= count:
            break
    return found
