"""A case of which only a part was judged, on the model's grid: thin slices count, and nothing beyond them does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.corrections.inputs import JudgedSlices
from TransferSegLib.datasets.dataset import Case
from TransferSegLib.datasets.prepared import PreparedCase, check_region, prepare_case
from TransferSegLib.datasets.structure_names import label_set_of
from TransferSegLib.errors import DatasetError
from TransferSegLib.images.intensity import CT_WINDOW
from TransferSegLib.images.preparation import Preparation

NAMES = label_set_of({1: "organ", 2: "other"}, True)
GRID_MM = 3.0


def prepared(folder: Path, thickness_mm: float, judged: str | None, labels: np.ndarray | None = None) -> PreparedCase:
    """Prepare a scan of 60 mm whose slices are so thick, with an organ in nearly all of them."""
    slices = round(60 / thickness_mm)
    noise = np.random.default_rng(0).integers(-200, 200, (slices, 24, 24)).astype(np.int16)
    if labels is None:
        labels = np.zeros(noise.shape, np.uint8)
        labels[2:-2, 6:18, 6:18] = 1
    paths = []
    images = {"scan": noise, "labels": labels}
    for name, voxels in images.items():
        image = sitk.GetImageFromArray(voxels)
        image.SetSpacing((1.0, 1.0, thickness_mm))
        paths.append(folder / f"{name}.nrrd")
        sitk.WriteImage(image, str(paths[-1]))
    region = None
    if judged is not None:
        region = folder / "judged.nrrd"
        sitk.WriteImage(JudgedSlices.parse(judged).mask(image), str(region))
    case = Case("c", *paths, NAMES.names, judged=region)
    return prepare_case(case, NAMES, NAMES, Preparation((GRID_MM,) * 3, (CT_WINDOW,)))


def planes(case: PreparedCase) -> list[int]:
    assert case.region is not None
    return np.flatnonzero(case.region.any(axis=(1, 2))).tolist()


@pytest.mark.parametrize("thickness_mm", [0.7, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0])
def test_every_judged_slice_is_on_the_grid(tmp_path: Path, thickness_mm: float) -> None:
    """Slices thinner than half a plane of the grid vanished: nothing was learned from such a case."""
    for at_mm in range(9, 51, 4):
        number = int(at_mm / thickness_mm)
        case = prepared(tmp_path, thickness_mm, f"z:{number}")
        centre = (number + 0.5) * thickness_mm
        assert 1 <= len(planes(case)) <= 2
        # The grid is as long as whole planes of it are, and centred on the scan.
        before = (case.labels.shape[0] * GRID_MM - round(60 / thickness_mm) * thickness_mm) / 2
        assert all(abs((plane + 0.5) * GRID_MM - before - centre) <= 0.6 * GRID_MM for plane in planes(case))
        assert set(case.voxels) == {1}


@pytest.mark.parametrize(("thickness_mm", "expected"), [(3.0, [5]), (6.0, [10, 11]), (7.5, [13, 14])])
def test_thick_slices_have_no_more_than_their_planes(tmp_path: Path, thickness_mm: float, expected: list[int]) -> None:
    """Pixels that are finer than the grid do not widen them."""
    labels = np.ones((round(60 / thickness_mm), 24, 24), np.uint8)
    assert planes(prepared(tmp_path, thickness_mm, "z:5", labels)) == expected


def test_labels_are_those_of_the_judged_slice(tmp_path: Path) -> None:
    """Its neighbours, which nobody looked at, say something else and share its plane of the grid."""
    labels = np.full((60, 24, 24), 2, np.uint8)
    labels[20] = 1
    labels[20, :12] = 0
    case = prepared(tmp_path, 1.0, "z:20", labels)
    assert set(np.unique(case.labels)) == {0, 1} and set(case.voxels) == {1}
    assert case.region is not None
    (plane, *_) = planes(case)
    assert not case.labels[plane, :4].any() and (case.labels[plane, 4:] == 1).all()
    assert not case.labels[~case.region].any()


def test_what_is_drawn_outside_the_region_is_no_place_for_patches(tmp_path: Path) -> None:
    labels = np.zeros((60, 24, 24), np.uint8)
    labels[3:40, 6:18, 6:18] = 1
    labels[45:57, 6:18, 6:18] = 2
    assert set(prepared(tmp_path, 1.0, None, labels).voxels) == {1, 2}
    case = prepared(tmp_path, 1.0, "z:10-20", labels)
    assert set(case.voxels) == {1} and case.region is not None
    assert case.region.reshape(-1)[case.voxels[1]].all()


def volume_mm3(case: PreparedCase) -> float:
    assert case.region is not None
    return float(case.region.sum()) * GRID_MM**3


def region_of(folder: Path, judged: np.ndarray) -> PreparedCase:
    """Prepare a scan of 1 mm with a mask of what was judged."""
    prepared(folder, 1.0, "z:20")
    mask = sitk.GetImageFromArray(judged.astype(np.uint8))
    sitk.WriteImage(mask, str(folder / "judged.nrrd"))
    case = Case("c", folder / "scan.nrrd", folder / "labels.nrrd", NAMES.names, judged=folder / "judged.nrrd")
    return prepare_case(case, NAMES, NAMES, Preparation((GRID_MM,) * 3, (CT_WINDOW,)))


def test_slices_in_two_directions_and_strokes_count(tmp_path: Path) -> None:
    judged = np.zeros((60, 24, 24), bool)
    judged[[10, 30, 50]] = True
    judged[:, :, 12] = True
    case = region_of(tmp_path, judged)
    assert set(planes(case)) == set(range(20)), "the slice across all others"
    assert case.region is not None
    assert all(case.region[plane].mean() > 0.7 for plane in (3, 10, 16))
    stroke = np.zeros(judged.shape, bool)
    for step in range(20):
        stroke[10 + step, 2 + step, 10] = True
    assert len(planes(region_of(tmp_path, stroke))) >= 6


def test_a_single_stroke_does_not_widen_a_thick_region(tmp_path: Path) -> None:
    judged = np.zeros((60, 24, 24), bool)
    judged[10:30, 4:20, 4:20] = True
    alone = volume_mm3(region_of(tmp_path, judged))
    assert alone == pytest.approx(judged.sum(), rel=0.25)
    judged[50, 12, 12] = True
    assert volume_mm3(region_of(tmp_path, judged)) == alone + GRID_MM**3


def test_turned_scans_have_their_thin_slices_too(tmp_path: Path) -> None:
    turned = sitk.Euler3DTransform((0, 0, 0), 0.3, 0.1, 0.2).GetMatrix()
    prepared(tmp_path, 1.0, "z:20")
    for name in ("scan", "labels", "judged"):
        image = sitk.ReadImage(str(tmp_path / f"{name}.nrrd"))
        image.SetDirection(turned)
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    case = Case("c", tmp_path / "scan.nrrd", tmp_path / "labels.nrrd", NAMES.names, judged=tmp_path / "judged.nrrd")
    found = prepare_case(case, NAMES, NAMES, Preparation((GRID_MM,) * 3, (CT_WINDOW,)))
    assert volume_mm3(found) > 0.5 * 24 * 24 * GRID_MM and set(found.voxels) == {1}


def test_a_region_of_which_nothing_is_left_is_an_error(tmp_path: Path) -> None:
    """Its plane may be left out where a model takes every other one."""
    case = Case("c", tmp_path / "scan.nrrd", tmp_path / "labels.nrrd", NAMES.names)
    with pytest.raises(DatasetError, match="Case c: nothing of its annotated region is left at the model's 3 mm"):
        check_region(
            case,
            sitk.Image((2, 2, 2), sitk.sitkUInt8) + 1,
            np.zeros((1, 1, 1), bool),
            Preparation((3.0,) * 3, (CT_WINDOW,)),
        )
