"""Training with several processes, really started: the same weights as with one, and one end for all of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from Testing.training.group import run_group
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.errors import Cancelled, DeviceError, TrainingError
from TransferSegLib.inference.devices import Device
from TransferSegLib.networks.nnunet.backbone import NnUNetBackbone, nnunet_spec
from TransferSegLib.networks.nnunet.plan import UNetPlan
from TransferSegLib.progress import CancelToken, Progress, Task
from TransferSegLib.training import base, processes
from TransferSegLib.training.base import BaseModelPlan, train_base
from TransferSegLib.training.checkpoint import read_checkpoint
from TransferSegLib.training.configuration import TrainingConfiguration
from TransferSegLib.training.loop import Hooks, train
from TransferSegLib.training.patch_objective import PatchObjective
from TransferSegLib.training.patches import Patch
from TransferSegLib.training.processes import ALONE, are_several, joined
from TransferSegLib.training.schedule import Budget, Schedule
from TransferSegLib.training.trainer import Trainer

FLOAT32 = Device("cpu", "CPU", torch.float32)
DATA = Path(__file__).resolve().parents[1] / "Data" / "head_neck_ct"
TINY = TrainingConfiguration(
    width=2, spacing_mm=8.0, steps=4, batch=3, patch=32, frame=2, validate_every=2, checkpoint_every=2, warm_up=2
)
LEVELS = 3
PLAN = UNetPlan(
    is_residual=False,
    features=(4, 4, 4),
    kernels_zyx=((3, 3, 3),) * LEVELS,
    strides_zyx=((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    encoder_blocks=(1,) * LEVELS,
    decoder_convolutions=(1,) * (LEVELS - 1),
    patch_zyx=(16, 16, 16),
)


class UnevenPatches:
    """Noise with zero to two structures, of which one is not always annotated, in regions of several sizes."""

    def __init__(self, look: Any = lambda: None) -> None:
        self._look = look

    def draw(self, random: np.random.Generator) -> Patch:
        self._look()
        side = PLAN.patch_zyx[0]
        labels, weights = np.zeros((side,) * 3, np.uint8), np.ones((side,) * 3, np.float32)
        for structure in range(1, 1 + random.integers(0, 3)):
            first = random.integers(0, 8, 3)
            labels[first[0] : first[0] + 6, first[1] : first[1] + 6, first[2] : first[2] + 6] = structure
        weights[: random.integers(0, side)] = 0
        annotated = np.array([True, True, random.random() < 0.5])
        noise = random.standard_normal((1, side, side, side)).astype(np.float32)
        return Patch(noise + labels, np.where(annotated[labels], labels, 0).astype(np.uint8), weights, annotated)


class HeldLoss:
    """A further loss that is a mean over the patches in which structure 2 is not annotated."""

    def __call__(self, logits: torch.Tensor, batch: Any) -> torch.Tensor:
        held = [logits[case].square().mean() for case, flags in enumerate(batch.annotated.tolist()) if not flags[2]]
        return torch.stack(held).mean() if held else logits.new_zeros(())

    def count(self, batch: Any) -> int:
        return sum(not flags[2] for flags in batch.annotated.tolist())


def make_trainer(group: Any, batch: int, look: Any = lambda: None) -> Trainer:
    backbone = NnUNetBackbone(nnunet_spec(PLAN, channels=1, classes=3))
    network = backbone.build()
    backbone.initialise(network, 3)
    objective = PatchObjective(network, backbone, UnevenPatches(look), FLOAT32, batch, HeldLoss(), deep_supervision=0.5)
    return Trainer(objective, replace(TINY, size_share=1.0), FLOAT32, group)


def take_steps(batch: int, steps: int) -> dict[str, Any]:
    """Take some steps; return weights, their average and the reports, as numpy and numbers."""
    with joined("cpu") as group:
        trainer = make_trainer(group, batch)
        reports = [trainer.train_step(0.01) for _ in range(steps)]
        state = {name: value.numpy() for name, value in trainer.module.state_dict().items()}
        average = {name: value.numpy() for name, value in trainer.averaged_state().items()}
        return {"network": state, "average": average, "losses": [vars(one) for one in reports]}


@pytest.mark.parametrize(("count", "batch"), [(2, 5), (3, 4)])
def test_any_number_of_processes_ends_with_the_same_weights(count: int, batch: int) -> None:
    """With uneven shares of patches, structures and voxels, at several resolutions, with normalisation."""
    alone = take_steps(batch, 6)
    for one in run_group(count, take_steps, batch, 6):
        assert not isinstance(one, str), one
        assert [report["step"] for report in one["losses"]] == [1, 2, 3, 4, 5, 6]
        for report, expected in zip(one["losses"], alone["losses"], strict=True):
            assert report == pytest.approx(expected, rel=1e-3, abs=1e-5)
        for kind in ("network", "average"):
            for name, value in alone[kind].items():
                if name.endswith("conv.bias"):
                    continue  # it does nothing before a normalisation, so that Adam follows its gradient's rounding
                np.testing.assert_allclose(one[kind][name], value, atol=2e-4, err_msg=name)
    start = make_trainer(ALONE, batch).module.state_dict()
    weights = {name: value.numpy() for name, value in start.items() if not name.endswith("conv.bias")}
    moved = max(np.abs(alone["network"][name] - value).max() for name, value in weights.items())
    assert moved > 0.02, "the weights hardly moved: nothing was compared"


def test_the_first_patch_is_drawn_as_ever_and_every_patch_by_its_own_generator() -> None:
    drawn: list[float] = []
    trainer = make_trainer(ALONE, 3)
    trainer._objective.draw = lambda *randoms: drawn.extend(random.random() for random in randoms)  # type: ignore[method-assign]
    trainer._draw(7)
    seeds = ([TINY.seed, 7], [TINY.seed, 7, 1], [TINY.seed, 7, 2])
    assert drawn == [np.random.default_rng(seed).random() for seed in seeds]


def plan(output: Path) -> BaseModelPlan:
    return BaseModelPlan(read_dataset(DATA), output, TINY, "tiny", device="cpu")


def train_in_float32(output: Path, resume: bool = False, stop_after: int = 0) -> str:
    """Train a base in float32: bfloat16, which some processors are faster in, has larger roundings."""
    base.choose_device = lambda name, dtype=None: FLOAT32  # type: ignore[assignment]
    cancel = CancelToken()

    def watch(progress: Progress) -> None:
        if stop_after and progress.key == "training" and progress.fraction >= stop_after / TINY.steps - 1e-9:
            cancel.cancel()

    try:
        return str(train_base(plan(output), resume, watch, cancel))
    except Cancelled:
        return "stopped"


def trained(output: Path) -> dict[str, Any]:
    return dict(read_checkpoint(output / "checkpoint.pt")["trainer"])


def test_a_run_is_resumed_with_another_number_of_processes(tmp_path: Path) -> None:
    assert run_group(1, train_in_float32, tmp_path / "whole") == [str(tmp_path / "whole" / "model")]
    parts = tmp_path / "parts"
    assert run_group(1, train_in_float32, parts, False, 1) == ["stopped"]
    assert trained(parts)["step"] == 1
    # The first of them is asked to stop after a step, and tells the other.
    assert run_group(2, train_in_float32, parts, True, 3) == ["stopped"] * 2
    assert trained(parts)["step"] == 3
    assert run_group(3, train_in_float32, parts, True) == [str(parts / "model")] * 3
    found, expected = trained(parts), trained(tmp_path / "whole")
    assert found["step"] == expected["step"] == TINY.steps
    for name, value in expected["network"].items():
        torch.testing.assert_close(found["network"][name], value, atol=1e-4, rtol=0)
    lines = [json.loads(line) for line in (parts / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "mean" in line] == [2, 4], "only the first process validates and writes"


def train_until(event: str, at_step: int, folder: Path) -> tuple[str, int, int]:
    """Train; the last process stops, or dies, in a step. Returns the error, the trainer's step, and checkpoints."""
    with joined("cpu") as group:
        cancel, checkpoints = CancelToken(), []
        is_last = group.number == group.count - 1

        def look() -> None:
            if is_last and trainer.step == at_step and event == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if is_last and trainer.step == at_step and event == "fails":
                raise TrainingError("This process failed.")

        trainer = make_trainer(group, 4, look)

        def stop(*_: Any) -> None:
            if is_last and trainer.step == at_step and event != "killed":
                cancel.cancel()

        if event == "stopped forward":
            next(one for one in trainer.module.modules() if isinstance(one, torch.nn.Conv3d)).register_forward_hook(
                stop
            )
        if event == "stopped back":
            next(trainer.module.parameters()).register_hook(stop)
            next(reversed(list(trainer.module.parameters()))).register_hook(stop)
        hooks = Hooks(lambda: checkpoints.append(trainer.step), 100, lambda line: None)
        try:
            train(trainer, Schedule(6, 0.01, 1), hooks, Task("", None, cancel))
        except (Cancelled, TrainingError) as error:
            line = f"{type(error).__name__}: {error}"
            # As the command line does: one of the processes prints.
            (folder / f"{group.number}").write_text(line if processes.speaks_for_all() else "")
            return line, trainer.step, len(checkpoints)
        return "", trainer.step, len(checkpoints)


@pytest.mark.parametrize("event", ["stopped forward", "stopped back"])
def test_all_stop_in_the_step_in_which_one_is_asked_to(event: str, tmp_path: Path) -> None:
    results = run_group(2, train_until, event, 2, tmp_path)
    assert results == [("Cancelled: Stopped on request.", 2, 1), ("Cancelled: Stopped on request.", 2, 0)]


@pytest.mark.parametrize("event", ["killed", "fails"])
def test_a_process_that_dies_ends_all_with_one_line(event: str, tmp_path: Path) -> None:
    *others, last = run_group(3, train_until, event, 2, tmp_path)
    assert last == (-signal.SIGKILL if event == "killed" else ("TrainingError: This process failed.", 2, 0))
    for number, (line, step, checkpoints) in enumerate(others):
        assert line.startswith("TrainingError: One of the 3 processes of this training has ended"), line
        assert (step, checkpoints) == (2, int(number == 0)), "the first one keeps what was trained"
    printed = [path.read_text() for path in tmp_path.iterdir() if path.read_text()]
    assert len(printed) == 1
    if event == "fails":
        assert printed == ["TrainingError: This process failed."]


def train_by_minutes() -> tuple[int, list[float]]:
    """Train by a clock that only the first process may look at: a step takes a minute."""
    with joined("cpu") as group:
        trainer, rates = make_trainer(group, 2), []

        def clock() -> float:
            assert group.is_first, "another process has looked at its own clock"
            return 60.0 * trainer.step

        budget = Budget(5.0, clock) if group.is_first else Budget.__new__(Budget)
        take = trainer.train_step
        trainer.train_step = lambda rate, *more: rates.append(rate) or take(rate, *more)  # type: ignore
        ended = Hooks(lambda: None, 100, lambda line: None, lambda step, is_last: group.is_first and step >= 4)
        train(trainer, Schedule(1000, 0.01, 2, budget), ended, Task())
        return trainer.step, rates


def test_the_clock_and_the_decision_to_end_early_are_the_first_ones() -> None:
    first, second = run_group(2, train_by_minutes)
    assert first == second and not isinstance(first, str), (first, second)
    steps, rates = first
    assert steps == 4 and rates == [pytest.approx(rate) for rate in rates]
    assert rates[3] == pytest.approx(0.01 * 0.5 * (1 + np.cos(np.pi * 3 / 5)))


def test_batch_statistics_are_refused_with_several_processes() -> None:
    normalised = torch.nn.Sequential(torch.nn.Conv3d(1, 1, 1), torch.nn.BatchNorm3d(1))
    ALONE.check_network(normalised)
    group = processes.Group(0, 2, 0, None)
    group.check_network(NnUNetBackbone(nnunet_spec(PLAN, channels=1, classes=3)).build())
    with pytest.raises(TrainingError, match="batch normalisation"):
        group.check_network(normalised)


def batch_of_one() -> None:
    with joined("cpu") as group:
        make_trainer(group, 1)


def other_settings(output: Path) -> None:
    configuration = replace(TINY, seed=int(os.environ["RANK"]))
    train_base(replace(plan(output), configuration=configuration))


def test_what_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    message = "2 processes cannot share a step of 1 patch: set batch to 2 or more"
    assert all(f"TrainingError: {message}" in one for one in run_group(2, batch_of_one))
    _, second = run_group(2, other_settings, tmp_path / "run")
    assert "Process 2 of 2 has settings, cases or a model to begin with other than the first one" in second


@pytest.mark.parametrize(
    ("wanted", "local", "gpus", "expected"),
    [("auto", 0, 0, "cpu"), ("auto", 1, 2, "cuda:1"), ("cuda", 0, 1, "cuda:0"), ("cpu", 3, 2, "cpu")],
)
def test_every_process_has_a_device_of_its_own(wanted: str, local: int, gpus: int, expected: str) -> None:
    assert processes._own_device(wanted, local, gpus) == expected


def test_too_few_gpus_are_refused() -> None:
    for wanted, local, gpus in (("cuda", 0, 0), ("auto", 2, 2), ("cuda:1", 0, 2), ("mps", 0, 0)):
        with pytest.raises(DeviceError):
            processes._own_device(wanted, local, gpus)


def test_one_process_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_join", lambda device: pytest.fail("joined"))
    for size in ("", "1"):
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", size)
        assert not are_several() and processes.speaks_for_all()
        with joined("cpu") as group:
            assert group is ALONE


def torchrun(count: int, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)]
    command += ["-m", "TransferSegLib", "train-base", "--data", str(DATA), "--output", str(output), "--device", "cpu"]
    settings = ["--width", "2", "--spacing-mm", "8", "--steps", "2", "--patch", "32", "--frame", "2", *options]
    root = DATA.parents[2]
    return subprocess.run(
        [*command, *settings], capture_output=True, text=True, timeout=_LONGEST_S, cwd=root, check=False
    )


_LONGEST_S = 300


def test_the_command_under_torchrun(tmp_path: Path) -> None:
    done = torchrun(2, tmp_path / "run", "--batch", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The model is in") == 1
    refused = torchrun(2, tmp_path / "other")
    assert refused.returncode != 0
    assert refused.stderr.count("transferseg: 2 processes cannot share a step of 1 patch") == 1
