"""Which files of a folder or a patient's CD make the volume, and what is said of those that do not."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import dicom_bytes as make
import numpy as np
import pytest
import SimpleITK as sitk

from Testing.images import refusals
from TransferSegLib.corrections.dicom_patient import read_patient_id
from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.dicom.series import read_dicom
from TransferSegLib.images.notices import modality_of, notices_of
from TransferSegLib.images.read import read_scan

STORED = np.random.default_rng(8).integers(0, 4096, (12, 5, 6)).astype(np.uint16)
SAGITTAL = {0x00200037: make.decimal((0, 1, 0, 0, 0, -1))}
DICOMDIR_CLASS = "1.2.840.10008.1.3.10"


def ct_series(count: int = 12, changes: dict[int, Any] | None = None) -> list[dict[int, Any]]:
    return [make.ct_slice(STORED[z], 2.5 * z, z, changes) for z in range(count)]


def localiser(number: int, changes: dict[int, Any] | None = None) -> dict[int, Any]:
    return make.ct_slice(np.full((9, 8), 7, np.uint16), 3.0 * number, 100 + number, SAGITTAL | (changes or {}))


def assert_is_series(image: sitk.Image, count: int = 12) -> None:
    assert np.array_equal(sitk.GetArrayFromImage(image), STORED[:count].astype(int) - 1024)
    assert image.GetOrigin() == (10, -20, 30) and image.GetSpacing() == (0.5, 0.75, 2.5)


refusal = partial(refusals.refusal, read_dicom)


def test_copies_are_left_out(tmp_path: Path) -> None:
    folder = make.write_slices(tmp_path / "a", ct_series())
    shutil.copytree(folder, tmp_path / "b")
    image = read_dicom(tmp_path)
    assert_is_series(image)
    assert "holds 12 copies of the same images" in notices_of(image)[0]
    for number in (3, 5):  # one folder with a copy of some, under other names
        shutil.copy(folder / f"IM{number:04d}", folder / f"IM{number:04d} (1)")
    image = read_dicom(folder)
    assert_is_series(image)
    assert "holds 2 copies" in notices_of(image)[0]


def test_copies_in_another_encoding_are_copies(tmp_path: Path) -> None:
    make.write_slices(tmp_path / "a", ct_series())
    make.write_slices(tmp_path / "b", ct_series(), make.IMPLICIT)
    assert_is_series(read_dicom(tmp_path))


def test_copies_with_new_uids_are_copies(tmp_path: Path) -> None:
    again = [make.ct_slice(STORED[z], 2.5 * z, 40 + z) for z in range(12)]
    image = read_dicom(make.write_slices(tmp_path, [*ct_series(), *again]))
    assert_is_series(image)
    assert "holds 12 copies" in notices_of(image)[0]


@pytest.mark.parametrize(
    "change",
    [{0x00281052: ("DS", "-1000")}, {0x00200032: make.decimal((10, -20, 31))}, {0x7FE00010: ("OW", b"\7" * 60)}],
)
def test_two_images_that_claim_to_be_the_same_are_refused(tmp_path: Path, change: dict[int, Any]) -> None:
    folder = make.write_slices(tmp_path, ct_series())
    (folder / "other").write_bytes(make.dicom_file(make.ct_slice(STORED[4], 10.0, 4, change)))
    message = refusal(folder)
    assert "claim to be the same image" in message and "IM0004" in message and "other" in message


@pytest.mark.parametrize("position", ["first", "last"])
def test_localisers_are_left_out(tmp_path: Path, position: str) -> None:
    scouts, slices = [localiser(0), localiser(1, {0x00200037: make.decimal((1, 0, 0, 0, 0, -1))})], ct_series()
    folder = make.write_slices(tmp_path, scouts + slices if position == "first" else slices + scouts)
    image = read_dicom(folder)
    assert_is_series(image)
    name = "IM0000, IM0001" if position == "first" else "IM0012, IM0013"
    assert (
        f"2 of 14 slices have another orientation, size or no place (localisers?) and were left out: {name}"
        in (notices_of(image)[0])
    )
    if position == "last":  # read in a child process the notice arrives as well
        by_child = read_scan(folder)
        assert notices_of(by_child) == notices_of(image) and modality_of(by_child) == "CT"


def test_a_localiser_in_the_direction_of_the_slices_and_several_of_a_small_series(tmp_path: Path) -> None:
    """Named so, it is none of the slices wherever it lies, and however few they are."""
    named = {0x00080008: ("CS", "ORIGINAL\\PRIMARY\\LOCALIZER")}
    axial = make.ct_slice(STORED[0], 300.0, 70, named)
    image = read_dicom(make.write_slices(tmp_path / "far", [*ct_series(), axial]))
    assert_is_series(image)
    assert "1 of 13 slices" in notices_of(image)[0]
    scouts = [localiser(0, named), localiser(1, named | {0x00200037: make.decimal((1, 0, 0, 0, 0, -1))}), axial]
    few = read_dicom(make.write_slices(tmp_path / "few", [*ct_series()[:5], *scouts]))
    assert few.GetSize()[2] == 5 and "3 of 8 slices" in notices_of(few)[0]


def test_slices_left_out_are_reported_with_the_slice_that_is_then_missing(tmp_path: Path) -> None:
    turned = ct_series()
    turned[5] = turned[5] | {0x00200037: make.decimal((-1, 0, 0, 0, -1, 0))}
    with pytest.raises(ScanError, match=r"misses 1 slice: .* 1 of 12 slices have another.*left out: IM0005"):
        read_dicom(make.write_slices(tmp_path, turned))


def test_screenshots_without_a_place_are_left_out(tmp_path: Path) -> None:
    shot = localiser(0)
    del shot[0x00200032], shot[0x00200037]
    colour = shot | {0x00280002: ("US", 3), 0x00280004: ("CS", "RGB"), 0x00080018: ("UI", "1.2.3.9")}
    image = read_dicom(make.write_slices(tmp_path, [*ct_series(), shot, colour]))
    assert_is_series(image)
    assert "2 of 14 slices" in notices_of(image)[0]


def test_two_stacks_of_which_neither_is_few_are_refused(tmp_path: Path) -> None:
    slices = [*ct_series(), *(localiser(number) for number in range(6))]
    assert "different sizes (6 x 5, 8 x 9)" in refusal(make.write_slices(tmp_path, slices))


@pytest.mark.parametrize(
    ("what", "tag", "values"),
    [
        ("echo time (2.46, 4.92)", 0x00180081, [("DS", "2.46"), ("DS", "4.92")]),
        ("temporal position (1, 2)", 0x00200100, [("IS", "1"), ("IS", "2")]),
        (r"image type (ORIGINAL\PRIMARY\M, ORIGINAL\PRIMARY\P)", 0x00080008, [("CS", r"ORIGINAL\PRIMARY\M")] * 2),
    ],
)
def test_several_volumes_in_one_series_are_distinguished(
    tmp_path: Path, what: str, tag: int, values: Sequence[tuple[str, str]]
) -> None:
    second = values[1] if values[1] != values[0] else ("CS", r"ORIGINAL\PRIMARY\P")
    slices = [make.ct_slice(STORED[z], 2.5 * z, z, {tag: values[0]}) for z in range(6)]
    slices += [make.ct_slice(STORED[z], 2.5 * (z - 6), z, {tag: second}) for z in range(6, 12)]
    message = refusal(make.write_slices(tmp_path, slices))
    assert f"6 slices at the place of another one: 2 volumes in one series, of different {what}" in message


def test_volumes_that_take_turns_at_different_places_are_refused(tmp_path: Path) -> None:
    kinds = (r"ORIGINAL\PRIMARY\AXIAL", r"DERIVED\SECONDARY\MIP")
    slices = [make.ct_slice(STORED[z], 2.5 * z, z, {0x00080008: ("CS", kinds[z % 2])}) for z in range(12)]
    assert "mixes slices of different image type" in refusal(make.write_slices(tmp_path, slices))
    # One after the other they may be one scan, e.g. of the head and of the neck.
    slices = [make.ct_slice(STORED[z], 2.5 * z, z, {0x00080008: ("CS", kinds[z // 6])}) for z in range(12)]
    assert_is_series(read_dicom(make.write_slices(tmp_path, slices)))


def test_a_damaged_slice_is_named_wherever_it_lies(tmp_path: Path) -> None:
    """The last slice, cut off, must not simply be missing."""
    folder = make.write_slices(tmp_path, ct_series())
    whole = (folder / "IM0011").read_bytes()
    for length in (len(whole) - 8, len(whole) // 2, 400, 200, 150):
        (folder / "IM0011").write_bytes(whole[:length])
        assert "IM0011" in refusal(folder)
    (folder / "IM0011").write_bytes(whole)
    other = make.dicom_file(localiser(0, {0x0020000E: ("UI", "1.2.3.99")}))
    (folder / "other").write_bytes(other[: len(other) - 8])  # of another series: it is no concern of this one
    assert_is_series(read_dicom(folder, "3.4"))


def test_other_objects_and_other_files_are_ignored(tmp_path: Path) -> None:
    folder = make.write_slices(tmp_path, ct_series())
    for number, sop_class in enumerate(("88.33", "481.3", "481.2", "11.1", "66.4", "88.59")):
        elements = localiser(number, {0x00080016: ("UI", f"1.2.840.10008.5.1.4.1.1.{sop_class}")})
        (folder / f"other{number}").write_bytes(make.dicom_file(elements))
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1" + bytes(300))
    (folder / "._IM0001").write_bytes(b"\0\5\x16\7" + bytes(300))
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(300))
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "viewer.exe").write_bytes(b"MZ" + bytes(300))
    image = read_dicom(folder)
    assert_is_series(image)
    assert "holds 1 empty files (empty.dcm): if they were slices" in notices_of(image)[0]


def record(kind: str, **values: Any) -> dict[int, Any]:
    tags = {"file": 0x00041500, "instance": 0x00041511, "series": 0x0020000E}
    return {0x00041430: ("CS", kind)} | {tags[name]: ("CS", value) for name, value in values.items()}


def write_dicomdir(folder: Path, files: Sequence[str], instances: Sequence[str] = ()) -> Path:
    records = [record("PATIENT"), record("STUDY"), record("SERIES", series="1.2.3.4")]
    for number, file in enumerate(files):
        instance = instances[number] if instances else f"1.2.3.4.{number + 1}"
        records.append(record("IMAGE", file=file, instance=instance))
    elements = {0x00080016: ("UI", DICOMDIR_CLASS), 0x00041220: ("SQ", records)}
    (folder / "DICOMDIR").write_bytes(make.dicom_file(elements))
    return folder / "DICOMDIR"


def test_a_patients_cd(tmp_path: Path) -> None:
    names = [f"DICOM\\PA0\\ST0\\SE0\\IM{z:04d}" for z in range(12)]
    index = write_dicomdir(tmp_path, names)
    folder = make.write_slices(tmp_path / "DICOM" / "PA0" / "ST0" / "SE0", ct_series())
    for path in (tmp_path, index):
        assert_is_series(read_dicom(path))
        assert not notices_of(read_dicom(path))
    assert_is_series(read_scan(index))
    assert read_patient_id(index) == "P7"
    # A copy in small letters, as some systems mount a CD.
    folder.parents[2].rename(tmp_path / "dicom")
    assert_is_series(read_dicom(index))
    # What the index does not list does not count when the index is what is read.
    make.write_slices(tmp_path / "more", [make.ct_slice(STORED[0], -2.5, 77)])
    assert_is_series(read_dicom(index))


def test_a_dicomdir_chooses_among_series_as_a_folder_does(tmp_path: Path) -> None:
    other = [make.ct_slice(STORED[z], 2.5 * z, 50 + z, {0x0020000E: ("UI", "1.2.3.88")}) for z in range(3)]
    make.write_slices(tmp_path / "A", ct_series())
    make.write_slices(tmp_path / "B", other)
    names = [f"A\\IM{z:04d}" for z in range(12)] + [f"B\\IM{z:04d}" for z in range(3)]
    index = write_dicomdir(tmp_path, names, ["x"] * 15)
    assert "holds 2 series" in refusal(index) and "2 series" in refusal(tmp_path)
    assert_is_series(read_dicom(index, "3.4"))


def test_a_dicomdir_with_files_missing_or_renamed(tmp_path: Path) -> None:
    names = [f"A\\IM{z:04d}" for z in range(12)]
    index = write_dicomdir(tmp_path, names)
    assert "lists 12 files, and none is there" in refusal(index)
    folder = make.write_slices(tmp_path / "A", ct_series())
    (folder / "IM0011").unlink()
    image = read_dicom(index)
    assert_is_series(image, 11)
    assert "lists 1 files that are not there" in notices_of(image)[0]
    folder.rename(tmp_path / "renamed")
    assert_is_series(read_dicom(index), 11)


def test_a_dicomdir_leads_nowhere_else(tmp_path: Path) -> None:
    outside = make.write_slices(tmp_path / "outside", ct_series())
    medium = tmp_path / "medium"
    (medium / "A").mkdir(parents=True)
    for names in (
        [f"..\\outside\\IM{z:04d}" for z in range(12)],
        [f"../outside/IM{z:04d}" for z in range(12)],
        [str(outside / f"IM{z:04d}") for z in range(12)],
        ["A" * 5000, "\\".join("A" * 300), "A\\.\\IM0000"],
    ):
        assert "none is there" in refusal(write_dicomdir(medium, names))
    (medium / "LINK").symlink_to(outside)
    (medium / "A" / "IM0000").symlink_to(outside / "IM0000")
    names = [f"LINK\\IM{z:04d}" for z in range(1, 12)] + ["A\\IM0000"]
    assert "none is there" in refusal(write_dicomdir(medium, names))


def test_an_empty_dicomdir(tmp_path: Path) -> None:
    assert "lists no files" in refusal(write_dicomdir(tmp_path, []))
