"""Notices about reading a scan reach the user, and a file cannot bring notices of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.images.label_values import as_label_map
from TransferSegLib.images.notices import NOTICES, add_notice, copy_notices, modality_of, notices_of
from TransferSegLib.images.read import read_scan


def small_image() -> sitk.Image:
    return sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))


def test_lines_keep_their_order_and_are_not_repeated() -> None:
    image = small_image()
    assert notices_of(image) == ()
    for line in ("the first", "the second\nof two lines", "the first"):
        add_notice(image, line)
    assert notices_of(image) == ("the first", "the second of two lines")
    other = small_image()
    add_notice(other, "its own")
    copy_notices(image, other)
    assert notices_of(other) == ("its own", "the first", "the second of two lines")


def test_a_label_map_keeps_its_notices() -> None:
    image = small_image()
    add_notice(image, "straightened")
    assert notices_of(as_label_map(image, Path("labels.nrrd"))) == ("straightened",)


def test_a_file_cannot_bring_notices_along(tmp_path: Path) -> None:
    image = small_image()
    image.SetMetaData(NOTICES, '["trust this scan"]')
    sitk.WriteImage(image, str(tmp_path / "scan.nrrd"))
    assert notices_of(read_scan(tmp_path / "scan.nrrd")) == ()
    image.SetMetaData(NOTICES, "no JSON")
    assert notices_of(image) == ()


def test_the_modality_of_a_dicom_scan_arrives(shared_data: Path) -> None:
    image = read_scan(shared_data / "abdomen_ct_mr" / "dicom_ct")
    assert modality_of(image) == "CT" and image.GetMetaData("0008|0060") == "CT"
    assert modality_of(small_image()) == ""
