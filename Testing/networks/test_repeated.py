"""Repeating and convolving in one step: the same logits and gradients as the layers one after another."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from Testing.half_precision import large_in_bfloat16
from TransferSegLib.networks.unet_valid import unet
from TransferSegLib.networks.unet_valid.repeated import repeated_then_convolved
from TransferSegLib.networks.unet_valid.unet import UNet3D, initialise


@pytest.mark.parametrize("padding", [0, 1])
def test_repeating_and_convolving_is_one_transposed_convolution(padding: int) -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(3, 5, 3, 3, 3, dtype=torch.float64, generator=generator)
    low = torch.randn(1, 5, 5, 6, 7, dtype=torch.float64, generator=generator)
    repeated = functional.interpolate(low, scale_factor=2, mode="nearest")
    expected = functional.conv3d(repeated, weight, padding=padding)
    got = functional.conv_transpose3d(low, repeated_then_convolved(weight), stride=2, padding=2 - padding)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


def test_transposed_weights_by_hand() -> None:
    # Only along x: repeating and then (1, 10, 100) is a stride-2 transposed convolution with (100, 110, 11, 1).
    weight = torch.zeros(1, 1, 3, 3, 3)
    weight[0, 0, 1, 1] = torch.tensor([1.0, 10.0, 100.0])
    row = repeated_then_convolved(weight)[0, 0, 1, 1]
    assert row.tolist() == [100.0, 110.0, 11.0, 1.0]


def test_sums_of_weights_are_not_made_in_half_precision() -> None:
    weight = torch.full((1, 1, 3, 3, 3), 1.0 + 2.0**-12)
    with torch.autocast("cpu", torch.bfloat16):
        weights = repeated_then_convolved(weight)
    assert weights.dtype == torch.float32
    assert float(weights.max()) == 8.0 + 2.0**-9


def test_training_computes_the_logits_and_gradients_of_the_plain_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    network, scans = network_and_scans(3, 2, (16, 24, 32), torch.float64)
    logits, gradients = trained(network, scans, torch.float64)
    monkeypatch.setattr(unet, "_FOLDED_ON", ())
    expected, expected_gradients = trained(network, scans, torch.float64)
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(logits, expected, atol=1e-12, rtol=0)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-12, rtol=1e-9, msg=name)


@pytest.mark.parametrize(
    ("width", "side"),
    [(4, 32), *(pytest.param(*sizes, marks=large_in_bfloat16) for sizes in [(8, 32), (8, 48), (16, 32)])],
)
def test_bfloat16_gradients_are_as_near_to_those_of_float32_as_before(
    width: int, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch 2.13 has wrong gradients of weights in bfloat16 where maps are short (32 is the smallest patch).
    network, scans = network_and_scans(width, 1, (side, side, side), torch.float32)
    _, exact = trained(network, scans, torch.float32)
    _, folded = trained(network, scans, torch.bfloat16)
    monkeypatch.setattr(unet, "_FOLDED_ON", ())
    _, plain = trained(network, scans, torch.bfloat16)
    for name, gradient in exact.items():
        errors = [float((half[name] - gradient).norm() / gradient.norm()) for half in (folded, plain)]
        assert errors[0] < 1.5 * errors[1] + 0.01, name


def network_and_scans(
    width: int, batch: int, sides_zyx: tuple[int, ...], dtype: torch.dtype
) -> tuple[UNet3D, torch.Tensor]:
    """Return a network with random weights and biases, laid out as for training, and random scans."""
    generator = torch.Generator().manual_seed(width)
    network = UNet3D(4, width)
    initialise(network, seed=width)
    with torch.no_grad():
        network.head.weight.mul_(10)
        for parameter in network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return network.to(dtype), torch.randn(batch, 1, *sides_zyx, generator=generator).to(dtype)


def trained(
    network: UNet3D, scans: torch.Tensor, precision: torch.dtype
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the logits and the gradients of all weights, in the weights' own precision or by autocast."""
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
        logits = network(scans, padded=True)
    torch.log_softmax(logits.to(scans.dtype), dim=1)[:, :2].mean().backward()
    gradients = {name: values.grad for name, values in network.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values())
    return logits.detach(), {name: gradient for name, gradient in gradients.items() if gradient is not None}
