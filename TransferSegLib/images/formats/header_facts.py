"""The claims of a scan file's header, and whether the file holds what it claims.

ITK does not check headers: SimpleITK 2.5 reads a truncated NIfTI file without an error, and one kind of 5D NIfTI file
crashes the process. So headers are first read in Python, without touching the voxels.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from TransferSegLib.computer_memory import available_memory_bytes
from TransferSegLib.errors import ScanError
from TransferSegLib.images.geometry_checks import (
    check_dimensions,
    check_size,
    complex_error,
    components_error,
    not_numbers_error,
    size_text,
)

#: What a voxel holds: real numbers (one or a vector), complex numbers, or colour channels.
NumberKind = Literal["number", "complex", "colour"]

_CHUNK_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
#: Deflate shrinks 1032-fold at most. Beyond so many bytes a stream must not shrink more than anything but a blank
#: volume does: a few megabytes could keep this program busy for minutes otherwise.
_STRONGEST_PACKING = 1032
_LARGE_BYTES, _LARGE_PACKING = 4_000_000_000, 150
#: A file is held twice while it is read: unpacked, and as the image.
_COPIES = 2
#: Members of a gzip file hold 64 kB and more; some may be empty. A file that consists of tiny ones is an attack.
_FREE_MEMBERS, _LEAST_MEMBER_BYTES = 1000, 256


@dataclass(frozen=True)
class HeaderFacts:
    """The claims of one header.

    ``size`` counts voxels along the axes in file order; ``image_io`` is ITK's name of the reader. ``affines_lps``
    are the 4x4 maps from voxel index to LPS mm that the header states, if it states any. ``stream_offset`` is where
    compressed data begin in ``data_path`` (None: not compressed), ``data_offset`` how many (uncompressed) bytes come
    before the voxels; ``bytes_per_number`` is 0 where all that is not known. ``vouched`` is False where the header
    uses something unusual, so that the file must be read in a child process. ``check_floats`` is the type of the
    voxels (e.g. "<f4") where ITK would silently turn NaN into 0, as it does for NIfTI. ``readable`` gives the file that
    ITK reads, in place of this one, for as long as its context is open.
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
    readable: Callable[[Path], AbstractContextManager[Path]] = nullcontext

    @property
    def data_bytes(self) -> int:
        """Bytes of voxel data the header claims, uncompressed."""
        return math.prod(self.size) * self.components * self.bytes_per_number


def damaged_header(path: Path, name: str, problem: object) -> ScanError:
    """Return the error for a header of the format ``name`` that is malformed."""
    return ScanError(f"{path} has a damaged {name} header: {problem}. Copy or export it again.")


def without_trailing_axes(size: tuple[int, ...]) -> tuple[int, ...]:
    """Return a size without axes of length 1 after the third."""
    while len(size) > 3 and size[-1] == 1:
        size = size[:-1]
    return size


def check_facts(facts: HeaderFacts, path: Path, layers: bool = False) -> None:
    """Raise ScanError unless the header claims a scalar 3D image and the file holds that many bytes.

    With ``layers`` a voxel may hold several numbers, one for each layer of a segmentation.
    """
    if facts.kind == "complex":
        raise complex_error(path)
    if (facts.components > 1 and not layers) or facts.kind == "colour":
        raise components_error(path, max(3, facts.components) if facts.kind == "colour" else facts.components)
    check_dimensions(facts.size, path)
    check_size((*facts.size, facts.components), path)
    if not facts.data_path.is_file():
        raise ScanError(f"{path} has its voxels in {facts.data_path}, which does not exist. Keep both together.")
    wanted, size = facts.data_bytes, facts.data_path.stat().st_size
    if facts.stream_offset is not None:
        _check_packing(facts, size, path)
    elif size - facts.data_offset >= wanted:
        check_memory(wanted, path)
    if facts.stream_offset is None and (facts.check_floats is None or size - facts.data_offset < wanted):
        held, not_numbers = size - facts.data_offset, 0
    else:
        held, not_numbers = _look_through(facts)
    if held < wanted:
        raise ScanError(
            f"{path} is cut off or damaged: its header claims {wanted:,} bytes for {size_text(facts.size)} voxels, "
            f"the file holds {max(0, held):,}. Copy or export it again."
        )
    if not_numbers:
        raise not_numbers_error(path, not_numbers, math.prod(facts.size))


def _check_packing(facts: HeaderFacts, packed: int, path: Path) -> None:
    """Raise ScanError for claims that the compressed bytes cannot hold, or that are too large to be unpacked."""
    wanted = facts.data_bytes
    if wanted > (packed + 64) * _STRONGEST_PACKING:
        raise ScanError(
            f"{path} is cut off or damaged: its header claims {wanted:,} bytes for {size_text(facts.size)} voxels, "
            f"which {packed:,} compressed bytes cannot hold. Copy or export it again."
        )
    check_memory(wanted, path)
    if wanted > _LARGE_BYTES and wanted > packed * _LARGE_PACKING:
        raise ScanError(
            f"{path} claims {wanted / 1e9:.1f} GB of voxels in {packed / 1e6:.1f} MB: no scan can be compressed like "
            "that. Its header is damaged; if the volume really is blank, crop it first."
        )


def check_memory(wanted: int, path: Path) -> None:
    """Raise ScanError when an image of this size does not fit into the free memory."""
    free = available_memory_bytes()
    if free is not None and wanted * _COPIES > free:
        raise ScanError(
            f"{path} holds {wanted / 1e9:.1f} GB of voxels; reading it takes {_COPIES * wanted / 1e9:.1f} GB of "
            f"memory, and {free / 1e9:.1f} GB are free. Close other programs, or crop or down-sample the scan first."
        )


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

    A stream that ends too early just ends; raises ScanError for a damaged one, and for one of very many tiny members.
    """
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by its first bytes
    members, unpacked = 1, 0
    with path.open("rb") as stream:
        stream.seek(offset)
        portion = _CHUNK_BYTES
        while chunk := stream.read(portion):
            portion = min(2 * portion, _CHUNK_BYTES)
            while chunk:
                try:
                    block = decoder.decompress(chunk, 4 * _CHUNK_BYTES)
                except zlib.error as error:
                    raise ScanError(
                        f"{path} is damaged: its compressed data cannot be unpacked ({error}). Copy or export it again."
                    ) from error
                if block:
                    unpacked += len(block)
                    yield block
                chunk = decoder.unconsumed_tail
                if decoder.eof:
                    # Continue with a small portion: copying a whole chunk for each of many tiny members would take
                    # time quadratic in the file's length.
                    stream.seek(-len(decoder.unused_data), 1)
                    if stream.read(2) != _GZIP:
                        return  # bytes after the last member are ignored, as gzip does
                    stream.seek(-2, 1)
                    members += 1
                    if members > _FREE_MEMBERS + unpacked // _LEAST_MEMBER_BYTES:
                        raise ScanError(
                            f"{path} is damaged: its compressed data consist of {members:,} pieces with next to "
                            "nothing in them. Copy or export it again."
                        )
                    chunk, portion = b"", 4096
                    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)


def is_gzip(path: Path) -> bool:
    """Return whether a file begins as gzip files do."""
    with path.open("rb") as stream:
        return stream.read(2) == _GZIP


def first_bytes(path: Path, count: int) -> bytes:
    """Return the first bytes of a file, uncompressed when it is a gzip file; fewer when there are no more."""
    with path.open("rb") as stream:
        head = stream.read(count)
    if not head.startswith(_GZIP):
        return head
    found = b""
    for block in inflate(path):
        found += block[: count - len(found)]
        if len(found) >= count:
            break
    return found
