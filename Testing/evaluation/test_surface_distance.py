"""Surface distances against MONAI's numbers (a committed table), SimpleITK, and geometry done by hand."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from TransferSegLib.evaluation.surface_distance import bounding_box, surface_agreement

TABLE = json.loads((Path(__file__).parent / "surface_reference.json").read_text(encoding="utf-8"))["pairs"]
SHAPE = (20, 24, 28)
ONE_MM = (1.0, 1.0, 1.0)


def box(low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))] = True
    return mask


def unpacked(text: str, shape: list[int]) -> np.ndarray:
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)


@pytest.mark.parametrize("name", TABLE)
def test_agrees_with_monai(name: str) -> None:
    entry: dict[str, Any] = TABLE[name]
    found, reference = (unpacked(entry[key], entry["shape"]) for key in ("found", "reference"))
    spacing = tuple(entry["spacing_zyx_mm"])
    ours = surface_agreement(found, reference, spacing, entry["tolerance_mm"])
    if found.any() != reference.any():
        # MONAI interpolates between infinities here, which is not a number.
        assert (ours.nsd, ours.hd95_mm) == (0.0, np.inf) and entry["nsd"] == 0.0 and entry["hd95_mm"] is None
    elif not found.any():
        assert np.isnan(ours.nsd) and np.isnan(ours.hd95_mm) and entry["nsd"] is None and entry["hd95_mm"] is None
    else:
        assert ours.nsd == pytest.approx(entry["nsd"], abs=1e-6)
        assert ours.hd95_mm == pytest.approx(entry["hd95_mm"], rel=1e-5)


def distances_by_simpleitk(first: np.ndarray, second: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distances from the contour of one array to that of the other, by ITK's contour and exact distance map."""
    contours = []
    for mask in (first, second):
        image = sitk.GetImageFromArray(np.pad(mask, 2).astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        contours.append(sitk.LabelContour(image, fullyConnected=False))
    away = sitk.SignedMaurerDistanceMap(
        contours[1], insideIsPositive=False, squaredDistance=False, useImageSpacing=True
    )
    on_first = sitk.GetArrayFromImage(contours[0]) != 0
    return np.maximum(sitk.GetArrayFromImage(away)[on_first], 0.0)


@pytest.mark.parametrize("name", [name for name in TABLE if "blobs" in name or "ball" in name])
def test_agrees_with_simpleitk(name: str) -> None:
    entry: dict[str, Any] = TABLE[name]
    found, reference = (unpacked(entry[key], entry["shape"]) for key in ("found", "reference"))
    spacing, tolerance = tuple(entry["spacing_zyx_mm"]), entry["tolerance_mm"] + 0.01
    there = distances_by_simpleitk(found, reference, spacing)
    back = distances_by_simpleitk(reference, found, spacing)
    ours = surface_agreement(found, reference, spacing, tolerance)
    assert ours.nsd == pytest.approx(np.mean(np.concatenate([there, back]) <= tolerance), abs=1e-9)
    assert ours.hd95_mm == pytest.approx(max(np.quantile(there, 0.95), np.quantile(back, 0.95)), rel=1e-5)


def test_cube_moved_along_the_thick_axis_by_hand() -> None:
    # A plate of one slice, moved by two slices of 2.5 mm: every voxel is surface and 5 mm from the other plate.
    plate = box((5, 4, 4), (6, 12, 12))
    moved = np.roll(plate, 2, 0)
    assert surface_agreement(moved, plate, (2.5, 1.0, 1.0), 4.9).nsd == 0.0
    assert surface_agreement(moved, plate, (2.5, 1.0, 1.0), 5.0).nsd == 1.0
    assert surface_agreement(moved, plate, (2.5, 1.0, 1.0), 5.0).hd95_mm == pytest.approx(5.0)


def test_distance_equal_to_the_tolerance_counts_in_spite_of_rounding() -> None:
    voxel = box((5, 5, 5), (6, 6, 6))
    assert 3 * 0.7 < 2.1 < 3 * 0.7 + 1e-9
    assert surface_agreement(np.roll(voxel, 3, 2), voxel, (1.0, 1.0, 0.7), 2.1).nsd == 1.0
    assert surface_agreement(np.roll(voxel, 3, 2), voxel, (1.0, 1.0, 0.1), 0.3).nsd == 1.0
    assert surface_agreement(np.roll(voxel, 3, 2), voxel, (1.0, 1.0, 0.1), 0.2999).nsd == 0.0


def test_single_voxels() -> None:
    voxel = box((5, 5, 5), (6, 6, 6))
    agreement = surface_agreement(np.roll(voxel, (3, 4), (1, 2)), voxel, ONE_MM, 4.9)
    assert (agreement.nsd, agreement.hd95_mm) == (0.0, 5.0)


def test_ninety_five_percent_by_hand() -> None:
    # A line of 40 voxels, the other with one voxel more at 10 mm: of 41 distances 40 are 0, so the 95 % are 0 too;
    # with three voxels more the quantile (index 0.95 * 42 = 39.9) lies between the last 0 and the first 5.
    line = np.zeros((3, 3, 60), bool)
    line[1, 1, :40] = True
    one, three = line.copy(), line.copy()
    one[1, 1, 49] = True
    three[1, 1, 44:47] = True
    assert surface_agreement(one, line, ONE_MM, 0.0).hd95_mm == 0.0
    assert surface_agreement(three, line, ONE_MM, 0.0).hd95_mm == pytest.approx(0.9 * 5.0)
    assert surface_agreement(three, line, ONE_MM, 0.0).nsd == pytest.approx(80 / 83)


def test_image_edge_is_surface() -> None:
    # A block that fills the image to its edge on all sides but one: without the edge its surface were that one face.
    whole, part = np.ones((4, 4, 8), bool), np.ones((4, 4, 8), bool)
    part[:, :, 6:] = False
    agreement = surface_agreement(part, whole, ONE_MM, 0.5)
    inner_of_whole, inner_of_part = 2 * 2 * 6, 2 * 2 * 4
    surfaces = (128 - inner_of_whole) + (96 - inner_of_part)
    # Within the tolerance: the mantle of the part's 6 columns, 12 voxels each, and the lid at the start, on both sides.
    mantle = 12 * 6 + 4
    assert agreement.nsd == pytest.approx(2 * mantle / surfaces)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(1.0, 1.0, 1.0), (8.0, 1.37, 1.37), (0.7, 2.0, 3.1)]))
def test_does_not_depend_on_order_place_or_axes(seed: int, spacing: tuple[float, float, float]) -> None:
    random = np.random.default_rng(seed)
    found, reference = (random.random((5, 6, 7)) < share for share in random.uniform(0.1, 0.9, 2))
    if not (found.any() and reference.any()):
        return
    ours = surface_agreement(found, reference, spacing, 1.5)
    assert 0 <= ours.nsd <= 1 and 0 <= ours.hd95_mm < np.inf
    variants = [
        surface_agreement(reference, found, spacing, 1.5),
        surface_agreement(np.pad(found, 4), np.pad(reference, 4), spacing, 1.5),
        surface_agreement(found.transpose(2, 0, 1), reference.transpose(2, 0, 1), (spacing[2], *spacing[:2]), 1.5),
        surface_agreement(found[:, ::-1], reference[:, ::-1], spacing, 1.5),
    ]
    for variant in variants:
        assert variant.nsd == pytest.approx(ours.nsd, abs=1e-12)
        assert variant.hd95_mm == pytest.approx(ours.hd95_mm, rel=1e-9)
    scaled = surface_agreement(found, reference, tuple(2 * step for step in spacing), 3.0)
    assert (scaled.nsd, scaled.hd95_mm) == pytest.approx((ours.nsd, 2 * ours.hd95_mm))


def test_what_nobody_judged_is_neither_structure_nor_surface() -> None:
    long, moved = box((5, 5, 2), (10, 10, 26)), box((5, 5, 2), (10, 11, 26))
    region = np.zeros(SHAPE, bool)
    region[:, :, 10:14] = True
    everywhere = np.ones(SHAPE, bool)
    assert surface_agreement(moved, long, ONE_MM, 0.5, everywhere) == surface_agreement(moved, long, ONE_MM, 0.5)
    # The middle of a long block has no ends: where the mask cuts it there is no surface.
    cut = surface_agreement(moved, long, ONE_MM, 0.5, region)
    # In every slice a ring of 5 x 5 and one of 5 x 6 voxels; they share two sides of 5 and 3 voxels of a third.
    ring, longer_ring, shared = 25 - 9, 30 - 12, 2 * 5 + 3
    assert cut.nsd == pytest.approx(2 * shared / (ring + longer_ring))
    # Errors elsewhere do not count.
    elsewhere = moved | box((0, 0, 20), (4, 4, 24))
    assert surface_agreement(elsewhere, long, ONE_MM, 0.5, region) == cut


def test_structures_that_fill_what_was_judged() -> None:
    region = box((5, 5, 5), (10, 10, 10))
    larger = box((2, 2, 2), (14, 14, 14))
    both = surface_agreement(larger, larger, ONE_MM, 1.0, region)
    assert np.isnan(both.nsd) and np.isnan(both.hd95_mm)
    for pair in ((larger, box((6, 6, 6), (7, 7, 7))), (larger, np.zeros(SHAPE, bool))):
        agreement = surface_agreement(*pair, ONE_MM, 1.0, region)
        assert (agreement.nsd, agreement.hd95_mm) == (0.0, np.inf)


def test_bounding_box() -> None:
    assert bounding_box(np.zeros(SHAPE, bool)) is None
    assert bounding_box(box((0, 3, 5), (2, 4, 28))) == (slice(0, 3), slice(2, 5), slice(4, 29))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"found_zyx": np.zeros((2, 2, 2), bool)}, "one shape"),
        ({"found_zyx": np.zeros(SHAPE, np.uint8)}, "boolean"),
        ({"tolerance_mm": -1.0}, "tolerance"),
        ({"tolerance_mm": float("nan")}, "tolerance"),
        ({"spacing_zyx_mm": (1.0, 0.0, 1.0)}, "spacing"),
    ],
)
def test_arguments_that_cannot_be_compared(change: dict[str, Any], message: str) -> None:
    arguments = {"found_zyx": box((1, 1, 1), (2, 2, 2)), "reference_zyx": box((1, 1, 1), (2, 2, 2))}
    arguments |= {"spacing_zyx_mm": ONE_MM, "tolerance_mm": 1.0} | change
    with pytest.raises(ValueError, match=message):
        surface_agreement(**arguments)
