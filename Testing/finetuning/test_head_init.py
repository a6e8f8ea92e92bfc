"""The head start on features for which the right answer is known, and on real data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special

from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.datasets.prepared import prepare_case
from TransferSegLib.finetuning.feature_cache import CachedPatch, cache_features
from TransferSegLib.finetuning.head_init import (
    VoxelSample,
    choose_voxels,
    cross_entropy,
    fit_bias,
    fit_channel,
    init_fresh_channels,
)
from TransferSegLib.finetuning.label_change import adapted_state, plan_label_change
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_model
from TransferSegLib.structures import LabelSet

SAMPLE_DATA = Path(__file__).resolve().parents[1] / "Data" / "head_neck_ct"


def drawn_sample(weights: np.ndarray, bias: float, count: int = 60_000) -> tuple[VoxelSample, np.ndarray]:
    """Return voxels whose structure is drawn with the probability of a softmax head, and the others' offset."""
    random = np.random.default_rng(2)
    features = np.maximum(0.0, random.normal(0.3, 1.0, (count, weights.size)))
    features[:, -1] = 0.0  # a filter that never fires
    offset = special.logsumexp(features @ random.normal(0, 1, (weights.size, 3)), axis=1)
    probability = special.expit(features @ weights + bias - offset)
    return VoxelSample(features, random.random(count) < probability, np.full(count, 1 / count)), offset


def test_the_weights_that_made_the_labels_are_found() -> None:
    weights = np.array([1.5, -2.0, 0.7, 0.0, 0.0])
    sample, offset = drawn_sample(weights, 0.4)
    fitted, bias = fit_channel(sample, offset, ridge=0.0)
    assert np.allclose(fitted, weights, atol=0.08) and fitted[-1] == 0
    assert bias == pytest.approx(0.4, abs=0.08)
    assert cross_entropy(sample, sample.features @ fitted + bias, offset) <= cross_entropy(
        sample, sample.features @ weights + 0.4, offset
    )


def test_a_fit_is_calibrated_whatever_the_sampling() -> None:
    """Keeping every tenth background voxel with ten times its share changes nothing but the noise."""
    sample, offset = drawn_sample(np.array([1.0, 1.0, -1.0, 0.0, 0.0]), -2.0)
    kept = sample.is_structure | (np.arange(sample.is_structure.size) % 10 == 0)
    shares = np.where(sample.is_structure, 1.0, 10.0)[kept]
    thinned = VoxelSample(sample.features[kept], sample.is_structure[kept], shares / shares.sum())
    weights, bias = fit_channel(thinned, offset[kept], ridge=0.0)
    claimed = special.expit(sample.features @ weights + bias - offset).mean()
    assert claimed == pytest.approx(sample.is_structure.mean(), rel=0.03)


def test_separable_voxels_do_not_run_away() -> None:
    features = np.linspace(-1, 1, 400)[:, None]
    sample = VoxelSample(features, features[:, 0] > 0, np.full(400, 1 / 400))
    weights, bias = fit_channel(sample, np.zeros(400))
    assert 1 < weights[0] < 1e3 and abs(bias) < 0.1


def test_the_bias_alone() -> None:
    """With equal logits everywhere the best bias is the log-odds of the structure's share: log(0.2 / 0.8) + 1."""
    sample = VoxelSample(np.zeros((10, 1)), np.arange(10) < 2, np.full(10, 0.1))
    assert fit_bias(sample, np.zeros(10), np.ones(10)) == pytest.approx(np.log(0.25) + 1, abs=1e-6)


def test_voxels_are_balanced_and_stand_for_all() -> None:
    labels = torch.zeros((40, 40, 40), dtype=torch.uint8)
    labels[10:24, 10:24, 10:24] = 2
    judged = torch.ones(labels.shape)
    judged[30:] = 0
    patch = CachedPatch(torch.zeros(0), labels, judged, torch.tensor([True, False, True]), None)
    assert choose_voxels(patch, 1, np.random.default_rng(0)) is None
    chosen = choose_voxels(patch, 2, np.random.default_rng(0))
    assert chosen is not None
    indices, shares = chosen
    inside = labels.flatten().numpy()[indices] == 2
    assert inside.sum() == 800 and inside.size == 2400
    assert shares[inside].sum() == pytest.approx(14**3) and shares.sum() == pytest.approx(30 * 40 * 40)
    assert indices.max() < 30 * 40 * 40 and np.unique(indices).size == indices.size


def test_a_forgotten_structure_is_found_again_on_real_data(world: Any) -> None:
    """The bundled model without its mandible: the fit must tell mandible from the rest nearly as the model did."""
    model = load_model(find_model(None))
    dataset = read_dataset(SAMPLE_DATA)
    less = LabelSet(tuple(s for s in model.description.label_set if s.name != "mandible"))
    change = plan_label_change(less, model.description.label_set)
    channel, old = change.label_set.channel("mandible"), model.description.label_set.channel("mandible")
    rows = [c for c in range(model.description.label_set.classes) if c != old]
    parent_state = dict(model.state_dict)
    parent_state |= {name: model.state_dict[name][rows] for name in ("head.weight", "head.bias")}
    case = prepare_case(
        dataset.case("pt_22"),
        dataset.label_set,
        change.label_set,
        model.description.preparation,
    )
    quick = replace(world.quick, tail_patch=44, patches_per_case=1, background_share=0.0, distillation=0.0)
    state, fresh = adapted_state(parent_state, ("head",), change)
    assert fresh == (channel,)
    tail = model.description.backbone.last_layers(model.network(), quick.tail)
    with cache_features(
        model, [replace(case, voxels={channel: case.voxels[channel]})], change, quick, world.float32
    ) as cache:
        (start,) = init_fresh_channels(state, parent_state, change, cache, tail, "head", world.float32, seed=1)
        again = {name: value.clone() for name, value in adapted_state(parent_state, ("head",), change)[0].items()}
        init_fresh_channels(again, parent_state, change, cache, tail, "head", world.float32, seed=1)
        patch = cache.patch(0)
        with torch.no_grad():
            maps = tail.features(patch.maps[None].float())[0].flatten(1)
    assert torch.equal(again["head.weight"], state["head.weight"])
    logits = state["head.weight"].flatten(1) @ maps + state["head.bias"][:, None]
    found = (logits.argmax(0) == channel).numpy()
    drawn = patch.labels.flatten().numpy() == channel
    assert drawn.sum() > 100 and start.origin == "fit" and start.loss < start.copy_loss
    assert 2 * (found & drawn).sum() / (found.sum() + drawn.sum()) > 0.5
