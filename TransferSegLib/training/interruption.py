"""Looking up within an optimisation step: one of a wide network takes many seconds, and nobody waits that long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from TransferSegLib.progress import CancelToken


@contextmanager
def interruptible(
    network: nn.Module, cancel: CancelToken | None, moved: Callable[[], None] | None = None
) -> Iterator[None]:
    """Raise Cancelled between two parts of the network, on the way forward or back, once stopping was asked for.

    The parts are the modules that the network calls; ``moved`` is called between them, too. Weights are as they were:
    they change in the optimiser's step, which is not made any more. Without a token and ``moved`` nothing happens.
    """
    if cancel is None and moved is None:
        yield
        return

    def look() -> None:
        if cancel is not None:
            cancel.check()
        if moved is not None:
            moved()

    def before(module: nn.Module, inputs: Any) -> None:
        look()

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.requires_grad:
            output.register_hook(lambda gradient: look())

    hooks = []
    for module in network.modules():
        hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
