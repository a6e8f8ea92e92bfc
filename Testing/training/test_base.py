"""Training a base model end to end on six real, sparsely annotated head and neck CTs, with a tiny network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.errors import Cancelled, TrainingError
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.models.store import load_model
from TransferSegLib.progress import CancelToken, Progress
from TransferSegLib.structures import LabelSet
from TransferSegLib.training import base
from TransferSegLib.training.base import BaseModelPlan, train_base
from TransferSegLib.training.checkpoint import read_checkpoint
from TransferSegLib.training.configuration import AugmentationConfiguration, TrainingConfiguration
from TransferSegLib.training.saved_run import in_full, made_with, split_of

DATA = Path(__file__).resolve().parents[1] / "Data" / "head_neck_ct"
TINY = TrainingConfiguration(
    width=2, spacing_mm=8.0, steps=6, patch=32, frame=2, validate_every=3, checkpoint_every=2, warm_up=2, seed=5
)


def plan(output: Path, configuration: TrainingConfiguration = TINY) -> BaseModelPlan:
    return BaseModelPlan(read_dataset(DATA), output, configuration, "tiny", device="cpu")


def stop_after(steps: int, cancel: CancelToken):
    """Return a progress callback that cancels once so many training steps are done."""

    def watch(progress: Progress) -> None:
        if progress.key == "training" and progress.fraction >= steps / TINY.steps - 1e-9:
            cancel.cancel()

    return watch


def weights_of(output: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(output / "checkpoint.pt")["trainer"]["network"]


@pytest.mark.parametrize("steps", [1, 3])
def test_resume_equals_uninterrupted(tmp_path: Path, steps: int) -> None:
    """Stopped after a plain step, or just before the validation that follows one."""
    train_base(plan(tmp_path / "whole"))
    cancel = CancelToken()
    with pytest.raises(Cancelled):
        train_base(plan(tmp_path / "parts"), progress=stop_after(steps, cancel), cancel=cancel)
    assert read_checkpoint(tmp_path / "parts" / "checkpoint.pt")["trainer"]["step"] == steps
    train_base(plan(tmp_path / "parts"), resume=True)
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
    for name, value in load_model(tmp_path / "whole" / "model").state_dict.items():
        assert torch.equal(value, load_model(tmp_path / "parts" / "model").state_dict[name]), name


def test_the_model_describes_itself(tmp_path: Path) -> None:
    reports: list[Progress] = []
    folder = train_base(plan(tmp_path / "run"), progress=reports.append)
    model = load_model(folder)
    description = model.description
    assert description.label_set.names == read_dataset(DATA).label_set.names
    assert (description.preparation.spacing_mm, description.network.arguments["width"], description.modality) == (
        8.0,
        2,
        "CT",
    )
    assert description.provenance.configuration == json.loads(json.dumps(TINY.to_json()))
    assert description.provenance.seed == 5
    # The fit of scans is judged by the cases that were trained on; so few tell nothing of the deepest maps.
    assert description.fit is not None and 0 < description.fit.cases <= len(read_dataset(DATA).cases)
    assert set(description.fit.structures) <= set(description.label_set.names) and description.fit.features is None
    validation = description.metrics["validation"]
    assert description.doubt is None, "one validation case is not enough to tell how often the model is wrong"
    assert validation["cases"] == len(validation["ids"]) >= 1
    training = [report for report in reports if report.key == "training" and report.loss is not None]
    assert [report.fraction for report in training] == pytest.approx([(step + 1) / 6 for step in range(6)])
    assert training[-1].seconds_left == 0
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in history if "validation_dice" in line] == [3, 6]


def test_a_normalised_network_on_a_grid_of_its_own(tmp_path: Path) -> None:
    """nnU-Net's network is trained by settings alone, also at a steady rate that ends only when the run is to end."""
    settings = replace(TINY, network="nnunet", levels=3, spacing_z_mm=5.0, decay_share=0.5, deep_supervision=0.5)
    train_base(plan(tmp_path / "run", replace(settings, steps=3)))
    folder = train_base(plan(tmp_path / "run", settings), resume=True)
    description = load_model(folder).description
    assert description.network.kind == "nnunet" and description.network.arguments["features"] == [2, 4, 8]
    assert description.preparation.spacing_zyx_mm == (5.0, 8.0, 8.0)
    assert read_checkpoint(tmp_path / "run" / "checkpoint.pt")["trainer"]["step"] == 6
    assert (settings.decay_from, TINY.decay_from) == (3, TINY.warm_up)
    for wrong in ({"network": "transformer"}, {"levels": 1}, {"decay_share": 0.0}, {"spacing_z_mm": -1.0}):
        with pytest.raises(TrainingError, match=next(iter(wrong))):
            replace(TINY, **wrong)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="does not halve evenly"):
        plan(tmp_path / "odd", replace(settings, patch=30)).check()


@pytest.mark.parametrize(
    ("network", "before", "now", "is_same"),
    [
        ("unet3d-valid", None, 0.0, True),
        ("unet3d-valid", 0.05, 0.0, True),
        ("nnunet", None, 0.0, False),
        ("nnunet", None, 0.05, True),
        ("nnunet", 0.25, 0.0, True),
    ],
)
def test_a_run_of_an_older_version_goes_on_at_its_rates(
    network: str, before: float | None, now: float, is_same: bool
) -> None:
    """Every network's heads learned at a twentieth of the rate then, and the setting did not exist."""
    saved = replace(TINY, network=network).to_json() | {"adam_share": before}
    if before is None:
        del saved["adam_share"]
    wanted = replace(TINY, network=network, adam_share=now).to_json()
    assert (made_with(saved) == in_full(wanted)) == is_same


def test_resume_refuses_another_configuration(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no checkpoint"):
        train_base(plan(tmp_path / "run"), resume=True)
    train_base(plan(tmp_path / "run", replace(TINY, steps=1, validation_share=0.0)))
    with pytest.raises(TrainingError, match="resume it"):
        train_base(plan(tmp_path / "run"))
    with pytest.raises(TrainingError, match="another width"):
        train_base(plan(tmp_path / "run", replace(TINY, width=3, validation_share=0.0)), resume=True)
    longer = replace(TINY, steps=2, validation_share=0.0)
    train_base(plan(tmp_path / "run", longer), resume=True)
    assert read_checkpoint(tmp_path / "run" / "checkpoint.pt")["trainer"]["step"] == 2


def test_a_model_is_trained_further_and_never_on_its_validation_cases(tmp_path: Path) -> None:
    first = load_model(train_base(plan(tmp_path / "first")))
    shorter = replace(TINY, steps=3, learning_rate=1e-9, seed=77, validation_share=0.5)
    further = replace(plan(tmp_path / "further", shorter), start=first)
    second = load_model(train_base(further))
    ids = first.description.metrics["validation"]["ids"]
    assert second.description.metrics["validation"]["ids"] == ids
    saved = read_checkpoint(tmp_path / "further" / "checkpoint.pt")
    assert set(saved["training_ids"]) == set(read_dataset(DATA).ids) - set(ids)
    # With a rate of nearly 0 the weights are those begun with, and validation finds the same.
    for name, value in first.state_dict.items():
        assert torch.allclose(second.state_dict[name], value, atol=1e-5), name
    history = [json.loads(line) for line in (tmp_path / "further" / "history.jsonl").read_text().splitlines()]
    validations = [line for line in history if "validation_dice" in line]
    assert [line["step"] for line in validations] == [0, 3]
    assert validations[0]["mean"] == pytest.approx(first.description.metrics["validation"]["mean_dice"])
    assert second.description.provenance.parent == "tiny 0"
    assert "width" not in second.description.provenance.configuration


def test_other_scans_of_validation_patients_are_not_trained_on(tmp_path: Path) -> None:
    """The dataset has a second scan of the patient that the model begun with was validated on."""
    first = load_model(train_base(plan(tmp_path / "first")))
    (id,) = first.description.metrics["validation"]["ids"]
    dataset = read_dataset(DATA)
    (held_out,) = (case for case in dataset.cases if case.id == id)
    grown = replace(dataset, cases=(*dataset.cases, replace(held_out, id="again")))
    further = replace(plan(tmp_path / "further"), dataset=grown, start=first)
    training, validation = split_of(further, None)
    assert set(training) == {*dataset.ids} - {id} and tuple(validation) == (id,)
    only = replace(dataset, cases=(held_out, replace(held_out, id="again")))
    with pytest.raises(TrainingError, match="All cases are of patients that 'tiny' was validated on"):
        split_of(replace(further, dataset=only), None)


def test_a_model_without_a_checkpoint_is_never_replaced(tmp_path: Path) -> None:
    """Nor after a damaged checkpoint was deleted, as its message used to say without a word of the model."""
    train_base(plan(tmp_path / "run", replace(TINY, steps=1, validation_share=0.0)))
    checkpoint, model = tmp_path / "run" / "checkpoint.pt", tmp_path / "run" / "model"
    content = {file.name: file.read_bytes() for file in model.iterdir()}
    checkpoint.write_bytes(b"damaged")
    with pytest.raises(TrainingError, match=r"Delete it .* move the folder .*model away first"):
        read_checkpoint(checkpoint)
    checkpoint.unlink()
    with pytest.raises(TrainingError, match=r"run.model holds a model, .* choose another output folder"):
        train_base(plan(tmp_path / "run", replace(TINY, steps=1)))
    assert {file.name: file.read_bytes() for file in model.iterdir()} == content
    model.rename(tmp_path / "kept")
    model.mkdir()
    train_base(plan(tmp_path / "run", replace(TINY, steps=1)))


def test_there_is_a_checkpoint_before_there_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed right after the first model was written, a run can be resumed."""
    written: list[bool] = []
    save_model = base.save_model

    def watched(*args: object, **options: object) -> None:
        written.append((tmp_path / "run" / "checkpoint.pt").exists())
        save_model(*args, **options)  # type: ignore[arg-type]
        raise SystemExit

    monkeypatch.setattr(base, "save_model", watched)
    with pytest.raises(SystemExit):
        train_base(plan(tmp_path / "run", replace(TINY, validate_every=1, checkpoint_every=100)))
    assert written == [True]


def test_a_run_begun_with_a_model_is_resumed_with_it(tmp_path: Path) -> None:
    first = load_model(train_base(plan(tmp_path / "first")))
    train_base(replace(plan(tmp_path / "whole"), start=first))
    cancel = CancelToken()
    with pytest.raises(Cancelled):
        train_base(replace(plan(tmp_path / "parts"), start=first), progress=stop_after(2, cancel), cancel=cancel)
    with pytest.raises(TrainingError, match="began with the model tiny 0"):
        train_base(plan(tmp_path / "parts"), resume=True)
    train_base(replace(plan(tmp_path / "parts"), start=first), resume=True)
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_a_model_of_other_structures_cannot_be_trained_further(tmp_path: Path) -> None:
    first = load_model(train_base(plan(tmp_path / "first")))
    turned = LabelSet(tuple(first.description.label_set)[::-1])
    start = replace(first, description=replace(first.description, label_set=turned))
    with pytest.raises(TrainingError, match="same structures in the same order"):
        train_base(replace(plan(tmp_path / "further"), start=start))
    assert not (tmp_path / "further").exists()


def test_a_crash_between_checkpoints_leaves_no_double_lines(tmp_path: Path) -> None:
    """History lines written after the last checkpoint are made again by the resumed run, not kept twice."""
    train_base(plan(tmp_path / "run", replace(TINY, steps=2, validation_share=0.0)))
    history = tmp_path / "run" / "history.jsonl"
    with history.open("a") as stream:
        stream.write('{"step": 5, "cross_entropy": 1.0}\n{"step": 6, "cro')
    train_base(plan(tmp_path / "run", replace(TINY, validation_share=0.0)), resume=True)
    assert all(json.loads(line)["step"] <= 6 for line in history.read_text().splitlines())
    assert "1.0}" not in history.read_text()


def test_a_damaged_checkpoint_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    for content in (b"", b"not a checkpoint", b"PK\x03\x04" + bytes(100)):
        file.write_bytes(content)
        with pytest.raises(TrainingError, match="Delete it"):
            read_checkpoint(file)


def test_interruption_anywhere_keeps_the_last_whole_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in validation (here: no memory) still leaves a checkpoint to go on from."""

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(base, "validate", fail)
    with pytest.raises(MemoryError):
        train_base(plan(tmp_path / "run"))
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / "run" / "checkpoint.pt")["trainer"]["step"] == 3
    train_base(plan(tmp_path / "run"), resume=True)
    assert (tmp_path / "run" / "model" / "model.json").exists()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"patch": 0}, "patch must be 1 or more"),
        ({"widht": 3}, "Unknown setting"),
        ({"steps": 2.5}, "whole number"),
        ({"steps": float("inf")}, "whole number"),
        ({"steps": float("nan")}, "whole number"),
        ({"seed": 2.5}, "seed .*whole number"),
        ({"seed": 2**64}, "seed must be between 0 and"),
        ({"seed": -1}, "seed must be between 0 and"),
        ({"learning_rate": "fast"}, "must be a number"),
        ({"augmentation": {"blur": 1}}, "Unknown setting"),
        ({"spacing_mm": float("nan")}, "spacing_mm"),
    ],
)
def test_settings_that_cannot_work(knobs: dict, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        TrainingConfiguration.from_json(knobs)


@pytest.mark.parametrize("kind", [TrainingConfiguration, FineTuningConfiguration])
def test_whole_numbers_are_whole(kind: type) -> None:
    """JSON writers may write 1.0, or 2e2: that is taken, in settings made from JSON and in those made in Python."""
    entry = {"seed": 1.0, "patch": 64.0, "steps": 2e2, "batch": np.int64(2), "augmentation": {"curve_points": 7.0}}
    made = kind.from_json(entry)  # type: ignore[attr-defined]
    in_python = kind(**entry | {"augmentation": AugmentationConfiguration(curve_points=7.0)})  # type: ignore[arg-type]
    for settings in (made, in_python):
        told = settings.to_json()
        assert [told[name] for name in entry if name != "augmentation"] == [1, 64, 200, 2]
        assert all(type(told[name]) is int for name in entry if name != "augmentation")
        assert type(told["augmentation"]["curve_points"]) is int
    for wrong in ({"seed": 1.5}, {"patch": "64"}, {"steps": True}, {"seed": None}, {"seed": 2**64}, {"seed": 1e30}):
        (name,) = wrong
        with pytest.raises(TrainingError, match=name):
            kind(**wrong)
        with pytest.raises(TrainingError, match=name):
            kind.from_json(wrong)  # type: ignore[attr-defined]


def test_patches_that_the_network_does_not_take_are_refused_at_once(tmp_path: Path) -> None:
    asked = plan(tmp_path / "run")
    with pytest.raises(TrainingError, match="patch must be a multiple of 8"):
        train_base(replace(asked, configuration=replace(asked.configuration, patch=36)))
    assert not (tmp_path / "run").exists()


def test_configuration_survives_json() -> None:
    changed = replace(TINY, augmentation=replace(TINY.augmentation, mirror=0.5))
    assert TrainingConfiguration.from_json(json.loads(json.dumps(changed.to_json()))) == changed
    assert np.isclose(changed.augmentation.mirror, 0.5)
