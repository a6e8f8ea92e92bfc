"""Files in the formats with a header check: what is read exactly, and with which message others are refused."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from Testing.images.refusals import refusal
from TransferSegLib.images.formats.header_facts import HeaderFacts
from TransferSegLib.images.formats.nifti_header import read_nifti_header
from TransferSegLib.images.formats.registry import HEADER_READERS
from TransferSegLib.images.geometry_checks import same_geometry
from TransferSegLib.images.read import read_label_map, read_scan

ALL_NAMES = ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd", "a.hdr", "a.img", "a.img.gz", "a.vtk", "a.gipl"]
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def scan(dtype: str = "int16", shape: tuple[int, ...] = (4, 5, 6), oblique: bool = True) -> sitk.Image:
    voxels = np.random.default_rng(3).integers(0, 100, shape).astype(dtype)
    image = sitk.GetImageFromArray(voxels, isVector=False)
    image.SetSpacing((0.5, 0.75, 2.5) + (1.0,) * (len(shape) - 3))
    image.SetOrigin((-10.5, 20.25, 30.0) + (0.0,) * (len(shape) - 3))
    if oblique and len(shape) == 3:
        image.SetDirection(OBLIQUE)
    return image


def write_nifti(path: Path, **changes: tuple) -> Path:
    """Write a 6 x 5 x 4 NIfTI file whose header fields (offset, format) are replaced."""
    sitk.WriteImage(scan(oblique=False), str(path.with_suffix(".plain.nii")))
    content = bytearray(path.with_suffix(".plain.nii").read_bytes())
    offsets = {
        "dim": (40, "8h"), "datatype": (70, "h"), "pixdim": (76, "8f"), "vox_offset": (108, "f"),
        "codes": (252, "2h"), "quatern": (256, "6f"), "srow": (280, "12f"), "units": (123, "B"),
    }  # fmt: skip
    for name, values in changes.items():
        offset, form = offsets[name]
        struct.pack_into("<" + form, content, offset, *values)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ALL_NAMES)
def test_voxels_and_geometry_come_back(tmp_path: Path, name: str) -> None:
    image = scan(oblique=name not in ("a.vtk", "a.gipl"))  # these two formats have no directions
    sitk.WriteImage(image, str(tmp_path / name))
    back = read_scan(tmp_path / name)
    assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image))
    assert same_geometry(back, image, tolerance_mm=1e-4) is None
    assert back.GetPixelID() == sitk.sitkInt16


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
)
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_voxel_types_are_kept(tmp_path: Path, name: str, dtype: str) -> None:
    sitk.WriteImage(scan(dtype), str(tmp_path / name), useCompression=True)
    assert sitk.GetArrayFromImage(read_scan(str(tmp_path / name))).dtype == np.dtype(dtype)


def test_one_slice_with_a_geometry_is_a_scan(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.nrrd", "a.mha"):
        sitk.WriteImage(scan(shape=(1, 5, 6)), str(tmp_path / name))
        assert read_scan(tmp_path / name).GetSize() == (6, 5, 1)


def test_one_time_point_is_a_scan(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "a.nrrd", "a.mha"):
        sitk.WriteImage(scan(shape=(1, 4, 5, 6)), str(tmp_path / name))
        assert read_scan(tmp_path / name).GetSize() == (6, 5, 4)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_refused_kinds_of_images(tmp_path: Path, suffix: str) -> None:
    series = sitk.JoinSeries([scan(oblique=False)] * 3)
    vector = sitk.Compose([scan(oblique=False)] * 3)
    kinds = {
        "flat": (scan(oblique=False)[:, :, 0], "two-dimensional"),
        "time": (series, "4 axes"),
        "vector": (vector, "3 numbers in each voxel"),
        "constant": (scan() * 0 + 7, "same intensity 7"),
    }
    if suffix != ".mha":
        kinds["complex"] = (sitk.RealAndImaginaryToComplex(scan("float32"), scan("float32")), "complex numbers")
    for name, (image, message) in kinds.items():
        path = tmp_path / (name + suffix)
        sitk.WriteImage(image, str(path))
        assert message in refusal(read_scan, path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".vtk", ".gipl"])
@pytest.mark.parametrize("compressed", [False, True])
def test_cut_off_files(tmp_path: Path, suffix: str, compressed: bool) -> None:
    path = tmp_path / f"short{suffix}"
    sitk.WriteImage(scan("float32", (20, 30, 40), oblique=False), str(path), useCompression=compressed)
    content = path.read_bytes()
    for part in (0.9, 0.3):
        path.write_bytes(content[: int(part * len(content))])
        assert any(message in refusal(read_scan, path) for message in ("cut off", "damaged", "cannot be read"))


def test_files_that_are_no_images(tmp_path: Path) -> None:
    assert "does not exist" in refusal(read_scan, tmp_path / "missing.nii")
    for name in ("empty.nii", "empty.nrrd", "empty.xyz"):
        (tmp_path / name).write_bytes(b"")
        assert "empty" in refusal(read_scan, tmp_path / name)
    for name in ("text.nii", "text.nii.gz", "text.nrrd", "text.mha", "text.txt"):
        (tmp_path / name).write_text("This is a letter, not a scan. " * 40)
        assert "not a" in refusal(read_scan, tmp_path / name) or name == "text.nii.gz"
    (tmp_path / "folder").mkdir()
    assert "no DICOM images" in refusal(read_scan, tmp_path / "folder")


def test_gzip_and_name_must_agree(tmp_path: Path) -> None:
    plain = write_nifti(tmp_path / "plain.nii")
    (tmp_path / "packed.nii").write_bytes(gzip.compress(plain.read_bytes()))
    assert "'.gz'" in refusal(read_scan, tmp_path / "packed.nii")
    (tmp_path / "unpacked.nii.gz").write_bytes(plain.read_bytes())
    assert "'.gz'" in refusal(read_scan, tmp_path / "unpacked.nii.gz")


def test_gzip_of_several_members_is_read(tmp_path: Path) -> None:
    content = write_nifti(tmp_path / "plain.nii").read_bytes()
    (tmp_path / "two.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    expected = sitk.GetArrayFromImage(read_scan(tmp_path / "plain.nii"))
    assert np.array_equal(sitk.GetArrayFromImage(read_scan(tmp_path / "two.nii.gz")), expected)


def test_a_small_file_that_claims_a_huge_scan(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "bomb.nii", dim=(3, 1200, 1200, 1200, 1, 1, 1, 1))
    assert "cut off or damaged" in refusal(read_scan, path)
    path = write_nifti(tmp_path / "bomb.nii", dim=(3, 30000, 30000, 30000, 1, 1, 1, 1))
    assert "more than any scan" in refusal(read_scan, path)
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert "more than any scan" in refusal(read_scan, tmp_path / "bomb.nii.gz")
    (tmp_path / "bomb.nrrd").write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 1000 1000 1000\nendian: little\nencoding: raw\n\n" + bytes(100)
    )
    assert "2,000,000,000 bytes" in refusal(read_scan, tmp_path / "bomb.nrrd")


def test_impossible_sizes_and_spacings(tmp_path: Path) -> None:
    assert "is empty" in refusal(read_scan, write_nifti(tmp_path / "zero.nii", dim=(3, 6, 0, 4, 1, 1, 1, 1)))
    for side in (0.0, -1.0, float("nan"), float("inf"), 1e-9, 5000.0):
        path = write_nifti(tmp_path / "spacing.nii", pixdim=(1, side, 1, 1, 0, 0, 0, 0))
        assert "impossible voxel size" in refusal(read_scan, path)
    (tmp_path / "spacing.nrrd").write_bytes(
        b"NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 2 2\n"
        b"space directions: (0,0,0) (0,1,0) (0,0,1)\nkinds: domain domain domain\nencoding: raw\n\n" + bytes(range(8))
    )
    assert "impossible voxel size" in refusal(read_scan, tmp_path / "spacing.nrrd")


def test_nifti_sheared_and_contradictory_orientations(tmp_path: Path) -> None:
    unit = (1, 1, 1, 1, 0, 0, 0, 0)
    no_turn = (0, 0, 0, 0, 0, 0)
    sheared = (1, 0.3, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    for codes in ((0, 1), (1, 1), (2, 2)):
        path = write_nifti(tmp_path / "shear.nii", pixdim=unit, codes=codes, quatern=no_turn, srow=sheared)
        assert "sheared" in refusal(read_scan, path)
    # An affine map to a template beside the scanner's own grid: the latter counts.
    path = write_nifti(tmp_path / "mni.nii", pixdim=unit, codes=(1, 4), quatern=no_turn, srow=sheared)
    assert read_scan(path).GetDirection() == (-1, 0, 0, 0, -1, 0, 0, 0, 1)
    scaled = (3, 0, 0, 0, 0, 3, 0, 0, 0, 0, 3, 0)
    path = write_nifti(tmp_path / "scale.nii", pixdim=unit, codes=(0, 1), srow=scaled)
    assert "1 x 1 x 1 by the voxel size and 3 x 3 x 3 by the orientation" in refusal(read_scan, path)
    mirrored = (-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    path = write_nifti(tmp_path / "mirror.nii", pixdim=unit, codes=(1, 1), quatern=no_turn, srow=mirrored)
    assert "left and right are not known" in refusal(read_scan, path)
    path = write_nifti(tmp_path / "nan.nii", pixdim=unit, codes=(0, 1), srow=(float("nan"),) * 12)
    assert "damaged orientation" in refusal(read_scan, path)


def test_nrrd_and_metaimage_sheared(tmp_path: Path) -> None:
    (tmp_path / "shear.nrrd").write_bytes(
        b"NRRD0004\ntype: uchar\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 2 2\n"
        b"space directions: (1,0,0) (0.3,1,0) (0,0,1)\nkinds: domain domain domain\nencoding: raw\n\n" + bytes(range(8))
    )
    (tmp_path / "shear.mha").write_bytes(
        b"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        b"TransformMatrix = 1 0 0 0.3 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 1 1 1\nDimSize = 2 2 2\n"
        b"ElementType = MET_UCHAR\nElementDataFile = LOCAL\n" + bytes(range(8))
    )
    for name in ("shear.nrrd", "shear.mha"):
        assert "sheared" in refusal(read_scan, tmp_path / name)


def test_lengths_in_micrometres_and_metres(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "um.nii", pixdim=(1, 500, 500, 500, 0, 0, 0, 0), codes=(1, 0), units=(3,))
    assert read_scan(path).GetSpacing() == pytest.approx((0.5, 0.5, 0.5))
    path = write_nifti(tmp_path / "m.nii", pixdim=(1, 0.001, 0.001, 0.001, 0, 0, 0, 0), codes=(1, 0), units=(1,))
    assert read_scan(path).GetSpacing() == pytest.approx((1, 1, 1))


def test_a_header_extension_is_read_in_a_child_process(tmp_path: Path) -> None:
    content = write_nifti(tmp_path / "plain.nii").read_bytes()
    extended = bytearray(content[:352] + struct.pack("<2i", 16, 6) + b"comment\0" + content[352:])
    struct.pack_into("<f", extended, 108, 368.0)
    extended[348] = 1
    (tmp_path / "extended.nii").write_bytes(extended)
    expected = sitk.GetArrayFromImage(read_scan(tmp_path / "plain.nii"))
    assert np.array_equal(sitk.GetArrayFromImage(read_scan(tmp_path / "extended.nii")), expected)
    (tmp_path / "short.nii").write_bytes(extended[:-20])
    assert "cut off" in refusal(read_scan, tmp_path / "short.nii")


def test_analyze_has_no_left_and_right(tmp_path: Path) -> None:
    sitk.WriteImage(scan(), str(tmp_path / "old.img"))
    header = bytearray((tmp_path / "old.hdr").read_bytes())
    header[344:348] = bytes(4)
    (tmp_path / "old.hdr").write_bytes(header)
    assert "Analyze" in refusal(read_scan, tmp_path / "old.img")
    (tmp_path / "old.img").unlink()
    assert "not beside it" in refusal(read_scan, tmp_path / "old.hdr")


def test_nifti_2_is_named(tmp_path: Path) -> None:
    (tmp_path / "two.nii").write_bytes(struct.pack("<i", 540) + b"n+2\0\r\n\x1a\n" + bytes(600))
    assert "NIfTI-2" in refusal(read_scan, tmp_path / "two.nii")


def test_names_with_accents(tmp_path: Path) -> None:
    for name in ("Größe é.nii.gz", "Größe é.vtk"):
        sitk.WriteImage(scan(oblique=False), str(tmp_path / name))
        assert read_scan(tmp_path / name).GetSize() == (6, 5, 4)


def test_scattered_and_complete_nan(tmp_path: Path) -> None:
    voxels = np.arange(120, dtype=np.float32).reshape(4, 5, 6)
    voxels[1, 2, 3] = np.nan
    voxels[0, 0, 0] = np.inf
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "some.nii.gz"))
    assert "has 2 voxels (1.7 %)" in refusal(read_scan, tmp_path / "some.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(voxels * np.nan), str(tmp_path / "all.nii.gz"))
    assert "no intensities" in refusal(read_scan, tmp_path / "all.nii.gz")


@pytest.mark.parametrize(("largest", "pixel"), [(1, "UInt8"), (255, "UInt8"), (256, "UInt16"), (70000, "UInt32")])
@pytest.mark.parametrize("dtype", ["int32", "float32", "int64"])
def test_label_maps_take_the_smallest_type(tmp_path: Path, largest: int, pixel: str, dtype: str) -> None:
    voxels = np.zeros((3, 4, 5), dtype)
    voxels[1, 2, 3] = largest
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / "labels.nii.gz"))
    back = read_label_map(tmp_path / "labels.nii.gz")
    assert back.GetPixelID() == getattr(sitk, f"sitk{pixel}")
    assert np.array_equal(sitk.GetArrayFromImage(back), voxels)


def test_what_is_no_label_map(tmp_path: Path) -> None:
    path = tmp_path / "labels.nrrd"
    for value, message in ((-1.0, "the value -1"), (0.25, "such as 0.25"), (np.nan, "NaN"), (1e10, "the value 1e+10")):
        voxels = np.zeros((3, 4, 5), np.float32)
        voxels[1, 2, 3] = value
        sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
        assert message in refusal(read_label_map, path)
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8)), str(path))
    assert sitk.GetArrayFromImage(read_label_map(path)).max() == 0  # empty, but a label map


def label_file(path: Path, values: np.ndarray, slope: float = 0.0) -> Path:
    """Write values as a NIfTI file; with a slope they are stored divided by it, as whole numbers."""
    stored = np.rint(values / slope).astype(np.int16) if slope else values
    image = sitk.GetImageFromArray(stored)
    sitk.WriteImage(image, str(path))
    if slope:
        content = bytearray(path.read_bytes())
        struct.pack_into("<2f", content, 112, slope, 0.0)
        path.write_bytes(content)
    return path


def test_label_values_that_are_whole_but_for_rounding(tmp_path: Path) -> None:
    labels = np.random.default_rng(4).integers(0, 105, (3, 4, 5)).astype(np.float64)
    path = tmp_path / "labels.nii"
    for factor in (1.0000001, 0.9999999):
        for dtype in (np.float32, np.float64):
            back = read_label_map(label_file(path, (labels * factor).astype(dtype)))
            assert np.array_equal(sitk.GetArrayFromImage(back), labels) and back.GetPixelID() == sitk.sitkUInt8
    for slope in (0.001, 1 / 255, 0.01, 60 / 32767):
        few = labels % 32 if slope == 0.001 else labels % 60
        assert np.array_equal(sitk.GetArrayFromImage(read_label_map(label_file(path, few, slope))), few)
    large = np.full((3, 4, 5), 40000.0, np.float32) * np.float32(1.0000001)
    assert large.max() > 40000
    assert sitk.GetArrayFromImage(read_label_map(label_file(path, large))).max() == 40000
    nearly_zero = np.where(labels > 50, 1.0, -1e-7).astype(np.float32)
    assert np.array_equal(sitk.GetArrayFromImage(read_label_map(label_file(path, nearly_zero))), labels > 50)


def test_a_probability_map_is_never_a_label_map(tmp_path: Path) -> None:
    path = tmp_path / "labels.nii"
    distance = np.linspace(-12, 12, 60).reshape(3, 4, 5)
    present = 1 / (1 + np.exp(-distance))  # saturated at both ends, in between at the border
    absent = np.full((3, 4, 5), 1e-6)
    for values in (present, absent, np.clip(present, 0, 0.4), absent * 0 + 0.5, 2 + 0.002 * (distance > 0)):
        for dtype in (np.float32, np.float64):
            assert "not whole" in refusal(read_label_map, label_file(path, values.astype(dtype)))
    for value in (-1, -1e-2):
        some = np.where(distance > 0, 3.0, value)
        assert f"the value {value:g}" in refusal(read_label_map, label_file(path, some.astype(np.float32)))
    assert "the value -1" in refusal(read_label_map, label_file(path, np.where(distance > 0, 3, -1).astype(np.int8)))


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (1, 2, 3, 0)])
@pytest.mark.parametrize("kind", ["list", "vector", "time", "none", "???", "domain", ""])
def test_a_fourth_axis_of_length_one(tmp_path: Path, axes: tuple[int, ...], kind: str) -> None:
    """A list axis, first or last in the file: the same scan and the same label map."""
    plain = scan("uint8")
    sitk.WriteImage(plain, str(tmp_path / "a.nrrd"))
    text, voxels = (tmp_path / "a.nrrd").read_bytes().split(b"\n\n", 1)
    lines = dict(line.split(": ") for line in text.decode().splitlines()[1:] if ": " in line)
    vectors = lines["space directions"].split()
    for name, one, all in (("sizes", "1", lines["sizes"].split()), ("space directions", "none", vectors)):
        parts = [one, *all]
        lines[name] = " ".join(parts[axis] for axis in axes)
    lines["kinds"] = " ".join([kind, "domain", "domain", "domain"][axis] for axis in axes)
    lines["dimension"] = "4"
    if not kind:
        del lines["kinds"]  # as some programs write it
    header = "NRRD0005\n" + "".join(f"{name}: {value}\n" for name, value in lines.items()) + "\n"
    (tmp_path / "four.nrrd").write_bytes(header.encode() + voxels)
    for read in (read_scan, read_label_map):
        four, three = read(tmp_path / "four.nrrd"), read(tmp_path / "a.nrrd")
        assert np.array_equal(sitk.GetArrayFromImage(four), sitk.GetArrayFromImage(three))
        assert same_geometry(four, three, tolerance_mm=1e-6) is None and four.GetPixelID() == three.GetPixelID()


def test_all_orientations_of_one_volume_are_read(shared_data: Path) -> None:
    files = sorted((shared_data / "odd_volumes" / "orientations").glob("*.nii.gz"))
    assert len(files) == 48
    corners = set()
    for file in files:
        image = read_scan(file)
        # The map back to the world is ITK's own; the middle of the volume is the same place in every file.
        middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
        corners.add(tuple(round(value, 1) for value in middle))
    assert len(corners) == 1


def test_hostile_files(shared_data: Path) -> None:
    folder = shared_data / "odd_volumes" / "hostile"
    messages = {
        "5D_small.nii": "3 numbers in each voxel",
        "complex.nii.gz": "complex numbers",
        "not-nifti.nii": "not a NIfTI file",
        "shear.nii.gz": "sheared",
    }
    for name, expected in messages.items():
        assert expected in refusal(read_scan, folder / name)
    assert read_scan(folder / "low_res.nii.gz").GetSize() == (7, 5, 3)
    assert read_scan(folder / "minimal.nii.gz").GetSize() == (64, 64, 10)  # big-endian


@settings(max_examples=60, deadline=None)
@given(
    moved=st.sampled_from(["nothing", "origin", "spacing", "direction", "size"]),
    amount=st.floats(0.2, 3.0),
    axis=st.integers(0, 2),
)
def test_same_geometry_names_what_differs(moved: str, amount: float, axis: int) -> None:
    first, second = scan(), scan()
    change = [amount if index == axis else 0.0 for index in range(3)]
    if moved == "origin":
        second.SetOrigin(np.add(second.GetOrigin(), change).tolist())
    elif moved == "spacing":
        second.SetSpacing(np.add(second.GetSpacing(), change).tolist())
    elif moved == "direction":
        turn = sitk.VersorTransform(np.eye(3)[axis].tolist(), amount)
        matrix = np.array(turn.GetMatrix()).reshape(3, 3) @ np.array(second.GetDirection()).reshape(3, 3)
        second.SetDirection(matrix.ravel().tolist())
    elif moved == "size":
        second = second[: 5 - axis, :, :]
    difference = same_geometry(first, second)
    names = {"origin": "origins", "spacing": "voxel sizes", "direction": "directions", "size": "sizes"}
    assert difference is None if moved == "nothing" else difference is not None and names[moved] in difference
    assert (same_geometry(second, first) is None) == (difference is None)


def test_same_geometry_tolerates_rounding_only() -> None:
    first, second = scan(), scan()
    second.SetOrigin(np.add(second.GetOrigin(), 0.01).tolist())
    assert same_geometry(first, second) is None
    assert same_geometry(first, second, tolerance_mm=0.005) == "the origins differ by 0.01 x 0.01 x 0.01 mm"


def test_a_new_format_is_one_line_in_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sitk.WriteImage(scan(), str(tmp_path / "plain.nii"))
    (tmp_path / "plain.nii").rename(tmp_path / "scan.newformat")
    opened = []

    @contextmanager
    def without_ending(path: Path) -> Iterator[Path]:
        copy = tmp_path / "copy.nii"
        opened.append(copy.write_bytes(path.read_bytes()))
        yield copy

    def read_new_header(path: Path) -> HeaderFacts:
        return replace(read_nifti_header(path), readable=without_ending)

    monkeypatch.setitem(HEADER_READERS, (".newformat",), read_new_header)
    assert same_geometry(read_scan(tmp_path / "scan.newformat"), scan()) is None and opened
    (tmp_path / "scan.newformat").write_bytes((tmp_path / "scan.newformat").read_bytes()[:-10])
    assert "cut off" in refusal(read_scan, tmp_path / "scan.newformat")
