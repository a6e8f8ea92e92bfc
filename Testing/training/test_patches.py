"""Patches: anatomy under mirroring and turning, weights, sampling of rare structures, determinism."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.datasets.prepared import PreparedCase
from TransferSegLib.errors import TrainingError
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.networks.interface import TrainingPatch
from TransferSegLib.training.augmentation import gamma, low_resolution, vary_intensities
from TransferSegLib.training.configuration import AugmentationConfiguration, TrainingConfiguration
from TransferSegLib.training.patches import PatchSampler

STILL = AugmentationConfiguration(rotation_degrees=0, scaling=0, mirror=0, intensity=0)
QUIET = TrainingConfiguration(patch=32, frame=2, augmentation=STILL)
#: Channel 1 is on the right, channel 2 on the left, channel 3 has no side.
MIRRORED = (0, 2, 1, 3)


def make_case(
    labels: np.ndarray, annotated: tuple[bool, ...] = (True, True, True, True), region: np.ndarray | None = None
) -> PreparedCase:
    """Make a case whose intensities tell its labels (10 * label), so that both can be compared after a move."""
    image = sitk.Image([int(size) for size in labels.shape[::-1]], sitk.sitkInt16)
    voxels = {int(c): np.flatnonzero(labels == c) for c in np.unique(labels) if c}
    return PreparedCase(
        "case",
        (labels * 10).astype(np.float16)[None],
        labels.astype(np.uint8),
        region,
        np.array(annotated),
        (-1.0,),
        ModelGrid.around(image, (1.0,) * 3),
        voxels,
    )


def sampler_of(cases: list[PreparedCase], rules: TrainingConfiguration) -> PatchSampler:
    patch = TrainingPatch((rules.patch,) * 3, (rules.frame,) * 3)
    return PatchSampler(cases, MIRRORED, patch, rules)


def blocks() -> np.ndarray:
    """Make a volume (zyx) with a block of channel 1 at low x, of 2 at high x, of 3 in the middle."""
    labels = np.zeros((24, 24, 32), np.uint8)
    labels[8:16, 8:16, 2:8] = 1
    labels[8:16, 8:16, 24:30] = 2
    labels[10:14, 10:14, 15:17] = 3
    return labels


def test_labels_and_intensities_move_together() -> None:
    turning = replace(STILL, rotation_degrees=20, scaling=0.3, mirror=0.5)
    sampler = sampler_of([make_case(blocks())], replace(QUIET, augmentation=turning))
    agree = []
    for seed in range(20):
        patch = sampler.draw(np.random.default_rng(seed))
        names = np.array([0, 10, 20, 30])
        # A mirrored patch carries exchanged labels on unexchanged intensities: undo it before comparing.
        exchanged = names[np.array(MIRRORED)]
        inside = patch.intensities[0] >= 0
        plain = np.abs(patch.intensities[0] - names[patch.labels])[inside] < 5
        swapped = np.abs(patch.intensities[0] - exchanged[patch.labels])[inside] < 5
        agree.append(max(plain.mean(), swapped.mean()))
    assert min(agree) > 0.93


def test_mirroring_exchanges_sides_in_labels_and_annotation() -> None:
    always = replace(QUIET, augmentation=replace(STILL, mirror=1.0), patch=48, frame=0)
    case = make_case(np.where(blocks() == 2, 0, blocks()), annotated=(True, True, False, True))
    patch = sampler_of([case], always).draw(np.random.default_rng(0))
    assert patch.annotated.tolist() == [True, False, True, True]
    assert (patch.labels == 1).sum() == 0
    assert (patch.labels == 2).sum() == (blocks() == 1).sum()
    # What lay at low x (the right) lies at high x now.
    assert np.argwhere(patch.labels == 2)[:, 2].mean() > np.argwhere(patch.labels == 3)[:, 2].mean()


def test_without_mirroring_right_stays_right() -> None:
    sampler = sampler_of([make_case(blocks())], replace(QUIET, patch=48, frame=0))
    for seed in range(5):
        patch = sampler.draw(np.random.default_rng(seed))
        assert np.argwhere(patch.labels == 1)[:, 2].mean() < np.argwhere(patch.labels == 2)[:, 2].mean()


def test_frame_and_unjudged_voxels_have_no_weight() -> None:
    region = np.zeros((24, 24, 32), bool)
    region[:, :, :16] = True
    sampler = sampler_of([make_case(blocks(), region=region)], QUIET)
    shares = []
    for seed in range(30):
        patch = sampler.draw(np.random.default_rng(seed))
        assert patch.weights[:2].sum() == patch.weights[:, :2].sum() == patch.weights[..., -2:].sum() == 0
        assert set(np.unique(patch.weights)) <= {0.0, 1.0}
        # Left of the region lies channel 2: none of its voxels may weigh anything.
        assert patch.weights[patch.labels == 2].sum() == 0
        shares.append(patch.weights.mean())
    assert max(shares) > 0.2


def test_rare_structures_are_seen_as_often_as_common_ones() -> None:
    common, rare = make_case(np.where(blocks() == 3, 0, blocks())), make_case(np.where(blocks() == 3, 3, 0))
    sampler = sampler_of([common] * 20 + [rare], replace(QUIET, background_share=0.0))
    random = np.random.default_rng(0)
    seen = [(sampler.draw(random).labels == 3).any() for _ in range(200)]
    assert 0.25 < np.mean(seen) < 0.42  # one structure of three


def test_a_patch_holds_the_structure_it_was_drawn_for_within_its_frame() -> None:
    single = np.zeros((40, 40, 40), np.uint8)
    single[20, 20, 20] = 3
    sampler = sampler_of([make_case(single)], replace(QUIET, background_share=0.0))
    for seed in range(40):
        patch = sampler.draw(np.random.default_rng(seed))
        assert patch.weights[patch.labels == 3].sum() == 1


def test_the_same_generator_gives_the_same_patch() -> None:
    sampler = sampler_of([make_case(blocks())], TrainingConfiguration(patch=32, frame=2))
    first, second = (sampler.draw(np.random.default_rng([1, 7])) for _ in range(2))
    assert np.array_equal(first.intensities, second.intensities) and np.array_equal(first.labels, second.labels)
    other = sampler.draw(np.random.default_rng([1, 8]))
    assert not np.array_equal(first.intensities, other.intensities)


def test_scan_smaller_than_a_patch_is_surrounded_by_outside() -> None:
    labels = np.zeros((3, 10, 9), np.uint8)
    labels[1, 4:6, 4:6] = 1
    patch = sampler_of([make_case(labels)], replace(QUIET, background_share=0)).draw(np.random.default_rng(0))
    assert patch.intensities.shape == (1, 32, 32, 32)
    assert (patch.labels == 1).sum() == 4
    assert (patch.intensities[0] == -1).mean() > 0.8


def test_no_annotated_voxel_is_a_clear_error() -> None:
    with pytest.raises(TrainingError, match="nothing to learn from"):
        sampler_of([make_case(np.zeros((8, 8, 8), np.uint8))], QUIET)


def test_intensity_changes() -> None:
    random = np.random.default_rng(0)
    patch = random.uniform(-1, 1, (12, 12, 12)).astype(np.float32)
    assert np.array_equal(vary_intensities(patch, STILL, random), patch)
    changed = gamma(patch, 2.0)
    assert changed.min() == pytest.approx(patch.min()) and changed.max() == pytest.approx(patch.max(), rel=1e-5)
    fraction = (patch[3, 3, 3] - patch.min()) / (patch.max() - patch.min())
    assert changed[3, 3, 3] == pytest.approx(fraction**2 * (patch.max() - patch.min()) + patch.min(), rel=1e-3)
    blurred = low_resolution(patch, np.array([1.0, 1.0, 2.0]))
    assert blurred.std() < patch.std() and blurred.mean() == pytest.approx(patch.mean(), abs=0.02)
    assert np.array_equal(low_resolution(patch, np.ones(3)), patch)
    assert np.array_equal(gamma(np.full((2, 2, 2), 3.0, np.float32), 2.0), np.full((2, 2, 2), 3.0, np.float32))
