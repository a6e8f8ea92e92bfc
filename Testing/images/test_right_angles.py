"""Axes not quite at right angles: straightened up to the limit, with a notice of the shift; refused beyond it."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from TransferSegLib.errors import ScanError
from TransferSegLib.images.notices import notices_of
from TransferSegLib.images.read import read_label_map_on, read_scan
from TransferSegLib.images.right_angles import with_right_angles

SIZE = (20, 30, 40)


def image_with(axes: np.ndarray, spacing_mm=(1.0, 1.0, 2.5), size=SIZE) -> sitk.Image:
    image = sitk.GetImageFromArray(np.random.default_rng(2).integers(0, 9, size[::-1]).astype(np.int16))
    image.SetSpacing(spacing_mm)
    image.SetOrigin((-10.0, 20.0, 30.0))
    image.SetDirection(axes.ravel().tolist())
    return image


def write(path: Path, axes: np.ndarray) -> Path:
    """Write a file whose header has these axes (unit columns, LPS), even ones that ITK refuses."""
    image = image_with(np.eye(3))
    sitk.WriteImage(image, str(path))
    content = path.read_bytes()
    vectors = (axes * image.GetSpacing()).T
    if path.suffix == ".nii":
        affine = np.column_stack([axes * image.GetSpacing(), image.GetOrigin()]) * [[-1], [-1], [1]]
        changed = bytearray(content)
        struct.pack_into("<2h", changed, 252, 0, 1)
        struct.pack_into("<12f", changed, 280, *affine.ravel())
    elif path.suffix == ".nrrd":
        text = " ".join("(" + ",".join(repr(float(number)) for number in vector) + ")" for vector in vectors)
        changed = re.sub(rb"space directions: [^\n]*", f"space directions: {text}".encode(), content)
    else:
        text = " ".join(repr(float(number)) for number in axes.T.ravel())
        changed = re.sub(rb"TransformMatrix = [^\n]*", f"TransformMatrix = {text}".encode(), content)
    path.write_bytes(changed)
    return path


def sheared(amount: float, along: int = 0, of: int = 1) -> np.ndarray:
    axes = np.eye(3)
    axes[along, of] = amount
    return axes / np.linalg.norm(axes, axis=0)


@pytest.mark.parametrize(
    ("suffix", "amount", "sides"),
    [
        (".nii", 2e-4, ((0, 1),)),
        (".nii", 9e-4, ((2, 0),)),
        (".nrrd", 1.5e-4, ((0, 1), (2, 0))),
        (".nrrd", 9e-4, ((0, 1), (2, 0))),
        (".mha", 9e-4, ((0, 1), (1, 2))),
    ],
)
def test_up_to_the_limit_files_are_read_and_told(tmp_path: Path, suffix: str, amount: float, sides) -> None:
    for along, of in sides:
        path = write(tmp_path / f"a{suffix}", sheared(amount, along, of))
        image = read_scan(path)
        axes = np.array(image.GetDirection()).reshape(3, 3)
        assert np.abs(axes.T @ axes - np.eye(3)).max() < 1e-12
        assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(image_with(np.eye(3))))
        (line,) = notices_of(image)
        told_mm = float(re.search(r"by more than ([0-9.e-]+) mm", line).group(1))
        assert told_mm == pytest.approx(_largest_shift_mm(image, sheared(amount, along, of)), rel=0.06)
        if suffix == ".nii":
            continue  # a child process each: the others test the same
        labels = read_label_map_on(image, path)
        assert labels.GetDirection() == image.GetDirection() and labels.GetOrigin() == image.GetOrigin()


def _largest_shift_mm(image: sitk.Image, axes: np.ndarray) -> float:
    """Return how far the corners lie from where the header puts them, computed point by point."""
    found = 0.0
    for corner in np.ndindex(2, 2, 2):
        index = [int(bit * (count - 1)) for bit, count in zip(corner, image.GetSize(), strict=True)]
        stated = np.array([-10.0, 20.0, 30.0]) + axes @ (np.array(index) * image.GetSpacing())
        found = max(found, float(np.linalg.norm(stated - image.TransformIndexToPhysicalPoint(index))))
    return found


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_beyond_the_limit_and_below_the_rounding(tmp_path: Path, suffix: str) -> None:
    for amount in (1.2e-3, 0.1):
        with pytest.raises(ScanError, match="sheared"):
            read_scan(write(tmp_path / f"a{suffix}", sheared(amount)))
    rounded = read_scan(write(tmp_path / f"b{suffix}", sheared(3e-5)))
    assert notices_of(rounded) == ()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_the_nearest_rotation_keeps_the_middle_and_the_side(seed: int) -> None:
    random = np.random.default_rng(seed)
    turn = np.linalg.qr(random.normal(size=(3, 3)))[0]  # of either handedness
    axes = turn @ (np.eye(3) + random.uniform(-3e-4, 3e-4, (3, 3)))
    axes /= np.linalg.norm(axes, axis=0)
    image = image_with(axes)
    straight = with_right_angles(image, Path("a"))
    found = np.array(straight.GetDirection()).reshape(3, 3)
    assert np.sign(np.linalg.det(found)) == np.sign(np.linalg.det(axes))
    assert np.abs(found - axes).max() < 1e-3
    middle = [(count - 1) / 2 for count in SIZE]
    before, after = (one.TransformContinuousIndexToPhysicalPoint(middle) for one in (image, straight))
    assert np.allclose(before, after, atol=1e-9)
    again = with_right_angles(straight, Path("a"))
    assert again.GetDirection() == straight.GetDirection() and again.GetOrigin() == straight.GetOrigin()


def test_a_shift_of_more_than_half_a_millimetre_is_refused() -> None:
    long = image_with(sheared(9e-4, 0, 2), (5.0, 5.0, 5.0), (10, 10, 600))
    with pytest.raises(ScanError, match=r"would move voxels by 0\.7 mm"):
        with_right_angles(long, Path("long.nrrd"))
