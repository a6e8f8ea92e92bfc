"""Which kind of scan it is, by its intensities: real scans, and those that leave it in doubt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.images.modality import guess_modality, modality_word, sampled_range

SAMPLES = sorted((Path(__file__).parents[1] / "Data" / "head_neck_ct" / "images").iterdir())


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_real_ct(path: Path) -> None:
    assert guess_modality(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))) == "CT"


@pytest.mark.parametrize(
    ("file", "modality"),
    [
        ("hippocampus_mr/images/hippocampus_003.nii.gz", "MR"),
        ("left_ventricle_mr/SC-HF-I-01_ph07_mr.nii.gz", "MR"),
        ("abdomen_ct_mr/ct_abdomen_3mm.nii.gz", "CT"),
        ("abdomen_ct_mr/mr_abdomen_sm.nii.gz", ""),  # resampled: some of its values are negative
    ],
)
def test_real_scans(shared_data: Path, file: str, modality: str) -> None:
    assert guess_modality(sitk.GetArrayFromImage(sitk.ReadImage(str(shared_data / file)))) == modality


@pytest.mark.parametrize(
    ("lowest", "highest", "modality"),
    [(-1024, 1500, "CT"), (-200, 200, "CT"), (0, 255, "MR"), (-60, 90, ""), (-900, 100, ""), (0, 0, "")],
)
def test_by_range(lowest: float, highest: float, modality: str) -> None:
    assert guess_modality(np.array([lowest, highest, (lowest + highest) / 2]).reshape(1, 1, 3)) == modality


def test_only_finite_voxels_count() -> None:
    voxels_zyx = np.full((2, 2, 2), 7.0)
    voxels_zyx[0, 0] = np.nan, -np.inf
    assert sampled_range(voxels_zyx) == (7.0, 7.0)
    assert sampled_range(np.full((2, 2, 2), np.nan)) == (0.0, 0.0) == sampled_range(np.zeros((0, 2, 2)))


@pytest.mark.parametrize(
    ("word", "known"), [("mri", "MR"), (" MR ", "MR"), ("ct", "CT"), ("PET", "PT"), ("us", "US"), ("", "")]
)
def test_words(word: str, known: str) -> None:
    assert modality_word(word) == known
