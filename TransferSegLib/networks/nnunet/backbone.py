"""nnU-Net's networks behind the interface that the rest of the library sees."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, cast

from TransferSegLib.errors import TrainingError
from TransferSegLib.networks.interface import (
    NetworkSpec,
    SplitSizes,
    Tiling,
    TrainingPatch,
    Triple,
)
from TransferSegLib.networks.nnunet.plan import UNetPlan

if TYPE_CHECKING:
    import torch
    from torch import nn

    from TransferSegLib.networks.nnunet.architecture import NnUNet
    from TransferSegLib.networks.nnunet.last_layers import LastStage

KIND = "nnunet"
HEAD, LAST_STAGE = "head", "last stage"


def nnunet_spec(plan: UNetPlan, channels: int, classes: int) -> NetworkSpec:
    """Return the spec of a network of nnU-Net for so many input channels and classes, the background included."""
    return NetworkSpec(kind=KIND, classes=classes, channels=channels, arguments=plan.to_json())


class NnUNetBackbone:
    """PlainConvUNet or ResidualEncoderUNet with instance normalisation."""

    def __init__(self, spec: NetworkSpec) -> None:
        """Describe a network; ``check`` tells whether it can be built."""
        self.spec = spec

    def check(self) -> None:
        """Raise ModelError when the spec's arguments do not describe a network of this family."""
        _ = self.plan

    @cached_property
    def plan(self) -> UNetPlan:
        """The arguments as an object."""
        return UNetPlan.from_json(self.spec.arguments)

    @property
    def summary(self) -> str:
        """The arguments that matter, in a few words for a person."""
        plan = self.plan
        kind = "residual encoder" if plan.is_residual else "plain"
        patch = " x ".join(str(side) for side in reversed(plan.patch_zyx))
        return f"nnU-Net, {kind}, {plan.features[0]} to {max(plan.features)} features, patch {patch}"

    @property
    def parameters(self) -> int:
        """The number of weights, counted from the layers."""
        plan, features = self.plan, self.plan.features
        kernels = [math.prod(kernel) for kernel in plan.kernels_zyx]
        bias = int(plan.bias)

        def layer(before: int, after: int, taps: int, has_bias: int = bias) -> int:
            return after * (before * taps + has_bias + 2)

        total, before = 0, self.spec.channels
        if plan.is_residual:
            total += layer(before, features[0], kernels[0])
            before = features[0]
        for level, here in enumerate(features):
            for _ in range(plan.encoder_blocks[level]):
                total += layer(before, here, kernels[level])
                if plan.is_residual:
                    total += layer(here, here, kernels[level])
                    total += layer(before, here, 1, 0) if before != here else 0
                before = here
        for step in range(1, len(features)):
            below, here = features[-step], features[-step - 1]
            total += here * (below * math.prod(plan.strides_zyx[-step]) + bias)
            count = plan.decoder_convolutions[step - 1]
            total += layer(2 * here, here, kernels[-step - 1]) + (count - 1) * layer(here, here, kernels[-step - 1])
            total += self.spec.classes * (here + 1)
        return total

    @property
    def tiling(self) -> Tiling:
        """Windows of the patch that the network was trained on, blended with Gaussian weights."""
        plan = self.plan
        smallest = plan.multiple_zyx
        mirror = plan.mirror_axes_zyx
        return Tiling("gaussian", smallest, smallest, plan.patch_zyx, plan.overlap, "logits", mirror, HEAD)

    @property
    def split_points(self) -> tuple[str, ...]:
        """Where the network can be cut: before the head, or before the decoder's last stage."""
        return HEAD, LAST_STAGE

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads of all resolutions; the last one predicts."""
        return tuple(f"decoder.seg_layers.{step}" for step in range(len(self.plan.features) - 1))

    def build(self) -> NnUNet:
        """Return the network with torch's own random weights."""
        from TransferSegLib.networks.nnunet.architecture import NnUNet

        return NnUNet(self.spec.channels, self.spec.classes, self.plan)

    def initialise(self, network: nn.Module, seed: int) -> None:
        """Draw He-normal weights for leaky ReLUs, zero biases, and scales of 1, as nnU-Net does."""
        import torch
        from torch import nn

        generator = torch.Generator().manual_seed(seed)
        for module in network.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, a=0.01, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.InstanceNorm3d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)

    def training_logits(self, network: nn.Module, scans: torch.Tensor) -> torch.Tensor:
        """Return logits of the patches' size."""
        return cast("torch.Tensor", network(scans))

    def supervised_logits(self, network: nn.Module, scans: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the logits of all resolutions of the decoder, the finest first."""
        return cast("NnUNet", network).all_logits(scans)

    def first_layer(self, network: nn.Module) -> nn.Parameter:
        """Return the weights of the first convolution."""
        return next(network.parameters())

    def training_patch(self, side: int, frame: int) -> TrainingPatch:
        """Return the network's own patch, or a smaller one whose longest side is about the one asked for.

        All voxels count: windows are predicted with the same zeros beyond their border.
        """
        plan = self.plan
        if side < 1:
            raise TrainingError(f"patch must be 1 or more, not {side}.")
        shrunk = min(1.0, side / max(plan.patch_zyx))
        z, y, x = (
            min(length, max(2 * step, round(shrunk * length / step) * step))
            for length, step in zip(plan.patch_zyx, plan.multiple_zyx, strict=True)
        )
        return TrainingPatch((z, y, x), (0, 0, 0))

    def feature_patch(self, side: int) -> Triple:
        """Return the size of cached patches: as for training, because normalisation sees the patch as a whole."""
        return self.training_patch(side, 0).sides_zyx

    def split_sizes(self, point: str) -> SplitSizes:
        """Return the sizes at a split point; features keep a patch's size."""
        channels = self.plan.features[0] * (2 if point == LAST_STAGE else 1)
        return SplitSizes((0, 0, 0), (0, 0, 0), channels)

    def frozen_layers(self, network: nn.Module, point: str) -> nn.Module:
        """Return a copy of the layers before the head, or before the decoder's last stage."""
        from TransferSegLib.networks.nnunet.last_layers import FrozenLayers

        return FrozenLayers(cast("NnUNet", network), point == LAST_STAGE)

    def last_layers(self, network: nn.Module, point: str) -> LastStage:
        """Return the head, or the decoder's last stage and the head."""
        from TransferSegLib.networks.nnunet.last_layers import LastStage

        return LastStage(cast("NnUNet", network), point == LAST_STAGE)
