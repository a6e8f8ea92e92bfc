"""float16 on GPUs: small gradients are kept by a scaled loss, large ones leave a step out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from TransferSegLib.errors import TrainingError
from TransferSegLib.inference.devices import Device
from TransferSegLib.training.trainer import Losses, Trainer

FLOAT16 = Device("cpu", "processor", torch.float16)


class Settings(NamedTuple):
    seed: int = 0
    weight_decay: float = 0.0
    size_share: float = 0.0
    adam_share: float = 0.0
    gradient_norm: float = 1.0
    average: float = 0.9


class SmallGradient:
    """A loss whose gradient passes through float16 as ``size`` times the scale of the loss."""

    stream: tuple[int, ...] = ()
    batch = 1

    def __init__(self, size: float) -> None:
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.module.weight)
        self.hidden: list[nn.Parameter] = []
        self.size = size

    def draw(self, *randoms: np.random.Generator) -> float:
        return self.size

    def losses(self, drawn: float) -> Losses:
        half = self.module.weight.half()  # its gradient is a float16 number
        nothing = torch.zeros(())
        return Losses(half.float().sum() * drawn, nothing, nothing)


def trainer_of(size: float, device: Device = FLOAT16) -> Trainer:
    return Trainer(SmallGradient(size), Settings(), device)


def test_gradients_too_small_for_float16_are_learned_from() -> None:
    trainer = trainer_of(1e-9)  # float16 ends at 6e-8
    report = trainer.train_step(0.1)
    assert report.gradient_norm == pytest.approx(1e-9, rel=0.01)
    assert trainer.module.weight.item() < 1.0


def test_a_gradient_that_overflows_leaves_a_step_out_and_halves_the_scale() -> None:
    trainer = trainer_of(10.0)  # times 65536 is more than float16 has
    scale = trainer._scaler.get_scale()
    report = trainer.train_step(0.1)
    assert (report.step, report.gradient_norm) == (1, 0.0)
    assert trainer.module.weight.item() == 1.0
    assert trainer._scaler.get_scale() == scale / 2
    for _ in range(20):
        trainer.train_step(0.1)
    assert trainer.module.weight.item() < 1.0


def test_the_scale_is_resumed() -> None:
    trainer = trainer_of(10.0)
    for _ in range(3):
        trainer.train_step(0.1)
    resumed = trainer_of(10.0)
    resumed.restore(trainer.state())
    assert resumed._scaler.get_scale() == trainer._scaler.get_scale() < 65536
    before = trainer.state() | {"scaler": {}}  # of an older version, or of another precision
    trainer_of(10.0).restore(before)


def test_an_overflow_at_the_smallest_scale_is_divergence() -> None:
    trainer = trainer_of(1e6)
    with pytest.raises(TrainingError, match="lower learning rate"):
        for _ in range(40):
            trainer.train_step(0.1)
    assert trainer.step <= 17


def test_a_loss_that_is_no_number_is_divergence_at_once() -> None:
    with pytest.raises(TrainingError, match="lower learning rate"):
        trainer_of(float("nan")).train_step(0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_need_no_scale(dtype: torch.dtype) -> None:
    trainer = trainer_of(1.0, Device("cpu", "processor", dtype))
    trainer.train_step(0.1)
    assert trainer.state()["scaler"] == {}
