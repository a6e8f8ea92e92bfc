"""Hounsfield units told from what looks like them, on made-up distributions of a head-and-neck CT's kind."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.fit.check import scan_reasons
from TransferSegLib.fit.intensities import MODALITY_KEY, hounsfield_problem, modality_problem
from TransferSegLib.fit.reasons import INTENSITIES, MODALITY


def ct(air: float = 0.4, bone: float = 0.06, shape=(40, 60, 60), seed: int = 1) -> np.ndarray:
    """Return Hounsfield units of air, fat, muscle and bone in random places, in shares as given."""
    random = np.random.default_rng(seed)
    kinds = random.choice(4, size=shape, p=[air, 0.3 * (1 - air - bone), 0.7 * (1 - air - bone), bone])
    means, deviations = np.array([-990.0, -95.0, 45.0, 550.0]), np.array([15.0, 25.0, 25.0, 250.0])
    return np.round(random.normal(means[kinds], deviations[kinds])).clip(-1024, 3071)


def windowed(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.round((values.clip(low, high) - low) / (high - low) * 255)


PLAIN = {
    "a CT": ct(),
    "as stored": ct().astype(np.int16),
    "much air": ct(air=0.85),
    "a crop without air": ct(air=0.0),
    "a cut-out at -1024": np.where(np.indices((40, 60, 60))[2] < 30, -1024, ct()),
    "padding at -3024": np.where(np.indices((40, 60, 60))[2] < 10, -3024, ct()),
    "metal": np.where(np.random.default_rng(0).random((40, 60, 60)) < 0.004, 3071, ct()),
    "limited to 1000": ct().clip(-1000, 1000),
    "lung, and no air around": ct(air=0.0) + np.where(np.indices((40, 60, 60))[2] < 20, -880, 0),
    "noisy": ct() + np.random.default_rng(3).normal(0, 40, (40, 60, 60)),
}
WRONG = {
    "0 to 4095": ct() + 1024,
    "0 to 4095 with padding": np.where(np.indices((40, 60, 60))[2] < 5, -2000, ct() + 1024),
    "0 to 4095, much air": ct(air=0.75) + 1024,
    "1024 twice": ct() - 1024,
    "8 bits": windowed(ct(), -160, 240),
    "8 bits, wide": windowed(ct(), -1000, 1000),
    "8 bits as -1000 to 1000": windowed(ct(), -160, 240) / 255 * 2000 - 1000,
    "window as Hounsfield units": ct().clip(-160, 240),
    "wide window as Hounsfield units": ct().clip(-350, 400),
    "thousandths": ct() / 1000,
    "tenths": ct() / 10,
    "doubled": ct() * 2,
    "halved": ct() / 2,
    "halved, with a cut-out": np.where(np.indices((40, 60, 60))[2] < 30, -1024, ct()) / 2,
    "an MR": np.abs(ct()) * 0.7,
    "an MR with a little below 0": np.abs(ct()) - 25,
    "a label map": (ct() > 0).astype(np.uint8),
}


@pytest.mark.parametrize("name", list(PLAIN))
def test_hounsfield_units(name):
    assert hounsfield_problem(PLAIN[name]) == ""


@pytest.mark.parametrize("name", list(WRONG))
def test_no_hounsfield_units(name):
    assert "Hounsfield" in hounsfield_problem(WRONG[name])


def test_eight_bits_stretched_over_hounsfield_units():
    levels = np.round((ct().clip(-1000, 1000) + 1000) / 8) * 8 - 1000
    assert "grey levels" in hounsfield_problem(levels) or "windowing" in hounsfield_problem(levels)


@pytest.mark.parametrize(
    ("known", "wanted", "voxels", "words"),
    [
        ("MR", "CT", ct(), "is an MR"),
        ("mri", "CT", ct(), "is an MR"),
        ("CT", "MR", ct(), "is a CT"),
        ("CT", "CT", ct(), ""),
        ("CT", "CT", ct() + 1024, "Hounsfield"),
        ("", "CT", ct() + 1024, "may be an MR"),
        ("MR", "MR", ct(), ""),
        ("", "MR", ct(), "those of a CT"),
        ("", "MR", np.abs(ct()), ""),
        ("", "", ct() + 1024, ""),
        ("PT", "MR", np.abs(ct()), "is a PT"),
    ],
)
def test_modality(known, wanted, voxels, words):
    problem = modality_problem(known, wanted, voxels)
    assert words in problem if words else problem == ""


def test_modality_of_the_image_itself_counts():
    image = sitk.GetImageFromArray(ct().astype(np.int16))
    assert scan_reasons(image, "CT") == []
    image.SetMetaData(MODALITY_KEY, "MR ")
    (reason,) = scan_reasons(image, "CT")
    assert reason.kind == MODALITY
    (reason,) = scan_reasons(sitk.GetImageFromArray((ct() + 1024).astype(np.int16)), "CT")
    assert reason.kind == INTENSITIES


def test_no_judgement_of_a_handful_of_voxels():
    assert hounsfield_problem(np.zeros((2, 2, 2))) == ""
    assert hounsfield_problem(np.full((9, 9, 9), np.nan)) == ""
