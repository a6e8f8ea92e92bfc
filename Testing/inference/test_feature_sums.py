"""Sums of features, of which logits are made in the end, against sums of logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from TransferSegLib.inference import feature_sums
from TransferSegLib.inference.devices import Device
from TransferSegLib.inference.feature_sums import FeatureSums
from TransferSegLib.inference.options import PredictionOptions
from TransferSegLib.inference.predict import predictor_of
from TransferSegLib.inference.sliding_window import WindowPredictor
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.interface import Backbone
from TransferSegLib.networks.nnunet.backbone import nnunet_spec
from TransferSegLib.networks.nnunet.plan import UNetPlan

CPU = Device("cpu", "CPU")
CLASSES = 23
PLENTY = 1e9


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """Return a family of nnU-Net with fewer features (4) than classes."""
    strides = ((1, 1, 1), (1, 2, 2))
    plan = UNetPlan(
        False, (4, 8), ((3, 3, 3),) * 2, strides, (1, 1), (1,), (8, 16, 16), mirror_axes_zyx=(0, 2), overlap=0.5
    )
    return backbone_of(nnunet_spec(plan, 1, CLASSES))


def networks_of(backbone: Backbone, count: int) -> list[nn.Module]:
    found = []
    for seed in range(count):
        network = backbone.build().eval()
        backbone.initialise(network, seed)
        found.append(network)
    return found


def volume(*sides: int) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(1, *sides)).astype(np.float32)


def logits_of(predictor: WindowPredictor, scan: np.ndarray) -> np.ndarray:
    """Return the logits of all boxes; each voxel has one owner, and rows that boxes share agree."""
    logits = np.full((CLASSES, *scan.shape[1:]), np.nan, np.float32)
    owned = np.zeros(scan.shape[1], int)
    for box in predictor.predict(scan, [0.0], PLENTY):
        first, stop = box.start_zyx[0], box.start_zyx[0] + box.values.shape[1]
        assert stop == box.stop_zyx[0]
        if first:
            np.testing.assert_allclose(logits[:, first], box.values[:, 0].numpy(), atol=1e-5)
        logits[:, first:stop] = box.values.numpy()
        owned[first + (first > 0) : stop] += 1
    assert (owned == 1).all()
    return logits


def predictors(
    backbone: Backbone, networks: Sequence[nn.Module], options: PredictionOptions
) -> tuple[WindowPredictor, WindowPredictor]:
    """Return a predictor that adds up features and one that adds up logits."""
    by_features = predictor_of(networks, backbone, CPU, options=options)
    assert isinstance(by_features, WindowPredictor) and isinstance(by_features.sums((9, 17, 20)), FeatureSums)
    return by_features, WindowPredictor(networks, CLASSES, backbone.tiling, CPU, options)


@pytest.mark.parametrize("rows_at_once", [1, 2, 5, 1000])
@pytest.mark.parametrize(("folds", "mirror"), [(1, False), (1, True), (3, False)])
def test_both_sums_are_the_same(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, rows_at_once: int, folds: int, mirror: bool
) -> None:
    scan = volume(21, 17, 30)
    monkeypatch.setattr(feature_sums, "_LOGITS_AT_ONCE", 4.0 * CLASSES * 17 * 30 * rows_at_once)
    one, other = predictors(backbone, networks_of(backbone, folds), PredictionOptions(mirror=mirror))
    found, expected = logits_of(one, scan), logits_of(other, scan)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert len({len(set(expected.argmax(axis=0).ravel()))}) == 1 and expected.argmax(axis=0).max() > 0


def test_half_precision_where_memory_is_short(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = volume(21, 17, 30)
    one, other = predictors(backbone, networks_of(backbone, 1), PredictionOptions())
    expected = logits_of(other, scan)
    monkeypatch.setattr(feature_sums, "_MOST_IN_FLOAT32", 0.0)
    found = logits_of(one, scan)
    assert 0 < np.abs(found - expected).max() < 0.01 * np.abs(expected).max()


def test_what_adds_up_logits_as_before(backbone: Backbone) -> None:
    networks = networks_of(backbone, 6)
    exact = predictor_of(networks[:1], backbone, CPU, options=PredictionOptions(exact=True))
    assert isinstance(exact, WindowPredictor) and not isinstance(exact.sums((9, 17, 20)), FeatureSums)
    many = predictor_of(networks, backbone, CPU)  # 6 folds of 4 features are more than 23 classes
    assert isinstance(many, WindowPredictor) and not isinstance(many.sums((9, 17, 20)), FeatureSums)


def test_memory_is_that_of_the_features(backbone: Backbone) -> None:
    one, other = predictors(backbone, networks_of(backbone, 2), PredictionOptions())
    size = (300, 300, 300)
    assert one.sums_bytes(size) == 4.0 * 2 * 4 * 9 * 300 * 300
    assert other.sums_bytes(size) > 2 * one.sums_bytes(size)


def test_the_network_given_stays_as_it_is(backbone: Backbone) -> None:
    network = networks_of(backbone, 1)[0].train()
    before = {name: values.clone() for name, values in network.state_dict().items()}
    one, _ = predictors(backbone, [network], PredictionOptions())
    logits_of(one, volume(8, 16, 16))
    assert network.training and all(torch.equal(before[name], values) for name, values in network.state_dict().items())
