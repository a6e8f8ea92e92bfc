"""The doubt of a segmentation: from the logits of boxes, the same in tiles, without any effect on the labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from TransferSegLib.doubt.calibration import DoubtCalibration, uncalibrated
from TransferSegLib.errors import TransferSegError
from TransferSegLib.images.label_resampling import LabelRule
from TransferSegLib.inference.box_logits import BoxLogits
from TransferSegLib.inference.devices import choose_device
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.store import Model


def test_the_two_best_classes_are_those_of_a_sort() -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 33, 4, 6)).astype(np.float32))
    margins, best, second = BoxLogits((0, 0, 0), (33, 4, 6), logits).two_best()
    order = np.argsort(-logits.numpy(), axis=0)
    assert np.array_equal(best, order[0]) and np.array_equal(second, order[1])
    ranked = np.sort(logits.numpy(), axis=0)
    assert margins.dtype == np.float16 and np.allclose(margins, ranked[-1] - ranked[-2], atol=1e-2)


def test_of_regions_the_nearest_to_its_threshold_counts() -> None:
    # Two regions at three voxels: only the first; both; none, the second one nearly.
    logits = torch.tensor([[2.0, 3.0, -4.0], [-5.0, 0.5, -0.25]])[:, None, None]
    margins, best, second = BoxLogits((0, 0, 0), (1, 1, 3), logits, rule=LabelRule(regions=True)).two_best()
    assert margins.ravel().tolist() == [2.0, 0.5, 0.25]
    assert best.ravel().tolist() == [1, 2, 0] and second.ravel().tolist() == [0, 0, 2]


def noise(seed: int = 0) -> sitk.Image:
    voxels = np.random.default_rng(seed).uniform(-500, 400, (20, 24, 28)).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.0, 1.0, 2.0))
    return image


def test_labels_are_the_same_and_doubt_is_that_of_their_margin(make_model: Callable[..., Model]) -> None:
    segmenter, image = Segmenter(make_model(1.0), choose_device("cpu", torch.float32)), noise()
    image.SetSpacing((1.0, 1.0, 1.0))  # the scan's voxels are those of the model's grid
    plain, found = segmenter.segment(image), segmenter.segment(image, doubt=True)
    labels = sitk.GetArrayFromImage(plain.label_map)
    assert np.array_equal(labels, sitk.GetArrayFromImage(found.label_map))
    assert not plain.doubts and not plain.places and not found.doubt_is_calibrated
    (known,) = found.doubts
    assert (
        np.array_equal(np.array([0, 10, 20, 30])[known.best_zyx], labels) and (known.best_zyx != known.second_zyx).all()
    )
    doubt = sitk.GetArrayFromImage(found.doubt_volume())
    assert np.allclose(doubt, uncalibrated(known.margins_zyx), atol=6e-4) and doubt.max() > 0.9 > doubt.min()
    assert found.places and all(place.structure in found.label_set.names for place in found.places)
    with pytest.raises(TransferSegError, match="doubt=True"):
        plain.doubt_volume()


def test_tiles_have_the_doubt_of_the_whole(make_model: Callable[..., Model]) -> None:
    model, image = make_model(spacing_mm=1.0), noise()
    whole = Segmenter(model, choose_device("cpu", torch.float32)).segment(image, doubt=True)
    tiled = Segmenter(model, choose_device("cpu", torch.float32))
    tiled._predictor._longest_side = 108  # type: ignore[attr-defined]
    assert np.allclose(
        whole.doubts[0].margins_zyx.astype(np.float32),
        tiled.segment(image, doubt=True).doubts[0].margins_zyx.astype(np.float32),
        atol=2e-2,
    )


def test_the_models_calibration_is_used(make_model: Callable[..., Model]) -> None:
    from dataclasses import replace

    model, image = make_model(), noise()
    curve = DoubtCalibration(9, (0.0, 1.0), (0.3, 0.3))  # as often wrong everywhere
    calibrated = replace(model, description=replace(model.description, doubt=curve))
    found = Segmenter(calibrated, choose_device("cpu", torch.float32)).segment(image, doubt=True)
    assert found.doubt_is_calibrated
    assert np.allclose(sitk.GetArrayFromImage(found.doubt_volume()), 0.3)
    assert all(place.wrong_ml == pytest.approx(0.3 * place.volume_ml, rel=1e-3) for place in found.places)


def test_only_structures_asked_for_are_doubtful(make_model: Callable[..., Model]) -> None:
    segmenter, image = Segmenter(make_model(), choose_device("cpu", torch.float32)), noise()
    every = sitk.GetArrayFromImage(segmenter.segment(image, doubt=True).doubt_volume())
    some = segmenter.segment(image, ["part 2"], doubt=True)
    assert {place.structure for place in some.places} <= {"part 2"}
    doubt = sitk.GetArrayFromImage(some.doubt_volume())
    assert doubt.any() and doubt.mean() < every.mean()
