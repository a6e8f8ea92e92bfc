"""Cached features give what running the frozen part every step would give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from TransferSegLib.errors import Cancelled, TrainingError
from TransferSegLib.finetuning.distillation import Distillation
from TransferSegLib.finetuning.feature_cache import FeatureSizes, cache_features, patch_random, patch_sampler
from TransferSegLib.finetuning.label_change import plan_label_change
from TransferSegLib.finetuning.last_layers import LastLayersObjective
from TransferSegLib.networks.unet_valid.geometry import MARGIN
from TransferSegLib.progress import CancelToken, Progress, Task
from TransferSegLib.training.losses import marginal_loss


@pytest.mark.parametrize("cut", ["last convolution", "last pair"])
def test_a_cached_step_equals_one_that_runs_the_frozen_part(world: Any, cut: str) -> None:
    """Same loss and gradients to the rounding of the cache's 8 bits of mantissa."""
    parent = world.make_parent(world.label_set("bright", "dark"))
    change = plan_label_change(parent.description.label_set, parent.description.label_set)
    knobs = replace(world.quick, tail=cut, patches_per_case=1)
    case = world.ball_case(annotated=(True, True, False))
    network = parent.network()
    with cache_features(parent, [case], change, knobs, world.float32) as cache:
        assert len(cache) == 1
        backbone = parent.description.backbone
        objective = LastLayersObjective(network, backbone, cache, knobs, world.float32, Distillation(change))
        cross_entropy, dice, held = objective.losses(objective.draw(np.random.default_rng(0)))
        (cross_entropy + dice).backward()
        cached = {name: value.grad.clone() for name, value in network.named_parameters() if value.grad is not None}
        teacher = cache.patch(0).teacher
    network.zero_grad(set_to_none=True)
    patch = patch_sampler(case, change, FeatureSizes.of(backbone, knobs), knobs).draw(
        patch_random(knobs.seed, case.id, 0)
    )
    inner = (slice(MARGIN, -MARGIN),) * 3
    logits = network(torch.from_numpy(patch.intensities)[None])
    expected = marginal_loss(
        logits,
        torch.from_numpy(patch.labels[inner])[None],
        torch.from_numpy(patch.annotated)[None],
        torch.from_numpy(patch.weights[inner])[None],
    )
    (expected[0] + expected[1]).backward()
    assert cross_entropy.item() == pytest.approx(expected[0].item(), rel=2e-3)
    assert dice.item() == pytest.approx(expected[1].item(), rel=2e-3)
    assert held.item() == pytest.approx(0, abs=1e-3)  # the student still is the teacher
    assert teacher is not None and teacher[0].shape == patch.labels[inner].shape
    trained = 4 if cut == "last convolution" else 6
    assert len(cached) == trained and all(name.startswith(("up.2.", "head.")) for name in cached)
    for name, gradient in cached.items():
        wanted = network.get_parameter(name).grad
        assert wanted is not None
        assert (gradient - wanted).norm() < 0.02 * wanted.norm() + 1e-6, name


def test_a_patch_does_not_depend_on_the_other_cases(world: Any, tmp_path: Path) -> None:
    """What the folds of a cross-validation rely on; and the disk holds the same as the memory."""
    parent = world.make_parent(world.label_set("bright", "dark"))
    change = plan_label_change(parent.description.label_set, parent.description.label_set)
    one, other = world.ball_case("one"), world.ball_case("other", shift=4)
    knobs = replace(world.quick, patches_per_case=1)
    on_disk = replace(knobs, memory_bytes=1.0)
    with (
        cache_features(parent, [one, other], change, on_disk, world.float32, folder=tmp_path) as both,
        cache_features(parent, [other], change, knobs, world.float32) as alone,
    ):
        assert len(list(tmp_path.iterdir())) == 1
        fold = both.select(["other"])
        assert len(fold) == 1 and fold.case_ids == ("other",)
        assert torch.equal(fold.patch(0).maps, alone.patch(0).maps)
        assert torch.equal(fold.patch(0).labels, alone.patch(0).labels)
        assert fold.patch(0).teacher is None  # everything is annotated
        with pytest.raises(TrainingError, match="no cached features of third"):
            both.select(["third"])
    assert list(tmp_path.iterdir()) == []


def test_the_budget_of_bytes_decides_how_many(world: Any) -> None:
    parent = world.make_parent(world.label_set("bright", "dark"))
    change = plan_label_change(parent.description.label_set, parent.description.label_set)
    cases = [world.ball_case("one")]
    # Maps 4 * 22^3 * 2 bytes, labels and judged voxels 2 * 20^3, the parent's probabilities 3 groups * 20^3 * 2.
    needed = 4 * 22**3 * 2 + 2 * 20**3 + 3 * 20**3 * 2
    tight = replace(world.quick, cache_bytes=needed * 1.9, patches_per_case=3)
    with cache_features(parent, cases, change, tight, world.float32) as cache:
        assert len(cache) == 1
    with pytest.raises(TrainingError, match="cache_bytes allows"):
        cache_features(parent, cases, change, replace(tight, cache_bytes=needed - 1), world.float32)


def test_cancel_leaves_nothing_on_the_disk(world: Any, tmp_path: Path) -> None:
    parent = world.make_parent(world.label_set("bright", "dark"))
    change = plan_label_change(parent.description.label_set, parent.description.label_set)
    token = CancelToken()
    knobs = replace(world.quick, memory_bytes=1.0)
    with pytest.raises(Cancelled):
        cache_features(
            parent,
            [world.ball_case()],
            change,
            knobs,
            world.float32,
            folder=tmp_path,
            task=Task("", lambda report: token.cancel(), token),
        )
    assert list(tmp_path.iterdir()) == []


def test_progress_moves_within_a_patch(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("TransferSegLib.progress_reports._BETWEEN_REPORTS_S", 0.0)
    monkeypatch.setattr("TransferSegLib.pace._LONG_S", 0.0)
    parent = world.make_parent(world.label_set("bright", "dark"))
    change = plan_label_change(parent.description.label_set, parent.description.label_set)
    knobs = replace(world.quick, patches_per_case=2)
    said: list[Progress] = []
    cache_features(parent, [world.ball_case()], change, knobs, world.float32, task=Task("", said.append)).close()
    for number, (start, end) in enumerate(((0.0, 0.5), (0.5, 1.0))):
        within = {report.fraction for report in said if report.step == number and start < report.fraction < end}
        assert len(within) > 5, "a report for each layer"
    fractions = [report.fraction for report in said]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert {report.message for report in said if report.step == 0} == {"ball"}


def test_progress_follows_the_time_that_ends_it(world: Any) -> None:
    """By minutes far fewer patches are made than would fit into the memory."""
    parent = world.make_parent(world.label_set("bright", "dark"))
    change = plan_label_change(parent.description.label_set, parent.description.label_set)
    knobs = replace(world.quick, patches_per_case=50)
    said: list[Progress] = []

    def spent() -> float:
        return max((report.step or 0 for report in said), default=0) / 3

    task = Task("", said.append)
    with cache_features(parent, [world.ball_case()], change, knobs, world.float32, spent=spent, task=task) as cache:
        assert len(cache) == 3
    ends = {report.step: report.fraction for report in said}
    assert ends[2] >= 1 / 3 and ends[3] >= 2 / 3
