"""Hashes: the same for every file format and voxel type, another for every change that matters."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.corrections.content_hash import hash_case, hash_content, hash_volume
from TransferSegLib.datasets.dataset import read_dataset

DATA = Path(__file__).parents[1] / "Data"


@pytest.mark.parametrize(
    ("values", "plane"),
    [
        (np.array([-1, 2], np.int16), "69 ffffffff 02000000"),  # i, then little-endian int32
        (np.array([-1, 2], np.float64), "69 ffffffff 02000000"),
        (np.array([-1, 2.5], np.float32), "66 000000000000f0bf 0000000000000440"),  # f, then little-endian float64
        (np.array([0, 2**31], np.float64), "66 0000000000000000 000000000000e041"),
        (np.array([0, 2**31], np.uint32), "66 0000000000000000 000000000000e041"),
        (np.array([-0.0, 1.5], np.float32), "66 0000000000000000 000000000000f83f"),
    ],
)
def test_the_hash_is_what_it_says(values: np.ndarray, plane: str) -> None:
    image = sitk.GetImageFromArray(values[np.newaxis, np.newaxis])
    image.SetSpacing((1.5, 2, 3))
    geometry = (
        "size 2 1 1\nspacing mm 1.5000 2.0000 3.0000\norigin mm 0.000 0.000 0.000\n"
        "direction 1.0000 0.0000 0.0000 0.0000 1.0000 0.0000 0.0000 0.0000 1.0000\n"
    )
    assert hash_volume(image) == sha256(geometry.encode() + bytes.fromhex(plane)).hexdigest()


def test_the_hash_of_a_case_is_what_it_says() -> None:
    text = "image a\nlabels b\njudged \nreviewed 1 12\n"
    assert hash_content("a", "b", "", [12, 1]) == sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("pixel", [sitk.sitkInt16, sitk.sitkFloat32, sitk.sitkFloat64])
def test_formats_and_voxel_types_do_not_matter(make, tmp_path: Path, suffix: str, pixel: int) -> None:
    image = sitk.Cast(make.scan(), pixel)
    sitk.WriteImage(image, str(tmp_path / f"scan{suffix}"))
    assert hash_volume(sitk.ReadImage(str(tmp_path / f"scan{suffix}"))) == hash_volume(make.scan())


def test_every_voxel_and_the_grid_matter(make) -> None:
    image = make.scan()
    hashes = {hash_volume(image)}
    for index in np.ndindex(6, 5, 4):
        other = make.scan()
        other[index] = other[index] + 1
        hashes.add(hash_volume(other))
    assert len(hashes) == 121
    moved, stretched, turned = make.scan(), make.scan(), make.scan()
    moved.SetOrigin((-123.466, 7.25, 1000.1))
    stretched.SetSpacing((0.9775625, 1.1, 2.5))
    turned.SetDirection((1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    assert len(hashes | {hash_volume(moved), hash_volume(stretched), hash_volume(turned)}) == 124


def test_what_a_case_teaches() -> None:
    dataset = read_dataset(DATA / "dataset_format_1")
    case = dataset.case("scan 3")
    original = hash_case(case, dataset.label_set)
    assert original == hash_case(replace(case, id="another", group="another"), dataset.label_set)
    changed = [
        replace(case, judged=None),
        replace(case, annotated=("left kidney",)),
        replace(case, labels=dataset.case("scan 1").labels),
        replace(case, image=dataset.case("scan 1").image),
    ]
    assert len({original, *(hash_case(one, dataset.label_set) for one in changed)}) == 5
