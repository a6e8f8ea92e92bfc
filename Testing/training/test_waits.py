"""A training step must not wait for a GPU between its parts: counted on a CPU by the operations that would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from Testing.training.test_trainer import FLOAT32, SMALL, ball, make_trainer, take_step

#: Operations whose result decides what comes next: numbers for Python, and tensors as large as their input says.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "bincount")


class Waits(TorchDispatchMode):
    """Notes the operations for which a GPU is waited."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = function.overloadpacket.__name__
        is_masked = name == "index" and any(one is not None and one.dtype == torch.bool for one in args[1])
        if name in WAITING or is_masked:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def waits_of(work: Callable[[], Any]) -> list[str]:
    with Waits() as waits:
        work()
    return waits.found


def test_losses_and_optimiser_wait_for_nothing() -> None:
    trainer = make_trainer(ball(), replace(SMALL, size_share=1.0))
    take_step(trainer)
    drawn = trainer._draw(1)
    assert drawn.occurring is not None and [channels.tolist() for channels in drawn.occurring] == [[1]]

    def step() -> None:
        sum(trainer._objective.losses(drawn)).backward()  # type: ignore[union-attr]
        trainer._optimiser.step()

    assert waits_of(step) == []


def test_the_count_finds_what_waits() -> None:
    assert waits_of(lambda: torch.ones(3)[torch.tensor([True, False, True])].sum().item()) == [
        "index",
        "_local_scalar_dense",
    ]
    assert "bincount" in waits_of(lambda: make_trainer(ball())._objective.draw(np.random.default_rng(0)))
    assert FLOAT32.kind == "cpu"
