"""The canvas and the PNG file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.pictures.drawing import Canvas, check_png_path, write_png


def test_blending_is_weighted_and_cut_at_the_edges() -> None:
    canvas = Canvas.blank(4, 5, (100, 0, 200))
    canvas.blend(-1, 3, np.full((3, 4), 0.25, np.float32), (200, 40, 0))
    assert np.allclose(canvas.pixels[:2, 3:], (125, 10, 150))
    assert np.allclose(canvas.pixels[2:], (100, 0, 200)) and np.allclose(canvas.pixels[:, :3], (100, 0, 200))
    canvas.blend(10, 10, np.ones((2, 2), np.float32), (0, 0, 0))
    canvas.blend(-5, 0, np.ones((2, 2), np.float32), (0, 0, 0))
    assert np.allclose(canvas.pixels[:, 0], (100, 0, 200))


def test_a_box_covers_its_pixels_exactly_and_a_round_one_loses_its_corners() -> None:
    canvas = Canvas.blank(40, 50, (0, 0, 0))
    canvas.box(5, 7, 20, 30, (255, 255, 255))
    assert canvas.pixels[5:25, 7:37].min() == 255 and canvas.pixels.sum() == 20 * 30 * 3 * 255
    canvas = Canvas.blank(40, 50, (0, 0, 0))
    canvas.box(5, 7, 20, 30, (1, 0, 0), radius=8)
    assert canvas.pixels.sum() == pytest.approx(600 - (4 - math.pi) * 64, abs=2)
    assert canvas.pixels[5, 7, 0] == 0.0


@pytest.mark.parametrize(("align", "low", "high"), [("left", 100, 130), ("center", 85, 115), ("right", 70, 100)])
def test_text_begins_centres_or_ends_where_asked(align: str, low: int, high: int) -> None:
    canvas = Canvas.blank(40, 200, (0, 0, 0))
    canvas.text(100, 30, "mm", 12, (255, 255, 255), align=align)
    columns = np.flatnonzero(canvas.pixels[:, :, 0].max(axis=0) > 128)
    assert low <= columns[0] and columns[-1] <= high
    assert canvas.pixels[34:].max() == 0.0


def test_a_rim_darkens_a_bright_picture_around_the_letters_only() -> None:
    canvas = Canvas.blank(40, 100, (255, 255, 255))
    canvas.text(50, 30, "L", 16, (255, 200, 0), align="center", rim=True)
    assert canvas.pixels[:, :30].min() == 255
    assert canvas.pixels[14:32, 40:60].min() < 100


def test_a_written_picture_is_read_back_as_it_was(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).uniform(-20, 280, (23, 31, 3)).astype(np.float32)
    path = tmp_path / "new folder" / "picture.PNG"
    write_png(Canvas(pixels), path)
    read = sitk.ReadImage(str(path))
    assert read.GetPixelID() == sitk.sitkVectorUInt8
    assert np.array_equal(sitk.GetArrayFromImage(read), np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    assert [file.name for file in path.parent.iterdir()] == ["picture.PNG"]


def test_an_earlier_picture_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    write_png(Canvas.blank(3, 3, (9, 9, 9)), path)
    write_png(Canvas.blank(5, 4, (7, 8, 9)), path)
    assert sitk.ReadImage(str(path)).GetSize() == (4, 5)


@pytest.mark.parametrize("name", ["picture.jpg", "picture", "picture.png.gz", ".png"])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ScanError, match=r"ends in \.png"):
        check_png_path(tmp_path / name)
    with pytest.raises(ScanError, match=r"ends in \.png"):
        write_png(Canvas.blank(2, 2, (0, 0, 0)), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ScanError, match="cannot be written"):
        write_png(Canvas.blank(2, 2, (0, 0, 0)), tmp_path / "file" / "p.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ScanError, match="cannot be written"):
        write_png(Canvas.blank(2, 2, (0, 0, 0)), tmp_path / "folder.png")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder.png"]
