"""What fine-tuning and training write down of where they were done: nothing that names a patient leaves."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from Testing.finetuning import projects
from TransferSegLib.cli.main import main
from TransferSegLib.corrections.project import Project
from TransferSegLib.datasets.dataset import read_dataset, write_dataset
from TransferSegLib.models.locate import find_model

NAME = "JANE_DOE_1963"
#: What stays on this computer, beside the model (docs/safety.md).
LOCAL = ("record.json", "log.txt")


def patient_folder(place: Path) -> Path:
    """Make a folder called after a patient with a project in it, whose cases are called so, too."""
    folder = place / NAME / "p"
    folder.parent.mkdir(parents=True)
    project = Project(folder, create=True)
    for number in (1, 2):
        image, truth = projects.ball_scan(number)
        labels = projects.sitk.GetImageFromArray(truth)
        labels.CopyInformation(image)
        case_id = f"{NAME}-{number}"
        project.add_case(image, labels, ["bright"], structures=projects.BOTH, group=case_id, case_id=case_id)
    return folder


def unpacked(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def assert_nameless(files: dict[str, bytes]) -> None:
    assert files
    for name, content in files.items():
        for text in (NAME, "JANE", "1963", os.fsdecode(Path.home()) + "/" if Path.home() != Path("/") else NAME):
            assert text.encode() not in content and text not in name, (name, text)


def test_a_fine_tuned_model_names_nobody(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is called after the patient; options are abbreviated and joined, paths absolute and relative."""
    (tmp_path / NAME).mkdir()
    parent = world.make_parent(world.label_set("bright", "dark"))
    library = projects.put_parent(tmp_path / NAME / "lib", parent)
    project = patient_folder(tmp_path / "data")
    knobs = tmp_path / NAME / "knobs.json"
    knobs.write_text(json.dumps(projects.replace(projects.KNOBS, tail_steps=4).to_json()))
    monkeypatch.chdir(project.parent)
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(library))
    words = [f"--proj={project}", "--config", os.path.relpath(knobs), "--model", os.path.relpath(library / "tiny")]
    words += ["--case", f"{NAME}-1", f"{NAME}-2"]
    assert main(["finetune", *words, "--name", "ours", "--minutes", "0", "--device", "cpu"]) == 0
    version = find_model("ours@1", library)
    kept = {str(file.relative_to(version)): file.read_bytes() for file in version.rglob("*") if file.is_file()}
    assert NAME.encode() in kept["record.json"], "here it is known which cases these were"
    assert_nameless({name: content for name, content in kept.items() if name not in LOCAL})
    assert main(["models", "export", "ours@1", str(tmp_path / "out.zip"), "--library", str(library)]) == 0
    files = unpacked(tmp_path / "out.zip")
    assert not set(LOCAL) & set(files)
    assert_nameless(files)
    command = json.loads(files["model.json"])["provenance"]["command"]
    assert command == "transferseg finetune --minutes 0 --tolerance-mm 3 --device cpu"


def test_a_base_model_names_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The dataset is called as its folder, its cases are called after the patient, and one is for validation."""
    folder = patient_folder(tmp_path / "data")
    dataset = read_dataset(folder)
    write_dataset(projects.replace(dataset, name=NAME, description="Balls in noise.", modality="CT"), folder)
    output = tmp_path / NAME / "out"
    words = ["--width", "2", "--spacing-mm", "2", "--patch", "32", "--frame", "2", "--steps", "1", "--device", "cpu"]
    words += ["--validation-share", "0.5", "--name", "balls", f"--data={folder}", f"--out={output}"]
    assert main(["train-base", *words]) == 0
    capsys.readouterr()
    assert main(["models", "export", str(output / "model"), str(tmp_path / "out.zip")]) == 0
    files = unpacked(tmp_path / "out.zip")
    assert_nameless(files)
    entry = json.loads(files["model.json"])
    assert entry["training_data"].startswith("Balls in noise. 1 training cases.")
    assert "--steps 1" in entry["provenance"]["command"]
    assert "metrics.validation" in capsys.readouterr().err, "the ids of the cases it was validated on stay here"
