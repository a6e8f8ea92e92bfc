"""Instance normalisation and leaky ReLU in two passes over maps in half precision, for prediction on a CPU.

torch's own copies maps that lie channels last, and goes through memory six times. Here a few rows at a time are brought
to float32, and stay in the processor's cache until they are done; statistics are those of float32 or better.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

#: Values that are worked on at once: 2 MB in float32.
_VALUES_AT_ONCE = 2**19


def can_fuse(maps: torch.Tensor) -> bool:
    """Tell whether ``normalise_`` does for these maps: bfloat16 on a CPU, channels last, no gradients wanted."""
    return (
        maps.dtype is torch.bfloat16
        and maps.device.type == "cpu"
        and not torch.is_grad_enabled()
        and maps.is_contiguous(memory_format=torch.channels_last_3d)
    )


def normalise_(maps: torch.Tensor, norm: nn.InstanceNorm3d, slope: float | None) -> torch.Tensor:
    """Normalise maps (N, C, z, y, x) in place, apply a leaky ReLU unless ``slope`` is None, and return them."""
    for sample in maps:
        rows = sample.permute(1, 2, 3, 0).reshape(-1, sample.shape[0])  # a view of maps that are channels last
        pieces = rows.split(max(1, _VALUES_AT_ONCE // rows.shape[1]))
        mean, variance = _statistics(pieces)
        scale = norm.weight / torch.sqrt(variance + norm.eps)
        shift = norm.bias - mean * scale
        for piece in pieces:
            values = torch.addcmul(shift, piece.float(), scale)
            piece.copy_(values if slope is None else functional.leaky_relu_(values, slope))
    return maps


def _statistics(pieces: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the variance of every column of rows that come in pieces (Chan et al. 1979)."""
    count = 0
    mean = squares = torch.zeros(pieces[0].shape[1])
    for piece in pieces:
        values = piece.float()
        here = values.mean(dim=0)
        spread = (values - here).square_().sum(dim=0)
        more = len(piece)
        shift = here - mean
        squares = squares + spread + shift.square() * (count * more / (count + more))
        mean = mean + shift * (more / (count + more))
        count += more
    return mean, squares / count
