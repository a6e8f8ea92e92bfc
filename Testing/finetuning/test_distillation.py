"""Distillation what was not annotated: worked out by hand, and zero where the parent is matched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from TransferSegLib.finetuning.distillation import Distillation
from TransferSegLib.finetuning.label_change import plan_label_change


def spread(values: list[float], side: int = 2) -> torch.Tensor:
    """Return the same values at every voxel: (1, channels, side, side, side)."""
    return torch.tensor(values)[None, :, None, None, None].expand(1, len(values), side, side, side).contiguous()


def ones(side: int = 2) -> torch.Tensor:
    return torch.ones((1, side, side, side))


def test_groups_of_the_teacher_are_sums(world: Any) -> None:
    parent = world.label_set("a", "b", "c", "gone")
    change = plan_label_change(parent, world.label_set("ab", "c", "new"), merged={"ab": ("a", "b")}, dropped=["gone"])
    probabilities = [0.1, 0.2, 0.3, 0.15, 0.25]
    teacher = Distillation(change).teacher(spread(probabilities).log())
    assert teacher[0, :, 0, 0, 0].tolist() == pytest.approx([0.1 + 0.25, 0.5, 0.15])


def test_nothing_is_lost_where_the_parent_is_matched(world: Any) -> None:
    """The new channel may take its share from the background without being told off."""
    change = plan_label_change(world.label_set("a", "b"), world.label_set("new"))
    holding = Distillation(change)
    teacher = holding.teacher(spread([0.5, 0.2, 0.3], 4).log())
    student = spread([0.1, 0.2, 0.3, 0.4], 4).log().requires_grad_()
    labels = torch.zeros((1, 4, 4, 4), dtype=torch.uint8)
    annotated = torch.tensor([[True, False, False, False]])
    counted = torch.ones((4, 4, 4), dtype=torch.bool)
    loss = holding.loss(student, teacher, labels, annotated, ones(4), counted)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_divergence_by_hand(world: Any) -> None:
    """One held structure; the annotated one takes 0.5 of the parent's probability, so the rest counts half.

    Teacher among (background, b): 0.4, 0.1 of mass 0.5; student's 0.3, 0.3: 0.4 log(0.8 / 0.5) + 0.1 log(0.2 / 0.5).
    """
    change = plan_label_change(world.label_set("a", "b"), world.label_set("a", "b"))
    holding = Distillation(change)
    teacher = holding.teacher(spread([0.4, 0.5, 0.1]).log())
    annotated = torch.tensor([[True, True, False]])
    assert holding.holds(annotated[0].tolist()) == [2]
    labels = torch.zeros((1, 2, 2, 2), dtype=torch.uint8)
    counted = torch.ones((2, 2, 2), dtype=torch.bool)
    loss = holding.loss(spread([0.3, 0.4, 0.3]).log(), teacher, labels, annotated, ones(), counted)
    # 8 voxels of 0.1 squared are no structure: no Dice.
    assert loss.item() == pytest.approx(0.4 * np.log(0.8 / 0.5) + 0.1 * np.log(0.2 / 0.5), abs=1e-6)


def test_labels_and_frames_are_left_alone(world: Any) -> None:
    holding = Distillation(plan_label_change(world.label_set("a", "b"), world.label_set("a", "b")))
    teacher = holding.teacher(spread([0.1, 0.1, 0.8], 4).log())
    student = spread([0.8, 0.1, 0.1], 4).log().requires_grad_()
    labels = torch.zeros((1, 4, 4, 4), dtype=torch.uint8)
    labels[:, :2] = 1
    counted = torch.ones((4, 4, 4), dtype=torch.bool)
    counted[3] = False
    annotated = torch.tensor([[True, True, False]])
    holding.loss(student, teacher, labels, annotated, ones(4), counted).backward()
    assert student.grad is not None
    touched = student.grad.abs().sum(dim=(0, 1)) > 0
    assert not touched[:2].any() and not touched[3].any() and touched[2].all()


def test_a_case_with_everything_annotated_holds_nothing(world: Any) -> None:
    holding = Distillation(plan_label_change(world.label_set("a"), world.label_set("a", "new")))
    assert holding.holds([True, True, False]) == []
    nothing = torch.zeros((1, 1, 2, 2, 2))
    loss = holding.loss(
        spread([0.3, 0.4, 0.3]).log(),
        nothing,
        torch.zeros((1, 2, 2, 2)),
        torch.tensor([[True, True, True]]),
        ones(),
        torch.ones((2, 2, 2), dtype=torch.bool),
    )
    assert loss.item() == 0


def test_a_split_structure_with_one_part_drawn_is_no_longer_held(world: Any) -> None:
    change = plan_label_change(world.label_set("a"), world.label_set("l", "r"), split={"l": "a", "r": "a"})
    assert Distillation(change).holds([True, False, False]) == [1]
    assert Distillation(change).holds([True, True, False]) == []


def test_a_structure_split_in_two_is_held_as_their_sum(world: Any) -> None:
    """The parent's "a" became two channels, and "b" stayed one; the student gives both what the parent did."""
    change = plan_label_change(
        world.label_set("a", "b"), world.label_set("left a", "right a", "b"), split={"left a": "a", "right a": "a"}
    )
    holding = Distillation(change)
    teacher = holding.teacher(spread([0.5, 0.3, 0.2], 4).log())
    parts = {"left a": 0.1, "right a": 0.2, "b": 0.2}
    student = spread([0.5, *(parts[name] for name in change.label_set.names)], 4).log()
    annotated = torch.tensor([[True, False, False, False]])
    labels = torch.zeros((1, 4, 4, 4), dtype=torch.uint8)
    loss = holding.loss(student, teacher, labels, annotated, ones(4), torch.ones((4, 4, 4), dtype=torch.bool))
    assert loss.item() == pytest.approx(0, abs=1e-6)
