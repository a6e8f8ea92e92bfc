"""Which slices are shown and which part of them."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.pictures.slices import (
    PLANES,
    OrientedScan,
    StructureExtents,
    body_threshold,
    grey_window,
    interesting_part,
    is_ct,
)
from TransferSegLib.structures import LabelSet, Structure

LABELS = LabelSet((Structure("a", 7, (255, 0, 0)), Structure("b", 3, (0, 255, 0))))


def oriented(labels: np.ndarray, spacing_zyx: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> OrientedScan:
    return OrientedScan(np.zeros(labels.shape, np.float32), labels.astype(np.uint16), spacing_zyx)


def test_the_stored_axes_are_put_in_order_and_labels_become_channels() -> None:
    labels = np.zeros((4, 5, 6), np.int32)
    labels[3, 1, 2] = 7
    labels[0, 0, 0] = 3
    labels[1, 1, 1] = 99
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((1.5, 2.5, 3.5))
    # x runs to the head, y to the right, z to the back.
    image.SetDirection((0, -1, 0, 0, 0, 1, 1, 0, 0))
    scan = OrientedScan.of(image, image, LABELS)
    assert scan.channels_zyx.shape == (6, 4, 5) and scan.spacing_zyx_mm == (1.5, 3.5, 2.5)
    assert np.argwhere(scan.channels_zyx == 1).tolist() == [[2, 3, 3]]
    assert np.argwhere(scan.channels_zyx == 2).tolist() == [[0, 0, 4]]
    assert np.count_nonzero(scan.channels_zyx) == 2
    assert scan.intensities_zyx[2, 3, 3] == 7


def test_counts_per_slice_and_in_all() -> None:
    labels = np.zeros((5, 6, 7))
    labels[1:3, 2:5, 3:5] = 1
    labels[4, 0, 0] = 2
    found = StructureExtents.of(oriented(labels), 3)
    assert found.voxels.tolist() == [12, 1, 0]
    assert found.profiles_zyx[0][0].tolist() == [0, 6, 6, 0, 0]
    assert found.profiles_zyx[1][0].tolist() == [0, 0, 4, 4, 4, 0]
    assert found.profiles_zyx[2][1].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert [found.range_of(axis) for axis in range(3)] == [(1, 4), (0, 4), (0, 4)]


def test_the_slice_with_most_structures_is_shown() -> None:
    labels = np.zeros((20, 10, 10))
    labels[2:9, 1:9, 1:9] = 1
    labels[8:15, 4:6, 4:6] = 2
    labels[8, 4:6, 4:6] = 2
    assert StructureExtents.of(oriented(labels), 2).best_slice(0) == 8


def test_among_equal_numbers_the_larger_sections_win_and_then_the_middle() -> None:
    labels = np.zeros((9, 10, 10))
    labels[1:8, 4:6, 4:6] = 1
    assert StructureExtents.of(oriented(labels), 1).best_slice(0) == 4
    labels[6, 2:8, 2:8] = 1
    assert StructureExtents.of(oriented(labels), 1).best_slice(0) == 6


def test_a_speck_of_another_structure_does_not_move_the_slice_far_from_the_best() -> None:
    labels = np.zeros((20, 30, 30))
    labels[5:16, 10:20, 10:20] = 1
    for z, half in ((10, 10), (9, 8), (11, 8)):
        labels[z, 15 - half : 15 + half, 15 - half : 15 + half] = 1
    labels[16, 0, 0] = 1
    assert StructureExtents.of(oriented(labels), 1).best_slice(0) == 10


def test_without_structures_the_middle_is_shown() -> None:
    found = StructureExtents.of(oriented(np.zeros((9, 5, 1))), 2)
    assert [found.best_slice(axis) for axis in range(3)] == [4, 2, 0]
    assert found.range_of(0) is None


def test_ct_has_a_soft_tissue_window_and_other_scans_robust_ends() -> None:
    labels = np.zeros((2, 2, 2))
    ct = OrientedScan(np.full((2, 2, 2), -1000, np.int16), labels, (1, 1, 1))
    assert is_ct(ct) and not is_ct(oriented(labels))
    assert grey_window([], True) == (-160.0, 240.0)
    values = np.concatenate([np.linspace(0.0, 1000.0, 10_000), [1e9]])
    assert grey_window([values[:5000], values[5000:]], False) == pytest.approx((10.0, 996.0), abs=1.0)


def test_a_window_is_never_empty() -> None:
    for values in (np.full(9, 5.0), np.full(9, np.nan), np.array([0.0] * 999 + [1.0])):
        low, high = grey_window([values], False)
        assert high > low


def phantom() -> tuple[OrientedScan, StructureExtents]:
    """Return a body of 200 x 120 mm in 500 mm of air, a structure of 20 mm in it, and a couch below."""
    intensities = np.full((40, 250, 250), -1000.0, np.float32)
    intensities[:, 60:120, 70:170] = 0
    intensities[:, 200:202, 20:230] = 50
    labels = np.zeros(intensities.shape, np.uint16)
    labels[18:22, 85:95, 100:110] = 1
    scan = OrientedScan(intensities, labels, (5.0, 2.0, 2.0))
    return scan, StructureExtents.of(scan, 1)


def test_the_picture_shows_the_structures_with_their_surroundings() -> None:
    scan, extents = phantom()
    plane = PLANES[0]
    threshold = body_threshold((-160, 240), True)
    (top, bottom), (left, right) = interesting_part(scan, extents, plane, scan.intensities_zyx[20], threshold)
    # The structure lies at 170 to 190 mm down and 200 to 220 across; 45 % of 216 mm of body and air are shown.
    assert left == pytest.approx(210 - 0.45 * 216 / 2) and right == pytest.approx(210 + 0.45 * 216 / 2)
    assert 120 <= top < 170 and 190 < bottom <= 260


def test_without_structures_the_body_is_shown_without_air_and_couch() -> None:
    scan, _ = phantom()
    none = StructureExtents.of(oriented(np.zeros(scan.channels_zyx.shape)), 1)
    crop = interesting_part(scan, none, PLANES[0], scan.intensities_zyx[20], body_threshold((-160, 240), True))
    # 4 % around the body.
    assert np.allclose(crop, ((115.2, 244.8), (132.0, 348.0)))


def test_structures_outside_the_body_are_shown_too() -> None:
    scan, _ = phantom()
    labels = np.zeros(scan.channels_zyx.shape, np.uint16)
    labels[20, 10:20, 230:240] = 1
    there = OrientedScan(scan.intensities_zyx, labels, scan.spacing_zyx_mm)
    extents = StructureExtents.of(there, 1)
    (top, bottom), (left, right) = interesting_part(there, extents, PLANES[0], scan.intensities_zyx[20], -350.0)
    assert top < 20 and bottom > 40 and left < 460 and right > 480
