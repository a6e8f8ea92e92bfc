"""The reader of DICOM elements: whatever the bytes are, it ends soon, stays inside the file and raises nothing else."""

from __future__ import annotations

import random
import struct
import time
import zlib
from pathlib import Path

import dicom_bytes as make
import numpy as np
import pytest

from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.dicom import elements as dicom_elements
from TransferSegLib.images.formats.dicom.elements import open_dicom, read_header
from TransferSegLib.images.formats.dicom.series import read_dicom

PLANE = np.arange(6, dtype=np.uint16).reshape(2, 3)
SEQUENCE = struct.pack("<HH2sHI", 0x0009, 0x0010, b"SQ", 0, 0xFFFFFFFF)
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.IMPLICIT, make.BIG_ENDIAN, make.DEFLATED])
def test_values(tmp_path: Path, syntax: str, undefined: bool) -> None:
    elements = make.enhanced_ct(
        np.stack([PLANE] * 2), [make.frame_groups((1, 2, z), (2, z)) for z in (3, 4)], make.shared_groups()
    )
    (tmp_path / "e").write_bytes(make.dicom_file(elements, syntax, undefined))
    with open_dicom(tmp_path / "e") as header:
        assert header is not None and not header.data.damaged
        assert (header.syntax, header.sop_class) == (syntax, make.ENHANCED_CT)
        assert header.data.whole(0x00280011) == 3 and header.data.text(0x00080060) == "CT"
        frames = header.data.items(0x52009230)
        assert [one.items(0x00209113)[0].numbers(0x00200032) for one in frames] == [(1, 2, 3), (1, 2, 4)]
        assert 0x00200032 not in header.data and header.data.numbers(0x00080060) == ()


def test_a_file_without_a_preamble(tmp_path: Path) -> None:
    content = make.dicom_file(make.ct_slice(PLANE, 0, 0))[132:]
    for number, begin in enumerate((content, content[content.index(b"\x08\0\x08\0CS") :])):
        (tmp_path / "slice").write_bytes(begin)
        with open_dicom(tmp_path / "slice") as header:
            assert header is not None and header.data.text(0x0020000E) == "1.2.3.4", number
    (tmp_path / "text").write_text("no DICOM at all, but long enough to be looked at")
    with open_dicom(tmp_path / "text") as header:
        assert header is None


@pytest.mark.parametrize(
    "content",
    [
        (SEQUENCE + ITEM) * 100_000,  # deeper and deeper
        SEQUENCE + ITEM * 200_000,
        struct.pack("<HH2sH", 8, 8, b"CS", 0) * 200_000,  # more elements than are looked at (here)
        struct.pack("<HH2sHI", 8, 8, b"OB", 0, 0xFFFFFFF0) + b"short",
        struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, 16) + ITEM + b"\0" * 8,
        b"\x08\0\x08\0",
    ],
)
def test_bombs_end_soon(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_elements, "_MOST_ELEMENTS", 150_000)
    began = time.process_time()
    header = read_header(content, 0)
    assert header.data.damaged and time.process_time() - began < 20


def test_deflated_bombs_are_not_blown_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_elements, "_LONGEST_INFLATED", 2**20)
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(bytes(2**24)) + packer.flush()
    meta = make.encode({0x00020010: ("UI", make.DEFLATED)})
    assert read_header(meta + packed, 0).data.elements == {}


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    """Hundreds of files with bytes changed, cut out or repeated: one line each, in little time."""
    chance = random.Random(11)
    frames = [make.frame_groups((1, 2, z), (2, z)) for z in range(4)]
    enhanced = make.enhanced_ct(np.stack([PLANE] * 4), frames, make.shared_groups())
    samples = [make.dicom_file(enhanced, syntax, True) for syntax in (make.EXPLICIT, make.IMPLICIT, make.DEFLATED)]
    began = time.process_time()
    refused = 0
    for number in range(300):
        content = bytearray(samples[number % 3])
        for _ in range(chance.choice((1, 2, 8))):
            place = chance.randrange(132, len(content))
            kind = chance.randrange(4)
            if kind == 0:
                content[place] ^= 1 << chance.randrange(8)
            elif kind == 1:
                content[place : place + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xfe\xff\x00\xe0"))
            elif kind == 2:
                del content[place : place + chance.randrange(1, 40)]
            else:
                content[place:place] = content[place : place + chance.randrange(1, 40)]
        (tmp_path / "m.dcm").write_bytes(content)
        try:
            read_dicom(tmp_path / "m.dcm")
        except ScanError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 50 < refused < 300 and time.process_time() - began < 30
