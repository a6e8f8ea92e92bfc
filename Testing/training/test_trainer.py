"""The optimisation loop on a problem small enough to solve: a bright ball in a dark cube."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from TransferSegLib.datasets.prepared import PreparedCase
from TransferSegLib.errors import TrainingError
from TransferSegLib.evaluation.predict_and_score import reference_on_model_grid
from TransferSegLib.images.model_grid import ModelGrid
from TransferSegLib.inference.devices import Device
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
from TransferSegLib.structures import LabelSet, Structure
from TransferSegLib.training.configuration import AugmentationConfiguration, TrainingConfiguration
from TransferSegLib.training.patch_objective import PatchObjective
from TransferSegLib.training.patches import PatchSampler
from TransferSegLib.training.schedule import Schedule
from TransferSegLib.training.trainer import StepReport, Trainer

STILL = AugmentationConfiguration(rotation_degrees=0, scaling=0, intensity=0)
SMALL = TrainingConfiguration(
    width=4,
    patch=32,
    frame=2,
    steps=40,
    warm_up=5,
    learning_rate=0.03,
    weight_decay=0.01,
    average=0.9,
    seed=3,
    augmentation=STILL,
)
FLOAT32 = Device("cpu", "processor", torch.float32)


def ball(annotated: tuple[bool, ...] = (True, True, True)) -> PreparedCase:
    z, y, x = np.indices((32, 32, 32))
    labels = ((z - 15) ** 2 + (y - 14) ** 2 + (x - 16) ** 2 < 64).astype(np.uint8)
    intensities = np.where(labels == 1, 0.8, -0.8).astype(np.float16)
    grid = ModelGrid.around(sitk.Image([32, 32, 32], sitk.sitkInt16), (1.0,) * 3)
    return PreparedCase(
        "ball", intensities[None], labels, None, np.array(annotated), (-1.0,), grid, {1: np.flatnonzero(labels)}
    )


def make_trainer(case: PreparedCase, configuration: TrainingConfiguration = SMALL) -> Trainer:
    backbone = backbone_of(unet_valid_spec(configuration.width, classes=3))
    network = backbone.build()
    backbone.initialise(network, configuration.seed)
    patch = backbone.training_patch(configuration.patch, configuration.frame)
    sampler = PatchSampler([case], (0, 1, 2), patch, configuration)
    return Trainer(PatchObjective(network, backbone, sampler, FLOAT32), configuration, FLOAT32)


def take_step(trainer: Trainer) -> StepReport:
    schedule = Schedule(SMALL.steps, SMALL.learning_rate, SMALL.warm_up)
    return trainer.train_step(schedule.rate(trainer.step))


def test_it_learns_what_is_plain_to_see() -> None:
    trainer = make_trainer(ball())
    reports = [take_step(trainer) for _ in range(SMALL.steps)]
    assert reports[0].dice_loss > 0.8
    assert reports[-1].dice_loss < 0.4 and reports[-1].cross_entropy < 0.25 * reports[0].cross_entropy


def test_an_unannotated_structure_is_not_unlearned() -> None:
    """With channel 2 unannotated its head learns nothing but what lowers the background's share."""
    trainer = make_trainer(ball(annotated=(True, True, False)))
    for _ in range(SMALL.steps):
        take_step(trainer)
    trainer.module.eval()
    with torch.no_grad():
        scan = torch.from_numpy(ball().intensities.astype(np.float32))[None]
        probabilities = torch.softmax(trainer.module(scan, padded=True), dim=1)[0]
    inside = torch.from_numpy(ball().labels == 1)
    assert probabilities[1][inside].mean() > 0.6
    # Outside the ball background and channel 2 may share as they like; the annotated one must be gone.
    assert (probabilities[0] + probabilities[2])[~inside].mean() > 0.9


def test_averaged_weights_are_lent_and_taken_back() -> None:
    trainer = make_trainer(ball())
    for _ in range(3):
        take_step(trainer)
    before = {name: value.clone() for name, value in trainer.module.state_dict().items()}
    with trainer.averaged() as network:
        assert not network.training
        lent = {name: value.clone() for name, value in network.state_dict().items()}
    assert trainer.module.training
    assert all(torch.equal(value, before[name]) for name, value in trainer.module.state_dict().items())
    assert all(torch.equal(value, trainer.averaged_state()[name]) for name, value in lent.items())
    assert any(not torch.equal(value, before[name]) for name, value in lent.items())


def test_a_loss_that_is_no_number_stops_training() -> None:
    trainer = make_trainer(ball())
    with torch.no_grad():
        trainer.module.head.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match="lower learning rate"):
        take_step(trainer)


def test_a_checkpoint_of_another_network_is_refused() -> None:
    state = make_trainer(ball()).state()
    other = TrainingConfiguration(width=3, patch=32, frame=2, augmentation=STILL)
    with pytest.raises(TrainingError, match="another network"):
        make_trainer(ball(), other).restore(state)


def test_the_learning_rate_warms_up_and_decays_to_zero() -> None:
    schedule = Schedule(steps=100, highest_rate=1.0, warm_up=10)
    rates = [schedule.rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(0.5 * (1 + np.cos(np.pi * 0.09)))
    assert rates[50] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))


def test_the_decay_of_base_training_begins_after_the_warm_up() -> None:
    schedule = Schedule(steps=100, highest_rate=1.0, warm_up=10, decay_from=10)
    rates = [schedule.rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0) and rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)


def test_dice_of_a_case_counts_annotated_structures_only() -> None:
    label_set = LabelSet((Structure("ball", 1, (255, 0, 0)), Structure("other", 2, (0, 255, 0))))
    case = ball(annotated=(True, True, False))
    shifted = np.roll(case.labels, 4, axis=2)
    expected = 2 * np.logical_and(shifted, case.labels).sum() / (2 * case.labels.sum())
    reference = reference_on_model_grid(case, label_set)
    for labels, dice in ((shifted, expected), (np.full_like(shifted, 2), 0.0)):
        scores = reference.scores(labels, reference.label_set)
        assert {name: score.dice for name, score in scores.items()} == {"ball": pytest.approx(dice)}
