"""Muon's orthogonalisation against the singular value decomposition; AdamW's part against torch's own."""

from __future__ import annotations

import sys

import pytest
import torch

from Testing.training.group import run_group
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
from TransferSegLib.networks.unet_valid.unet import UNet3D, initialise
from TransferSegLib.training import optimiser as optimiser_module
from TransferSegLib.training.optimiser import (
    ADAM_SHARE,
    ADAM_SHARE_NORMALISED,
    MuonWithAdamW,
    orthogonalised,
    relative_sizes,
)
from TransferSegLib.training.patch_objective import hidden_weights


def optimiser_of(network: UNet3D, rate: float = 0.02, size_share: float = 0.0) -> MuonWithAdamW:
    hidden = hidden_weights(network, backbone_of(unet_valid_spec(network.width, network.classes)))
    optimiser = MuonWithAdamW(network, hidden, 0.0, torch.float32, size_share=size_share)
    for group in optimiser.param_groups:
        group["lr"] = rate
    return optimiser


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_orthogonalised_keeps_singular_vectors_and_evens_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    result = orthogonalised(matrix, torch.float32)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.diag(left.T @ result @ right.T)
    assert torch.allclose(left @ torch.diag(values) @ right, result, atol=1e-4)
    assert values.min() > 0.5 and values.max() < 1.3


def plainly_iterated(matrix: torch.Tensor) -> torch.Tensor:
    """Return what Muon's reference implementation makes of a wide matrix, in float64."""
    first, second, third = 3.4445, -4.7750, 2.0315
    work = matrix.double() / (matrix.double().norm() + 1e-7)
    for _ in range(5):
        gram = work @ work.mT
        work = first * work + (second * gram + third * gram @ gram) @ work
    return work


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rank", [32, 3])
def test_wide_matrices_are_iterated_as_by_the_reference(rank: int, precision: torch.dtype) -> None:
    """With little beside a low rank, too: there rounding is amplified most."""
    generator = torch.Generator().manual_seed(5)
    matrix = torch.randn(32, rank, generator=generator) @ torch.randn(rank, 864, generator=generator)
    matrix += 1e-3 * torch.randn(32, 864, generator=generator)
    found, expected = orthogonalised(matrix, precision).double(), plainly_iterated(matrix)
    assert float((found - expected).norm() / expected.norm()) < 5e-4


@pytest.mark.parametrize("shape", [(8, 40), (40, 8)])
def test_several_matrices_are_orthogonalised_each_for_itself(shape: tuple[int, int]) -> None:
    matrices = (
        torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
        * torch.tensor([1.0, 9.0, 0.1])[:, None, None]
    )
    together = orthogonalised(matrices, torch.float32)
    for matrix, result in zip(matrices, together, strict=True):
        torch.testing.assert_close(result, orthogonalised(matrix, torch.float32), atol=1e-6, rtol=0)


def test_layers_of_one_shape_may_be_orthogonalised_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the step is the same but for rounding."""
    networks = [UNet3D(3, width=2) for _ in range(2)]
    for network, by_shape in zip(networks, (False, True), strict=True):
        initialise(network, 0)
        generator = torch.Generator().manual_seed(3)
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        if by_shape:
            monkeypatch.setattr(optimiser_module, "_alike", grouped_by_shape)
        optimiser_of(network, size_share=1.0).step()
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def grouped_by_shape(weights: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    shapes = list(dict.fromkeys(weight.shape for weight in weights))
    assert len(shapes) < len(weights)
    return [[weight for weight in weights if weight.shape == shape] for shape in shapes]


def test_other_parameters_move_as_with_adam() -> None:
    network, twin = UNet3D(3, width=2), UNet3D(3, width=2)
    initialise(network, 0)
    twin.load_state_dict(network.state_dict())
    ours = optimiser_of(network)
    reference = torch.optim.AdamW(twin.parameters(), 0.02 * ADAM_SHARE, betas=(0.9, 0.99), weight_decay=0.0)
    torch.manual_seed(0)
    for _ in range(3):
        for mine, other in zip(network.parameters(), twin.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        ours.step()
        reference.step()
    assert torch.allclose(network.head.weight, twin.head.weight, atol=1e-6)
    assert torch.allclose(network.down[1].first.bias, twin.down[1].first.bias, atol=1e-6)
    assert not torch.allclose(network.down[1].first.weight, twin.down[1].first.weight, atol=1e-3)


@pytest.mark.parametrize(
    ("normalised", "adam_share", "expected"),
    [(False, 0.0, ADAM_SHARE), (True, 0.0, ADAM_SHARE_NORMALISED), (False, 0.4, 0.4), (True, 0.4, 0.4)],
)
def test_the_first_step_of_adam_is_its_share_of_the_rate(normalised: bool, adam_share: float, expected: float) -> None:
    norm = [torch.nn.InstanceNorm3d(2, affine=True)] if normalised else []
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), *norm, torch.nn.Conv3d(2, 3, 1))
    head = network[-1]
    before = head.weight.detach().clone()
    optimiser = MuonWithAdamW(network, [network[0].weight], 0.0, torch.float32, adam_share=adam_share)
    for group in optimiser.param_groups:
        group["lr"] = 0.02
    head.weight.grad = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0))
    optimiser.step()
    torch.testing.assert_close(head.weight.detach(), before - 0.02 * expected * head.weight.grad.sign())


def test_a_step_of_muon_has_the_size_of_the_learning_rate() -> None:
    network = UNet3D(3, width=2)
    initialise(network, 0)
    before = network.up[0].second.weight.detach().clone()
    optimiser = optimiser_of(network)
    for parameter in network.parameters():
        parameter.grad = 1e-6 * torch.randn_like(parameter)  # the size of the gradient does not matter
    optimiser.step()
    moved = (network.up[0].second.weight.detach() - before).reshape(before.shape[0], -1)
    values = torch.linalg.svdvals(moved)
    assert values.min() > 0.5 * 0.02 and values.max() < 1.3 * 0.02


def test_fresh_weights_have_relative_size_one() -> None:
    network = UNet3D(3, width=8)
    initialise(network, 0)
    weight = network.up[0].second.weight
    assert relative_sizes([weight, 3 * weight]) == pytest.approx([1.0, 3.0], abs=0.06)
    assert relative_sizes([0.1 * weight]) == [1.0]  # steps never shrink
    assert relative_sizes([]) == []


@pytest.mark.parametrize(("share", "growth"), [(0.0, 1.0), (0.5, 2.0), (1.0, 4.0)])
def test_steps_of_muon_follow_the_size_of_the_weights(share: float, growth: float) -> None:
    steps = []
    for size in (1.0, 4.0):
        network = UNet3D(3, width=2)
        weight = network.up[0].second.weight
        with torch.no_grad():
            weight.mul_(size * (2.0 * weight.shape[0]) ** 0.5 / weight.norm())
        before = weight.detach().clone()
        optimiser = optimiser_of(network, size_share=share)
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        optimiser.step()
        steps.append((weight.detach() - before).norm().item())
    assert steps[1] / steps[0] == pytest.approx(growth, rel=1e-4)


def test_scales_of_normalisation_do_not_decay() -> None:
    network = torch.nn.Sequential(torch.nn.Conv3d(2, 2, 3), torch.nn.InstanceNorm3d(2, affine=True))
    optimiser = MuonWithAdamW(network, [network[0].weight], 1.0, torch.float32)
    for group in optimiser.param_groups:
        group["lr"] = 0.1
    bias = network[0].bias.detach().clone()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    assert torch.equal(network[1].weight, torch.ones(2)) and torch.allclose(network[0].bias, 0.9 * bias)


def loads_the_compiler() -> bool:
    """Take a step, save and go on from there; return whether torch.compile was imported."""
    network = UNet3D(3, width=2)
    optimiser = optimiser_of(network)
    optimiser.load_state_dict(optimiser.state_dict())
    optimiser.step()
    optimiser.zero_grad()
    return "torch._dynamo" in sys.modules


def test_training_does_not_load_torchs_compiler() -> None:
    """Loading it takes nearly as long as torch itself; in a process of its own, as others may have loaded it here."""
    assert run_group(1, loads_the_compiler) == [False]
