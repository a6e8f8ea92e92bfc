"""DICOM series made on the spot: read exactly, in whatever order the files come, or refused with the reason."""

from __future__ import annotations

import random
import struct
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.images import refusals
from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.dicom.series import read_dicom
from TransferSegLib.images.geometry_checks import same_geometry
from TransferSegLib.images.notices import notices_of
from TransferSegLib.images.read import read_scan

ROW, COLUMN = np.array([0.8, 0.6, 0.0]), np.array([-0.6, 0.8, 0.0])
NORMAL = np.cross(ROW, COLUMN)
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"


def write_series(
    folder: Path,
    heights_mm: list[float],
    uid: str = "1.2.3.4",
    tilt: float = 0.0,
    size_yx: tuple[int, int] = (5, 6),
    description: str = "thorax",
    first_number: int = 1,
    **tags: str,
) -> np.ndarray:
    """Write one CT slice per height (mm along the normal), shifted sideways by ``tilt`` per mm; returns the voxels."""
    folder.mkdir(exist_ok=True)
    chance = random.Random(uid)
    voxels = np.random.default_rng(0).integers(-1000, 1000, (len(heights_mm), *size_yx)).astype(np.int16)
    names = list(range(len(heights_mm)))
    chance.shuffle(names)
    for number, (height, plane) in enumerate(zip(heights_mm, voxels, strict=True)):
        image = sitk.GetImageFromArray(plane)
        position = np.array([10.0, -20.0, 30.0]) + height * NORMAL + tilt * height * COLUMN
        values = {
            "0008|0016": CT_CLASS,
            "0008|0060": "CT",
            "0008|103e": description,
            "0020|000e": uid,
            "0020|000d": "1.2.3",
            "0008|0018": f"{uid}.{number + first_number}",
            "0020|0013": str(names[number]),
            "0020|0032": "\\".join(f"{value:.6f}" for value in position),
            "0020|0037": "\\".join(f"{value:.6f}" for value in (*ROW, *COLUMN)),
            "0028|0030": "0.75\\0.5",
            "0028|1052": "-100",
            "0028|1053": "1",
        } | {tag.replace("tag_", "").replace("_", "|"): value for tag, value in tags.items()}
        for tag, value in values.items():
            image.SetMetaData(tag, value)
        image.SetSpacing((0.5, 0.75))
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{uid.replace('.', '')}_{names[number]:03d}.dcm"))
        writer.Execute(image)
    return voxels


refusal = partial(refusals.refusal, read_dicom)


def test_a_series_in_any_order_of_files(tmp_path: Path) -> None:
    voxels = write_series(tmp_path / "ct", [0.0, 2.5, 5.0, 7.5])
    (tmp_path / "ct" / "notes.txt").write_text("not an image")
    image = read_scan(tmp_path / "ct")  # in a child process; the other tests read in this one
    assert image.GetSize() == (6, 5, 4)
    assert image.GetSpacing() == pytest.approx((0.5, 0.75, 2.5))
    assert image.GetOrigin() == pytest.approx((10.0, -20.0, 30.0))
    assert np.array(image.GetDirection()).reshape(3, 3) == pytest.approx(np.column_stack([ROW, COLUMN, NORMAL]))
    assert np.array_equal(sitk.GetArrayFromImage(image), voxels)  # rescale on writing and on reading cancel
    one_file = next((tmp_path / "ct").glob("*.dcm"))
    assert np.array_equal(sitk.GetArrayFromImage(read_dicom(one_file)), voxels)


def test_a_folder_of_sub_folders_with_one_series(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    voxels = write_series(tmp_path / "export" / "IM1", [0.0, 3.0, 6.0])
    assert np.array_equal(sitk.GetArrayFromImage(read_dicom(tmp_path / "export")), voxels)


def test_several_series_are_listed_and_chosen(tmp_path: Path) -> None:
    voxels = write_series(tmp_path / "ct", [0.0, 2.5, 5.0], uid="1.2.3.111", description="arterial")
    write_series(tmp_path / "ct", [0.0, 5.0], uid="1.2.3.222", description="scout", size_yx=(8, 9))
    message = refusal(tmp_path / "ct")
    assert (
        "2 series" in message and "'arterial' 3 slices of 6 x 5" in message and "'scout' 2 slices of 9 x 8" in message
    )
    for wanted in ("1.2.3.111", "111"):
        assert np.array_equal(sitk.GetArrayFromImage(read_dicom(tmp_path / "ct", wanted)), voxels)
    assert "no series ending in '999'" in refusal(tmp_path / "ct", "999")
    assert "2 series ending in '2.3" not in refusal(tmp_path / "ct", "333")
    scout = next((tmp_path / "ct").glob("123222*"))
    assert read_dicom(scout).GetSize() == (9, 8, 2)


@pytest.mark.parametrize(
    ("heights", "message"),
    [
        ([0.0, 2.5, 5.0, 10.0, 12.5], "misses 1 slice:"),
        ([0.0, 2.5, 5.0, 12.5, 15.0, 17.5], "misses 2 slices"),
        ([0.0, 0.0, 2.5, 2.5, 5.0, 5.0, 7.5], "at the place of another"),
        ([0.0, 0.0], "at the place of another"),
        ([4.0], "only one slice"),
    ],
)
def test_slices_that_make_no_volume(tmp_path: Path, heights: list[float], message: str) -> None:
    write_series(tmp_path / "ct", heights)
    assert message in refusal(tmp_path / "ct")


def test_rounded_positions_are_even_enough(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", [0.0, 2.51, 4.98, 7.5])
    assert read_dicom(tmp_path / "ct").GetSpacing()[2] == pytest.approx(2.5)


def test_mixed_slices(tmp_path: Path) -> None:
    write_series(tmp_path / "sizes", [0.0, 2.5])
    for path in (tmp_path / "sizes").glob("*.dcm"):
        path.rename(path.with_name("a" + path.name))
    write_series(tmp_path / "sizes", [5.0, 7.5], size_yx=(7, 8), first_number=3)
    assert "different sizes (6 x 5, 8 x 7)" in refusal(tmp_path / "sizes")
    write_series(tmp_path / "turned", [0.0, 2.5])
    for path in (tmp_path / "turned").glob("*.dcm"):
        path.rename(path.with_name("a" + path.name))
    write_series(tmp_path / "turned", [5.0, 7.5], first_number=3, **{"tag_0020_0037": "1\\0\\0\\0\\0\\-1"})
    assert "different orientations" in refusal(tmp_path / "turned")


def test_slices_of_different_rescale_are_read_as_floats(tmp_path: Path) -> None:
    voxels = write_series(tmp_path / "pet", [0.0, 2.5, 5.0]).astype(np.float32)
    plain, halved = b"\x28\x00\x53\x10\x02\0\0\x001 ", b"\x28\x00\x53\x10\x04\0\0\x000.5 "  # implicit VR
    for path in (tmp_path / "pet").glob("*.dcm"):
        content = path.read_bytes()
        if b"1.2.3.4.2\0" in content:  # the second slice; its stored values are intensity + 100
            assert content.count(plain) == 1
            path.write_bytes(content.replace(plain, halved))
    voxels[1] = (voxels[1] + 100) / 2 - 100
    image = read_dicom(tmp_path / "pet")
    assert image.GetPixelID() == sitk.sitkFloat32
    assert np.array_equal(sitk.GetArrayFromImage(image), voxels)


def test_colour_slices(tmp_path: Path) -> None:
    folder = tmp_path / "rgb"
    folder.mkdir()
    for number in range(2):
        image = sitk.Compose([sitk.GetImageFromArray(np.arange(30, dtype=np.uint8).reshape(5, 6))] * 3)
        image.SetMetaData("0020|000e", "1.2.3.4")
        image.SetMetaData("0020|0032", f"0\\0\\{number}")
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{number}.dcm"))
        writer.Execute(image)
    assert "colour" in refusal(folder)


def other_object(sop_class: str) -> bytes:
    """Return a DICOM file of a class without pixels: preamble, meta header, a patient's name."""
    uid = sop_class.encode() + b"\0" * (len(sop_class) % 2)
    syntax = b"1.2.840.10008.1.2.1\0"
    elements = struct.pack("<HH2sHH", 2, 2, b"UI", len(uid), 0)[:8] + uid
    elements += struct.pack("<HH2sH", 2, 16, b"UI", len(syntax)) + syntax
    group = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(elements))
    return bytes(128) + b"DICM" + group + elements + struct.pack("<HH2sH", 16, 16, b"PN", 4) + b"Doe "


def test_objects_that_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "rt").mkdir()
    structures = tmp_path / "rt" / "contours.dcm"
    structures.write_bytes(other_object("1.2.840.10008.5.1.4.1.1.481.3"))
    assert "only RTSTRUCT (contours)" in refusal(tmp_path / "rt")
    with pytest.raises(ScanError, match="only RTSTRUCT"):  # the child's message arrives
        read_scan(tmp_path / "rt")
    assert "it is RTSTRUCT (contours)" in refusal(structures)
    voxels = write_series(tmp_path / "rt", [0.0, 2.5, 5.0])  # beside a scan they are ignored
    assert np.array_equal(sitk.GetArrayFromImage(read_dicom(tmp_path / "rt")), voxels)


def write_enhanced(path: Path, modality: str = "MR") -> sitk.Image:
    """Write a multi-frame file as GDCM does, with the place of every frame; returns the volume."""
    image = sitk.GetImageFromArray(np.random.default_rng(1).integers(0, 900, (4, 5, 6)).astype(np.int16))
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((5.0, 6.0, 7.0))
    image.SetMetaData("0008|0060", modality)
    sitk.WriteImage(image, str(path))
    return image


def test_enhanced_multi_frame(tmp_path: Path) -> None:
    image = write_enhanced(tmp_path / "enhanced.dcm")
    for path in (tmp_path / "enhanced.dcm", tmp_path):
        back = read_dicom(path)
        assert same_geometry(back, image) is None
        assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image))


def test_enhanced_multi_frame_with_a_frame_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "enhanced.dcm"
    write_enhanced(path)
    content = path.read_bytes()
    assert content.count(b"5\\6\\10") == 1
    path.write_bytes(content.replace(b"5\\6\\10", b"5\\6\\15"))
    assert "misses 2 slices" in refusal(path)
    path.write_bytes(content.replace(b"\x20\x00\x32\x00", b"\x20\x00\x33\x00", 1))
    assert "where its frames lie" in refusal(path)


def test_a_real_series(shared_data: Path) -> None:
    folder = shared_data / "abdomen_ct_mr"
    image = read_scan(folder / "dicom_ct")
    assert image.GetSize() == (512, 512, 20)
    assert image.GetSpacing() == pytest.approx((0.9765625, 0.9765625, 2.0))
    voxels = sitk.GetArrayFromImage(image)
    assert voxels.min() == -1024 and 200 < voxels.max() < 4096  # Hounsfield units
    labels = sitk.ReadImage(str(folder / "dicom_ct_seg.nii.gz"))
    assert "directions" in (same_geometry(image, labels) or "")  # stored with a flipped y axis
    flipped = sitk.Flip(labels, [False, True, False])
    assert same_geometry(image, flipped) is None


def test_files_that_users_reported(shared_data: Path) -> None:
    folder = shared_data / "odd_inputs"
    scan = read_dicom(folder / "dicom_cd")
    voxels = sitk.GetArrayFromImage(scan)
    for name in ("dicom_cd/DICOMDIR", "dicom_same_files_twice"):
        other = read_dicom(folder / name)
        assert same_geometry(scan, other) is None and np.array_equal(sitk.GetArrayFromImage(other), voxels)
    enhanced = read_dicom(folder / "enhanced_ct_rescale_per_frame")
    # Frame k stores whole numbers of 1 + k / 4 HU, so it is off by half of that at most.
    steps = (1 + 0.25 * np.arange(24)).reshape(24, 1, 1)
    assert np.all(np.abs(sitk.GetArrayFromImage(enhanced) - voxels) <= steps / 2)
    uneven = read_dicom(folder / "dicom_distance_changes_slightly")
    assert "1 to 1.09 mm apart" in notices_of(uneven)[0]
    assert uneven.GetSpacing()[2] * (uneven.GetSize()[2] - 1) == pytest.approx(96 + 95 * 1.09, abs=0.01)
