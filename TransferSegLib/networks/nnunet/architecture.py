"""nnU-Net's two networks, PlainConvUNet and ResidualEncoderUNet, written anew (Isensee et al. 2021, 2024).

The layers have the names that nnU-Net's own checkpoints use, so that weights need no renaming. Padded convolutions,
instance normalisation without running statistics, leaky ReLU, transposed convolutions on the way up, and one head for
each resolution of the decoder (deep supervision), of which the last one predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from TransferSegLib.networks.interface import Triple
from TransferSegLib.networks.nnunet.fused_norm import can_fuse, normalise_
from TransferSegLib.networks.nnunet.plan import UNetPlan

_SLOPE = 0.01
#: Convolutions of maps with a side shorter than this are trained in float32 on CPUs: torch 2.13's bfloat16 gradients of
#: their weights are wrong, up to not being numbers. A deep network has such maps at its bottom.
_SHORT_SIDE = 4


class ConvolutionNorm(nn.Module):
    """A padded convolution, instance normalisation and, unless ``activated`` is false, a leaky ReLU."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel_zyx: Triple,
        stride_zyx: Triple,
        plan: UNetPlan,
        activated: bool = True,
        bias: bool | None = None,
    ) -> None:
        """Make the layer; ``bias`` None: as the plan has it."""
        super().__init__()
        z, y, x = ((side - 1) // 2 for side in kernel_zyx)
        has_bias = plan.bias if bias is None else bias
        self.conv = nn.Conv3d(channels_in, channels_out, kernel_zyx, stride_zyx, (z, y, x), bias=has_bias)
        self.norm = nn.InstanceNorm3d(channels_out, eps=plan.norm_eps, affine=True)
        self._activated = activated

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map (N, C, z, y, x) to (N, C', z / stride, ...)."""
        maps = self._convolved(maps)
        if can_fuse(maps):
            return normalise_(maps, self.norm, _SLOPE if self._activated else None)
        maps = self.norm(maps)
        return functional.leaky_relu(maps, _SLOPE, inplace=True) if self._activated else maps

    def _convolved(self, maps: torch.Tensor) -> torch.Tensor:
        """Convolve, in float32 where a gradient in bfloat16 would be wrong."""
        is_short = maps.device.type == "cpu" and min(maps.shape[2:]) < _SHORT_SIDE
        if not (is_short and torch.is_grad_enabled() and self.conv.weight.dtype == torch.float32):
            return cast("torch.Tensor", self.conv(maps))
        with torch.autocast("cpu", enabled=False):
            return cast("torch.Tensor", self.conv(maps.float()))


class StackedConvolutions(nn.Module):
    """Convolutions one after another, the first of which may have a stride."""

    def __init__(
        self, count: int, channels_in: int, channels_out: int, kernel_zyx: Triple, stride_zyx: Triple, plan: UNetPlan
    ) -> None:
        """Make so many layers."""
        super().__init__()
        self.convs = nn.Sequential(
            *(
                ConvolutionNorm(
                    channels_in if number == 0 else channels_out,
                    channels_out,
                    kernel_zyx,
                    stride_zyx if number == 0 else (1, 1, 1),
                    plan,
                )
                for number in range(count)
            )
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Apply the layers."""
        result: torch.Tensor = self.convs(maps)
        return result


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut around them; the shortcut averages over a stride and projects new channels."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel_zyx: Triple, stride_zyx: Triple, plan: UNetPlan
    ) -> None:
        """Make the block."""
        super().__init__()
        self.conv1 = ConvolutionNorm(channels_in, channels_out, kernel_zyx, stride_zyx, plan)
        self.conv2 = ConvolutionNorm(channels_out, channels_out, kernel_zyx, (1, 1, 1), plan, activated=False)
        shortcut: list[nn.Module] = []
        if stride_zyx != (1, 1, 1):
            shortcut.append(nn.AvgPool3d(stride_zyx, stride_zyx))
        if channels_in != channels_out:
            one = (1, 1, 1)
            shortcut.append(ConvolutionNorm(channels_in, channels_out, one, one, plan, activated=False, bias=False))
        self.skip = nn.Sequential(*shortcut)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Map (N, C, z, y, x) to (N, C', z / stride, ...)."""
        return functional.leaky_relu(self.conv2(self.conv1(maps)) + self.skip(maps), _SLOPE, inplace=True)


class ResidualStage(nn.Module):
    """Residual blocks of one resolution."""

    def __init__(self, count: int, channels_in: int, level: int, plan: UNetPlan) -> None:
        """Make so many blocks, the first of which has the level's stride."""
        super().__init__()
        here = plan.features[level]
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(
                    channels_in if number == 0 else here,
                    here,
                    plan.kernels_zyx[level],
                    plan.strides_zyx[level] if number == 0 else (1, 1, 1),
                    plan,
                )
                for number in range(count)
            )
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Apply the blocks."""
        result: torch.Tensor = self.blocks(maps)
        return result


class Encoder(nn.Module):
    """The way down: returns the maps of every level, the finest first."""

    def __init__(self, channels: int, plan: UNetPlan) -> None:
        """Make the levels; a residual encoder begins with a stem of one convolution."""
        super().__init__()
        before = channels
        self.stem: nn.Module | None = None
        if plan.is_residual:
            self.stem = StackedConvolutions(1, channels, plan.features[0], plan.kernels_zyx[0], (1, 1, 1), plan)
            before = plan.features[0]
        stages: list[nn.Module] = []
        for level, (here, count) in enumerate(zip(plan.features, plan.encoder_blocks, strict=True)):
            if plan.is_residual:
                stages.append(ResidualStage(count, before, level, plan))
            else:
                kernel, stride = plan.kernels_zyx[level], plan.strides_zyx[level]
                stages.append(nn.Sequential(StackedConvolutions(count, before, here, kernel, stride, plan)))
            before = here
        self.stages = nn.Sequential(*stages)

    def forward(self, scans: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps of every level."""
        maps = scans if self.stem is None else self.stem(scans)
        levels = []
        for stage in self.stages:
            maps = stage(maps)
            levels.append(maps)
        return levels


class Decoder(nn.Module):
    """The way up, with a head at every resolution."""

    def __init__(self, classes: int, plan: UNetPlan) -> None:
        """Make the levels, the coarsest first."""
        super().__init__()
        transposed, stages, heads = [], [], []
        for step in range(1, len(plan.features)):
            below, here = plan.features[-step], plan.features[-step - 1]
            stride, kernel = plan.strides_zyx[-step], plan.kernels_zyx[-step - 1]
            transposed.append(nn.ConvTranspose3d(below, here, stride, stride, bias=plan.bias))
            count = plan.decoder_convolutions[step - 1]
            stages.append(StackedConvolutions(count, 2 * here, here, kernel, (1, 1, 1), plan))
            heads.append(nn.Conv3d(here, classes, 1))
        self.transpconvs = nn.ModuleList(transposed)
        self.stages = nn.ModuleList(stages)
        self.seg_layers = nn.ModuleList(heads)

    def before_last_stage(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the maps (N, 2 * features, z, y, x) that enter the last stage."""
        maps = levels[-1]
        for step in range(len(self.stages)):
            maps = torch.cat((self.transpconvs[step](maps), levels[-step - 2]), dim=1)
            if step < len(self.stages) - 1:
                maps = self.stages[step](maps)
        return maps

    def all_logits(self, levels: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the logits at every resolution, the finest first."""
        maps, logits = levels[-1], []
        for step, (stage, head) in enumerate(zip(self.stages, self.seg_layers, strict=True)):
            maps = stage(torch.cat((self.transpconvs[step](maps), levels[-step - 2]), dim=1))
            logits.append(logits_of(head, maps))
        return tuple(reversed(logits))

    def forward(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the logits at full resolution."""
        return logits_of(self.seg_layers[-1], self.stages[-1](self.before_last_stage(levels)))


def logits_of(head: nn.Module, maps: torch.Tensor) -> torch.Tensor:
    """Return a head's logits; of bfloat16 maps in float32, since two digits do not tell classes apart."""
    if maps.dtype is not torch.bfloat16 or not isinstance(head, nn.Conv3d) or head.bias is None:
        logits: torch.Tensor = head(maps)
        return logits
    with torch.autocast(maps.device.type, enabled=False):
        # A product of matrices: torch has no fast convolution of 1 voxel for float32 maps that lie channels last.
        columns = maps.permute(0, 2, 3, 4, 1).flatten(1, 3).float().transpose(1, 2)
        weight = head.weight.flatten(1).expand(len(maps), -1, -1)
        return torch.baddbmm(head.bias[:, None], weight, columns).unflatten(2, maps.shape[2:])


class NnUNet(nn.Module):
    """A network of nnU-Net: logits (N, classes, z, y, x) of scans (N, channels, z, y, x) whose sides halve evenly."""

    def __init__(self, channels: int, classes: int, plan: UNetPlan) -> None:
        """Make the network with torch's random weights."""
        super().__init__()
        self.encoder = Encoder(channels, plan)
        self.decoder = Decoder(classes, plan)

    def forward(self, scans: torch.Tensor) -> torch.Tensor:
        """Return the logits at full resolution."""
        logits: torch.Tensor = self.decoder(self.encoder(scans))
        return logits

    def all_logits(self, scans: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the logits at every resolution of the decoder, the finest first."""
        logits: tuple[torch.Tensor, ...] = self.decoder.all_logits(self.encoder(scans))
        return logits
