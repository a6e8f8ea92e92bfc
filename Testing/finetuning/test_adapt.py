"""The three ways on tiny networks: what moves, what stays, stopping and going on, bad input."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from TransferSegLib.errors import Cancelled, TrainingError
from TransferSegLib.finetuning.adapt import adapt
from TransferSegLib.finetuning.distillation import Distillation, distillation_loss
from TransferSegLib.finetuning.label_change import plan_label_change, unchanged
from TransferSegLib.networks.unet_valid.unet import UNet3D
from TransferSegLib.progress import CancelToken, Progress, Task
from TransferSegLib.training.checkpoint import read_checkpoint, write_checkpoint
from TransferSegLib.training.patch_objective import Batch
from TransferSegLib.training.schedule import Budget, Schedule


def added_dark(world: Any) -> tuple[Any, Any]:
    """Return a parent that knows bright balls, and the change that adds dark ones."""
    parent = world.make_parent(world.label_set("bright"))
    return parent, plan_label_change(parent.description.label_set, world.label_set("dark"))


def test_stage_1_leaves_the_frozen_weights_alone(world: Any) -> None:
    parent, change = added_dark(world)
    adapted = adapt(parent, [world.ball_case()], change, world.quick.with_steps(3, 0), device=world.float32)
    assert (adapted.tail_steps, adapted.steps) == (3, 0)
    moved = {
        name
        for name, value in adapted.state_dict.items()
        if "head" not in name and not torch.equal(value, parent.state_dict[name])
    }
    assert moved == {"up.2.second.weight", "up.2.second.bias"}
    assert adapted.network.classes == 3
    assert [start.structure for start in adapted.starts] == ["dark"]


@pytest.mark.parametrize("strategy", ["finetune", "vanilla", "scratch"])
def test_stopped_and_resumed_is_as_good_as_never_stopped(world: Any, tmp_path: Path, strategy: str) -> None:
    parent, change = added_dark(world)
    cases = [world.ball_case(annotated=(True, False, True))]
    knobs = replace(world.quick, strategy=strategy, tail_steps=3, steps=2, patches_per_case=1)
    whole = adapt(parent, cases, change, knobs, device=world.float32)
    for stop_at in [("last-layers", 2)] * (strategy == "finetune") + [("all-layers", 1)]:
        token = CancelToken()

        def watch(report: Progress, stop_at: tuple[str, int] = stop_at, token: CancelToken = token) -> None:
            if (report.key, report.step) == stop_at:
                token.cancel()

        file = tmp_path / f"{strategy}.pt"

        def save(state: dict[str, Any], file: Path = file) -> None:
            write_checkpoint(file, state)

        with pytest.raises(Cancelled):
            adapt(parent, cases, change, knobs, device=world.float32, task=Task("", watch, token), save=save)
        saved = read_checkpoint(file)
        resumed = adapt(parent, cases, change, knobs, device=world.float32, resume=saved)
        assert all(torch.equal(value, resumed.state_dict[name]) for name, value in whole.state_dict.items())
    with pytest.raises(TrainingError, match="other settings"):
        adapt(parent, cases, change, replace(knobs, seed=6), device=world.float32, resume=saved)


def test_scratch_does_not_see_the_parent(world: Any) -> None:
    parent, change = added_dark(world)
    other = world.make_parent(world.label_set("bright"), seed=99)
    knobs = replace(world.quick, strategy="scratch", steps=1)
    first, second = (adapt(p, [world.ball_case()], change, knobs, device=world.float32) for p in (parent, other))
    assert all(torch.equal(value, second.state_dict[name]) for name, value in first.state_dict.items())


def test_validation_keeps_the_best_weights(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores 0.5 (after stage 1), 0.9, 0.8, 0.7: the second is returned, and two worse ones end the run."""
    scores = iter([0.5, 0.9, 0.8, 0.7])
    seen: list[dict[str, torch.Tensor]] = []

    def validate(network: Any, *_: Any) -> dict[str, float]:
        seen.append(copy.deepcopy(network.state_dict()))
        return {"bright": next(scores)}

    monkeypatch.setattr("TransferSegLib.finetuning.adapt.validate", validate)
    parent, change = added_dark(world)
    knobs = replace(world.quick, tail_steps=1, steps=50, patience=2, patches_per_case=1)
    validation = [world.ball_case("other", shift=2)]
    adapted = adapt(parent, [world.ball_case()], change, knobs, device=world.float32, validation=validation)
    assert adapted.steps == 3 and adapted.validation_dice == {"bright": 0.9}
    assert all(torch.equal(value, seen[1][name]) for name, value in adapted.state_dict.items())
    assert [line["mean"] for line in adapted.history if "mean" in line] == [0.5, 0.9, 0.8, 0.7]


def test_an_unannotated_structure_is_held(world: Any) -> None:
    """The parent has learned bright balls; then its last layers learn dark ones, holding the bright or not."""
    parent = world.make_parent(world.label_set("bright"), width=3)
    lessons = replace(world.quick, strategy="vanilla", steps=40, vanilla_rate=0.03, average=0.5, patches_per_case=8)
    keep = unchanged(parent.description.label_set)
    taught = adapt(parent, [world.ball_case(annotated=(True, True))], keep, lessons, device=world.float32)
    parent = replace(parent, state_dict=taught.state_dict)
    change = plan_label_change(parent.description.label_set, world.label_set("dark"))
    whole = world.ball_case()
    scan = torch.from_numpy(whole.intensities.astype(np.float32))[None]
    is_bright = torch.from_numpy(whole.labels == 1)

    def probabilities(state: dict[str, torch.Tensor]) -> torch.Tensor:
        network = UNet3D(len(state["head.bias"]), 3)
        network.load_state_dict(state)
        with torch.no_grad():
            return torch.softmax(network(scan, padded=True), dim=1)[0, 1]

    before = probabilities(parent.state_dict)
    lost = {}
    for weight in (0.0, 1.0):
        # Calm steps: with a high rate on few patches chance decides more than what is held.
        calm = replace(lessons, new_tail_rate=0.005, average=0.9)
        knobs = replace(calm, strategy="finetune", distillation=weight, tail_steps=60, steps=0)
        adapted = adapt(parent, [world.ball_case(annotated=(True, False, True))], change, knobs, device=world.float32)
        lost[weight] = float((before - probabilities(adapted.state_dict)).abs()[is_bright].mean())
    assert float(before[is_bright].mean()) > 0.4
    assert lost[1.0] < 0.5 * lost[0.0], lost


def test_stage_2_compares_with_the_parent_on_the_same_patch(world: Any) -> None:
    parent = world.make_parent(world.label_set("bright", "dark"))
    change = unchanged(parent.description.label_set)
    network = parent.network()
    further = distillation_loss(
        parent.network(), parent.description.backbone, Distillation(change), world.quick, world.float32
    )
    scans = torch.from_numpy(world.ball_case().intensities.astype(np.float32))[None]
    nothing = torch.zeros((1, 32, 32, 32))
    batch = Batch(scans, nothing, torch.ones_like(nothing), torch.tensor([[True, True, False]]))
    with torch.no_grad():
        logits = network(scans, padded=True)
        assert further(logits, batch).item() == pytest.approx(0, abs=1e-5)
        logits[:, 2] -= 1
        lost = further(logits, batch).item()
        assert lost > 0.01
        logits[:, 2, :2] -= 100  # in the frame nobody looks
        assert further(logits, batch).item() == pytest.approx(lost)
        everything = Batch(scans, nothing, batch.weights, torch.tensor([[True, True, True]]))
        assert further(logits, everything).item() == 0


def test_the_clock_ends_the_stages(world: Any) -> None:
    """A clock that moves by what it is told: stage 1 from 30 s to 60 s of a budget of two minutes."""
    now = 100.0
    budget = Budget(2.0, lambda: now, spent_s=30.0)
    stage = Schedule(1000, 0.1, 1, budget, until=0.5, since_s=30.0)
    assert stage.done(0) == 0 and stage.done(500) == 0.5
    now = 115.0
    assert budget.spent_s == 45.0 and stage.done(0) == 0.5 and stage.done(900) == 0.9
    assert stage.rate(5) == pytest.approx(0.05)
    now = 130.0
    assert stage.done(0) == 1.0
    assert Schedule(10, 0.1, 1, Budget(0, lambda: now)).done(4) == 0.4
    assert Schedule(0, 0.1, 1, Budget(0, lambda: now)).done(0) == 1.0


def test_minutes_end_a_run(world: Any) -> None:
    """Every look at the clock takes a second of a minute."""
    seconds = iter(range(10_000))
    parent, change = added_dark(world)
    knobs = replace(world.quick, minutes=0.5, tail_steps=1000, steps=1000, checkpoint_every=1000, validate_every=1000)
    adapted = adapt(
        parent, [world.ball_case()], change, knobs, device=world.float32, clock=lambda: float(next(seconds))
    )
    assert 0 < adapted.tail_steps < 15 and 0 < adapted.steps < 30


def test_forgetting_is_reported(world: Any) -> None:
    parent, change = added_dark(world)
    knobs = replace(world.quick.with_steps(0, 0), report_cases=1)
    case = world.ball_case(annotated=(True, False, True))
    (bright,) = adapt(parent, [case], change, knobs, device=world.float32).changes
    assert bright.parent == ("bright",) and bright.fate == "kept" and bright.unreviewed_cases == 1
    assert bright.dice_before is None and bright.reviewed_cases == 0
    assert bright.agreement is None or 0 <= bright.agreement <= 1


def test_bad_input(world: Any) -> None:
    parent, change = added_dark(world)
    case = world.ball_case()

    def run(training: list[Any], change: Any = change, knobs: Any = world.quick, **more: Any) -> None:
        adapt(parent, training, change, knobs, device=world.float32, **more)

    with pytest.raises(TrainingError, match="no case to learn from"):
        run([])
    with pytest.raises(TrainingError, match="validated on at once: ball"):
        run([case], validation=[case])
    with pytest.raises(TrainingError, match="prepared for 1 structures, the new model has 2"):
        run([world.ball_case(annotated=(True, True))])
    with pytest.raises(TrainingError, match="prepared at 1 mm, the new model works at 2 mm"):
        run([case], knobs=replace(world.quick, spacing_mm=2.0))
    with pytest.raises(TrainingError, match="another model than 'tiny'"):
        run([case], change=plan_label_change(world.label_set("x"), world.label_set("y")))
