"""Label maps on their scan's lattice: any orientation, crop and extent comes back exactly, all else is refused."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from TransferSegLib.datasets.dataset import Case
from TransferSegLib.datasets.prepared import prepare_case
from TransferSegLib.errors import ScanError
from TransferSegLib.evaluation.predict_and_score import score_label_maps
from TransferSegLib.images.geometry_checks import same_geometry
from TransferSegLib.images.intensity import CT_WINDOW
from TransferSegLib.images.lattice import placement, to_scan_lattice
from TransferSegLib.images.notices import notices_of
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.images.read import read_label_map_on
from TransferSegLib.structures import LabelSet, Structure

SPACING_MM, ORIGIN_MM = (0.9765625, 1.25, 2.5), (-123.456, 7.25, 1000.1)
OBLIQUE = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
ORIENTATIONS = [(axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)]


def scan(size_xyz: tuple[int, int, int] = (6, 5, 4)) -> sitk.Image:
    image = sitk.GetImageFromArray(np.zeros(size_xyz[::-1], np.uint8))
    image.SetSpacing(SPACING_MM)
    image.SetOrigin(ORIGIN_MM)
    image.SetDirection(OBLIQUE.ravel().tolist())
    return image


def stored(
    labels: np.ndarray, first_xyz: tuple[int, ...], orientation: tuple[tuple[int, ...], tuple[int, ...]]
) -> sitk.Image:
    """Return labels that begin at an index of the scan as a program stores them that orders axes its own way.

    The n-th axis (x, y, z) of the file runs along the scan's axis ``axes[n]``, backwards where ``signs[n]`` is -1. The
    place of every voxel is computed here from the scan's alone.
    """
    axes, signs = orientation
    own_xyz = labels.transpose(2, 1, 0)
    turned_xyz = own_xyz.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
    image = sitk.GetImageFromArray(np.ascontiguousarray(turned_xyz.transpose(2, 1, 0)))
    image.SetSpacing([SPACING_MM[axis] for axis in axes])
    image.SetDirection((OBLIQUE[:, list(axes)] * signs).ravel().tolist())
    corner = np.array(first_xyz)
    for axis, sign in zip(axes, signs, strict=True):
        corner[axis] += own_xyz.shape[axis] - 1 if sign < 0 else 0
    image.SetOrigin((np.array(ORIGIN_MM) + OBLIQUE @ (corner * SPACING_MM)).tolist())
    return image


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_comes_back_exactly(orientation) -> None:
    labels = np.random.default_rng(1).integers(0, 9, (4, 5, 6)).astype(np.uint16)
    back = to_scan_lattice(stored(labels, (0, 0, 0), orientation), scan(), "labels")
    assert np.array_equal(sitk.GetArrayFromImage(back), labels)
    assert same_geometry(scan(), back, tolerance_mm=1e-9) is None
    assert notices_of(back) == ()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ORIENTATIONS), st.data())
def test_any_extent_is_padded_or_cropped(orientation, data) -> None:
    """Voxel (i, j, k) of a file of any extent is the scan's where both have it, checked voxel by voxel."""
    size = data.draw(st.tuples(*[st.integers(1, 6)] * 3), "size")
    first = data.draw(st.tuples(*[st.integers(-4, 5)] * 3), "first index")
    count = data.draw(st.tuples(*[st.integers(1, 7)] * 3), "extent")
    labels = np.random.default_rng(data.draw(st.integers(0, 99), "seed")).integers(0, 4, count[::-1]).astype(np.uint8)
    expected, kept = np.zeros(size[::-1], np.uint8), 0
    for k, j, i in np.ndindex(*labels.shape):
        x, y, z = first[0] + i, first[1] + j, first[2] + k
        if 0 <= x < size[0] and 0 <= y < size[1] and 0 <= z < size[2]:
            expected[z, y, x], kept = labels[k, j, i], kept + 1
    image = stored(labels, first, orientation)
    if labels.shape == (1, 1, 1) and labels.max() == 0:
        assert not sitk.GetArrayFromImage(to_scan_lattice(image, scan(size), "labels")).any()
        return
    lost = np.count_nonzero(labels) - np.count_nonzero(expected)
    if kept == 0:
        with pytest.raises(ScanError, match="all of it lies outside"):
            to_scan_lattice(image, scan(size), "labels", may_drop=True)
        return
    if lost:
        with pytest.raises(ScanError, match=f"{lost} of its labelled voxels lies? outside"):
            to_scan_lattice(image, scan(size), "labels")
    back = to_scan_lattice(image, scan(size), "labels", may_drop=bool(lost))
    assert np.array_equal(sitk.GetArrayFromImage(back), expected)
    assert back.GetSize() == size and same_geometry(scan(size), back, tolerance_mm=1e-9) is None
    if not lost:
        assert bool(notices_of(back)) == (kept < expected.size)


@pytest.mark.parametrize("axis", range(3))
def test_half_a_voxel_off_is_another_lattice(axis: int) -> None:
    for part, fits in ((0.5, False), (0.1, False), (0.04, True), (1.0, True)):
        image = stored(np.ones((4, 5, 6), np.uint8), (0, 0, 0), ((0, 1, 2), (1, 1, 1)))
        moved = np.array(image.GetOrigin()) + OBLIQUE[:, axis] * part * min(SPACING_MM)
        image.SetOrigin(moved.tolist())
        whole_voxel = part == 1.0 and axis == 0
        assert (placement(image, scan()) is not None) == (whole_voxel if part == 1.0 else fits)


def test_what_lies_on_another_lattice_is_refused_and_named() -> None:
    labels = np.ones((4, 5, 6), np.uint8)
    plain = ((0, 1, 2), (1, 1, 1))
    coarser = stored(labels[:2, :2, :3], (0, 0, 0), plain)
    coarser.SetSpacing([2 * side for side in SPACING_MM])
    with pytest.raises(ScanError, match="the voxel sizes differ"):
        to_scan_lattice(coarser, scan(), "labels")
    turned = stored(labels, (0, 0, 0), plain)
    turned.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))
    with pytest.raises(ScanError, match="labels does not lie on the image's voxel grid: the axes point in different"):
        to_scan_lattice(turned, scan(), "labels")
    thick = stored(labels[:1], (0, 0, 0), plain)
    thick.SetSpacing((*SPACING_MM[:2], 5.0))
    with pytest.raises(ScanError, match="voxel sizes differ"):
        to_scan_lattice(thick, scan(), "labels")
    shifted = stored(labels[:3], (0, 0, 0), plain)
    shifted.SetOrigin((np.array(ORIGIN_MM) + 0.4).tolist())
    with pytest.raises(ScanError, match=r"the sizes differ \(6 x 5 x 4 and 6 x 5 x 3 voxels\), and the voxel centres"):
        to_scan_lattice(shifted, scan(), "labels")


def test_a_small_turn_counts_at_the_far_end() -> None:
    """0.05 degrees are 0.4 mm at the end of 400 voxels: there the centres do not coincide."""
    angle = np.deg2rad(0.05)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    for size, fits in (((6, 5, 4), True), ((400, 5, 4), False)):
        image = scan(size)
        image.SetDirection((turn @ OBLIQUE).ravel().tolist())
        assert (placement(image, scan(size)) is not None) == fits


@pytest.mark.parametrize("what", ["reversed", "cropped"])
def test_training_and_scores_see_the_same_labels(tmp_path: Path, what: str) -> None:
    """A dataset that points at a reversed or cropped label map and mask is that of the whole ones."""
    voxels = np.random.default_rng(5).integers(-900, 900, (8, 10, 12)).astype(np.int16)
    image = scan((12, 10, 8))
    filled = sitk.GetImageFromArray(voxels)
    filled.CopyInformation(image)
    labels = np.zeros((8, 10, 12), np.uint8)
    labels[2:5, 3:8, 4:9], labels[5:7, 3:6, 4:6] = 1, 2
    judged = np.zeros_like(labels)
    judged[1:7, 2:9, 3:10] = 1
    part = (slice(1, 7), slice(2, 9), slice(3, 10))
    plain, back = ((0, 1, 2), (1, 1, 1)), ((1, 0, 2), (1, -1, -1))
    for name, array in (("labels", labels), ("judged", judged)):
        other = stored(array, (0, 0, 0), back) if what == "reversed" else stored(array[part], (3, 2, 1), plain)
        sitk.WriteImage(stored(array, (0, 0, 0), plain), str(tmp_path / f"{name}.nrrd"))
        sitk.WriteImage(other, str(tmp_path / f"{name}_other.nrrd"))
    sitk.WriteImage(filled, str(tmp_path / "image.nrrd"))
    organs = LabelSet((Structure("liver", 1, (1, 1, 1)), Structure("spleen", 2, (2, 2, 2))))
    cases = [
        Case("a", tmp_path / "image.nrrd", tmp_path / f"labels{end}.nrrd", organs.names, tmp_path / f"judged{end}.nrrd")
        for end in ("", "_other")
    ]
    one, other = (prepare_case(case, organs, organs, Preparation.isotropic(2.0, CT_WINDOW)) for case in cases)
    assert np.array_equal(one.labels, other.labels) and one.labels.max() == 2
    assert np.array_equal(one.region, other.region) and one.region.any() and not one.region.all()
    reference = read_label_map_on(filled, cases[1].labels)
    scores = score_label_maps(reference, organs, read_label_map_on(filled, cases[0].labels), organs, cases[1])
    assert {name: score.dice for name, score in scores.items()} == {"liver": 1.0, "spleen": 1.0}


def test_a_single_empty_voxel_is_an_empty_label_map_wherever_it_lies() -> None:
    empty = sitk.GetImageFromArray(np.zeros((1, 1, 1), np.uint8))
    back = to_scan_lattice(empty, scan(), "labels")
    assert back.GetSize() == (6, 5, 4) and not sitk.GetArrayFromImage(back).any()
    with pytest.raises(ScanError, match="does not lie"):
        to_scan_lattice(empty + 1, scan(), "labels")
    with pytest.raises(ScanError, match="does not lie"):
        to_scan_lattice(sitk.GetImageFromArray(np.zeros((1, 1, 2), np.uint8)), scan(), "labels")
