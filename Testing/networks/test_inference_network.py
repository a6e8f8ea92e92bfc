from __future__ import annotations

import copy

import pytest
import torch

from TransferSegLib.errors import NetworkError
from TransferSegLib.networks.unet_valid import inference_network
from TransferSegLib.networks.unet_valid.inference_network import InferenceNetwork
from TransferSegLib.networks.unet_valid.unet import UNet3D


def scan(*sides: int) -> torch.Tensor:
    return torch.randn(1, 1, *sides, generator=torch.Generator().manual_seed(1))


def below_the_largest(logits: torch.Tensor) -> torch.Tensor:
    return logits - logits.amax(dim=1, keepdim=True)


@pytest.mark.parametrize("slab_rows", [4, 32])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_same_logits_as_the_network_itself(network, memory_format, slab_rows, monkeypatch):
    monkeypatch.setattr(inference_network, "DOWN_SLAB_ROWS", (slab_rows, slab_rows, slab_rows))
    monkeypatch.setattr(inference_network, "LAST_SLAB_ROWS", slab_rows)
    seen = scan(116, 108, 132)
    with torch.inference_mode():
        expected = network(seen)
    got = InferenceNetwork(network, "cpu", torch.float32, memory_format)(seen)
    assert got.shape == expected.shape == (1, 4, 28, 20, 44)
    assert expected.std() > 0.5
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_bfloat16_is_as_precise_as_that_of_the_network_itself(network):
    seen = scan(108, 108, 108)
    exact = below_the_largest(InferenceNetwork(network)(seen))
    half = InferenceNetwork(network, "cpu", torch.bfloat16, torch.channels_last_3d)(seen).float()
    with torch.inference_mode():
        plain = below_the_largest(copy.deepcopy(network).bfloat16()(seen.bfloat16()).float())
    assert float(half.amax(dim=1).abs().max()) == 0
    assert 0 < (half - exact).norm() < 1.6 * (plain - exact).norm()
    assert (plain - exact).norm() < 0.2 * (exact - exact.mean()).norm()


@pytest.mark.parametrize("content", [None, [(40, 68)] * 3])
def test_half_precision_tells_large_logits_apart(network, content):
    """The same number added to all logits changes no probability: it must not make classes equal either.

    bfloat16 holds numbers from 64 to 128 in steps of 0.5, and logits here differ by less.
    """
    seen = torch.full((1, 1, 108, 108, 108), -1.0)
    seen[:, :, 40:68, 40:68, 40:68] = scan(28, 28, 28)
    expected = InferenceNetwork(network)(seen).argmax(dim=1)
    raised = copy.deepcopy(network)
    with torch.no_grad():
        raised.head.bias += 100
    got = InferenceNetwork(raised, "cpu", torch.bfloat16, torch.channels_last_3d)(seen, content, -1.0)
    largest_two = got.float().topk(2, dim=1).values
    assert float((largest_two[:, 0] == largest_two[:, 1]).float().mean()) < 0.001
    assert float((got.argmax(dim=1) == expected).float().mean()) > 0.97


def test_the_network_is_left_as_it_is(network):
    before = {name: (values.data_ptr(), values.clone()) for name, values in network.state_dict().items()}
    network.train()
    runner = InferenceNetwork(network, "cpu", torch.bfloat16, torch.channels_last_3d)
    with torch.no_grad():
        for weights in (*runner._head, *runner._up[0], *runner._down[0][0]):
            weights.zero_()
    assert network.training
    for name, values in network.state_dict().items():
        assert values.dtype == torch.float32
        assert values.data_ptr() == before[name][0]
        assert torch.equal(values, before[name][1])
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_float32_weights_are_copied_not_shared():
    network = UNet3D(2, 1)
    runner = InferenceNetwork(network)
    kernel = runner._down[0][0][0]
    assert kernel.data_ptr() != network.down[0].first.weight.data_ptr()
    assert torch.equal(kernel, network.down[0].first.weight)


def test_illegal_side_is_refused(network):
    with pytest.raises(NetworkError, match="Use 108 or 116"):
        InferenceNetwork(network)(scan(108, 112, 108))


def test_autocast_around_does_not_change_the_precision(network):
    seen = scan(108, 108, 108)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = InferenceNetwork(network)(seen)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, InferenceNetwork(network)(seen))
