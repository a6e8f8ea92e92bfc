"""Values of the kept rows between grid voxels: as scipy interpolates them, and only where all of them were kept."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from Testing.research.common.models import random_model
from TransferSegLib.images.preprocess import preprocess
from TransferSegLib.inference.kept_features import KeptFeatures
from TransferSegLib.learn_here.head_features import HeadFeatures, voxels_around


def test_values_are_interpolated_as_scipy_does_it() -> None:
    """A fifth of the voxels has no features; values are known where no neighbour that counts is one of them."""
    model, generator = random_model(4, 2, 2.0), np.random.default_rng(3)
    scan = sitk.GetImageFromArray(generator.uniform(-200, 200, (18, 20, 22)).astype(np.float32))
    scan.SetSpacing((1.3, 1.1, 2.0))
    grid = preprocess(scan, model.description.preparation).grid
    channels = model.state_dict["head.weight"].shape[1]
    whole = generator.random((*grid.size_zyx, channels)).astype(np.float16)
    voxels = np.flatnonzero(generator.random(grid.size_zyx) < 0.8)
    head = HeadFeatures(model, KeptFeatures("", "", grid.size_zyx, voxels, whole.reshape(-1, channels)[voxels]), grid)

    places = np.argwhere(np.ones((18, 20, 22), bool))
    found, is_known = head.at(head.features, places)
    position = (places[:, ::-1] @ grid.matrix.T + grid.offset_xyz)[:, ::-1].T
    position = np.clip(position, 0, np.array(grid.size_zyx)[:, None] - 1)
    missing = np.ones(grid.size_zyx)
    missing.reshape(-1)[voxels] = 0
    assert np.array_equal(is_known, ndimage.map_coordinates(missing, position, order=1) < 1e-6)
    assert 0.1 < is_known.mean() < 0.9
    for channel in range(channels):
        expected = ndimage.map_coordinates(whole[..., channel].astype(np.float64), position, order=1)
        assert np.allclose(found[is_known, channel], expected[is_known], atol=1e-5)
    assert np.array_equal(head.known_at(places), is_known)


def test_the_voxels_around_places_are_those_that_are_needed() -> None:
    """With them all places are known, and without any one of them some place is not."""
    model, generator = random_model(4, 2, 2.0), np.random.default_rng(3)
    scan = sitk.GetImageFromArray(generator.uniform(-200, 200, (9, 10, 11)).astype(np.float32))
    scan.SetSpacing((1.3, 1.1, 2.0))
    grid = preprocess(scan, model.description.preparation).grid
    channels = model.state_dict["head.weight"].shape[1]
    places = np.argwhere(generator.random((9, 10, 11)) < 0.02)
    voxels = np.flatnonzero(voxels_around(grid, places))

    def known(some: np.ndarray) -> np.ndarray:
        nothing = np.zeros((len(some), channels), np.float16)
        return HeadFeatures(model, KeptFeatures("", "", grid.size_zyx, some, nothing), grid).known_at(places)

    assert len(places) > 5 and known(voxels).all()
    assert not any(known(np.delete(voxels, number)).all() for number in range(len(voxels)))


def test_without_features_nothing_is_known() -> None:
    model = random_model(4, 2, 2.0)
    scan = sitk.GetImageFromArray(np.random.default_rng(1).normal(size=(6, 7, 8)).astype(np.float32))
    grid = preprocess(scan, model.description.preparation).grid
    channels = model.state_dict["head.weight"].shape[1]
    nothing = KeptFeatures("", "", grid.size_zyx, np.zeros(0, np.int64), np.zeros((0, channels), np.float16))
    head = HeadFeatures(model, nothing, grid)
    assert not head.known_at(np.argwhere(np.ones((3, 3, 3), bool))).any()
