"""Learning at several resolutions at once, as nnU-Net does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from TransferSegLib.inference.devices import Device
from TransferSegLib.networks.interface import Backbone
from TransferSegLib.networks.nnunet.backbone import NnUNetBackbone, nnunet_spec
from TransferSegLib.networks.nnunet.plan import UNetPlan
from TransferSegLib.training.losses import marginal_loss
from TransferSegLib.training.patch_objective import PatchObjective, supervision_weights
from TransferSegLib.training.patches import Patch

FLOAT32 = Device("cpu", "CPU", torch.float32)
LEVELS = 4
PLAN = UNetPlan(
    is_residual=False,
    features=(4, 4, 4, 4),
    kernels_zyx=((3, 3, 3),) * LEVELS,
    strides_zyx=((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)),
    encoder_blocks=(1,) * LEVELS,
    decoder_convolutions=(1,) * (LEVELS - 1),
    patch_zyx=(8, 16, 16),
)


@pytest.fixture
def backbone() -> Backbone:
    return NnUNetBackbone(nnunet_spec(PLAN, channels=1, classes=3))


class OnePatch:
    """Always the same noise; structure 2 is not annotated, and the first planes were not looked at."""

    def __init__(self) -> None:
        random = np.random.default_rng(3)
        weights = np.ones(PLAN.patch_zyx, np.float32)
        weights[:3] = 0
        labels = np.zeros(PLAN.patch_zyx, np.uint8)
        labels[2:7, 4:12, 5:13] = 1
        noise = random.standard_normal((1, *PLAN.patch_zyx)).astype(np.float32)
        self.patch = Patch(noise, labels, weights, np.array([True, True, False]))

    def draw(self, random: np.random.Generator) -> Patch:
        return self.patch


def losses_of(backbone: Backbone, network: nn.Module, share: float) -> Any:
    objective = PatchObjective(network, backbone, OnePatch(), FLOAT32, deep_supervision=share)
    return objective.losses(objective.draw(np.random.default_rng(1)))


def test_weights_are_nnunets() -> None:
    # 1, 1/2, 1/4, 1/8 and the coarsest left out, over their sum.
    assert supervision_weights(5, 0.5) == pytest.approx([8 / 15, 4 / 15, 2 / 15, 1 / 15, 0])
    assert supervision_weights(1, 0.5) == supervision_weights(1, 0.0) == [1.0]
    assert supervision_weights(3, 0.0) == [1.0, 0.0, 0.0]


def test_the_loss_is_the_weighted_sum_over_resolutions(backbone: Backbone) -> None:
    network, patch = backbone.build(), OnePatch().patch
    backbone.initialise(network, 1)
    scan, annotated = torch.from_numpy(patch.intensities)[None], torch.from_numpy(patch.annotated)[None]
    fine, middle, _ = backbone.supervised_logits(network, scan)
    assert middle.shape[2:] == (8, 8, 8)
    whole = torch.from_numpy(patch.labels)[None], torch.from_numpy(patch.weights)[None]
    # Half as fine in y and x: nnU-Net takes the nearest voxel, the second of two.
    half = whole[0][:, :, 1::2, 1::2], whole[1][:, :, 1::2, 1::2]
    at_fine = marginal_loss(fine, whole[0], annotated, whole[1])
    at_middle = marginal_loss(middle, half[0], annotated, half[1])
    losses = losses_of(backbone, network, 0.5)
    for number, found in enumerate((losses.cross_entropy, losses.dice)):
        assert found.item() == pytest.approx(2 / 3 * at_fine[number].item() + 1 / 3 * at_middle[number].item())


def test_nearest_voxels_are_those_torch_takes() -> None:
    from TransferSegLib.training.patch_objective import _reduced

    labels = torch.from_numpy(np.random.default_rng(2).integers(0, 5, (2, 8, 16, 12)).astype(np.uint8))
    for size in ((8, 8, 6), (4, 4, 3), (2, 2, 12)):
        expected = nn.functional.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0]
        assert torch.equal(_reduced(labels, size).float(), expected)


@pytest.mark.parametrize(("share", "learning"), [(0.0, {2}), (0.5, {1, 2})])
def test_which_heads_learn(backbone: Backbone, share: float, learning: set[int]) -> None:
    network = backbone.build()
    sum(losses_of(backbone, network, share)).backward()
    grads = [network.get_parameter(f"{head}.weight").grad for head in backbone.heads]
    assert {number for number, grad in enumerate(grads) if grad is not None and bool(grad.any())} == learning
