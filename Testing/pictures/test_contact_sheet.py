"""Pictures of many cases: their places on the sheet, the frames of what is wrong, and the structures' colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.pictures.contact_sheet import COLUMNS, WIDTH, CasePicture, case_picture, write_sheet
from TransferSegLib.structures import LabelSet, Structure

BALL = Structure("ball", 1, (230, 20, 20))
LABELS = LabelSet((BALL, Structure("other", 2, (20, 20, 230))))


def ball() -> tuple[sitk.Image, sitk.Image]:
    z, y, x = np.ogrid[:30, :40, :40]
    inside = (z - 15) ** 2 + (y - 20) ** 2 + (x - 20) ** 2 < 64
    image = sitk.GetImageFromArray(np.where(inside, 200, 0).astype(np.int16))
    return image, sitk.GetImageFromArray(inside.astype(np.uint8))


def redness(pixels: np.ndarray) -> float:
    """Return the share of pixels that are clearly red."""
    return float(np.mean((pixels[..., 0] > 120) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90)))


def test_a_case_shows_its_structures_and_lines() -> None:
    plain = case_picture(ball(), LABELS, "case-1", (), "").canvas.pixels
    assert plain.shape[1] == WIDTH and redness(plain) > 0.005
    noted = case_picture(ball(), LABELS, "case-1", ("look at it",), "warning").canvas.pixels
    assert noted.shape[0] > plain.shape[0], "a line more"
    many = case_picture(ball(), LABELS, "case-1", ("words " * 200,), "warning").canvas.pixels
    assert noted.shape[0] < many.shape[0] < noted.shape[0] + 40, "two lines at most"
    unread = case_picture(None, LABELS, "case-1", ("cannot be read",), "error").canvas.pixels
    assert unread.shape[0] < plain.shape[0] and redness(unread) > 0
    image, labels = ball()
    with pytest.raises(ScanError, match="does not lie on the scan's grid"):
        case_picture((image, labels[:, :, :20]), LABELS, "case-1", (), "")


def test_a_sheet(tmp_path: Path) -> None:
    one = case_picture(ball(), LABELS, "case", (), "")
    height = one.canvas.pixels.shape[0]
    pictures = [CasePicture(one.canvas, "error"), *[one] * COLUMNS]
    write_sheet(pictures, LABELS, "cases", tmp_path / "new" / "sheet.png")
    sheet = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "new" / "sheet.png")))
    assert sheet.shape[1] > COLUMNS * WIDTH and 2 * height < sheet.shape[0] < 2 * height + 200
    frame = (sheet == (214, 64, 58)).all(axis=-1)
    rows, columns = np.nonzero(frame)
    assert rows.min() < 60 and rows.max() - rows.min() == height + 7, "the frame is around the first picture"
    assert columns.max() - columns.min() == WIDTH + 7
    # The colours of both structures are explained below the pictures.
    below = sheet[2 * height + 60 :]
    assert redness(below) > 0 and ((below[..., 2] > 200) & (below[..., 0] < 60)).any()
