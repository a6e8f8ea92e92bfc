"""``transferseg evaluate`` says which of the cases the model has learned from, and which are its validation cases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from Testing.finetuning.projects import BOTH, add_cases, ball_scan, put_parent
from Testing.finetuning.test_parent_cases import add_child
from TransferSegLib.cli.evaluated_cases import learned_note, validation_cases
from TransferSegLib.cli.main import main
from TransferSegLib.corrections.project import Project
from TransferSegLib.datasets.dataset import Dataset, read_dataset
from TransferSegLib.errors import DatasetError
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_description, load_model, save_model
from TransferSegLib.models.versions.record import LearnedCase


@pytest.fixture
def library(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    library = put_parent(tmp_path / "library", world.make_parent(world.label_set("bright", "dark"), width=2))
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(library))
    return library


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return add_cases(tmp_path / "project", [1, 2, 3])


def note(library: Path, name: str, dataset: Dataset) -> str:
    path = find_model(name, library)
    return learned_note(path, load_description(path), dataset)


def test_a_version_names_the_cases_that_it_was_made_from(
    library: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hashes = [revision.content_hash for revision in Project(project).state().current]
    add_child(library, library / "tiny", [LearnedCase(hashes[0]), LearnedCase(hashes[1])])
    words = ["evaluate", "--data", str(project), "--device", "cpu", "--model"]
    assert main([*words, "clinic"]) == 0
    told = "The model has learned from 2 of these 3 cases: its scores are too high there."
    assert capsys.readouterr().out.splitlines()[1] == told
    assert main([*words, "clinic", "--cases", "case-0003"]) == 0
    assert "has learned" not in capsys.readouterr().out
    assert note(library, "clinic", read_dataset(project).select(["case-0001"])).startswith(
        "The model has learned from this case:"
    )
    assert note(library, "clinic", read_dataset(project).select(["case-0001", "case-0002"])).startswith(
        "The model has learned from both cases:"
    )
    assert note(library, "tiny", read_dataset(project)) == "", "what it was made from has not"


def test_a_case_that_was_corrected_again_and_one_without_a_hash_are_known(library: Path, project: Path) -> None:
    hashes = [revision.content_hash for revision in Project(project).state().current]
    add_child(library, library / "tiny", [LearnedCase(hashes[1])])
    image, truth = ball_scan(2)
    truth[0, 0, 0] = 1
    labels = sitk.GetImageFromArray(truth)
    labels.CopyInformation(image)
    Project(project).add_case(image, labels, ["bright"], structures=BOTH, group="patient 2", any_modality=True)
    dataset = read_dataset(project)
    assert note(library, "clinic", dataset).startswith("The model has learned from 1 of these 3 cases")
    plain = replace(dataset, cases=tuple(replace(case, extra={}) for case in dataset.cases), extra={})
    assert note(library, "clinic", plain) == "", "its label map is another one"
    add_child(library, find_model("clinic", library), [LearnedCase(hashes[0])])
    assert "1 of these 3 cases" in note(library, "clinic", plain)


@pytest.fixture
def base(library: Path) -> Path:
    """Return a base model that was validated on case-0002 and case-0009."""
    model = load_model(library / "tiny")
    metrics = {"validation": {"cases": 2, "ids": ["case-0002", "case-0009"]}}
    save_model(library / "base", replace(model.description, name="base", metrics=metrics), model.state_dict)
    return library / "base"


def test_a_base_model_may_have_learned_from_what_it_was_not_validated_on(
    base: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--data", str(project), "--device", "cpu", "--model", str(base)]
    assert main(words) == 0
    second = capsys.readouterr().out.splitlines()[1]
    assert (
        second.startswith("Of these 3 cases, 1 has the id of a validation case of the model.")
        and "--validation" in second
    )
    assert main([*words, "--validation"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ", 1 case of " in lines[0]
    assert lines[1].startswith("The model's validation cases, known by their ids: 1 of 2 in this dataset. Another")


def test_cases_of_another_dataset_are_not_taken_for_validation_cases(base: Path, project: Path) -> None:
    description, dataset = load_description(base), read_dataset(project)
    chosen, told = validation_cases(description, dataset)
    assert chosen.ids == ("case-0002",) and told
    for other in (replace(dataset, modality="MR"), replace(dataset, label_set=BOTH.select(["bright"]))):
        with pytest.raises(DatasetError, match=r"ids of the model's validation cases \(case-0002\), but not"):
            validation_cases(description, other)
        assert learned_note(base, description, other) == ""
    with pytest.raises(DatasetError, match="None of the model's validation cases"):
        validation_cases(description, dataset.select(["case-0001"]))
    with pytest.raises(DatasetError, match="names no validation cases"):
        validation_cases(replace(description, metrics={}), dataset)
