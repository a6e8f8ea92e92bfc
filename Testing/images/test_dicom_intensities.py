"""Intensities of DICOM series, against numbers worked out by hand: every slice's rescale, bits, sign and encoding."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import dicom_bytes as make
import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.dicom.series import read_dicom
from TransferSegLib.images.notices import notices_of

PLANE = np.array([[0, 1, 2], [1000, 1024, 4095]], np.uint16)


def read_zyx(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(read_dicom(path))


def series(folder: Path, changes: list[dict[int, Any]], stored: np.ndarray = PLANE, **options: Any) -> Path:
    slices = [make.ct_slice(stored, 2.5 * number, number, change, **options) for number, change in enumerate(changes)]
    return make.write_slices(folder, slices)


def rescale(slope: str, intercept: str) -> dict[int, Any]:
    return {0x00281053: ("DS", slope), 0x00281052: ("DS", intercept)}


def test_hounsfield_units(tmp_path: Path) -> None:
    voxels = read_zyx(series(tmp_path, [{}, {}]))
    assert voxels.dtype == np.int32  # 16 bits without sign less 1024 do not fit into int16
    assert voxels[1].tolist() == [[-1024, -1023, -1022], [-24, 0, 3071]]
    voxels = read_zyx(series(tmp_path, [{}, {}], bits_stored=12))
    assert voxels.dtype == np.int16 and voxels[1].tolist() == [[-1024, -1023, -1022], [-24, 0, 3071]]


def test_every_slice_has_its_own_slope_and_intercept(tmp_path: Path) -> None:
    folder = series(tmp_path, [rescale("1", "-1024"), rescale("0.5", "10"), rescale("2.5", "0")])
    voxels = read_zyx(folder)
    assert voxels.dtype == np.float32
    assert voxels[0].tolist() == [[-1024, -1023, -1022], [-24, 0, 3071]]
    assert voxels[1].tolist() == [[10, 10.5, 11], [510, 522, 2057.5]]
    assert voxels[2].tolist() == [[0, 2.5, 5], [2500, 2560, 10237.5]]


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.IMPLICIT])
def test_every_frame_has_its_own_slope_and_intercept(tmp_path: Path, syntax: str, undefined: bool) -> None:
    stored = np.stack([PLANE, PLANE, PLANE])
    frames = [make.frame_groups((0, 0, 3 * z), (1 + 0.25 * z, -1000 - z)) for z in range(3)]
    # Unequal slopes elsewhere mean nothing: in a private element, in the description of another image, for display.
    others = rescale("7", "7") | {0x00200032: make.decimal((9, 9, 9)), 0x00289145: ("SQ", [rescale("7", "7")])}
    elsewhere = {0x00081140: ("SQ", [others]), 0x00091010: ("SQ", [others]), 0x00409096: ("SQ", [others])}
    elements = make.enhanced_ct(stored, [one | elsewhere for one in frames], make.shared_groups(), elsewhere)
    (tmp_path / "e.dcm").write_bytes(make.dicom_file(elements, syntax, undefined))
    voxels = read_zyx(tmp_path / "e.dcm")
    assert voxels[0].tolist() == [[-1000, -999, -998], [0, 24, 3095]]
    assert voxels[1].tolist() == [[-1001, -999.75, -998.5], [249, 279, 4117.75]]
    assert voxels[2].tolist() == [[-1002, -1000.5, -999], [498, 534, 5140.5]]


def test_a_slope_shared_by_all_frames_and_frames_in_any_order(tmp_path: Path) -> None:
    stored = np.stack([PLANE, PLANE + 1, PLANE + 2])
    shared = make.shared_groups() | make.group(0x00289145, rescale("2", "-5"))
    frames = [make.frame_groups((1, 2, z)) for z in (6, 0, 3)]
    (tmp_path / "e.dcm").write_bytes(make.dicom_file(make.enhanced_ct(stored, frames, shared)))
    image = read_dicom(tmp_path / "e.dcm")
    assert image.GetOrigin() == (1, 2, 0) and image.GetSpacing() == (0.5, 0.75, 3)
    voxels = sitk.GetArrayFromImage(image)
    assert [plane[0, 0] for plane in voxels] == [-3, -1, -5] and voxels[1, 1, 2] == 2 * 4097 - 5


def test_some_frames_without_a_slope_are_refused(tmp_path: Path) -> None:
    frames = [make.frame_groups((0, 0, 0), (1, 0)), make.frame_groups((0, 0, 3))]
    elements = make.enhanced_ct(np.stack([PLANE, PLANE]), frames, make.shared_groups())
    (tmp_path / "e.dcm").write_bytes(make.dicom_file(elements))
    with pytest.raises(ScanError, match="1 of 2 slices have no rescale slope"):
        read_dicom(tmp_path / "e.dcm")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (rescale("0", "-1024"), "a rescale slope of 0"),
        (rescale("one", "-1024"), "is no number"),
        (rescale("nan", "-1024"), "is no number"),
        (rescale("1e99", "-1024"), "is no number"),
        (rescale("1", "-1024") | {0x00281054: ("LO", "OD")}, "HU and OD"),
    ],
)
def test_rescales_that_make_no_sense(tmp_path: Path, second: dict[int, Any], message: str) -> None:
    folder = series(tmp_path, [{0x00281054: ("LO", "HU")}, second])
    with pytest.raises(ScanError, match=message):
        read_dicom(folder)


def test_missing_rescale_is_told(tmp_path: Path) -> None:
    image = read_dicom(series(tmp_path / "none", [{}, {}], without=(0x00281052, 0x00281053)))
    assert sitk.GetArrayFromImage(image)[0].tolist() == PLANE.tolist()
    assert "may not be Hounsfield units" in notices_of(image)[0]
    image = read_dicom(series(tmp_path / "no_slope", [{}, {}], without=(0x00281053,)))
    assert sitk.GetArrayFromImage(image)[0, 1].tolist() == [-24, 0, 3071]
    assert "no rescale slope; 1 was taken" in notices_of(image)[0]
    # The slope 0 of an empty slice changes nothing: PET scanners write it.
    slices = [make.ct_slice(PLANE, 0, 0), make.ct_slice(0 * PLANE, 2.5, 1, rescale("0", "0"))]
    assert read_zyx(make.write_slices(tmp_path / "empty", slices))[1].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_signed_and_unsigned_slices_in_one_series(tmp_path: Path) -> None:
    signed = np.array([[-1024, 0, 1], [-1, 32767, -32768]], np.int16)
    slices = [make.ct_slice(PLANE, 0, 0), make.ct_slice(signed, 2.5, 1, rescale("1", "0"))]
    voxels = read_zyx(make.write_slices(tmp_path, slices))
    assert voxels[0, 1].tolist() == [-24, 0, 3071] and voxels[1].tolist() == signed.tolist()


def test_only_the_bits_in_use_count(tmp_path: Path) -> None:
    stored = np.array([[0x0001, 0xF001, 0x0FFF], [0x07FF, 0x0800, 0xA800]], np.uint16)
    voxels = read_zyx(series(tmp_path / "unsigned", [{}, {}], stored, bits_stored=12))
    assert voxels[0].tolist() == [[-1023, -1023, 3071], [1023, 1024, 1024]]
    voxels = read_zyx(series(tmp_path / "signed", [{0x00280103: ("US", 1)}] * 2, stored, bits_stored=12))
    assert voxels[0].tolist() == [[-1023, -1023, -1025], [1023, -3072, -3072]]  # 12 bits: 0x800 is -2048
    voxels = read_zyx(series(tmp_path / "high", [{}, {}], stored << 4, bits_stored=12, high_bit=15))
    assert voxels[0].tolist() == [[-1023, -1023, 3071], [1023, 1024, 1024]]


def test_one_byte_pixels(tmp_path: Path) -> None:
    voxels = read_zyx(series(tmp_path, [rescale("1", "0")] * 2, np.array([[0, 1, 2], [3, 128, 255]], np.uint8)))
    assert voxels.dtype == np.uint8 and voxels[0].tolist() == [[0, 1, 2], [3, 128, 255]]


def test_inverted_display_does_not_change_hounsfield_units(tmp_path: Path) -> None:
    shown = {0x00280004: ("CS", "MONOCHROME1")}
    image = read_dicom(series(tmp_path / "ct", [shown, shown]))
    assert sitk.GetArrayFromImage(image)[0, 1].tolist() == [-24, 0, 3071] and not notices_of(image)
    shown |= {0x00080060: ("CS", "MR")}
    assert "MONOCHROME1" in notices_of(read_dicom(series(tmp_path / "mr", [shown, shown])))[0]
    palette = {0x00280004: ("CS", "PALETTE COLOR")}
    with pytest.raises(ScanError, match="colour"):
        read_dicom(series(tmp_path / "palette", [palette, palette]))


def test_real_world_values_and_windows_are_left_aside(tmp_path: Path) -> None:
    mapping = {0x00409225: ("FD", 9.0), 0x00409224: ("FD", 5.0), 0x00409211: ("US", 9), 0x00409216: ("US", 0)}
    mr = {0x00080016: ("UI", make.MR), 0x00080060: ("CS", "MR"), 0x00409096: ("SQ", [mapping])}
    mr |= {0x00281050: ("DS", "40"), 0x00281051: ("DS", "400"), 0x2005100E: ("DS", "3")}
    voxels = read_zyx(series(tmp_path, [mr | rescale("2", "1")] * 2))
    assert voxels[0].tolist() == [[1, 3, 5], [2001, 2049, 8191]]


def test_a_lookup_table(tmp_path: Path) -> None:
    table = {0x00283002: ("US", [3, 1, 16]), 0x00283006: ("OW", struct.pack("<3H", 5, 100, 40_000))}
    change = {0x00283000: ("SQ", [table])}
    folder = series(tmp_path / "lut", [change, change], without=(0x00281052, 0x00281053))
    assert read_zyx(folder)[0].tolist() == [[5, 5, 100], [40_000, 40_000, 40_000]]
    with pytest.raises(ScanError, match="contradicts its rescale"):
        read_dicom(series(tmp_path / "both", [change, change]))
    table[0x00283002] = ("US", [4, 1, 16])
    with pytest.raises(ScanError, match="lookup table of a slice is damaged"):
        read_dicom(series(tmp_path / "short", [change, change], without=(0x00281052, 0x00281053)))


def test_padding(tmp_path: Path) -> None:
    """Padding below everything stays; padding that would be the brightest of all becomes the lowest intensity."""
    high = {0x00280120: ("US", 4095)}
    image = read_dicom(series(tmp_path / "high", [high, high]))
    assert sitk.GetArrayFromImage(image)[0].tolist() == [[-1024, -1023, -1022], [-24, 0, -1024]]
    assert "outside the field of view" in notices_of(image)[0]
    for value in (0, 1024):  # below everything; and within, where it is more likely a mistake in the header
        low = {0x00280120: ("US", value)}
        image = read_dicom(series(tmp_path / str(value), [low, low]))
        assert sitk.GetArrayFromImage(image)[0].tolist() == [[-1024, -1023, -1022], [-24, 0, 3071]]
        assert not notices_of(image)


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [make.IMPLICIT, make.EXPLICIT, make.BIG_ENDIAN, make.DEFLATED])
def test_encodings(tmp_path: Path, syntax: str, undefined: bool) -> None:
    order = ">" if syntax == make.BIG_ENDIAN else "<"
    nested = {0x00081140: ("SQ", [{0x00281053: ("DS", "9"), 0x7FE00010: ("OW", b"icon")}, {}])}
    slices = [make.ct_slice(PLANE, 2.5 * z, z, nested, order=order) for z in range(3)]
    assert read_zyx(make.write_slices(tmp_path, slices, syntax, undefined))[2, 1].tolist() == [-24, 0, 3071]


def compressed(folder: Path, compressor: str, stored: np.ndarray) -> bytes:
    """Return encapsulated pixels as ITK's writer packs them, without the delimiter, and its transfer syntax."""
    image = sitk.GetImageFromArray(stored)
    image.SetMetaData("0008|0060", "OT")
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(folder / "packed.dcm"))
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.Execute(image)
    content = (folder / "packed.dcm").read_bytes()
    start = content.index(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff") + 12
    return content[start : content.rindex(b"\xfe\xff\xdd\xe0")]


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
@pytest.mark.parametrize(
    ("compressor", "syntax"), [("JPEG2000", "1.2.840.10008.1.2.4.90"), ("JPEG", "1.2.840.10008.1.2.4.70")]
)
def test_compressed_slices_of_different_slopes(tmp_path: Path, compressor: str, syntax: str, kind: type) -> None:
    stored = np.random.default_rng(3).integers(0, 4096, (16, 20)).astype(kind)
    stored -= 1000 if kind is np.int16 else 0
    pixels = compressed(tmp_path, compressor, stored)
    for number, (slope, intercept) in enumerate([("1", "-1024"), ("0.5", "3")]):
        elements = make.ct_slice(stored, 2.5 * number, number, rescale(slope, intercept), without=(0x7FE00010,))
        (tmp_path / "ct").mkdir(exist_ok=True)
        (tmp_path / "ct" / f"{number}").write_bytes(make.dicom_file(elements, syntax, pixels=pixels))
    voxels = read_zyx(tmp_path / "ct")
    assert np.array_equal(voxels[0], stored.astype(float) - 1024)
    assert np.array_equal(voxels[1], stored.astype(float) * 0.5 + 3)


def run_lengths(stored: np.ndarray) -> bytes:
    """Return a frame of 16 bit pixels as RLE (PS3.5, annex G): the high bytes, then the low ones, as literal runs."""
    planes = [(stored.astype(np.uint16) >> shift & 0xFF).astype(np.uint8).tobytes() for shift in (8, 0)]
    packed = []
    for plane in planes:
        runs = b"".join(
            bytes([len(part) - 1]) + part for part in (plane[i : i + 128] for i in range(0, len(plane), 128))
        )
        packed.append(runs + b"\0" * (len(runs) % 2))
    offsets = [2, 64, 64 + len(packed[0])] + [0] * 13
    frame = struct.pack("<16I", *offsets) + b"".join(packed)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame


def test_run_lengths_in_several_frames(tmp_path: Path) -> None:
    stored = np.random.default_rng(4).integers(0, 4096, (2, 16, 20)).astype(np.uint16)
    frames = [make.frame_groups((0, 0, z), (1, z)) for z in (0, 2)]
    elements = make.enhanced_ct(stored, frames, make.shared_groups())
    del elements[0x7FE00010]
    pixels = struct.pack("<HHI", 0xFFFE, 0xE000, 0) + b"".join(run_lengths(plane) for plane in stored)
    (tmp_path / "e.dcm").write_bytes(make.dicom_file(elements, "1.2.840.10008.1.2.5", pixels=pixels))
    voxels = read_zyx(tmp_path / "e.dcm")
    assert np.array_equal(voxels, stored + np.array([0, 2]).reshape(2, 1, 1))


def test_pixels_that_are_cut_off_or_packed_in_an_unknown_way(tmp_path: Path) -> None:
    folder = series(tmp_path, [{}, {}])
    (folder / "IM0001").write_bytes((folder / "IM0001").read_bytes()[:-3])
    with pytest.raises(ScanError, match="IM0001 is cut off"):
        read_dicom(folder)
    (folder / "IM0001").write_bytes(
        make.dicom_file(make.ct_slice(PLANE, 2.5, 1), "1.2.840.10008.1.2.4.201", pixels=b"")
    )
    with pytest.raises(ScanError, match=r"transfer syntax 1\.2\.840\.10008\.1\.2\.4\.201"):
        read_dicom(folder)
