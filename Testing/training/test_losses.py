"""The marginal loss against numbers computed by hand and against plain definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from TransferSegLib.training.losses import marginal_log_probabilities, marginal_loss, occurring_channels


def one_voxel(probabilities: list[float]) -> torch.Tensor:
    """Logits (1, classes, 1, 1, 1) of one voxel with these probabilities."""
    return torch.tensor(probabilities).log()[None, :, None, None, None]


def test_unannotated_probability_joins_the_background() -> None:
    annotated = torch.tensor([[True, False, True]])
    marginal = marginal_log_probabilities(one_voxel([0.5, 0.3, 0.2]), annotated).exp()[0, :, 0, 0, 0]
    assert marginal.tolist() == pytest.approx([0.8, 0.0, 0.2])


def test_cross_entropy_by_hand() -> None:
    logits = torch.cat([one_voxel([0.5, 0.3, 0.2]), one_voxel([0.1, 0.1, 0.8])], dim=4)
    labels = torch.tensor([[[[0, 2]]]])
    annotated = torch.tensor([[True, False, True]])
    cross_entropy, _ = marginal_loss(logits, labels, annotated, torch.ones(1, 1, 1, 2))
    assert cross_entropy.item() == pytest.approx(-(math.log(0.8) + math.log(0.8)) / 2)


def test_dice_by_hand() -> None:
    logits = torch.cat([one_voxel([0.6, 0.4]), one_voxel([0.1, 0.9])], dim=4)
    labels = torch.tensor([[[[0, 1]]]])
    _, dice = marginal_loss(logits, labels, torch.tensor([[True, True]]), torch.ones(1, 1, 1, 2))
    assert dice.item() == pytest.approx(1 - 2 * 0.9 / (1.3 + 1))


def test_voxels_without_weight_change_nothing() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 4, 3, 3, 3)
    labels = torch.randint(0, 4, (1, 3, 3, 3))
    weights = (torch.rand(1, 3, 3, 3) > 0.4).float()
    annotated = torch.tensor([[True, True, False, True]])
    labels[labels == 2] = 0
    before = marginal_loss(logits, labels, annotated, weights)
    spoilt_logits = torch.where(weights[:, None] > 0, logits, torch.full_like(logits, 50.0))
    spoilt_labels = torch.where(weights > 0, labels, torch.full_like(labels, 3))
    after = marginal_loss(spoilt_logits, spoilt_labels, annotated, weights)
    assert [value.item() for value in after] == pytest.approx([value.item() for value in before])


def test_the_unannotated_channel_gets_the_background_gradient_only() -> None:
    """Where background is right, moving probability between background and an unannotated structure costs nothing."""
    logits = one_voxel([0.3, 0.5, 0.2]).requires_grad_()
    cross_entropy, dice = marginal_loss(
        logits, torch.zeros(1, 1, 1, 1, dtype=torch.long), torch.tensor([[True, False, True]]), torch.ones(1, 1, 1, 1)
    )
    (cross_entropy + dice).backward()
    gradient = logits.grad[0, :, 0, 0, 0]
    # d/dlogit of -log(p0 + p1): for i in {0, 1}: p_i - p_i / (p0 + p1); for the annotated structure: p_2.
    assert gradient.tolist() == pytest.approx([0.3 - 0.3 / 0.8, 0.5 - 0.5 / 0.8, 0.2])


def test_all_annotated_equals_torch_cross_entropy() -> None:
    torch.manual_seed(1)
    logits, labels = torch.randn(2, 5, 4, 4, 4), torch.randint(0, 5, (2, 4, 4, 4))
    cross_entropy, _ = marginal_loss(logits, labels, torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 4, 4, 4))
    assert cross_entropy.item() == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_nothing_judged_and_nothing_present_is_zero_not_nan() -> None:
    logits = torch.randn(1, 3, 2, 2, 2, requires_grad=True)
    labels, weights = torch.zeros(1, 2, 2, 2, dtype=torch.long), torch.zeros(1, 2, 2, 2)
    cross_entropy, dice = marginal_loss(logits, labels, torch.tensor([[True, False, True]]), weights)
    (cross_entropy + dice).backward()
    assert cross_entropy.item() == 0 and dice.item() == 0
    assert torch.isfinite(logits.grad).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_gradient_is_finite_and_marginals_sum_to_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 6))
    logits = torch.from_numpy(random.normal(0, 30, (1, classes, 2, 3, 2)).astype(np.float32)).requires_grad_()
    annotated = torch.from_numpy(random.random((1, classes)) < 0.5)
    annotated[:, 0] = True
    labels = torch.from_numpy(random.integers(0, classes, (1, 2, 3, 2)))
    labels[~annotated[0][labels]] = 0
    total = marginal_log_probabilities(logits, annotated).exp().sum(1)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-4)
    sum(marginal_loss(logits, labels, annotated, torch.ones(1, 2, 3, 2))).backward()
    assert torch.isfinite(logits.grad).all()


def test_channels_that_occur_are_annotated_and_have_a_voxel_with_a_weight() -> None:
    labels = torch.tensor([[0, 1, 2, 3], [0, 4, 4, 0]], dtype=torch.uint8).reshape(2, 1, 2, 2)
    annotated = torch.tensor([[True, True, False, True, True], [True, True, True, True, True]])
    weights = torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 1.0, 1.0]]).reshape(2, 1, 2, 2)
    first, second = occurring_channels(labels, annotated, weights)
    assert first.tolist() == [1] and second.tolist() == [4]
    logits = torch.randn(2, 5, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    found = marginal_loss(logits, labels, annotated, weights)
    known = marginal_loss(logits, labels, annotated, weights, (first, second))
    assert [part.item() for part in found] == [part.item() for part in known]
