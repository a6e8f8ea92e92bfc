"""The whole picture: sides, colours, shapes, independence of how the scan is stored, errors."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from TransferSegLib.errors import ScanError
from TransferSegLib.pictures.layout import Place, Sizes, panel_places
from TransferSegLib.pictures.preview import draw_preview, preview
from TransferSegLib.structures import LabelSet, Structure

RED, GREEN = (255, 0, 0), (0, 255, 0)
LABELS = LabelSet((Structure("ball", 5, RED), Structure("bar", 9, GREEN)))


def scan_of(array: np.ndarray, spacing_xyz: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_xyz)
    image.SetOrigin((-12.0, 30.0, 7.5))
    return image


def cube(side: int = 40) -> np.ndarray:
    """Return a grey body with a thin dark shell, so that all of it is shown."""
    array = np.zeros((side, side, side), np.float32)
    array[1:-1, 1:-1, 1:-1] = 400
    return array


def reds(pixels: np.ndarray) -> np.ndarray:
    """Return where the red structure is drawn, outline and filling (letters are yellow)."""
    return pixels[..., 0] - np.maximum(pixels[..., 1], pixels[..., 2]) > 50


def square_panels(width: int) -> list[Place]:
    return panel_places((1.0, 1.0, 1.0), width, Sizes(width / 1500))


@pytest.mark.parametrize("corner", list(itertools.product((0, 1), repeat=3)))
def test_a_corner_of_the_patient_is_where_a_radiologist_looks_for_it(corner: tuple[int, int, int]) -> None:
    superior, posterior, left_side = corner
    grey = cube()
    labels = np.zeros(grey.shape, np.uint8)
    where = tuple(slice(26, 36) if far else slice(4, 14) for far in corner)
    labels[where] = 5
    grey[where] = 900
    labels[0, 0, 0] = labels[-1, -1, -1] = 5  # so that all of the cube is shown
    canvas = preview(scan_of(grey), scan_of(labels), LABELS, width=600)
    for (top, left, height, width), at_bottom, at_right in zip(
        square_panels(600),
        (posterior, not superior, not superior),
        (left_side, left_side, posterior),
        strict=True,
    ):
        panel = canvas.pixels[top : top + height, left : left + width]
        parts, _ = ndimage.label(reds(panel))
        block = np.argmax(np.bincount(parts.ravel())[1:]) + 1
        row, column = ndimage.center_of_mass(parts == block)
        assert (row > height / 2) == at_bottom and (column > width / 2) == at_right
        # White under 30 % of red: it is the bright block of the scan that the structure lies on.
        assert np.allclose(panel[round(row), round(column)], (255, 178.5, 178.5))
        assert 60 < panel[height - 1 - round(row), width - 1 - round(column), 1] < 150


def stored_otherwise(image: sitk.Image, axes: tuple[int, ...], flips: tuple[bool, ...]) -> sitk.Image:
    return sitk.Flip(sitk.PermuteAxes(image, list(axes)), list(flips), False)


def test_all_48_ways_to_store_a_scan_give_the_same_picture() -> None:
    rng = np.random.default_rng(1)
    grey = ndimage.gaussian_filter(rng.normal(size=(9, 14, 12)), 1.0).astype(np.float32) * 1000
    labels = np.zeros(grey.shape, np.uint8)
    labels[2:6, 3:9, 2:7] = 5
    labels[5:8, 8:12, 6:11] = 9
    image, label_map = scan_of(grey, (1.1, 0.7, 3.0)), scan_of(labels, (1.1, 0.7, 3.0))
    expected = preview(image, label_map, LABELS, width=480, title="same").pixels
    ways = list(itertools.product(itertools.permutations(range(3)), itertools.product((False, True), repeat=3)))
    assert len(ways) == 48
    for axes, flips in ways:
        other = stored_otherwise(image, axes, flips), stored_otherwise(label_map, axes, flips)
        assert np.array_equal(preview(*other, LABELS, width=480, title="same").pixels, expected), (axes, flips)


def test_a_slightly_oblique_scan_is_shown_in_the_nearest_orientation() -> None:
    grey = cube()
    labels = np.zeros(grey.shape, np.uint8)
    labels[5:15, 5:15, 5:15] = 5
    straight, oblique = scan_of(grey), scan_of(grey)
    turn = np.deg2rad(12)
    oblique.SetDirection((np.cos(turn), -np.sin(turn), 0, np.sin(turn), np.cos(turn), 0, 0, 0, 1))
    label_map = scan_of(labels)
    expected = preview(straight, label_map, LABELS, width=480).pixels
    label_map.CopyInformation(oblique)
    assert np.array_equal(preview(oblique, label_map, LABELS, width=480).pixels, expected)


def test_a_ball_is_round_whatever_the_voxels() -> None:
    spacing = (0.8, 1.0, 4.0)
    z, y, x = (np.arange(n) * side for n, side in zip((18, 72, 90), reversed(spacing), strict=True))
    distance = np.sqrt((z[:, None, None] - 34) ** 2 + (y[:, None] - 36) ** 2 + (x - 36) ** 2)
    labels = np.where(distance < 24, 5, 0).astype(np.uint8)
    grey = np.full(labels.shape, 100, np.int16)
    grey[0] = 0
    canvas = preview(scan_of(grey, spacing), scan_of(labels, spacing), LABELS, width=900)
    balls = [
        box for box in ndimage.find_objects(ndimage.label(reds(canvas.pixels))[0]) if box[1].stop - box[1].start > 60
    ]
    assert len(balls) == 3
    for rows, columns in balls:
        assert (rows.stop - rows.start) / (columns.stop - columns.start) == pytest.approx(1.0, abs=0.07)


def test_outlines_fillings_and_swatches_have_the_structures_colours() -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[10:30, 8:18, 8:18] = 5
    pixels = preview(scan_of(cube()), scan_of(labels), LABELS, width=1500).pixels
    bottom = max(top + height for top, _, height, _ in square_panels(1500))
    assert np.count_nonzero((pixels[bottom:] == RED).all(axis=-1)) > 120  # the swatch of the ball
    assert not ((pixels[..., 1] > 200) & (pixels[..., 0] < 60)).any()  # the bar is not there
    assert np.count_nonzero((pixels[:bottom] == RED).all(axis=-1)) > 500
    # Grey 255 (the body is the brightest there is) under 30 % of red.
    filled = np.abs(pixels[:bottom] - (255, 178.5, 178.5)).max(axis=-1) < 1
    assert np.count_nonzero(filled) > 5000


def test_structures_that_are_absent_are_named_and_need_a_line() -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    both = labels.copy()
    labels[10:30, 8:18, 8:18] = 5
    both[10:30, 8:18, 8:18] = 5
    both[10:30, 20:28, 8:18] = 9
    one = preview(scan_of(cube()), scan_of(labels), LABELS)
    two = preview(scan_of(cube()), scan_of(both), LABELS)
    none = preview(scan_of(cube()), scan_of(np.zeros_like(labels)), LABELS)
    assert one.pixels.shape[0] > two.pixels.shape[0]
    assert none.pixels.shape[0] < one.pixels.shape[0]
    assert not reds(none.pixels).any()


def test_values_without_a_structure_are_not_drawn() -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    unknown = labels.copy()
    unknown[4:9, 4:9, 4:9] = 77
    expected = preview(scan_of(cube()), scan_of(labels), LABELS, width=480).pixels
    assert np.array_equal(preview(scan_of(cube()), scan_of(unknown), LABELS, width=480).pixels, expected)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 60, 50), (60, 1, 50), (60, 50, 1), (2, 3, 200), (300, 2, 2), (5, 120, 110)]
)
@pytest.mark.parametrize("empty", [False, True])
def test_odd_volumes_give_a_sane_picture(shape: tuple[int, int, int], empty: bool, tmp_path: Path) -> None:
    grey = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    labels = np.zeros(shape, np.uint8)
    if not empty:
        labels[tuple(slice(n // 3, n // 3 + max(1, n // 3)) for n in shape)] = 5
    path = draw_preview(scan_of(grey, (1, 1, 2)), scan_of(labels, (1, 1, 2)), LABELS, tmp_path / "p.png", width=600)
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert pixels.shape[1] == 600 and 150 < pixels.shape[0] < 800
    assert (np.count_nonzero(reds(pixels.astype(float))) > 20) != empty


def test_a_constant_scan_and_one_with_holes_can_be_drawn() -> None:
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2:5, 2:5, 2:5] = 5
    holes = np.random.default_rng(0).normal(size=labels.shape)
    holes[3, 3, 3] = np.nan
    for grey in (np.full(labels.shape, 3.0), holes):
        assert np.isfinite(preview(scan_of(grey), scan_of(labels), LABELS, width=480).pixels).all()


def test_the_width_is_what_was_asked_for_and_a_title_needs_no_room() -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    for width in (480, 731, 1500):
        plain = preview(scan_of(cube()), scan_of(labels), LABELS, width=width).pixels
        titled = preview(scan_of(cube()), scan_of(labels), LABELS, width=width, title="A title " * 40).pixels
        assert plain.shape == titled.shape and plain.shape[1] == width
        top = Sizes(width / 1500).panels_top
        assert not np.array_equal(plain[:top], titled[:top])
        assert np.array_equal(plain[top:], titled[top:])


def test_what_cannot_be_drawn_is_one_clear_error(tmp_path: Path) -> None:
    image, label_map = scan_of(cube()), scan_of(np.zeros((40, 40, 40), np.uint8))
    path = tmp_path / "p.png"
    with pytest.raises(ScanError, match="grid: the sizes differ"):
        draw_preview(image, label_map[:, :, 1:], LABELS, path)
    with pytest.raises(ScanError, match="label map cannot be drawn: it is no 3D"):
        draw_preview(image, label_map[:, :, 0], LABELS, path)
    with pytest.raises(ScanError, match="scan cannot be drawn: it is no 3D"):
        draw_preview(sitk.Compose(image, image), label_map, LABELS, path)
    with pytest.raises(ScanError, match="whole numbers"):
        draw_preview(image, image, LABELS, path)
    with pytest.raises(ScanError, match="480 to 6000"):
        draw_preview(image, label_map, LABELS, path, width=100)
    with pytest.raises(ScanError, match=r"ends in \.png"):
        draw_preview(image, label_map, LABELS, tmp_path / "p.jpg")
    (tmp_path / "file").touch()
    with pytest.raises(ScanError, match="cannot be written"):
        draw_preview(image, label_map, LABELS, tmp_path / "file" / "p.png", width=480)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_the_same_scan_gives_the_same_file(tmp_path: Path) -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[10:30, 8:18, 8:18] = 5
    files = [
        draw_preview(scan_of(cube()), scan_of(labels), LABELS, str(tmp_path / name), width=480)
        for name in ("a.png", "b.png")
    ]
    assert files[0] == tmp_path / "a.png"
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_head_and_neck_case_shows_all_its_structures(shared_data: Path) -> None:
    folder = shared_data / "head_neck_ct"
    names = json.loads((folder / "labels.json").read_text())
    assert names
    colors = [
        (255, 40, 40),
        (40, 255, 40),
        (40, 40, 255),
        (255, 255, 40),
        (255, 40, 255),
        (40, 255, 255),
        (255, 128, 0),
    ]
    label_set = LabelSet(tuple(Structure(f"structure {n}", n, color) for n, color in enumerate(colors, start=1)))
    image = sitk.ReadImage(str(folder / "cases" / "pt_4_ct.nii.gz"))
    label_map = sitk.ReadImage(str(folder / "cases" / "pt_4_label.nii.gz"))
    pixels = np.rint(preview(image, label_map, label_set, title="pt_4").pixels)
    present = {int(value) for value in np.unique(sitk.GetArrayViewFromImage(label_map))} - {0}
    assert len(present) >= 6
    panels_bottom = 590
    for number, color in enumerate(colors, start=1):
        drawn = (pixels[:panels_bottom] == color).all(axis=-1)
        assert (np.count_nonzero(drawn) > 40) == (number in present), number
