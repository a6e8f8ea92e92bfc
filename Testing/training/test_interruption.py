from __future__ import annotations

import pytest
import torch

from TransferSegLib.errors import Cancelled
from TransferSegLib.inference.devices import Device
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
from TransferSegLib.pace import Pace
from TransferSegLib.progress import CancelToken, Progress, Task
from TransferSegLib.training.configuration import TrainingConfiguration
from TransferSegLib.training.interruption import interruptible
from TransferSegLib.training.loop import Hooks, train
from TransferSegLib.training.patch_objective import PatchObjective
from TransferSegLib.training.patches import Patch
from TransferSegLib.training.schedule import Schedule
from TransferSegLib.training.trainer import Trainer

KNOBS = TrainingConfiguration(width=2, patch=32, frame=2, steps=4, warm_up=1, seed=3)


class Patches:
    """Draws noise with a cube in it; asks to stop after some looks at the token."""

    def draw(self, random):
        labels = torch.zeros(32, 32, 32, dtype=torch.uint8).numpy()
        labels[8:20, 8:20, 8:20] = 1
        noise = random.standard_normal((32, 32, 32)).astype("float32")
        return Patch(noise[None], labels, (labels >= 0).astype("float32"), torch.tensor([True, True]).numpy())


class Impatient(CancelToken):
    """Is set at the n-th look."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.left = looks

    def check(self) -> None:
        self.left -= 1
        if self.left <= 0:
            self.cancel()
        super().check()


def make_trainer() -> Trainer:
    backbone, device = backbone_of(unet_valid_spec(KNOBS.width, classes=2)), Device("cpu", "CPU", torch.float32)
    network = backbone.build()
    backbone.initialise(network, 1)
    return Trainer(PatchObjective(network, backbone, Patches(), device), KNOBS, device)


def looks_of_a_step() -> tuple[int, int]:
    """How often a whole step looks at the token, and how often on the way forward."""
    token = Impatient(10**9)
    trainer = make_trainer()
    with interruptible(trainer.module, token):
        logits = trainer.module(torch.zeros(1, 1, 32, 32, 32), padded=True)
        forward = 10**9 - token.left
        logits.sum().backward()
    return 10**9 - token.left, forward


def test_there_are_many_moments_to_stop_at() -> None:
    looks, forward = looks_of_a_step()
    assert forward >= 8  # the network, seven pairs of convolutions, the head
    assert looks - forward >= 7


@pytest.mark.parametrize("where", ["first", "forward", "backward", "last"])
def test_a_step_that_is_stopped_was_never_begun(where: str) -> None:
    looks, forward = looks_of_a_step()
    moment = {"first": 1, "forward": forward - 1, "backward": forward + 3, "last": looks}[where]
    expected = make_trainer()
    for _ in range(2):
        expected.train_step(0.02)
    trainer = make_trainer()
    trainer.train_step(0.02)
    before = {name: values.clone() for name, values in trainer.module.state_dict().items()}
    with pytest.raises(Cancelled):
        trainer.train_step(0.02, cancel=Impatient(moment))
    assert trainer.step == 1
    assert all(torch.equal(values, before[name]) for name, values in trainer.module.state_dict().items())
    trainer.train_step(0.02)  # nothing of the stopped step is left, neither hooks nor gradients
    for name, values in trainer.module.state_dict().items():
        assert torch.equal(values, expected.module.state_dict()[name])


def test_looking_changes_nothing() -> None:
    plain, looking = make_trainer(), make_trainer()
    for _ in range(2):
        plain.train_step(0.02)
        looking.train_step(0.02, cancel=CancelToken())
    for name, values in plain.module.state_dict().items():
        assert torch.equal(values, looking.module.state_dict()[name])


def test_progress_moves_within_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("TransferSegLib.progress_reports._BETWEEN_REPORTS_S", 0.0)
    monkeypatch.setattr("TransferSegLib.pace._LONG_S", 0.0)
    said: list[Progress] = []
    trainer, quiet = make_trainer(), make_trainer()
    nothing = Hooks(lambda: None, 100, lambda line: None)
    train(trainer, Schedule(3, 0.02, 1), nothing, Task("", said.append))
    for number in range(3):
        within = {report.fraction for report in said if report.step == number and report.fraction > number / 3}
        assert len(within) > 10 and max(within) < (number + 1) / 3, "on the way forward and back"
    fractions = [report.fraction for report in said]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    train(quiet, Schedule(3, 0.02, 1), nothing, Task())
    for name, values in quiet.module.state_dict().items():
        assert torch.equal(values, trainer.module.state_dict()[name]), "looking changes nothing"


def test_a_step_is_as_far_as_the_one_before_it_took() -> None:
    now = 0.0
    pace = Pace(clock=lambda: now)
    pace.begin()
    now = 4.0
    pace.end()
    pace.begin()
    assert pace.share() == 0.0 and not pace.is_long()
    now = 6.0
    assert 0.3 < pace.share() < 0.5 and pace.is_long()
    now = 8.0
    assert 0.5 < pace.share() < 0.7
    now = 1000.0
    assert 0.999 < pace.share() <= 1.0
