"""Fine-tuning knows nothing of one network: the tests' own family goes all the ways, on real scans."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.datasets.prepared import PreparedCase, prepare_cases
from TransferSegLib.errors import Cancelled, TrainingError
from TransferSegLib.finetuning.adapt import adapt
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.label_change import plan_label_change
from TransferSegLib.finetuning.strategies import STRATEGIES, Strategy
from TransferSegLib.inference.devices import Device
from TransferSegLib.models.store import Model
from TransferSegLib.progress import CancelToken, Progress, Task
from TransferSegLib.structures import LabelSet
from TransferSegLib.training.checkpoint import read_checkpoint, write_checkpoint

TESTING = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTING))
import tiny_family  # noqa: E402

FLOAT32 = Device("cpu", "CPU", torch.float32)
QUICK = FineTuningConfiguration(
    minutes=0,
    tail_steps=4,
    steps=3,
    patches_per_case=2,
    tail_patch=16,
    patch=16,
    frame=2,
    warm_up=1,
    report_cases=0,
    checkpoint_every=1,
    seed=5,
)


@pytest.fixture(scope="module")
def parent() -> Model:
    """Return a parent that knows mandible and larynx; its network has a second head, as deep supervision has."""
    data = read_dataset(TESTING / "Data" / "head_neck_ct")
    names = ("mandible", "larynx")
    structures = LabelSet(tuple(structure for structure in data.label_set if structure.name in names))
    return tiny_family.tiny_model(structures.with_labels_numbered(), (12.0, 6.0, 6.0), low_head=True)


@pytest.fixture(scope="module")
def cases(parent: Model) -> list[PreparedCase]:
    """Return two real cases in which the brainstem is new; two channels, RAS axes, anisotropic."""
    data = read_dataset(TESTING / "Data" / "head_neck_ct")
    return prepare_cases(data.select(list(data.ids[:2])), change_of(parent).label_set, parent.description.preparation)


def change_of(parent: Model) -> Any:
    data = read_dataset(TESTING / "Data" / "head_neck_ct")
    wanted = LabelSet(tuple(structure for structure in data.label_set if structure.name == "brainstem"))
    return plan_label_change(parent.description.label_set, wanted)


def test_cases_have_two_channels(cases: list[PreparedCase]) -> None:
    for case in cases:
        assert case.intensities.shape == (2, *case.labels.shape) and case.padding_values == (-1.0, 0.0)
        assert not np.array_equal(case.intensities[0], case.intensities[1])


@pytest.mark.parametrize("strategy", ["finetune", "vanilla", "scratch"])
def test_all_strategies_also_when_stopped_and_resumed(
    parent: Model, cases: list[PreparedCase], tmp_path: Path, strategy: str
) -> None:
    change, settings = change_of(parent), replace(QUICK, strategy=strategy)
    whole = adapt(parent, cases, change, settings, device=FLOAT32)
    assert whole.network == replace(parent.description.network, classes=4)
    assert whole.state_dict["head.weight"].shape[0] == whole.state_dict["low_head.weight"].shape[0] == 4
    assert all(bool(torch.isfinite(values).all()) for values in whole.state_dict.values())
    for stop_at in [("last-layers", 2)] * (strategy == "finetune") + [("all-layers", 1)]:
        token = CancelToken()

        def watch(report: Progress, stop_at: tuple[str, int] = stop_at, token: CancelToken = token) -> None:
            if (report.key, report.step) == stop_at:
                token.cancel()

        file = tmp_path / "checkpoint.pt"
        task = Task("", watch, token)
        with pytest.raises(Cancelled):
            adapt(parent, cases, change, settings, device=FLOAT32, task=task, save=partial(write_checkpoint, file))
        resumed = adapt(parent, cases, change, settings, device=FLOAT32, resume=read_checkpoint(file))
        assert all(torch.equal(value, resumed.state_dict[name]) for name, value in whole.state_dict.items())


def test_the_last_layers_alone_leave_the_others(parent: Model, cases: list[PreparedCase]) -> None:
    adapted = adapt(parent, cases, change_of(parent), QUICK.with_steps(4, 0), device=FLOAT32)
    moved = {
        name.split(".")[0]
        for name, value in adapted.state_dict.items()
        if not name.startswith(("head", "low_head")) and not torch.equal(value, parent.state_dict[name])
    }
    assert moved == {"last"} and [start.structure for start in adapted.starts] == ["brainstem"]


def test_known_channels_keep_their_place_in_every_head(parent: Model, cases: list[PreparedCase]) -> None:
    adapted = adapt(parent, cases, change_of(parent), replace(QUICK, strategy="vanilla", steps=0), device=FLOAT32)
    for head in ("head", "low_head"):
        before, after = parent.state_dict[f"{head}.weight"], adapted.state_dict[f"{head}.weight"]
        assert torch.equal(before, after[:3])


def test_settings_are_checked_by_the_network(parent: Model, cases: list[PreparedCase]) -> None:
    for wrong, message in (({"patch": 17}, "even"), ({"tail": "last pair"}, "one of auto, last block")):
        with pytest.raises(TrainingError, match=message):
            adapt(parent, cases, change_of(parent), replace(QUICK, **wrong), device=FLOAT32)


def test_a_strategy_of_ones_own(parent: Model, cases: list[PreparedCase], monkeypatch: pytest.MonkeyPatch) -> None:
    """A strategy is data: one that leaves it at the last layers is a line, as docs/architecture.md says."""
    own = Strategy("probe", "the last layers only", last_layers_first=True, all_layers=False, inits_from_data=True)
    monkeypatch.setitem(STRATEGIES, own.name, own)
    adapted = adapt(parent, cases, change_of(parent), replace(QUICK, strategy="probe"), device=FLOAT32)
    assert (adapted.tail_steps, adapted.steps) == (4, 0)
    alone = adapt(parent, cases, change_of(parent), QUICK.with_steps(4, 0), device=FLOAT32)
    assert all(torch.equal(value, adapted.state_dict[name]) for name, value in alone.state_dict.items())
