"""What to do when a device turns out to have too little memory, or a precision too coarse for a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from TransferSegLib.errors import DeviceError, ModelError
from TransferSegLib.inference.devices import Device, choose_device, is_out_of_memory

#: Rows along z whose sum is taken at once on a CPU, where a sum in float32 makes a copy in float32.
_ROWS_AT_ONCE = 16


class CannotCompute(Exception):
    """Logits could not be computed as planned: too little memory, or half precision overflows."""

    def __init__(self, reason: Literal["memory", "range"]) -> None:
        """Keep the reason."""
        super().__init__(reason)
        self.reason = reason


class FallbackDevice:
    """The device in use: a GPU that runs out of memory is given up for the CPU, half precision for float32.

    The methods return a message for the progress, and raise when no way is left.
    """

    def __init__(self, device: Device | None) -> None:
        """Begin with a device; None: the best one."""
        self.device = device or choose_device()

    def use_float32(self) -> str:
        """Give up half precision; raises ModelError in float32: then the weights are at fault."""
        if self.device.dtype == torch.float32:
            raise ModelError("The model computes values that are not finite on this scan: its weights are damaged.")
        failed, self.device = self.device, self.device.in_float32()
        return f"{failed} is not precise enough for this model: continuing in float32"

    def use_cpu(self, what: str) -> str:
        """Give up a GPU; raises DeviceError on the CPU, where there is not enough memory for ``what``."""
        if self.device.kind == "cpu":
            raise DeviceError(f"There is not enough memory for {what}: close other programs.")
        failed, self.device = self.device, choose_device("cpu")
        return f"Not enough memory on {failed.name}: continuing on the {self.device.name}"


def finite_logits(
    compute: Callable[[], torch.Tensor], slab_done: Callable[[float], None] | None = None
) -> torch.Tensor:
    """Return the logits (..., z, y, x) that a function computes; raises CannotCompute.

    ``slab_done`` is called with 1 after each slab of the logits that was looked at.
    """
    try:
        logits = compute()
        is_finite = are_finite(logits, slab_done)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise CannotCompute("memory") from None
    if not is_finite:
        raise CannotCompute("range")
    return logits


def are_finite(logits: torch.Tensor, slab_done: Callable[[float], None] | None = None) -> bool:
    """Tell whether logits (..., z, y, x) are finite: a sum is when all its terms are."""
    sums = []
    rows = _ROWS_AT_ONCE if logits.device.type == "cpu" else logits.shape[-3]
    for slab in logits.split(rows, dim=-3):
        sums.append(slab.sum(dtype=torch.float32))
        if slab_done is not None:
            slab_done(1.0)
    return bool(torch.isfinite(torch.stack(sums)).all())
