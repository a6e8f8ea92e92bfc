"""Where slices lie: the grid that is used is right to a fraction of a millimetre at every corner of every slice.

The phantoms are functions of the place in the patient, so that every voxel of the result is compared with the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dicom_bytes as make
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.dicom.placement import LARGEST_SHIFT_MM
from TransferSegLib.images.formats.dicom.series import read_dicom
from TransferSegLib.images.notices import notices_of

AXIAL = np.array([[1.0, 0, 0], [0, 1, 0]])
ROWS, COLUMNS = 24, 30
SPACING_XY = np.array([0.5, 0.75])

Function = Callable[[np.ndarray], np.ndarray]


def linear(points_mm: np.ndarray) -> np.ndarray:
    """Return what linear interpolation keeps exactly."""
    return 500 + points_mm @ np.array([7.0, -11.0, 5.0])


def smooth(points_mm: np.ndarray) -> np.ndarray:
    """Return a bump beside the middle of the phantom, without any symmetry."""
    scaled = (points_mm - np.array([14.0, -9.0, 41.0])) / np.array([5.0, 7.0, 9.0])
    return 1000 * np.exp(-(scaled**2).sum(axis=-1))


def plane_points(position_mm: np.ndarray, axes: np.ndarray, size_xy: Sequence[int] = (COLUMNS, ROWS)) -> np.ndarray:
    """Return where the pixels of a slice lie (rows, columns, 3); ``axes`` are the directions of a row and a column."""
    x, y = np.meshgrid(np.arange(size_xy[0]) * SPACING_XY[0], np.arange(size_xy[1]) * SPACING_XY[1])
    return position_mm + x[..., None] * axes[0] + y[..., None] * axes[1]


def write_phantom(
    folder: Path,
    positions_mm: np.ndarray,
    axes: np.ndarray,
    function: Function,
    enhanced: bool = False,
    places: int = 6,
    thickness_mm: Sequence[float] | None = None,
) -> Path:
    """Write slices of a function (as 16 times the value), one a file or in an enhanced CT; returns what to read."""
    every_axes = np.broadcast_to(axes, (len(positions_mm), 2, 3))
    stored = np.stack(
        [
            np.rint(16 * function(plane_points(position, own))).astype(np.int16)
            for position, own in zip(positions_mm, every_axes, strict=True)
        ]
    )
    factors = {0x00281053: ("DS", "0.0625"), 0x00281052: ("DS", "0")}
    slices: list[dict[int, Any]] = []
    for number, (position, own) in enumerate(zip(positions_mm, every_axes, strict=True)):
        place = {0x00200032: make.decimal(position, places), 0x00200037: make.decimal(own.ravel())}
        if thickness_mm is not None:
            place[0x00180050] = ("DS", thickness_mm[number])
        if enhanced:
            groups = make.group(0x00209113, {0x00200032: place[0x00200032]})
            slices.append(groups | make.group(0x00209116, {0x00200037: place[0x00200037]}))
        else:
            slices.append(make.ct_slice(stored[number], 0, number, place | factors))
    if not enhanced:
        return make.write_slices(folder, slices)
    shared = make.group(0x00289110, {0x00280030: make.decimal((0.75, 0.5))}) | make.group(0x00289145, factors)
    path = folder / "enhanced.dcm"
    path.write_bytes(make.dicom_file(make.enhanced_ct(stored, slices, shared)))
    return path


def error_of(image: sitk.Image, function: Function) -> tuple[np.ndarray, np.ndarray]:
    """Return the differences from a function at the voxel centres, and where the image is not filled up (zyx)."""
    voxels = sitk.GetArrayFromImage(image)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in voxels.shape), indexing="ij"), axis=-1)[..., ::-1]
    to_world = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    truth = function(index @ to_world.T + np.array(image.GetOrigin()))
    return np.abs(voxels - truth), voxels != voxels.min()


def along(heights_mm: Sequence[float], step_mm: np.ndarray, start: Sequence[float] = (10.0, -20.0, 30.0)) -> np.ndarray:
    return np.array(start) + np.array(heights_mm)[:, None] * step_mm


both = pytest.mark.parametrize("enhanced", [False, True])


@both
def test_even_slices_in_any_direction(tmp_path: Path, enhanced: bool) -> None:
    axes = np.array([[0.8, 0.6, 0.0], [-0.36, 0.48, -0.8]])
    normal = np.cross(*axes)
    image = read_dicom(write_phantom(tmp_path, along(np.arange(9) * 2.0, normal), axes, linear, enhanced))
    difference, _ = error_of(image, linear)
    assert difference.max() < 0.04 and not notices_of(image)


@both
def test_a_distance_that_changes_slightly_is_resampled(tmp_path: Path, enhanced: bool) -> None:
    heights = np.concatenate([[0], np.cumsum([1.0] * 40 + [1.09] * 40)])
    image = read_dicom(write_phantom(tmp_path, along(heights, np.array([0, 0, 1.0])), AXIAL, linear, enhanced))
    difference, _ = error_of(image, linear)
    assert difference.max() < 0.1  # as one even distance it was 1.8 mm off, which is 9 units
    assert "1 to 1.09 mm apart" in notices_of(image)[0]
    assert image.GetSize()[2] == 85 and image.GetSpacing()[2] == pytest.approx(83.6 / 84)


def test_thin_slices_below_and_thick_ones_above(tmp_path: Path) -> None:
    heights = np.concatenate([[0], np.cumsum([3.0] * 6 + [6.0] * 4)])
    positions = along(heights, np.array([0, 0, 1.0]))
    thick = write_phantom(tmp_path / "head", positions, AXIAL, linear, thickness_mm=[3.0] * 7 + [6.0] * 4)
    image = read_dicom(thick)
    assert error_of(image, linear)[0].max() < 0.1 and image.GetSpacing()[2] == 3.0 and image.GetSize()[2] == 15
    # The same without a word of thicker slices: every second one is missing.
    with pytest.raises(ScanError, match="misses 4 slices"):
        read_dicom(write_phantom(tmp_path / "lost", positions, AXIAL, linear, thickness_mm=[3.0] * 11))


@both
@pytest.mark.parametrize("tilt", [-20.0, 12.5])
def test_a_tilted_gantry_about_x(tmp_path: Path, enhanced: bool, tilt: float) -> None:
    """A real head CT: the table moves along z, the slices are turned about x."""
    cosine, sine = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    axes = np.array([[1.0, 0, 0], [0, cosine, sine]])
    positions = along(np.arange(12) * 2.0, np.array([0, 0, 1.0]))
    image = read_dicom(write_phantom(tmp_path, positions, axes, linear, enhanced))
    assert notices_of(image)[0].endswith(
        f"the gantry was tilted by {abs(tilt):.3g} degrees. The slices were shifted to a rectangular grid, and results "
        "lie on that grid."
    )
    assert image.GetSpacing() == pytest.approx((0.5, 0.75, 2 * cosine))
    difference, inside = error_of(image, linear)
    # Within the outermost pixel centres linear interpolation is exact; up to half a pixel beyond, values are repeated.
    assert np.quantile(difference[inside], 0.9) < 0.1 and difference[inside].max() < 0.5 * 0.75 * 12
    # The grid covers every slice (one voxel is the lowest one) and is no larger than it must be.
    assert inside.sum() >= 12 * ROWS * COLUMNS - 1
    assert image.GetSize() == (COLUMNS, ROWS + int(np.ceil(22 * abs(sine) / 0.75)), 12)


@both
def test_a_bump_in_a_tilted_scan_lies_where_it_was(tmp_path: Path, enhanced: bool) -> None:
    for number, step in enumerate([(0.2, 0.0, 1.0), (-0.25, 0.1, 1.0), (0.0, -0.3, -1.0)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        heights = np.arange(30) * 1.0
        start = np.array([10.0, -20.0, 30.0]) - (np.array([0, 0, 0]) if step[2] > 0 else np.array([0, 0, -25.0]))
        image = read_dicom(write_phantom(folder, along(heights, np.array(step), start), AXIAL, smooth, enhanced))
        difference, inside = error_of(image, smooth)
        assert "tilted" in notices_of(image)[0]
        # Of 1000: linear interpolation of a bump 5 mm wide; half a pixel beyond the last one its value is repeated.
        assert np.quantile(difference[inside], 0.98) < 8 and difference[inside].max() < 0.25 * 171
        assert sitk.GetArrayViewFromImage(image).max() > 900


@both
def test_slices_shifted_sideways_in_the_middle_are_refused(tmp_path: Path, enhanced: bool) -> None:
    positions = along(np.arange(20) * 2.0, np.array([0, 0, 1.0]))
    positions[6:14, 0] += 20
    with pytest.raises(ScanError, match="shifted sideways"):
        read_dicom(write_phantom(tmp_path, positions, AXIAL, linear, enhanced))


@both
def test_one_slice_shifted_by_a_millimetre_is_refused(tmp_path: Path, enhanced: bool) -> None:
    positions = along(np.arange(20) * 2.0, np.array([0, 0, 1.0]))
    positions[9, 1] += 1
    with pytest.raises(ScanError, match="shifted sideways"):
        read_dicom(write_phantom(tmp_path, positions, AXIAL, linear, enhanced))


@both
def test_directions_that_drift_are_refused(tmp_path: Path, enhanced: bool) -> None:
    angles = np.radians(0.08) * np.arange(20)  # neighbours differ by less than anything rounds
    axes = np.array([[[np.cos(a), np.sin(a), 0], [-np.sin(a), np.cos(a), 0]] for a in angles])
    with pytest.raises(ScanError, match=r"turned against each other|different orientations"):
        read_dicom(write_phantom(tmp_path, along(np.arange(20) * 2.0, np.array([0, 0, 1.0])), axes, linear, enhanced))


@both
def test_a_steep_stack_is_refused(tmp_path: Path, enhanced: bool) -> None:
    with pytest.raises(ScanError, match="sheared"):
        read_dicom(write_phantom(tmp_path, along(np.arange(9), np.array([0, 1.5, 1])), AXIAL, linear, enhanced))


@both
def test_a_missing_slice_is_refused(tmp_path: Path, enhanced: bool) -> None:
    heights = [0.0, 2.0, 4.0, 8.0, 10.0, 12.0]
    with pytest.raises(ScanError, match="misses 1 slice:"):
        read_dicom(write_phantom(tmp_path, along(heights, np.array([0, 0.2, 1])), AXIAL, linear, enhanced))


@pytest.mark.parametrize("places", [1, 2, 3])
def test_rounded_positions_are_even_enough(tmp_path: Path, places: int) -> None:
    """Scanners round positions, some to 0.1 mm: the grid stays even and the voxels are those of the files."""
    axes = np.array([[0.8, 0.6, 0.0], [-0.6, 0.8, 0.0]])
    heights = np.arange(40) * 1.2345
    image = read_dicom(write_phantom(tmp_path, along(heights, np.array([0, 0, 1.0])), axes, linear, places=places))
    assert not notices_of(image) and image.GetSize() == (COLUMNS, ROWS, 40)
    assert image.GetSpacing()[2] == pytest.approx(1.2345, abs=0.1 / 39)


def test_directions_of_few_decimals(tmp_path: Path) -> None:
    """An oblique scan of 400 mm whose directions were rounded to 0.0005: no tilted gantry."""
    exact = np.array([[0.81234, 0.58319, 0.0], [-0.40231, 0.56039, -0.72404]])
    exact /= np.linalg.norm(exact, axis=1)[:, None]
    rounded = np.round(exact * 2000) / 2000
    positions = along(np.arange(160) * 2.5, np.cross(*exact))
    image = read_dicom(write_phantom(tmp_path, positions, rounded, linear))
    assert not notices_of(image) and image.GetSize() == (COLUMNS, ROWS, 160)
    last = image.TransformIndexToPhysicalPoint((0, 0, 159))
    assert np.linalg.norm(np.array(last) - positions[-1]) < LARGEST_SHIFT_MM


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    jitter_mm=st.sampled_from([0.0, 0.02, 0.1, 0.3, 1.0]),
    sideways_mm=st.sampled_from([0.0, 0.02, 0.1, 0.3, 1.0]),
    tilt=st.sampled_from([0.0, 0.001, 0.01, 0.2]),
)
def test_whatever_is_read_lies_where_the_slices_lie(
    tmp_path_factory: pytest.TempPathFactory, seed: int, jitter_mm: float, sideways_mm: float, tilt: float
) -> None:
    """A function that is linear in mm shows every millimetre by which a voxel is off."""
    chance = np.random.default_rng(seed)
    heights = np.arange(10) * 2.0 + chance.uniform(-jitter_mm, jitter_mm, 10)
    positions = along(heights, np.array([0.6 * tilt, 0.8 * tilt, 1.0]))
    positions[:, :2] += chance.uniform(-sideways_mm, sideways_mm, (10, 2))

    def ramp(points_mm: np.ndarray) -> np.ndarray:
        return 100 + 10 * points_mm @ np.array([0.6, 0.8, 0.3])

    folder = write_phantom(tmp_path_factory.mktemp("ct"), positions, AXIAL, ramp)
    try:
        image = read_dicom(folder)
    except ScanError as error:
        assert any(message in str(error) for message in ("shifted sideways", "misses", "at the place of another"))
        return
    difference, _ = error_of(image, ramp)
    rows, columns = slice(8, ROWS - 4), slice(8, COLUMNS - 4)
    inner = difference[:, rows, columns]  # away from what the tilt leaves uncovered
    assert inner.max() < 10 * np.linalg.norm([0.6, 0.8, 0.3]) * LARGEST_SHIFT_MM + 0.1
