"""The parent of a fine-tuning is one and the same for its record, its weights and its copy, also if it is replaced."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from Testing.finetuning import projects
from TransferSegLib.errors import ModelError, TrainingError
from TransferSegLib.finetuning import parent_model
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.finetuning.plan import plan_fine_tuning
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.run_folder import RunFolder
from TransferSegLib.models.store import Model, load_model, save_model
from TransferSegLib.models.versions.record import ModelReference
from TransferSegLib.progress import Task


class Writer:
    """Another process, which replaces the model after each of the first reads of it."""

    def __init__(self, path: Path, times: int) -> None:
        self.path, self.times = path, times

    def load_model(self, path: Path) -> Model:
        model = load_model(path)
        if self.times:
            self.times -= 1
            self.replace()
        return model

    def replace(self) -> None:
        """Write other weights."""
        model = load_model(self.path)
        state = {name: values + 0.01 for name, values in model.state_dict.items()}
        save_model(self.path, model.description, state, overwrite=True)


@pytest.fixture
def asked(world: Any, tmp_path: Path) -> FineTuneRequest:
    """Return a request whose parent is the model folder of a base training."""
    projects.put_parent(tmp_path / "run", projects.seeing(world.make_parent(world.label_set("bright", "dark"))))
    project = projects.add_cases(tmp_path / "project", [1, 2], ["bright"])
    knobs = replace(projects.UNBROKEN, tail_steps=2, report_cases=0)
    parent = str(tmp_path / "run" / "tiny")
    return projects.request(project, tmp_path / "library", model=parent, name="ours", configuration=knobs)


def test_reference_and_weights_are_of_one_model(asked: FineTuneRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(str(asked.model))
    monkeypatch.setattr(parent_model, "load_model", Writer(path, 1).load_model)
    plan = plan_fine_tuning(asked)
    assert plan.reference == ModelReference.of(path)
    stored = load_model(path).state_dict
    assert all(torch.equal(values, stored[name]) for name, values in plan.parent.state_dict.items())


def test_a_parent_that_keeps_changing_is_refused(asked: FineTuneRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent_model, "load_model", Writer(Path(str(asked.model)), 99).load_model)
    with pytest.raises(ModelError, match="is being replaced at the moment"):
        plan_fine_tuning(asked)


def test_a_parent_that_is_replaced_while_cases_are_read(
    asked: FineTuneRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new version is compared with, and recorded as made from, the weights that were read."""
    writer = Writer(Path(str(asked.model)), 0)
    from TransferSegLib.finetuning import plan as module

    survey_cases = module.survey_cases

    def surveyed(dataset: Any, task: Task | None = None) -> Any:
        writer.replace()
        return survey_cases(dataset, task)

    monkeypatch.setattr(module, "survey_cases", surveyed)
    with pytest.raises(TrainingError, match="was replaced while this fine-tuning began: give the command again"):
        finetune(asked)
    monkeypatch.undo()
    result = finetune(asked)
    assert result.version.record.parent == ModelReference.of(writer.path)


def test_a_copy_of_other_weights_is_made_again(asked: FineTuneRequest, tmp_path: Path) -> None:
    """An earlier version could leave one; a damaged copy, too."""
    path = Path(str(asked.model))
    reference = ModelReference.of(path)
    with RunFolder(tmp_path / "runs", {}) as folder:
        copy = folder.pin(path, reference.sha256)
        Writer(copy, 0).replace()
        assert ModelReference.of(folder.pin(path, reference.sha256)).sha256 == reference.sha256
        (copy / "model.json").unlink()
        assert folder.pin(path, reference.sha256) == copy and (copy / "model.json").exists()
        shutil.rmtree(path)
        assert folder.pin(path, reference.sha256) == copy, "the original is not needed any more"
