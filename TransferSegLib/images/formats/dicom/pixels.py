"""The stored values of a DICOM file: plain ones are read here, compressed ones are unpacked by ITK's reader (GDCM).

GDCM gets a file with nothing but the pixels, so that it only unpacks them: bits, sign and rescale are interpreted here
(PS3.5, 8.1).
"""

from __future__ import annotations

import hashlib
import math
import mmap
import struct
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.dicom.elements import (
    DEFLATED,
    EXPLICIT_BIG_ENDIAN,
    UNDEFINED,
    DamagedDicom,
    fragments,
    open_dicom,
)
from TransferSegLib.images.formats.dicom.frames import DicomFile, PixelStorage
from TransferSegLib.images.geometry_checks import MOST_VOXELS

_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_PLAIN = (_IMPLICIT, _EXPLICIT, EXPLICIT_BIG_ENDIAN, DEFLATED, "")
#: JPEG (baseline, extended, lossless), JPEG-LS, JPEG 2000 and run lengths.
_COMPRESSED = (
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91)),
    "1.2.840.10008.1.2.5",
)
_MULTI_FRAME_GREY = "1.2.840.10008.5.1.4.1.1.7.3"
#: No image of a patient is compressed more than this.
_STRONGEST_COMPRESSION = 2000


def check_storage(file: DicomFile) -> PixelStorage:
    """Return how a grey-scale file's pixels are stored; raises ScanError when they cannot be read here."""
    storage = file.pixels
    if storage is None or file.damaged:
        raise ScanError(f"{file.path} is damaged or cut off. Copy it again.")
    if storage.syntax not in _PLAIN and storage.syntax not in _COMPRESSED:
        raise ScanError(
            f"{file.path} is compressed in a way that is not read here (transfer syntax {storage.syntax}). Convert it, "
            "e.g. with dcm2niix."
        )
    fits = 1 <= storage.bits_stored <= storage.bits_allocated and (
        storage.bits_stored - 1 <= storage.high_bit < storage.bits_allocated
    )
    if storage.bits_allocated not in (8, 16, 32) or not fits:
        raise ScanError(
            f"{file.path} stores its pixels in an unusual way ({storage.bits_stored} of {storage.bits_allocated} "
            "bits). Convert it, e.g. with dcm2niix."
        )
    if math.prod(storage.shape_zyx) > MOST_VOXELS:
        raise ScanError(f"{file.path} claims more pixels than any scan this program reads: its header is damaged.")
    if storage.syntax in _PLAIN and (storage.length == UNDEFINED or storage.length < _plain_bytes(storage)):
        raise ScanError(f"{file.path} is cut off: it is shorter than its pixels. Copy it again.")
    return storage


def _plain_bytes(storage: PixelStorage) -> int:
    """Return how many bytes uncompressed pixels take."""
    return math.prod(storage.shape_zyx) * storage.bits_allocated // 8


def stored_range(storage: PixelStorage) -> tuple[int, int]:
    """Return the lowest and the highest value that the stored bits can hold."""
    if storage.signed:
        return -(2 ** (storage.bits_stored - 1)), 2 ** (storage.bits_stored - 1) - 1
    return 0, 2**storage.bits_stored - 1


def read_stored(file: DicomFile) -> np.ndarray:
    """Return the stored values of every frame (frames, rows, columns; whole numbers); raises ScanError, OSError."""
    storage = check_storage(file)
    raw = _read_plain(file, storage) if storage.syntax in _PLAIN else _unpack(file, storage)
    return _meaning_of_bits(raw, storage)


def content_digest(file: DicomFile) -> str:
    """Return a digest of the stored values and of what places and scales them, equal for copies in any encoding.

    Raises ScanError, OSError.
    """
    assert file.pixels is not None
    digest = hashlib.blake2b(digest_size=16)
    of_header = replace(file.pixels, start=0, length=0, syntax="")
    digest.update(repr((of_header, file.lookup_table, file.frames)).encode())
    digest.update(np.ascontiguousarray(read_stored(file)).astype("<i8").data)
    return digest.hexdigest()


def _read_plain(file: DicomFile, storage: PixelStorage) -> np.ndarray:
    """Return uncompressed pixels as unsigned numbers of all allocated bits."""
    order = ">" if storage.syntax == EXPLICIT_BIG_ENDIAN else "<"
    needed = _plain_bytes(storage)
    if order == ">" and storage.bits_allocated == 8:
        raise ScanError(f"{file.path} is stored in an old way (big endian bytes). Convert it, e.g. with dcm2niix.")
    if storage.syntax == DEFLATED:
        with open_dicom(file.path) as header:
            content = b"" if header is None else header.data.buffer[storage.start : storage.start + needed]
    else:
        with file.path.open("rb") as stream:
            stream.seek(storage.start)
            content = stream.read(needed)
    if len(content) < needed:
        raise ScanError(f"{file.path} is cut off: it is shorter than its pixels. Copy it again.")
    return np.frombuffer(content, f"{order}u{storage.bits_allocated // 8}").reshape(storage.shape_zyx)


def _unpack(file: DicomFile, storage: PixelStorage) -> np.ndarray:
    """Return what GDCM unpacks from compressed pixels."""
    problem = ScanError(f"{file.path} cannot be read: it is damaged or compressed in an unknown way.")
    if storage.high_bit != storage.bits_stored - 1 or storage.bits_allocated > 16:
        raise ScanError(f"{file.path} stores its pixels in an unusual way. Convert it, e.g. with dcm2niix.")
    with file.path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            places = list(fragments(content, storage.start))
        except DamagedDicom as error:
            raise ScanError(f"{file.path} is cut off: its pixels have no end. Copy it again.") from error
        packed = sum(length for _, length in places)
        count = math.prod(storage.shape_zyx)
        if count > _STRONGEST_COMPRESSION * packed:
            raise ScanError(f"{file.path} claims more pixels than it can hold: it is damaged.")
        end = places[-1][0] + places[-1][1] if places else storage.start
        pixels = content[storage.start : end]
    with tempfile.TemporaryDirectory(prefix="transferseg-") as folder:
        only_pixels = Path(folder) / "pixels.dcm"
        only_pixels.write_bytes(_pixels_alone(storage, pixels))
        try:
            image = sitk.ReadImage(str(only_pixels), imageIO="GDCMImageIO")
        except RuntimeError as error:
            raise problem from error
    values = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() != 1 or values.size != count or values.dtype.kind not in "iu":
        raise problem
    return values.reshape(storage.shape_zyx)


def _pixels_alone(storage: PixelStorage, pixels: bytes) -> bytes:
    """Return a DICOM file with these compressed pixels (items without their delimiter) and no rescale."""

    def element(tag: int, vr: bytes, value: bytes) -> bytes:
        value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
        return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value

    def short(tag: int, number: int) -> bytes:
        return element(tag, b"US", struct.pack("<H", number))

    uid = b"1.2.3"
    meta = struct.pack("<HH2sHI2s", 2, 1, b"OB", 0, 2, b"\0\1")
    meta += element(0x00020002, b"UI", _MULTI_FRAME_GREY.encode()) + element(0x00020003, b"UI", uid)
    meta += element(0x00020010, b"UI", storage.syntax.encode())
    data = element(0x00080016, b"UI", _MULTI_FRAME_GREY.encode()) + element(0x00080018, b"UI", uid)
    data += short(0x00280002, 1) + element(0x00280004, b"CS", b"MONOCHROME2")
    data += element(0x00280008, b"IS", str(storage.frames).encode())
    data += short(0x00280010, storage.rows) + short(0x00280011, storage.columns)
    data += short(0x00280100, storage.bits_allocated) + short(0x00280101, storage.bits_stored)
    data += short(0x00280102, storage.bits_stored - 1) + short(0x00280103, int(storage.signed))
    data += struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, UNDEFINED) + pixels
    data += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    length = element(0x00020000, b"UL", struct.pack("<I", len(meta)))
    return bytes(128) + b"DICM" + length + meta + data


def _meaning_of_bits(raw: np.ndarray, storage: PixelStorage) -> np.ndarray:
    """Return the values in the bits in use (others may hold an overlay), with their sign."""
    size = storage.bits_allocated
    words = raw.astype(f"u{size // 8}", copy=False)
    if storage.bits_stored < size:
        words = (words >> (storage.high_bit - storage.bits_stored + 1)) & (2**storage.bits_stored - 1)
    if not storage.signed:
        return words.astype(f"u{size // 8}", copy=False)
    unused = size - storage.bits_stored
    return (words << unused).astype(f"u{size // 8}").view(f"i{size // 8}") >> unused
