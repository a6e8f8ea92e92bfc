"""nnU-Net's networks in bfloat16 on a CPU: the fused normalisation and the head against torch's own layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.nnunet.architecture import logits_of
from TransferSegLib.networks.nnunet.backbone import NnUNetBackbone, nnunet_spec
from TransferSegLib.networks.nnunet.fused_norm import can_fuse, normalise_
from TransferSegLib.networks.nnunet.plan import UNetPlan


def maps_of(mean: float, spread: float, samples: int = 2, channels: int = 5) -> torch.Tensor:
    """Return bfloat16 maps that lie channels last; each channel has its own mean and deviation."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(samples, channels, 9, 10, 11, generator=generator)
    values = values * spread * torch.arange(1, channels + 1)[:, None, None, None] + mean
    return values.to(torch.bfloat16).contiguous(memory_format=torch.channels_last_3d)


def norm_of(channels: int = 5) -> nn.InstanceNorm3d:
    norm = nn.InstanceNorm3d(channels, affine=True)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, channels))
        norm.bias.copy_(torch.linspace(-1, 1, channels))
    return norm


@pytest.mark.parametrize("slope", [0.01, None])
@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (300.0, 2.0), (0.0, 0.0)])
@pytest.mark.parametrize("values_at_once", [1, 700, 2**19])
def test_the_fused_normalisation_is_torchs(
    monkeypatch: pytest.MonkeyPatch, slope: float | None, mean: float, spread: float, values_at_once: int
) -> None:
    monkeypatch.setattr("TransferSegLib.networks.nnunet.fused_norm._VALUES_AT_ONCE", values_at_once)
    maps, norm = maps_of(mean, spread), norm_of()
    expected = functional.instance_norm(
        maps.double(), weight=norm.weight.double(), bias=norm.bias.double(), eps=norm.eps
    )
    if slope is not None:
        expected = functional.leaky_relu(expected, slope)
    with torch.inference_mode():
        found = normalise_(maps.clone(memory_format=torch.preserve_format), norm, slope)
    # Half a unit in the last place of bfloat16, and rounding of the statistics.
    assert torch.allclose(found.double(), expected, rtol=2**-8, atol=1e-4)


def test_only_predictions_in_bfloat16_are_fused() -> None:
    maps = maps_of(0, 1)
    assert not can_fuse(maps)  # gradients may be wanted
    with torch.no_grad():
        assert can_fuse(maps)
        assert not can_fuse(maps.float())
        assert not can_fuse(maps.contiguous())


def test_a_head_of_bfloat16_maps_computes_in_float32() -> None:
    head, maps = nn.Conv3d(5, 7, 1), maps_of(0, 1)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = logits_of(head, maps)
    assert found.dtype == torch.float32
    with torch.inference_mode():
        assert torch.allclose(found, head(maps.float().contiguous()), atol=1e-5)


@pytest.mark.parametrize("is_residual", [False, True])
def test_a_network_in_bfloat16_is_nearly_the_one_in_float32(is_residual: bool) -> None:
    plan = UNetPlan(
        is_residual, (8, 16, 16), ((3, 3, 3),) * 3, ((1, 1, 1), (2, 2, 2), (1, 2, 2)), (2, 2, 2), (2, 1), (16, 16, 16)
    )
    backbone = backbone_of(nnunet_spec(plan, 1, 3))
    network = backbone.build().eval()
    backbone.initialise(network, 5)
    scans = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network(scans)
        scans = scans.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16):
            found = network.to(memory_format=torch.channels_last_3d)(scans)
    assert (found - expected).abs().mean() < 0.02 * expected.std()


def test_gradients_at_the_bottom_of_a_deep_network_are_right_in_bfloat16() -> None:
    """A patch of 32 voxels has 2 at the bottom of five levels, where torch's own bfloat16 gradients are wrong."""
    plan = UNetPlan(
        is_residual=False,
        features=(8,) * 5,
        kernels_zyx=((3, 3, 3),) * 5,
        strides_zyx=((1, 1, 1),) + ((2, 2, 2),) * 4,
        encoder_blocks=(2,) * 5,
        decoder_convolutions=(2,) * 4,
        patch_zyx=(32, 32, 32),
    )
    backbone = NnUNetBackbone(nnunet_spec(plan, 1, 2))
    network = backbone.build()
    backbone.initialise(network, 1)
    scan = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(2))
    gradients = []
    for is_half in (False, True):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            logits = backbone.training_logits(network, scan.contiguous(memory_format=torch.channels_last_3d))
        logits.float().square().mean().backward()
        gradients.append(
            [weights.grad.clone() for weights in network.encoder.stages[-1].parameters() if weights.ndim == 5]
        )
    for exact, half in zip(*gradients, strict=True):
        assert (
            exact - half
        ).norm() < 0.6 * exact.norm()  # torch's own are off by as much as they are long, or infinite
